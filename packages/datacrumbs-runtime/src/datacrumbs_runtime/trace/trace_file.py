"""The trace file itself: never somebody else's, the user's own, made anew if it is removed."""

import errno
import logging
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

SUFFIX = ".pfw.gz"
MAX_NAMES = 10_000
COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose the file shall be."""

    uid: int
    gid: int


def numbered_name(name: str, number: int) -> str:
    """Return ``x.pfw.gz`` for the first file, ``x-2.pfw.gz`` for the second, and so on."""
    if number == 1:
        return name
    stem = name.removesuffix(SUFFIX)
    return f"{stem}-{number}{name[len(stem) :]}"


def directory_opener(path: Path) -> Callable[[], int]:
    """Return a function that opens a directory and returns the descriptor."""
    return lambda: os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


class TraceFile:
    """A new file. For the arguments see `TraceWriter`.

    Attributes:
        fd: Its descriptor; changes when the file had to be made anew.
        name: The name that it got.

    Raises:
        OSError: It cannot be created.
    """

    def __init__(
        self,
        name: str,
        open_directory: Callable[[], int],
        *,
        owner: Owner | None = None,
        as_user: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._wanted_name = name
        self._open_directory = open_directory
        self._owner = owner
        self._as_user = as_user
        self.fd, self.name = self._create()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self.fd < 0

    def close(self) -> None:
        """Close the file.

        Raises:
            OSError: Some file systems only now say that something was not written.
        """
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def _create(self) -> tuple[int, str]:
        directory = self._open_directory()
        try:
            with self._as_user():
                fd, name = self._create_in(directory)
            try:
                self._make_it_the_owners(fd)
            except OSError:
                os.close(fd)
                os.unlink(name, dir_fd=directory)
                raise
        finally:
            os.close(directory)
        return fd, name

    def _make_it_the_owners(self, fd: int) -> None:
        status = os.fstat(fd)
        if self._owner and (status.st_uid, status.st_gid) != (self._owner.uid, self._owner.gid):
            os.fchown(fd, self._owner.uid, self._owner.gid)
        if stat.S_IMODE(status.st_mode) != 0o600:
            os.fchmod(fd, 0o600)

    def _create_in(self, directory: int) -> tuple[int, str]:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        for number in range(1, MAX_NAMES):
            name = numbered_name(self._wanted_name, number)
            try:
                return os.open(name, flags, 0o600, dir_fd=directory), name
            except FileExistsError:
                continue
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def find(self, size_bytes: int) -> bool:
        """Make the file anew if somebody removed it: all that was written is still readable.

        Args:
            size_bytes: What was written so far.

        Returns:
            Whether it is another file now.

        Raises:
            OSError: It was removed and cannot be made anew yet.
        """
        if os.fstat(self.fd).st_nlink > 0:
            return False
        fd, name = self._create()
        try:
            self._copy_to(fd, size_bytes)
        except OSError:
            # Half a copy is worse than none, and the original is still open.
            os.close(fd)
            self._remove(name)
            raise
        logger.warning("%s was removed and is written anew as %s", self.name, name)
        os.close(self.fd)
        self.fd, self.name = fd, name
        return True

    def _copy_to(self, fd: int, size_bytes: int) -> None:
        copied = 0
        while copied < size_bytes:
            part = os.pread(self.fd, min(COPY_BYTES, size_bytes - copied), copied)
            written = os.pwrite(fd, part, copied)
            if written == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            copied += written

    def _remove(self, name: str) -> None:
        directory = self._open_directory()
        try:
            os.unlink(name, dir_fd=directory)
        finally:
            os.close(directory)
