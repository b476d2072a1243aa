"""Binaries on file systems that users mounted are not probed: the kernel would wait for them."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_site import ALICE, as_user, open_directory
from faulty_file_system import mounted

from datacrumbs_runtime.errors import SigningError
from datacrumbs_runtime.schema.probe_file import Category, ProbeFile, ProbeType, Summary
from datacrumbs_runtime.signing.accounts import account_of_uid
from datacrumbs_runtime.signing.binaries import BinariesCheck
from datacrumbs_runtime.user_mounts import mounted_by_root

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="acts as other users")
needs_fuse = pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="no FUSE here")

PROGRAM = Path("/bin/true")
IN_NAMESPACES = "mount -t tmpfs none /mnt && cp {} /mnt/true && echo ready && read line"


@pytest.fixture
def root() -> Iterator[Path]:
    with open_directory() as directory:
        yield directory


def refusal(path: Path, user: str = ALICE) -> str | None:
    """Return why a binary may not be probed for a user."""
    category = Category(ProbeType.UPROBE, "x", ("main",), binary_path=str(path))
    summary = Summary("/c.yaml", "/p.json.gz", "node1", "anna", "root")
    account = account_of_uid(pwd.getpwnam(user).pw_uid)
    try:
        with BinariesCheck(ProbeFile(summary, (category,)), account) as check:
            check.result()
    except SigningError as error:
        return str(error)
    return None


@needs_fuse
@pytest.mark.parametrize("uid", [0, 1])
def test_file_systems_of_users_are_refused(root: Path, uid: int) -> None:
    mount = root / "mount"
    mount.mkdir()
    with mounted(mount, uid):
        shutil.copy(PROGRAM, mount / "true")
        (mount / "true").chmod(0o755)
        reason = refusal(mount / "true")
        assert (reason is None) == (uid == 0)
        assert refusal(mount / "true", "root") is None
    if reason is not None:
        assert reason.endswith("is on a file system that a user mounted")


def test_file_systems_of_other_namespaces_are_refused() -> None:
    command = ["unshare", "-Urm", "/bin/sh", "-c", IN_NAMESPACES.format(PROGRAM)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", **as_user(ALICE)
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            pytest.skip("users have no namespaces of their own here")
        reason = refusal(Path(f"/proc/{process.pid}/root/mnt/true"))
        process.kill()
    assert reason is not None
    assert reason.endswith("is on a file system that a user mounted")


def test_file_systems_of_the_node_are_roots(tmp_path: Path) -> None:
    for path in (Path("/"), Path("/proc"), tmp_path, Path("/dev/shm"), Path("/sys")):
        fd = os.open(path, os.O_RDONLY)
        try:
            assert mounted_by_root(fd), path
        finally:
            os.close(fd)
    assert refusal(PROGRAM) is None
