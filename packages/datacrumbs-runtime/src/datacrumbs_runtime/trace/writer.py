"""The trace file: complete gzip members, each written at once, whatever the disk does.

A member holds whole lines and is handed to the kernel in one write, so the file is valid after
each of them. While the disk is full, finished members wait in memory; beyond a limit the oldest
are dropped, but for their metadata, and the calls in them counted.
"""

import errno
import logging
import os
import stat
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from isal import igzip_lib

from datacrumbs_runtime.errors import TraceError

logger = logging.getLogger(__name__)

SUFFIX = ".pfw.gz"
MAX_NAMES = 10_000
COPY_BYTES = 1 << 20
# Readers do not care about metadata's place but need it: what hashes stand for.
_METADATA = b'"ph":"M"'
_CALL = b'"ph":"X"'


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """How a trace file is written.

    Attributes:
        compression_level: 0 (fast) to 3 (small) of igzip.
        member_bytes: A gzip member is closed when it holds this much text.
        member_age_s: It is closed this long after its first line at the latest.
        waiting_bytes: Compressed text that may wait for room on the disk.
        retry_s: How often the disk is asked again.
    """

    compression_level: int = 1
    member_bytes: int = 1 << 20
    member_age_s: float = 1.0
    waiting_bytes: int = 64 << 20
    retry_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose the file shall be."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class WriterCounters:
    """What became of the lines.

    Attributes:
        text_bytes: Bytes of lines taken.
        file_bytes: Size of the file.
        members: gzip members in the file.
        waiting_bytes: Compressed, waiting for room on the disk.
        dropped_events: Lines of calls that never reached the file.
        dropped_bytes: Text that never reached the file.
    """

    text_bytes: int
    file_bytes: int
    members: int
    waiting_bytes: int
    dropped_events: int
    dropped_bytes: int


@dataclass(frozen=True, slots=True)
class _Member:
    compressed: bytes
    text_bytes: int
    # What is left of a member whose calls were dropped.
    is_metadata: bool = False


def numbered_name(name: str, number: int) -> str:
    """Return ``x.pfw.gz`` for the first file, ``x-2.pfw.gz`` for the second, and so on."""
    if number == 1:
        return name
    stem = name.removesuffix(SUFFIX)
    return f"{stem}-{number}{name[len(stem) :]}"


def directory_opener(path: Path) -> Callable[[], int]:
    """Return a function that opens a directory and returns the descriptor."""
    return lambda: os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


