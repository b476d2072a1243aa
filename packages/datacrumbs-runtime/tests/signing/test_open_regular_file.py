"""What is no regular file is not even opened."""

import ctypes
import os
import stat
from pathlib import Path

import pytest

from datacrumbs_runtime.errors import SigningError
from datacrumbs_runtime.signing.accounts import open_regular_file

IN_OPEN = 0x20
libc = ctypes.CDLL(None, use_errno=True)


def was_opened(path: Path) -> bool:
    """Try to open a file, and return whether its device, or what it is, noticed."""
    watch = libc.inotify_init1(os.O_NONBLOCK)
    try:
        assert libc.inotify_add_watch(watch, os.fsencode(path), IN_OPEN) >= 0
        try:
            os.close(open_regular_file(str(path)))
        except SigningError as error:
            assert str(error) == f"{path}: not a regular file"  # noqa: PT017
        try:
            return bool(os.read(watch, 4096))
        except BlockingIOError:
            return False
    finally:
        os.close(watch)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a device")
def test_device_is_not_opened(tmp_path: Path) -> None:
    device, link = tmp_path / "device", tmp_path / "link"
    os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    link.symlink_to(device)
    assert not was_opened(device)
    with pytest.raises(SigningError, match="not a regular file"):
        open_regular_file(str(link))


def test_file_is_opened(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("text")
    assert was_opened(file)
    fd = open_regular_file(str(file))
    assert os.read(fd, 10) == b"text"
    os.close(fd)
    file.chmod(0)
    if os.geteuid() != 0:
        with pytest.raises(SigningError, match="file: Permission denied"):
            open_regular_file(str(file))
    for name, reason in (("missing", "No such file or directory"), ("f\0", "null")):
        with pytest.raises(SigningError, match=reason):
            open_regular_file(str(tmp_path / name))
