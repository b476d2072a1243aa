"""datacrumbs_wrap where daemons listen: who is told that nothing is recorded."""

import contextlib
import os
import struct
import subprocess
import tempfile
import unittest
from collections.abc import Iterator
from pathlib import Path

TRACING = Path("/sys/kernel/tracing")
USER = 65534


def write_event(line: str) -> None:
    # Not open("a"): it seeks, which this file does not allow.
    fd = os.open(TRACING / "uprobe_events", os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


@contextlib.contextmanager
def probe_on(library: Path) -> Iterator[None]:
    """Have a probe where a daemon has one, in a block."""
    symbols = subprocess.run(["nm", "-D", library], capture_output=True, text=True).stdout
    offset = next(x.split()[0] for x in symbols.splitlines() if "datacrumbs_start" in x)
    event = f"datacrumbs_client_runs_{os.getpid()}"
    write_event(f"p:{event}/start {library}:0x{offset}\n")
    enable = TRACING / "events" / event / "enable"
    try:
        enable.write_text("1")
        yield
    finally:
        enable.write_text("0")
        write_event(f"-:{event}/start\n")


@unittest.skipUnless(
    os.geteuid() == 0 and (TRACING / "uprobe_events").exists(), "needs root and tracefs"
)
class WithRunsOnTheNode(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        directory = tempfile.TemporaryDirectory(prefix="datacrumbs-wrap-")
        cls.addClassCleanup(directory.cleanup)
        root = Path(directory.name)
        root.chmod(0o755)
        cls.run_dir = root / "run"
        cls.build = root / "build"
        options = [f"-DDATACRUMBS_RUN_DIR={cls.run_dir}", "-DBUILD_TESTING=OFF"]
        for command in (
            ["cmake", "-S", os.environ["SOURCE_DIR"], "-B", cls.build, *options],
            ["cmake", "--build", cls.build],
        ):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def setUp(self) -> None:
        self.run_dir.mkdir()
        self.addCleanup(self.remove_runs)

    def remove_runs(self) -> None:
        for path in self.run_dir.iterdir():
            path.unlink()
        self.run_dir.rmdir()

    def make_run(self, run_id: str, owner: int, *, with_acl: bool = True) -> None:
        for kind in ("ready", "json", "pid"):
            (self.run_dir / f"datacrumbs-{run_id}.{kind}").touch(mode=0o400)
        status = self.run_dir / f"datacrumbs-{run_id}.json"
        if not with_acl:
            os.chown(status, owner, -1)
        elif owner:
            nobody = 0xFFFFFFFF
            entries = ((1, 4, nobody), (2, 4, owner), (4, 0, nobody), (16, 4, nobody))
            entries += ((32, 0, nobody),)
            acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *one) for one in entries)
            os.setxattr(status, "system.posix_acl_access", acl)

    def said(self, *options: str, user: int = USER, within: tuple[str, ...] = ()) -> str:
        """Return what a user is told."""
        with probe_on(self.build / "lib/libdatacrumbs_client.so"):
            done = subprocess.run(
                [*within, self.build / "bin/datacrumbs_wrap", *options, "true"],
                capture_output=True,
                text=True,
                user=user,
                env={"PATH": "/usr/bin:/bin"},
            )
        assert done.returncode == 0, done.stderr
        return done.stderr

    def test_runs_of_others_only_are_told(self) -> None:
        expected = "datacrumbs_wrap: warning: all runs on this node are other users', "
        for with_acl in (True, False):
            with self.subTest(with_acl=with_acl):
                self.make_run("2", USER - 1, with_acl=with_acl)
                assert self.said(user=0) == f"{expected}nothing is recorded\n"
                self.make_run("1", 0)
                assert self.said() == f"{expected}nothing is recorded\n"
                assert self.said("--quiet") == ""
                assert self.said(user=0) == ""
                for path in self.run_dir.iterdir():
                    path.unlink()

    def test_own_run_beside_those_of_others_is_not_told(self) -> None:
        for with_acl in (True, False):
            with self.subTest(with_acl=with_acl):
                self.make_run("1", 0)
                self.make_run("2", USER, with_acl=with_acl)
                assert self.said() == ""

    def test_root_of_a_users_own_namespace_is_that_user(self) -> None:
        within = ("unshare", "--user", "--map-root-user")
        if subprocess.run([*within, "true"], capture_output=True, user=USER - 1).returncode:
            self.skipTest("users have no namespaces of their own here")
        self.make_run("1", USER - 1)
        assert self.said(user=USER - 1, within=within) == ""
        assert "nothing is recorded" in self.said(user=USER - 2, within=within)

    def test_missing_daemon_is_not_told(self) -> None:
        # The second one may find the call that newer kernels make of the breakpoint.
        assert self.said(within=(str(self.build / "bin/datacrumbs_wrap"),)) == ""

    def test_nothing_is_told_where_owners_cannot_be_seen(self) -> None:
        assert self.said() == ""
        self.make_run("1", 0)
        (self.run_dir / "datacrumbs-1.json").unlink()
        assert self.said() == ""
        self.make_run("1", 0)
        self.run_dir.chmod(0o700)
        assert self.said() == ""


if __name__ == "__main__":
    unittest.main()
