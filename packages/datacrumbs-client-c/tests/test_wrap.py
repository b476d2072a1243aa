"""datacrumbs_wrap: what the command receives, what a shell would answer, what is said."""

import os
import stat
import subprocess
import tempfile
import unittest
from pathlib import Path

BUILD = Path(os.environ["BUILD_DIR"]).resolve()
WRAP = BUILD / "bin/datacrumbs_wrap"
LIBRARY = str(BUILD / "lib/libdatacrumbs_client.so")
SHOW = str(BUILD / "tests/show_process")
SHOW_STATIC = str(BUILD / "tests/show_process_static")


def wrap(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [WRAP, *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )


class WhatTheCommandReceives(unittest.TestCase):
    def preload_after(self, before: str) -> str:
        return wrap("--quiet", SHOW, LD_PRELOAD=before).stdout.splitlines()[0]

    def test_library_is_preloaded_by_absolute_path(self) -> None:
        assert wrap("--quiet", SHOW).stdout == f"{LIBRARY}\n"
        assert self.preload_after("") == LIBRARY

    def test_library_goes_in_front_of_what_is_preloaded(self) -> None:
        other = str(Path(LIBRARY).with_name("libother.so"))
        assert self.preload_after(other) == f"{LIBRARY}:{other}"

    def test_library_is_not_preloaded_twice(self) -> None:
        for present in (LIBRARY, f"libm.so.6:{LIBRARY}", f"{LIBRARY} libm.so.6", f"{LIBRARY}.1"):
            assert self.preload_after(present) == present

    def test_wrapping_twice_preloads_once(self) -> None:
        assert wrap("--quiet", str(WRAP), "--quiet", SHOW).stdout == f"{LIBRARY}\n"

    def test_arguments_pass_untouched(self) -> None:
        arguments = ["", " ", "--", "--quiet", "-h", "$(id)", "a\nb", "*", "ü", "'\""]
        expected = f"{LIBRARY}\n" + "".join(f"[{argument}]\n" for argument in arguments)
        assert wrap("--quiet", SHOW, *arguments).stdout == expected

    def test_double_dash_ends_the_options(self) -> None:
        assert wrap("--quiet", "--", SHOW, "--").stdout == f"{LIBRARY}\n[--]\n"

    def test_static_program_runs(self) -> None:
        done = wrap("--quiet", SHOW_STATIC, "x")
        assert (done.returncode, done.stdout) == (0, f"{LIBRARY}\n[x]\n")

    def test_command_is_found_on_path(self) -> None:
        assert wrap("--quiet", "echo", "-n", "x").stdout == "x"

    def test_library_is_found_through_a_link_to_the_program(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            link = Path(directory) / "linked_wrap"
            link.symlink_to(WRAP)
            done = subprocess.run([link, "--quiet", SHOW], capture_output=True, text=True)
        assert done.stdout == f"{LIBRARY}\n"

    def test_same_process_is_replaced(self) -> None:
        process = subprocess.Popen(
            [WRAP, "--quiet", "sh", "-c", "echo $$"], stdout=subprocess.PIPE, text=True
        )
        assert int(process.communicate()[0]) == process.pid

    def test_path_that_ld_so_would_split_is_not_preloaded(self) -> None:
        with tempfile.TemporaryDirectory(prefix="with space") as prefix:
            for part in ("bin/datacrumbs_wrap", "lib/libdatacrumbs_client.so"):
                (Path(prefix) / part).parent.mkdir()
                (Path(prefix) / part).write_bytes((BUILD / part).read_bytes())
            program = Path(prefix) / "bin/datacrumbs_wrap"
            program.chmod(0o755)
            done = subprocess.run(
                [program, "env"], env={"PATH": "/bin"}, capture_output=True, text=True
            )
        assert done.stdout == "PATH=/bin\n"
        assert "not preloaded" in done.stderr


class ExitStatus(unittest.TestCase):
    def test_is_the_commands_own(self) -> None:
        assert wrap("--quiet", "sh", "-c", "exit 42").returncode == 42
        assert wrap("--quiet", "sh", "-c", "kill -TERM $$").returncode == -15

    def expect(self, status: int, what: str, *arguments: str) -> None:
        done = wrap("--quiet", *arguments)
        assert done.returncode == status, done.stderr
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stderr.startswith("datacrumbs_wrap: error: "), done.stderr
        assert what in done.stderr

    def test_127_when_the_command_does_not_exist(self) -> None:
        self.expect(127, "no-such-command: command not found", "no-such-command")
        self.expect(127, "/no/such: No such file", "/no/such")
        self.expect(127, "/etc/passwd/x: Not a directory", "/etc/passwd/x")

    def test_126_when_the_command_cannot_be_executed(self) -> None:
        self.expect(126, "/etc/passwd: Permission denied", "/etc/passwd")
        self.expect(126, "/tmp: Is a directory", "/tmp")
        with tempfile.TemporaryDirectory() as directory:
            script = Path(directory) / "script"
            script.write_text("#!/no/such/interpreter\n")
            script.chmod(0o755)
            self.expect(126, "its interpreter does not exist", str(script))

    def test_control_characters_do_not_reach_the_terminal(self) -> None:
        self.expect(127, "?[31mx: command not found", "\033[31mx")

    def test_2_and_usage_without_a_command(self) -> None:
        for arguments in ((), ("--quiet",), ("--",)):
            done = wrap(*arguments)
            assert (done.returncode, done.stdout) == (2, "")
            assert done.stderr.startswith("usage: datacrumbs_wrap")

    def test_2_for_an_unknown_option(self) -> None:
        done = wrap("--nonsense", "true")
        assert done.returncode == 2
        assert "--nonsense: no such option" in done.stderr

    def test_1_when_the_library_is_missing(self) -> None:
        with tempfile.TemporaryDirectory() as prefix:
            program = Path(prefix) / "bin/datacrumbs_wrap"
            program.parent.mkdir()
            program.write_bytes(WRAP.read_bytes())
            program.chmod(stat.S_IRWXU)
            done = subprocess.run([program, "true"], capture_output=True, text=True)
        assert done.returncode == 1
        assert f"{prefix}/lib/libdatacrumbs_client.so: No such file" in done.stderr


class WhatIsSaid(unittest.TestCase):
    # No daemon can listen here: it would have to probe the library of this build directory.
    def test_missing_daemon_is_told(self) -> None:
        done = wrap("true")
        assert done.returncode == 0
        assert "warning: no daemon is listening" in done.stderr

    def test_quiet_says_nothing(self) -> None:
        assert wrap("--quiet", "true").stderr == ""
        assert wrap("true", QUIET="yes").stderr == ""

    def test_help_and_version_go_to_standard_output(self) -> None:
        for option, text in (("--help", "usage:"), ("-h", "usage:"), ("--version", "1.")):
            done = wrap(option)
            assert (done.returncode, done.stderr) == (0, "")
            assert text in done.stdout

    def test_dry_run_shows_and_runs_nothing(self) -> None:
        done = wrap("--dry-run", "false", "x")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"LD_PRELOAD={LIBRARY} false x\n"

    def test_environment_says_the_same_as_the_options(self) -> None:
        assert wrap("false", DRY_RUN="1").stdout == f"LD_PRELOAD={LIBRARY} false\n"
        assert f"{LIBRARY} is preloaded" in wrap("true", VERBOSE="on").stderr
        assert wrap("echo", "x", DRY_RUN="no", VERBOSE="0", QUIET="1").stdout == "x\n"

    def test_verbose_names_the_library(self) -> None:
        assert f"{LIBRARY} is preloaded" in wrap("--verbose", "true").stderr


if __name__ == "__main__":
    unittest.main()
