"""The trace file: complete gzip members, each written at once, whatever the disk does.

A member holds whole lines and is handed to the kernel in one write, by a process that goes on if
this one is killed, so the file is valid at any moment. While the disk is full or slow, finished
members wait in memory; beyond a limit the oldest are dropped, but for their metadata, and the calls
in them counted.
"""

import errno
import logging
import os
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from isal import igzip_lib

from datacrumbs_runtime.errors import TraceError
from datacrumbs_runtime.trace.scribe import OwnHand, ScribeGoneError, find_scribe
from datacrumbs_runtime.trace.scribe_program import write_whole
from datacrumbs_runtime.trace.trace_file import Owner as Owner
from datacrumbs_runtime.trace.trace_file import TraceFile, directory_opener
from datacrumbs_runtime.trace.trace_lines import json_line

logger = logging.getLogger(__name__)

# Readers do not care about metadata's place but need it: what hashes stand for.
_METADATA = b'"ph":"M"'
_CALL = b'"ph":"X"'
# What the kernel says when there is no room left.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """How a trace file is written.

    Attributes:
        compression_level: 0 (fast) to 3 (small) of igzip.
        member_bytes: A gzip member is closed when it holds this much text.
        member_age_s: It is closed this long after its first line at the latest.
        waiting_bytes: Compressed text that may wait for room on the disk.
        retry_s: How often the disk is asked again.
        last_wait_s: How long the end of a run waits for a slow disk.
        other_process: Whether another process writes, so that the file is whole if this one is
            killed in the middle of a write.
    """

    compression_level: int = 1
    member_bytes: int = 1 << 20
    member_age_s: float = 0.5
    waiting_bytes: int = 64 << 20
    retry_s: float = 1.0
    last_wait_s: float = 10.0
    other_process: bool = True


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


def _decompress(member: bytes) -> bytes:
    return igzip_lib.decompress(member, igzip_lib.DECOMP_GZIP)


def _calls_in(texts: Iterable[bytes]) -> int:
    return sum(text.count(_CALL) for text in texts)


def _metadata_of(texts: Iterable[bytes]) -> bytes:
    lines = (line for text in texts for line in text.splitlines(keepends=True))
    return b"".join(line for line in lines if _METADATA in line or line == b"[\n")


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
        self._settings = settings or WriterSettings()
        self._lines: list[bytes] = []
        self._lines_bytes = 0
        self._lines_since_s = 0.0
        self._waiting: deque[_Member] = deque()
        self._waiting_bytes = 0
        self._has_begun = False
        self._is_writing = False
        self._failing_since_s: float | None = None
        self._failed_with = 0
        self._retry_at_s = 0.0
        self._file_bytes = 0
        self._text_bytes = 0
        self._member_offsets = array("Q")
        self._dropped_events = 0
        self._dropped_bytes = 0
        try:
            self._file = TraceFile(name, open_directory, owner=owner, as_user=as_user)
        except OSError as error:
            raise TraceError(f"{name}: {error.strerror}") from error
        self._scribe = find_scribe(other_process=self._settings.other_process)
        self._hand_over_file()

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

    @property
    def name(self) -> str:
        """The name that the file got."""
        return self._file.name

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
        # The first lines are not kept waiting: without them the file would be an empty one, which
        # no reader takes for a trace.
        if self._lines_bytes >= self._settings.member_bytes or not self._has_begun:
            self._has_begun = True
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
        end_s = time.monotonic() + self._settings.last_wait_s
        self._write_waiting()
        while self._is_writing and (left_s := end_s - time.monotonic()) > 0:
            self._write_waiting(left_s)

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

    def _write_waiting(self, timeout_s: float = 0.0) -> None:
        """Let the oldest members be written, as far as that goes without waiting longer."""
        try:
            while self._take_answer(timeout_s) and self._waiting:
                if time.monotonic() < self._retry_at_s:
                    break
                if self._file.find(self._file_bytes):
                    self._hand_over_file()
                self._scribe.begin(self._waiting[0].compressed, self._file_bytes)
                self._is_writing = True
        except OSError as error:
            self._is_writing = False
            self._retry_at_s = time.monotonic() + self._settings.retry_s
            self._note_failure(error)
        except ScribeGoneError:
            self._go_on_alone()
        while self._waiting_bytes > self._settings.waiting_bytes and self._drop_oldest():
            pass

    def _take_answer(self, timeout_s: float) -> bool:
        """Return whether nothing is being written any more."""
        if not self._is_writing:
            return True
        if not self._scribe.finished(timeout_s):
            return False
        self._is_writing = False
        member = self._waiting.popleft()
        self._waiting_bytes -= len(member.compressed)
        self._member_offsets.append(self._file_bytes)
        self._file_bytes += len(member.compressed)
        if not self._waiting:
            self._note_recovery()
        return True

    def _go_on_alone(self) -> None:
        """The other process was killed: write here, from the last whole member on."""
        logger.warning("%s: the process that wrote it is gone; going on without", self.name)
        self._is_writing = False
        self._scribe.close()
        self._scribe = OwnHand()
        self._hand_over_file()
        try:
            os.ftruncate(self._file.fd, self._file_bytes)
        except OSError as error:
            self._note_failure(error)
        self._write_waiting()

    def _hand_over_file(self) -> None:
        try:
            self._scribe.use_file(self._file.fd)
        except ScribeGoneError:
            self._go_on_alone()

    def _drop_oldest(self) -> bool:
        """Drop the calls of the oldest member that has some; metadata goes last.

        Returns:
            Whether there was anything to drop.
        """
        first = 1 if self._is_writing else 0
        places = range(first, len(self._waiting))
        place = next((i for i in places if not self._waiting[i].is_metadata), first)
        if place >= len(self._waiting):
            return False
        member = self._waiting[place]
        del self._waiting[place]
        self._waiting_bytes -= len(member.compressed)
        text = _decompress(member.compressed)
        kept = b"" if member.is_metadata else _metadata_of([text])
        self._dropped_events += _calls_in([text])
        self._dropped_bytes += member.text_bytes - len(kept)
        if kept:
            compressed = self._compress(kept)
            self._waiting.insert(place, _Member(compressed, len(kept), is_metadata=True))
            self._waiting_bytes += len(compressed)
        return True

    def _note_failure(self, error: OSError) -> None:
        self._failed_with = error.errno or 0
        if self._failing_since_s is None:
            self._failing_since_s = time.monotonic()
            logger.warning("%s: %s: the trace waits in memory", self.name, error.strerror)

    def _note_recovery(self) -> None:
        if self._failing_since_s is not None:
            logger.warning(
                "%s: writing again after %.1f s, %d calls dropped so far",
                self.name,
                time.monotonic() - self._failing_since_s,
                self._dropped_events,
            )
            self._failing_since_s = None

    # ---- the end

    def counters(self) -> WriterCounters:
        """Return what became of the lines so far."""
        return WriterCounters(
            text_bytes=self._text_bytes,
            file_bytes=self._file_bytes,
            members=len(self._member_offsets),
            waiting_bytes=self._waiting_bytes,
            dropped_events=self._dropped_events,
            dropped_bytes=self._dropped_bytes,
        )

    def close(self) -> None:
        """Write what can be written, count the rest as dropped, and close the file."""
        if self._file.is_closed:
            return
        self.flush()
        was_stuck = self._is_writing
        self._scribe.close()
        if self._waiting:
            self._give_up(is_writable=not was_stuck and self._failed_with in _FULL)
        try:
            self._file.close()
        except OSError as error:
            logger.warning("%s: %s when it was closed", self.name, error.strerror)

    def _give_up(self, *, is_writable: bool) -> None:
        """Drop what waits; keep its metadata and say what is missing, if need be for last calls."""
        lost = [_decompress(member.compressed) for member in self._waiting]
        self._waiting.clear()
        self._waiting_bytes = 0
        kept = b""
        while is_writable:
            kept = _metadata_of(lost) + self._last_line(_calls_in(lost))
            compressed = self._compress(kept)
            if write_whole(self._file.fd, compressed, self._file_bytes) == 0:
                self._member_offsets.append(self._file_bytes)
                self._file_bytes += len(compressed)
                break
            kept = b""
            if not self._member_offsets:
                break
            # A full disk has room for what another member took.
            offset = self._member_offsets.pop()
            member = os.pread(self._file.fd, self._file_bytes - offset, offset)
            lost.insert(0, _decompress(member))
            os.ftruncate(self._file.fd, offset)
            self._file_bytes = offset
        self._dropped_events += _calls_in(lost)
        self._dropped_bytes += sum(map(len, lost)) - len(kept)
        logger.warning(
            "%s: the disk stayed full: %d calls dropped", self.name, self._dropped_events
        )

    def _last_line(self, lost_calls: int) -> bytes:
        process = os.getpid()
        return json_line(
            {
                "name": "datacrumbs_unwritten",
                "cat": "dftracer",
                "ph": "M",
                "pid": process,
                "tid": process,
                "args": {"unwritten": self._dropped_events + lost_calls},
            }
        )

    def __enter__(self) -> "TraceWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
