"""A file system that a user mounted says of its files what he likes: root believes none of it."""

import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_site import ALICE, open_directory
from faulty_file_system import mounted

from datacrumbs_runtime.signing.accounts import account_of_uid
from datacrumbs_runtime.trace_directory import TraceDirectory

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="acts as other users"),
    pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="no FUSE here"),
]


@pytest.fixture
def root() -> Iterator[Path]:
    with open_directory() as directory:
        yield directory


def make_file(path: Path, user: str) -> None:
    directory = TraceDirectory(path, account_of_uid(pwd.getpwnam(user).pw_uid))
    fd = directory.open()
    try:
        with directory.acting():
            os.close(os.open("trace", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=fd))
    finally:
        os.close(fd)


def test_file_system_of_root_is_roots(root: Path) -> None:
    mount = root / ALICE
    mount.mkdir()
    with mounted(mount):
        make_file(mount / "below", ALICE)
        assert (mount / "below/trace").exists()


@pytest.mark.parametrize("below", [".", "below", "below/it"])
def test_file_system_of_a_user_is_his_whatever_it_says(root: Path, below: str) -> None:
    """It says that its directories are root's, which the kernel then keeps from the user."""
    mount = root / ALICE
    mount.mkdir()
    with mounted(mount, pwd.getpwnam(ALICE).pw_uid):
        (mount / below).mkdir(parents=True, exist_ok=True)
        with pytest.raises(PermissionError):
            make_file(mount / below, ALICE)
        # Mounted once more elsewhere it is no other.
        elsewhere = root / "elsewhere"
        elsewhere.mkdir()
        subprocess.run(["mount", "--bind", str(mount), str(elsewhere)], check=True)
        try:
            with pytest.raises(PermissionError):
                make_file(elsewhere / below, ALICE)
        finally:
            subprocess.run(["umount", str(elsewhere)], check=True)