class TraceWriter:
    """Writes one trace file. Not for use from several threads at once.

    Args:
        name: Name of the file, such as ``trace-a-1-node1-probes.pfw.gz``. An existing file is
            never touched: ``-2``, ``-3`` ... is added.
        open_directory: Opens the directory and returns its descriptor, which the writer closes.
            Called again when the directory was removed and may be there again.
        owner: Whose the file shall be; None: whoever runs this.
        as_user: Entered to create the file, for file systems where root may not.
        settings: Sizes and times.

    Raises:
        TraceError: The file cannot be created.
    """

    def __init__(
        self,
        name: str,
        open_directory: Callable[[], int],
        *,
        owner: Owner | None = None,
        as_user: Callable[[], AbstractContextManager[object]] = nullcontext,
        settings: WriterSettings | None = None,
    ) -> None:
        self._wanted_name = name
        self._open_directory = open_directory
        self._owner = owner
        self._as_user = as_user
        self._settings = settings or WriterSettings()
        self._lines: list[bytes] = []
        self._lines_bytes = 0
        self._lines_since_s = 0.0
        self._waiting: deque[_Member] = deque()
        self._waiting_bytes = 0
        self._failing_since_s: float | None = None
        self._retry_at_s = 0.0
        self._file_bytes = 0
        self._text_bytes = 0
        self._members = 0
        self._dropped_events = 0
        self._dropped_bytes = 0
        try:
            self._fd, self.name = self._create()
        except OSError as error:
            raise TraceError(f"{name}: {error.strerror}") from error

    @classmethod
    def at(
        cls, path: Path, *, owner: Owner | None = None, settings: WriterSettings | None = None
    ) -> "TraceWriter":
        """Create a trace file by its path.

        Raises:
            TraceError: The file cannot be created.
        """
        try:
            return cls(path.name, directory_opener(path.parent), owner=owner, settings=settings)
        except TraceError as error:
            raise TraceError(f"{path.parent}/{error}") from error

    # ---- lines to members

    def write(self, lines: bytes) -> None:
        """Take whole lines. They reach the file within the age of a member and a call of `poll`.

        Nothing is raised if the disk is full: see `counters`.
        """
        if not lines:
            return
        if not self._lines:
            self._lines_since_s = time.monotonic()
        self._lines.append(lines)
        self._lines_bytes += len(lines)
        self._text_bytes += len(lines)
        if self._lines_bytes >= self._settings.member_bytes:
            self._close_member()
        self._write_waiting()

    def poll(self) -> None:
        """Close the member that is old enough, and ask a full disk again."""
        age_s = time.monotonic() - self._lines_since_s
        if self._lines and age_s >= self._settings.member_age_s:
            self._close_member()
        self._write_waiting()

    def flush(self) -> None:
        """Write all lines now, if the disk takes them."""
        self._close_member()
        self._retry_at_s = 0.0
        self._write_waiting()

    def _close_member(self) -> None:
        if not self._lines:
            return
        text = self._lines[0] if len(self._lines) == 1 else b"".join(self._lines)
        self._lines.clear()
        self._lines_bytes = 0
        compressed = igzip_lib.compress(text, self._settings.compression_level, igzip_lib.COMP_GZIP)
        self._waiting.append(_Member(compressed, len(text)))
        self._waiting_bytes += len(compressed)

    def _compress(self, text: bytes) -> bytes:
        level = self._settings.compression_level
        return igzip_lib.compress(text, level, igzip_lib.COMP_GZIP)

    # ---- members to the file

    def _write_waiting(self) -> None:
        now_s = time.monotonic()
        while self._waiting and now_s >= self._retry_at_s:
            member = self._waiting[0]
            try:
                self._find_file()
                self._write_member(member.compressed)
            except OSError as error:
                self._retry_at_s = now_s + self._settings.retry_s
                self._note_failure(error, now_s)
                break
            self._waiting.popleft()
            self._waiting_bytes -= len(member.compressed)
            self._members += 1
        if not self._waiting:
            self._note_recovery(now_s)
        while self._waiting_bytes > self._settings.waiting_bytes and self._waiting:
            self._drop_oldest()

    def _write_member(self, compressed: bytes) -> None:
        written = os.pwrite(self._fd, compressed, self._file_bytes)
        if written < len(compressed):
            # Half a member would make the file unreadable for some: take it back.
            os.ftruncate(self._fd, self._file_bytes)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._file_bytes += written

    def _drop_oldest(self) -> None:
        """Drop the calls of the oldest member that has some; metadata goes last."""
        place = next((i for i, member in enumerate(self._waiting) if not member.is_metadata), 0)
        member = self._waiting[place]
        del self._waiting[place]
        self._waiting_bytes -= len(member.compressed)
        text = igzip_lib.decompress(member.compressed, igzip_lib.DECOMP_GZIP)
        lines = text.splitlines(keepends=True)
        kept = b"".join(line for line in lines if _METADATA in line or line == b"[\n")
        if member.is_metadata:
            kept = b""
        self._dropped_events += text.count(_CALL)
        self._dropped_bytes += member.text_bytes - len(kept)
        if kept:
            compressed = self._compress(kept)
            self._waiting.insert(place, _Member(compressed, len(kept), is_metadata=True))
            self._waiting_bytes += len(compressed)

    def _note_failure(self, error: OSError, now_s: float) -> None:
        if self._failing_since_s is None:
            self._failing_since_s = now_s
            logger.warning("%s: %s: the trace waits in memory", self.name, error.strerror)

    def _note_recovery(self, now_s: float) -> None:
        if self._failing_since_s is not None:
            logger.warning(
                "%s: writing again after %.1f s, %d calls dropped so far",
                self.name,
                now_s - self._failing_since_s,
                self._dropped_events,
            )
            self._failing_since_s = None

    # ---- the file itself

    def _create(self) -> tuple[int, str]:
        directory = self._open_directory()
        try:
            with self._as_user():
                fd, name = self._create_in(directory)
        finally:
            os.close(directory)
        try:
            status = os.fstat(fd)
            if self._owner and (status.st_uid, status.st_gid) != (self._owner.uid, self._owner.gid):
                os.fchown(fd, self._owner.uid, self._owner.gid)
            if stat.S_IMODE(status.st_mode) != 0o600:
                os.fchmod(fd, 0o600)
        except OSError:
            os.close(fd)
            raise
        return fd, name

    def _create_in(self, directory: int) -> tuple[int, str]:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        for number in range(1, MAX_NAMES):
            name = numbered_name(self._wanted_name, number)
            try:
                return os.open(name, flags, 0o600, dir_fd=directory), name
            except FileExistsError:
                continue
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _find_file(self) -> None:
        """Make the file anew if somebody removed it; all that was written is still readable."""
        if os.fstat(self._fd).st_nlink > 0:
            return
        fd, name = self._create()
        try:
            self._copy_to(fd)
        except OSError:
            # Half a copy is worse than none, and the original is still open.
            os.close(fd)
            self._remove(name)
            raise
        logger.warning("%s was removed and is written anew as %s", self.name, name)
        os.close(self._fd)
        self._fd, self.name = fd, name

    def _copy_to(self, fd: int) -> None:
        copied = 0
        while copied < self._file_bytes:
            part = os.pread(self._fd, min(COPY_BYTES, self._file_bytes - copied), copied)
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

    # ---- the end

    def counters(self) -> WriterCounters:
        """Return what became of the lines so far."""
        return WriterCounters(
            text_bytes=self._text_bytes,
            file_bytes=self._file_bytes,
            members=self._members,
            waiting_bytes=self._waiting_bytes,
            dropped_events=self._dropped_events,
            dropped_bytes=self._dropped_bytes,
        )

    def close(self) -> None:
        """Write what can be written, count the rest as dropped, and close the file."""
        if self._fd < 0:
            return
        self.flush()
        if self._waiting:
            for member in self._waiting:
                text = igzip_lib.decompress(member.compressed, igzip_lib.DECOMP_GZIP)
                self._dropped_events += text.count(_CALL)
                self._dropped_bytes += len(text)
            self._waiting.clear()
            self._waiting_bytes = 0
            logger.warning(
                "%s: the disk stayed full: %d calls dropped", self.name, self._dropped_events
            )
        fd, self._fd = self._fd, -1
        try:
            os.close(fd)
        except OSError as error:
            logger.warning("%s: %s when it was closed", self.name, error.strerror)

    def __enter__(self) -> "TraceWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
