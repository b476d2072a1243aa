"""The trace file: complete gzip members, each written at once, whatever the disk does.

A member holds whole lines and is handed to the kernel in one write, by a process that goes on if
this one is killed, so the file is valid at any moment. This process itself never touches the file
system of the trace, which may not answer. While the disk is full or slow, finished members wait in
memory; beyond a limit the oldest are dropped, but for their metadata, and their calls counted.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from datacrumbs_runtime.errors import TraceError
from datacrumbs_runtime.trace import scribe_messages as messages
from datacrumbs_runtime.trace.member_queue import MemberQueue
from datacrumbs_runtime.trace.members import FULL
from datacrumbs_runtime.trace.scribe import ScribeGoneError, find_scribe
from datacrumbs_runtime.trace.scribe_messages import Answer, Request
from datacrumbs_runtime.trace.trace_file import FileId, Owner, Place
from datacrumbs_runtime.trace.writer_settings import WriterCounters, WriterSettings

__all__ = ["Owner", "Place", "TraceWriter", "WriterCounters", "WriterSettings"]

logger = logging.getLogger(__name__)

MAX_SCRIBES = 4  # If whoever writes is killed again and again, this process writes.
HURRIED_WAIT_S = 0.2  # A second signal lets the end of a run wait this long for the disk.
SLOW_S = 2.0  # After this time the log says that the disk does not answer.
_WAIT_STEP_S = 0.02
_NO_ANSWER = "the file system does not answer"
_ENDED = "the process that writes it was ended"


class TraceWriter(AbstractContextManager["TraceWriter"]):
    """Writes one trace file. Not for use from several threads at once, but for `hurry`.

    The file is being made when this returns; `opened` waits for it.

    Args:
        place: Where the file goes.
        settings: Sizes and times.
    """

    def __init__(self, place: Place, *, settings: WriterSettings | None = None) -> None:
        self._place = place
        self._settings = settings or WriterSettings()
        self._lines: list[bytes] = []
        self._lines_bytes = 0
        self._lines_since_s = 0.0
        self._waiting = MemberQueue(self._settings.compression_level)
        self._has_begun = False
        self._failing_since_s: float | None = None
        self._failure = Answer()
        self._retry_at_s = 0.0
        self._file: FileId | None = None
        self._file_bytes = 0
        self._text_bytes = 0
        self._members = 0
        self._is_closed = False
        self._is_hurried = False
        self._is_left_behind = False
        # What was asked of the scribe and has no answer yet, and what has to be asked first.
        self._asked: deque[str] = deque()
        self._asked_at_s = 0.0
        self._needed: str | None = messages.CREATE
        self._scribes = 1
        self._scribe = find_scribe(other_process=self._settings.other_process)
        with suppress(ScribeGoneError):
            self._ask_for_file()

    @classmethod
    def at(
        cls, path: Path, *, owner: Owner | None = None, settings: WriterSettings | None = None
    ) -> "TraceWriter":
        """Create a trace file by its path.

        Raises:
            TraceError: The file cannot be created.
        """
        place = Place(os.fspath(path.parent.absolute()), path.name, owner)
        writer = cls(place, settings=settings)
        writer.opened()
        return writer

    def opened(self) -> None:
        """Wait until the file is there.

        Raises:
            TraceError: It cannot be created; the writer is closed then.
        """
        try:
            self._settle(self._settings.create_wait_s)
        except ScribeGoneError:
            # Python may be there but not work as another process.
            self._scribes = MAX_SCRIBES
            self._replace_scribe()
            self._ask_for_file()
            self._settle(0.0)
        if self._file is None:
            self._is_closed = True
            self._scribe.close(0.0)
            reason = _NO_ANSWER if self._asked else _reason(self._failure)
            raise TraceError(f"{self._place.directory}/{self._place.name}: {reason}")

    @property
    def name(self) -> str:
        """The name that the file got."""
        return self._place.name if self._file is None else self._file.name

    @property
    def is_left_behind(self) -> bool:
        """Whether the file system has not answered in time: another process is still at it."""
        return self._is_left_behind

    # ---- lines to members

    def write(self, lines: bytes) -> None:
        """Take whole lines. They reach the file within the age of a member and a call of `poll`.

        Nothing is raised if the disk is full: see `counters`.
        """
        if not lines or self._is_closed:
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
        if self._lines and time.monotonic() - self._lines_since_s >= self._settings.member_age_s:
            self._close_member()
        self._write_waiting()

    def flush(self) -> None:
        """Write all lines now, if the disk takes them."""
        self._close_member()
        self._retry_at_s = 0.0
        end_s = time.monotonic() + self._settings.last_wait_s
        self._write_waiting()
        while self._asked and (left_s := end_s - time.monotonic()) > 0:
            self._write_waiting(left_s)

    def _close_member(self) -> None:
        if not self._lines:
            return
        self._waiting.add(self._lines[0] if len(self._lines) == 1 else b"".join(self._lines))
        self._lines.clear()
        self._lines_bytes = 0

    # ---- members to the file

    def _ask(self, request: Request, pieces: Sequence[bytes] = ()) -> None:
        self._scribe.send(request, pieces)
        self._asked.append(request.do)
        self._asked_at_s = time.monotonic()

    def _write_waiting(self, timeout_s: float = 0.0) -> None:
        """Let the oldest members be written, as far as that goes without waiting longer."""
        try:
            while self._settle(timeout_s) and self._waiting:
                if time.monotonic() < self._retry_at_s:
                    break
                if self._needed is None:
                    self._ask(Request(messages.WRITE, self._place), [self._waiting.oldest()])
                else:
                    self._ask_for_file()
        except ScribeGoneError:
            self._replace_scribe()
        except OSError as error:
            self._note_failure(Answer(error.errno or -1, str(error)))
        first = 1 if messages.WRITE in self._asked else 0
        while self._waiting.compressed_bytes > self._settings.waiting_bytes:
            if not self._waiting.drop_oldest(first):
                break

    def _settle(self, timeout_s: float) -> bool:
        """Take the answers that are there; return whether there is something to go on with."""
        while self._asked:
            answer = self._scribe.answer(timeout_s)
            if answer is None:
                is_slow = time.monotonic() - self._asked_at_s > SLOW_S
                if is_slow and self._failing_since_s is None:
                    self._note_failure(Answer(-1, _NO_ANSWER))
                return False
            self._take(self._asked.popleft(), answer)
            if answer.error_number:
                return False
        return True

    def _take(self, asked: str, answer: Answer) -> None:
        if answer.error_number:
            if asked == messages.REOPEN and answer.error_number > 0:
                self._needed = messages.CREATE
            self._note_failure(answer)
        elif asked == messages.WRITE:
            self._take_written(1, answer)
        elif asked == messages.REOPEN:
            self._needed = None
        elif asked == messages.CREATE:
            self._take_created(answer)

    def _take_created(self, answer: Answer) -> None:
        self._needed = None
        if self._file is not None:
            logger.warning("%s is gone; what follows is in a new file", self._file.name)
            if self._members:
                self._waiting.begin_anew()
        if answer.message:
            logger.warning("%s: %s", self._place.directory, answer.message)
        self._file, self._file_bytes, self._members = answer.file, 0, 0

    def _take_written(self, count: int, answer: Answer) -> None:
        self._waiting.written(count)
        self._members += count
        self._file_bytes = answer.size_bytes
        if answer.file is not None:
            before, self._file = self.name, answer.file
            logger.warning("%s was removed and is written anew as %s", before, self.name)
        if count and not self._waiting:
            self._note_recovery()

    def _replace_scribe(self) -> None:
        """The other process was killed: another takes over, from the last whole member on."""
        logger.warning("%s: the process that wrote it is gone; another takes over", self.name)
        self._scribe.close(HURRIED_WAIT_S)
        self._asked.clear()
        self._scribes += 1
        again = self._settings.other_process and self._scribes <= MAX_SCRIBES
        self._scribe = find_scribe(other_process=again)
        self._needed = messages.CREATE if self._file is None else messages.REOPEN
        self._retry_at_s = 0.0

    def _ask_for_file(self) -> None:
        if self._needed == messages.CREATE:
            self._ask(Request(messages.CREATE, self._place))
        else:
            self._ask(Request(messages.REOPEN, self._place, self._file, self._file_bytes))

    def _note_failure(self, answer: Answer) -> None:
        self._failure = answer
        self._retry_at_s = time.monotonic() + self._settings.retry_s
        if self._failing_since_s is None and self._has_begun and not self._is_closed:
            self._failing_since_s = time.monotonic()
            logger.warning("%s: %s: the trace waits in memory", self.name, _reason(answer))

    def _note_recovery(self) -> None:
        if self._failing_since_s is not None:
            logger.warning(
                "%s: writing again after %.1f s, %d calls dropped so far",
                self.name,
                time.monotonic() - self._failing_since_s,
                self._waiting.dropped_calls,
            )
            self._failing_since_s = None

    # ---- the end

    def counters(self) -> WriterCounters:
        """Return what became of the lines so far."""
        return WriterCounters(
            text_bytes=self._text_bytes,
            file_bytes=self._file_bytes,
            members=self._members,
            waiting_bytes=self._waiting.compressed_bytes,
            dropped_events=self._waiting.dropped_calls,
            dropped_bytes=self._waiting.dropped_bytes,
            trouble=None if self._failing_since_s is None else _reason(self._failure),
        )

    def hurry(self) -> None:
        """Let the end not wait for the disk any more, from any thread."""
        self._is_hurried = True

    def discard(self) -> None:
        """Remove the file, and close."""
        if self._is_closed:
            return
        self._is_closed = True
        end_s = time.monotonic() + self._settings.last_wait_s
        try:
            self._ask(Request(messages.DISCARD, self._place))
            self._last_answer(end_s)
        except (ScribeGoneError, OSError):
            logger.warning("%s: %s and leaves an empty file", self.name, _ENDED)
        self._let_go(end_s)

    def close(self) -> None:
        """Write what can be written, count the rest as dropped, and close the file."""
        if self._is_closed:
            return
        self._close_member()
        self._is_closed = True
        end_s = time.monotonic() + self._settings.last_wait_s
        try:
            try:
                self._finish(end_s)
            except ScribeGoneError:
                self._replace_scribe()
                self._finish(end_s)
        except (ScribeGoneError, OSError) as error:
            self._drop_rest(str(error) or _ENDED)
        self._let_go(end_s)

    def _finish(self, end_s: float) -> None:
        if self._needed is not None and not self._find_file(end_s):
            self._drop_rest(_reason(self._failure))
            return
        # What is being written now comes back to the other process if it fails.
        is_writing = messages.WRITE in self._asked
        rest = self._waiting.compressed(1 if is_writing else 0)
        self._ask(Request(messages.FINISH, self._place, failed_too=is_writing), rest)
        answer = self._last_answer(end_s)
        if answer is None:
            self._is_left_behind = True
            return
        self._take_written(answer.pieces, answer)
        if answer.error_number in FULL:
            self._say_last_words(_reason(answer), end_s)
        elif answer.error_number:
            self._drop_rest(_reason(answer))
        elif answer.message:
            logger.warning("%s: %s", self.name, answer.message)

    def _find_file(self, end_s: float) -> bool:
        """Let whoever writes have the file; return whether it has."""
        while self._needed is not None:
            asked = self._needed
            if not self._asked:
                self._ask_for_file()
            answer = self._last_answer(end_s)
            if answer is None:
                self._failure = Answer(-1, _NO_ANSWER)
                return False
            self._take(asked, answer)
            if self._needed == asked:
                return False
        return True

    def _last_answer(self, end_s: float) -> Answer | None:
        """Return the answer to the last request, or None if the time is over before."""
        while True:
            if self._is_hurried:
                end_s = min(end_s, time.monotonic() + HURRIED_WAIT_S)
                self._is_hurried = False
            answer = self._scribe.answer(_WAIT_STEP_S)
            if answer is not None:
                asked = self._asked.popleft()
                if not self._asked:
                    return answer
                self._take(asked, answer)
            elif time.monotonic() >= end_s:
                return None

    def _say_last_words(self, reason: str, end_s: float) -> None:
        """Keep the metadata of what is lost, and say in the file what is missing."""
        rest = self._waiting.give_up()
        unwritten = self._waiting.dropped_calls
        self._ask(Request(messages.LAST_WORDS, self._place, unwritten=unwritten), [rest.metadata])
        answer = self._last_answer(max(end_s, time.monotonic() + HURRIED_WAIT_S))
        if answer is None:
            self._is_left_behind = True
        elif not answer.error_number:
            self._file_bytes = answer.size_bytes
            self._members += (1 if answer.kept_bytes else 0) - answer.sacrificed
            self._waiting.dropped_calls = answer.unwritten
            self._waiting.dropped_bytes += answer.lost_bytes - answer.kept_bytes
        self._drop_rest(reason)

    def _drop_rest(self, reason: str) -> None:
        self._waiting.give_up()
        calls = self._waiting.dropped_calls
        logger.warning("%s: %s: %d calls dropped", self.name, reason, calls)

    def _let_go(self, end_s: float) -> None:
        left_s = max(end_s - time.monotonic(), HURRIED_WAIT_S)
        process = self._scribe.close(0.0 if self._is_left_behind else left_s)
        self._is_left_behind = self._is_left_behind or process is not None
        if self._is_left_behind:
            calls = self._waiting.give_up().calls
            text = "%s: %s: %d calls are left to process %s, which writes them when that can be"
            logger.warning(text, self.name, _NO_ANSWER, calls, process or "that ended")

    def __exit__(self, *error: object) -> None:
        self.close()


def _reason(answer: Answer) -> str:
    return answer.message or os.strerror(answer.error_number)
