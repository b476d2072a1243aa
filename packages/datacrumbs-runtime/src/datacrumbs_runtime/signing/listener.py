"""The signer's socket in the file system: one signer at a time, no place for anybody else's."""

import fcntl
import logging
import os
import socket
import stat
from pathlib import Path

from datacrumbs_runtime.errors import SigningError

logger = logging.getLogger(__name__)

BACKLOG = 1024
MAX_ADDRESS_BYTES = 107


def listen(path: Path, link: Path | None, *, group_id: int | None = None) -> socket.socket:
    """Make the signer's socket; a stale one of a signer that died is replaced.

    Args:
        path: Where.
        link: Where clients of older versions look; made to lead to ``path`` if that can be done.
        group_id: Only members of this group may connect; None: everybody.

    Raises:
        SigningError: Another signer serves this path, or it cannot be made.
    """
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Whatever the umask is.
            path.parent.chmod(0o755)
        _check_run_directory(path.parent)
        _take_lock(path.with_name(f"{path.name}.lock"))
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        # Nobody may connect between bind() and chmod().
        previous = os.umask(0o177)
        try:
            _bind(listener, path)
        finally:
            os.umask(previous)
        if group_id is not None:
            os.chown(path, -1, group_id)
        path.chmod(0o666 if group_id is None else 0o660)
        listener.listen(BACKLOG)
    except OSError as error:
        raise SigningError(f"{path}: {error.strerror or error}") from error
    if link is not None and link != path:
        _make_link(link, path)
    return listener


def _check_run_directory(directory: Path) -> None:
    status = directory.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise SigningError(
            f"{directory}: others could put a socket of their own here",
            hint=f"chown root {directory}; chmod go-w {directory}",
        )


def _take_lock(path: Path) -> None:
    """Hold a lock until this process ends, so that two signers never take turns on one path."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SigningError(f"{path}: another signer is running") from None


def _bind(listener: socket.socket, path: Path) -> None:
    # A socket address is short; the directory's descriptor stands for a longer path.
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = len(os.fsencode(path)) <= MAX_ADDRESS_BYTES
        listener.bind(os.fspath(path) if short else f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)


def _make_link(link: Path, path: Path) -> None:
    try:
        if link.is_symlink() and link.readlink() == path:
            return
        if link.exists() and not stat.S_ISSOCK(link.lstat().st_mode) and not link.is_symlink():
            logger.warning("%s: not a link, left alone", link)
            return
        temporary = link.with_name(f".{link.name}.{os.getpid()}")
        temporary.symlink_to(path)
        temporary.replace(link)
    except OSError as error:
        # The installation is often mounted read-only here; whoever installed it made the link.
        logger.warning("%s: %s", link, error.strerror)
