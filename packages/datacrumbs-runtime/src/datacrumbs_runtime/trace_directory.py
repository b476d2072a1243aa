"""The directory that a run's trace goes to: found or made without giving away root's rights.

The administrator sets the pattern, but parts of the way may belong to the user, who could turn it
elsewhere with a symbolic link while root walks. So the way is walked step by step: as root while
only root can change what lies ahead, and with the user's rights from the first directory on that
somebody else controls.
"""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from datacrumbs_runtime.errors import TraceError
from datacrumbs_runtime.file_rights import rights_of
from datacrumbs_runtime.signing.accounts import Account
from datacrumbs_runtime.user_mounts import mounted_by_root

Result = TypeVar("Result")

MAX_LINKS = 40
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ROOT_MAY_NOT = frozenset({errno.EACCES, errno.EPERM})


def trace_directory_path(pattern: str, *, now: datetime, user: str, run_id: str, host: str) -> Path:
    """Fill in the pattern of the trace directory.

    Args:
        pattern: As in DATACRUMBS_TRACE_DIR_PATTERN.
        now: Local time.
        user: Whose run it is.
        run_id: Its id.
        host: Short name of this host.
    """
    values = {
        "YY": now.strftime("%y"),
        "MM": now.strftime("%m"),
        "DD": now.strftime("%d"),
        "USER": user,
        "RUN_ID": run_id,
        "HOST": host,
    }
    for name, value in values.items():
        pattern = pattern.replace(f"%{name}%", value)
    return Path(pattern)


class TraceDirectory:
    """Opens, and makes, the directory of a trace.

    Args:
        path: The directory, absolute.
        account: Whose trace it is.
    """

    def __init__(self, path: Path, account: Account) -> None:
        self.path = path
        self.account = account
        self._is_users = False
        self._trusted_device = -1

    def open(self) -> int:
        """Return a descriptor of the directory, which is made if it is missing.

        Raises:
            OSError: It cannot be made or entered.
            TraceError: It belongs to a third user.
        """
        waiting = list(reversed(self.path.parts[1:]))
        self._is_users = False
        self._trusted_device = -1
        links = 0
        fd = os.open("/", _DIRECTORY)
        try:
            self._look(fd)
            while waiting:
                name = waiting.pop()
                try:
                    next_fd = self._step(fd, name)
                except OSError as error:
                    links += 1
                    target = self._link(fd, name, error, links)
                    parts = [part for part in target.split("/") if part not in ("", ".")]
                    waiting += reversed(parts)
                    next_fd = os.open("/", _DIRECTORY) if target.startswith("/") else os.dup(fd)
                os.close(fd)
                fd = next_fd
                self._look(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def acting(self) -> AbstractContextManager[None]:
        """Return the block in which the trace file is made: the user's rights, or root's."""
        return rights_of(self.account) if self._is_users else nullcontext()

    def _step(self, fd: int, name: str) -> int:
        return self._try(lambda: self._open_or_make(fd, name))

    def _link(self, fd: int, name: str, error: OSError, links: int) -> str:
        """Return where a link leads, or raise what was wrong with the name otherwise."""
        if error.errno not in (errno.ELOOP, errno.ENOTDIR) or links > MAX_LINKS:
            raise error
        try:
            target, maker_uid = self._try(lambda: _read_link(fd, name))
        except OSError:
            raise error from None
        # In a directory for everybody, such as /tmp, anybody may have put it there.
        self._is_users = self._is_users or maker_uid != 0
        if self._is_users and self.account.uid == 0:
            raise TraceError(f"{self.path}: {name}: a link that somebody else may have made")
        return target

    def _try(self, action: Callable[[], Result]) -> Result:
        if not self._is_users:
            try:
                return action()
            except OSError as error:
                # A file system on which root is nobody: go on as the user.
                if error.errno not in _ROOT_MAY_NOT:
                    raise
                self._is_users = True
        with self.acting():
            return action()

    def _open_or_make(self, fd: int, name: str) -> int:
        try:
            return os.open(name, _DIRECTORY, dir_fd=fd)
        except FileNotFoundError:
            pass
        above = os.fstat(fd)
        # Below a directory for everybody, as /tmp, the next user must get in as well.
        for_all = stat.S_IMODE(above.st_mode) & 0o1002 == 0o1002 and self._is_users
        mode = 0o1777 if for_all else 0o755
        try:
            os.mkdir(name, mode, dir_fd=fd)
        except FileExistsError:
            # Another run on this node was faster.
            return os.open(name, _DIRECTORY, dir_fd=fd)
        made = os.open(name, _DIRECTORY, dir_fd=fd)
        # Whatever the umask is.
        os.fchmod(made, mode)
        if not self._is_users and name == self.account.user:
            # In this order root needs no right to change what is somebody else's.
            os.fchmod(made, 0o700)
            os.fchown(made, self.account.uid, self.account.gid)
        return made

    def _look(self, fd: int) -> None:
        """Decide whose rights are used from here on."""
        status = os.fstat(fd)
        others_write = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
        self._is_users = self._is_users or status.st_uid != 0 or bool(others_write)
        if not self._is_users and status.st_dev != self._trusted_device:
            # Behind it is a program of the user's, which says of files what it likes.
            self._is_users = not mounted_by_root(fd)
            self._trusted_device = status.st_dev


def _read_link(directory: int, name: str) -> tuple[str, int]:
    """Return where a link leads, and whose it is."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.readlink("", dir_fd=fd), os.fstat(fd).st_uid
    finally:
        os.close(fd)
