"""An installed copy: files, modes, and a program that finds the library through pkg-config."""

import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

BUILD = os.environ["BUILD_DIR"]


def run(*argv: "str | Path", **environment: str) -> str:
    return subprocess.run(
        argv, check=True, capture_output=True, text=True, env={**os.environ, **environment}
    ).stdout


class Install(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.prefix = Path(directory.name) / "prefix"
        run("cmake", "--install", BUILD, "--prefix", self.prefix)

    def test_files(self) -> None:
        files = {os.fspath(p.relative_to(self.prefix)) for p in self.prefix.rglob("*.*")}
        files |= {os.fspath(p.relative_to(self.prefix)) for p in self.prefix.glob("bin/*")}
        assert files == {
            "bin/datacrumbs_probe_configurator_exec",
            "bin/datacrumbs_wrap",
            "include/datacrumbs/client.h",
            "lib/libdatacrumbs_client.so",
            "lib/libdatacrumbs_client.so.1",
            "lib/libdatacrumbs_client.so.1.0.0",
            "lib/pkgconfig/datacrumbs_client.pc",
            "share/man/man1/datacrumbs_wrap.1",
        }

    def test_relay_is_not_writable_by_others(self) -> None:
        mode = (self.prefix / "bin/datacrumbs_probe_configurator_exec").stat().st_mode
        assert mode & 0o7022 == 0

    def test_wrap_preloads_the_installed_library(self) -> None:
        shown = run(self.prefix / "bin/datacrumbs_wrap", "--dry-run", "true")
        assert shown == f"LD_PRELOAD={self.prefix}/lib/libdatacrumbs_client.so true\n"

    def test_lib64_is_found_as_well(self) -> None:
        (self.prefix / "lib").rename(self.prefix / "lib64")
        shown = run(self.prefix / "bin/datacrumbs_wrap", "--dry-run", "true")
        assert shown == f"LD_PRELOAD={self.prefix}/lib64/libdatacrumbs_client.so true\n"

    @unittest.skipUnless(shutil.which("pkg-config"), "pkg-config is not installed")
    def test_program_links_through_pkg_config(self) -> None:
        flags = run(
            "pkg-config",
            "--cflags",
            "--libs",
            "datacrumbs_client",
            PKG_CONFIG_PATH=os.fspath(self.prefix / "lib/pkgconfig"),
        ).split()
        source = self.prefix / "program.c"
        source.write_text(
            "#include <datacrumbs/client.h>\n"
            "int main(void) { datacrumbs_start(); datacrumbs_stop(); return 0; }\n"
        )
        program = self.prefix / "program"
        run(os.environ["CC"], "-Wall", "-Werror", source, "-o", program, *flags)
        # The library is found where it was installed, whatever the environment.
        done = subprocess.run([program], env={}, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


if __name__ == "__main__":
    unittest.main()
