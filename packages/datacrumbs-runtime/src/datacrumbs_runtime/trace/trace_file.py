"""The trace file itself: never somebody else's, the user's own, made anew if it is removed.

Everything here may wait for a file system that does not answer, so a process of its own does it,
see `datacrumbs_runtime.trace.scribe`. It imports the standard library and this package only.
"""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datacrumbs_runtime.signing.accounts import Account

SUFFIX = ".pfw.gz"
MAX_NAMES = 10_000
COPY_BYTES = 1 << 20
_READ_WRITE = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose the file shall be."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a trace goes.

    Attributes:
        directory: The directory, absolute.
        name: Name of the file, such as ``trace-a-1-node1-probes.pfw.gz``. An existing file is
            never touched: ``-2``, ``-3`` ... is added.
        owner: Whose the file shall be; None: whoever runs this.
        account: With whose rights the directory is found or made where others than root control
            the way, see `datacrumbs_runtime.trace_directory`; None: it is there, and its path
            can be trusted.
    """

    directory: str
    name: str
    owner: Owner | None = None
    account: "Account | None" = None

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Place":
        """Return what `to_dict` was called for."""
        owner, account = values["owner"], values["account"]
        if account is not None:
            # Most of it is not needed otherwise.
            from datacrumbs_runtime.signing.accounts import Account

            account = Account(**{**account, "groups": tuple(account["groups"])})
        owner = None if owner is None else Owner(**owner)
        return cls(values["directory"], values["name"], owner, account)


@dataclass(frozen=True, slots=True)
class FileId:
    """Which file it is.

    Attributes:
        name: Its name in the directory.
        device: Its file system.
        inode: Its number there.
    """

    name: str
    device: int
    inode: int


def numbered_name(name: str, number: int) -> str:
    """Return ``x.pfw.gz`` for the first file, ``x-2.pfw.gz`` for the second, and so on."""
    if number == 1:
        return name
    stem = name.removesuffix(SUFFIX)
    return f"{stem}-{number}{name[len(stem) :]}"


class TraceFile:
    """A trace file that is open for writing, always up to the end of a whole piece.

    Args:
        place: Where it goes.
        reopened: Go on with this file instead of making one.
        size_bytes: What of that file is whole; the rest is cut off.

    Raises:
        OSError: It cannot be created, or is not that file any more.
        DatacrumbsError: The directory cannot be used.
    """

    def __init__(self, place: Place, reopened: FileId | None = None, size_bytes: int = 0) -> None:
        self._place = place
        self._open_directory, self._acting = _directory(place)
        self._filling = _filling(place)
        self.size_bytes = size_bytes
        if reopened is None:
            self._fd, self.name = self._create()
        else:
            self._fd, self.name = self._reopen(reopened), reopened.name

    @property
    def id(self) -> FileId:
        """Which file it is now."""
        status = os.fstat(self._fd)
        return FileId(self.name, status.st_dev, status.st_ino)

    def is_in_reach(self) -> bool:
        """Return whether its owner can enter all directories above it."""
        with self._filling():
            try:
                os.stat(os.path.join(self._place.directory, self.name))  # noqa: PTH116, PTH118
            except PermissionError:
                return False
            except OSError:
                # Removed already, perhaps.
                return True
        return True

    def write(self, data: bytes) -> bool:
        """Add data at the end, or nothing of it.

        Returns:
            Whether it is another file now, as the one of before was removed.

        Raises:
            OSError: Nothing was written.
            DatacrumbsError: Likewise.
        """
        is_another = self._find()
        with self._filling():
            written = os.pwrite(self._fd, data, self.size_bytes)
        if written != len(data):
            self.truncate(self.size_bytes)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size_bytes += written
        return is_another

    def read(self, offset: int) -> bytes:
        """Return everything from an offset on.

        Raises:
            OSError: It cannot be read.
        """
        return os.pread(self._fd, self.size_bytes - offset, offset)

    def replace_end(self, offset: int, data: bytes) -> None:
        """Write data in the place of what comes from an offset on, which must not be shorter.

        That needs no room that the file does not have.

        Raises:
            OSError: The file is as it was.
        """
        before = self.read(offset)
        try:
            if os.pwrite(self._fd, data, offset) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301
        except OSError:
            with suppress(OSError):
                os.pwrite(self._fd, before, offset)
            raise
        self.truncate(offset + len(data))

    def truncate(self, size_bytes: int) -> None:
        """Cut off what comes later.

        Raises:
            OSError: It cannot be cut.
        """
        os.ftruncate(self._fd, size_bytes)
        self.size_bytes = size_bytes

    def remove(self) -> None:
        """Remove the file, if its name still means it.

        Raises:
            OSError: It cannot be removed.
            DatacrumbsError: The directory cannot be used.
        """
        directory = self._open_directory()
        try:
            with self._acting():
                status = os.stat(self.name, dir_fd=directory, follow_symlinks=False)
                if os.path.samestat(status, os.fstat(self._fd)):
                    os.unlink(self.name, dir_fd=directory)
        finally:
            os.close(directory)

    def close(self) -> None:
        """Close the file.

        Raises:
            OSError: Some file systems only now say that something was not written.
        """
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _create(self) -> tuple[int, str]:
        directory = self._open_directory()
        try:
            with self._acting():
                fd, name = self._create_in(directory)
            try:
                self._make_it_the_owners(fd)
            except OSError:
                os.close(fd)
                with self._acting():
                    os.unlink(name, dir_fd=directory)
                raise
        finally:
            os.close(directory)
        return fd, name

    def _make_it_the_owners(self, fd: int) -> None:
        status, owner = os.fstat(fd), self._place.owner
        if owner and (status.st_uid, status.st_gid) != (owner.uid, owner.gid):
            os.fchown(fd, owner.uid, owner.gid)
        if stat.S_IMODE(status.st_mode) != 0o600:
            os.fchmod(fd, 0o600)

    def _create_in(self, directory: int) -> tuple[int, str]:
        for number in range(1, MAX_NAMES):
            name = numbered_name(self._place.name, number)
            with suppress(FileExistsError):
                flags = _READ_WRITE | os.O_CREAT | os.O_EXCL
                return os.open(name, flags, 0o600, dir_fd=directory), name
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _reopen(self, wanted: FileId) -> int:
        directory = self._open_directory()
        try:
            with self._acting():
                fd = os.open(wanted.name, _READ_WRITE | os.O_NONBLOCK, dir_fd=directory)
        finally:
            os.close(directory)
        try:
            _check(fd, wanted)
            os.ftruncate(fd, self.size_bytes)
        except OSError:
            os.close(fd)
            raise
        return fd

    def _find(self) -> bool:
        """Make the file anew if somebody removed it: all that was written is still readable."""
        if os.fstat(self._fd).st_nlink > 0:
            return False
        old_fd, old_name = self._fd, self.name
        self._fd, self.name = self._create()
        try:
            with self._filling():
                _copy(old_fd, self._fd, self.size_bytes)
        except OSError:
            # Half a copy is worse than none, and the original is still open.
            with suppress(Exception):
                self.remove()
            os.close(self._fd)
            self._fd, self.name = old_fd, old_name
            raise
        os.close(old_fd)
        return True


def _directory(
    place: Place,
) -> tuple[Callable[[], int], Callable[[], AbstractContextManager[object]]]:
    """Return what opens the directory, and the block in which its files are made."""
    if place.account is None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        return lambda: os.open(place.directory, flags), nullcontext
    from datacrumbs_runtime.trace_directory import TraceDirectory

    directory = TraceDirectory(Path(place.directory), place.account)
    return directory.open, directory.acting


def _filling(place: Place) -> Callable[[], AbstractContextManager[object]]:
    """Return the block in which the file grows: what its owner may not use up, nor may we."""
    account = place.account
    if account is None:
        return nullcontext
    from datacrumbs_runtime.file_rights import rights_of

    return lambda: rights_of(account)


def _check(fd: int, wanted: FileId) -> None:
    status = os.fstat(fd)
    if (status.st_dev, status.st_ino) != (wanted.device, wanted.inode):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def _copy(source: int, target: int, size_bytes: int) -> None:
    copied = 0
    while copied < size_bytes:
        part = os.pread(source, min(COPY_BYTES, size_bytes - copied), copied)
        written = os.pwrite(target, part, copied)
        if written == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        copied += written
