"""The program that writes a trace file on behalf of a recorder that may be killed at any moment.

The kernel ends a write in the middle when the writing process is killed, and a file whose last gzip
member is cut is refused by some readers. And a file system that does not answer holds whoever asks
it, not even SIGKILL ends that. So another process opens and writes the file, which nobody kills:
what was handed to it is written as soon as that can be, and it ends when the recorder is gone.

It is run as ``python -I -S scribe_program.py SOCKET`` by `datacrumbs_runtime.trace.scribe`, and
needs the standard library and this package only.
"""

import errno
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":
    # Without installed packages this one is not found; whatever Python has goes first.
    sys.path.append(os.fspath(Path(__file__).resolve().parents[2]))

from datacrumbs_runtime.errors import DatacrumbsError
from datacrumbs_runtime.file_rights import CAP_SYS_RESOURCE, give_up
from datacrumbs_runtime.trace import scribe_messages as messages
from datacrumbs_runtime.trace.members import (
    FULL,
    calls_in,
    compress,
    decompress,
    metadata_of,
    unwritten_line,
)
from datacrumbs_runtime.trace.scribe_messages import Answer, Request, request_from_memory
from datacrumbs_runtime.trace.trace_file import TraceFile


class Hand:
    """Does what requests say, in the process that has it."""

    def __init__(self) -> None:
        self._file: TraceFile | None = None
        self._offsets: list[int] = []
        self._failed: bytes | None = None
        self._is_finished = False

    def do(self, request: Request, pieces: Sequence[bytes]) -> Answer:
        """Do it and tell what came of it."""
        return self._answer(lambda: self._do(request, pieces))

    def write(self, piece: bytes) -> Answer:
        """Add a piece to the file and tell what came of it."""
        return self._answer(lambda: self._write(piece))

    def _answer(self, work: Callable[[], Answer]) -> Answer:
        try:
            return work()
        except OSError as error:
            number = error.errno or errno.EIO
            return Answer(number, os.strerror(number))
        except DatacrumbsError as error:
            return Answer(-1, str(error))

    def _do(self, request: Request, pieces: Sequence[bytes]) -> Answer:
        if request.do in (messages.CREATE, messages.REOPEN):
            self._file = TraceFile(request.place, request.file, request.size_bytes)
            text = "" if self._file.is_in_reach() else "the owner of the trace cannot enter it"
            return Answer(message=text, file=self._file.id)
        file = self._open_file()
        if request.do == messages.WRITE:
            return self._write(pieces[0])
        if request.do == messages.FINISH:
            return self._finish(file, request, pieces)
        if request.do == messages.LAST_WORDS:
            return self._say_last_words(file, pieces[0], request.unwritten)
        self._is_finished = True
        file.remove()
        return self._close(file, Answer())

    def _open_file(self) -> TraceFile:
        if self._file is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._file

    def _write(self, piece: bytes) -> Answer:
        file = self._open_file()
        offset = file.size_bytes
        self._failed = piece
        is_another = file.write(piece)
        self._failed = None
        self._offsets.append(offset)
        return Answer(file=file.id if is_another else None, size_bytes=file.size_bytes, pieces=1)

    def _finish(self, file: TraceFile, request: Request, pieces: Sequence[bytes]) -> Answer:
        failed = [self._failed] if request.failed_too and self._failed is not None else []
        written, error_number, message = 0, 0, ""
        another = None
        for piece in (*failed, *pieces):
            answer = self.write(piece)
            if answer.error_number:
                error_number, message = answer.error_number, answer.message
                break
            another = answer.file or another
            written += 1
        answer = Answer(error_number, message, another, file.size_bytes, written)
        return answer if error_number else self._close(file, answer)

    def _say_last_words(self, file: TraceFile, metadata: bytes, unwritten: int) -> Answer:
        """Write metadata and the number of lost calls, if need be in place of the last calls."""
        text = metadata + unwritten_line(unwritten)
        try:
            file.write(compress(text))
            answer = Answer(0, "", None, file.size_bytes, 0, 0, unwritten, 0, len(text))
        except OSError as error:
            if error.errno not in FULL:
                raise
            answer = self._replace_last_calls(file, metadata, unwritten)
        return self._close(file, answer)

    def _replace_last_calls(self, file: TraceFile, metadata: bytes, unwritten: int) -> Answer:
        """A full disk has room where the last members are: they go, but for their metadata."""
        lost_bytes = 0
        end = file.size_bytes
        lost_calls = unwritten
        for sacrificed, offset in enumerate(reversed(self._offsets), start=1):
            lost = decompress(file.read(offset)[: end - offset])
            end = offset
            lost_calls += calls_in(lost)
            lost_bytes += len(lost)
            metadata = metadata_of(lost) + metadata
            text = metadata + unwritten_line(lost_calls)
            member = compress(text)
            if offset + len(member) <= file.size_bytes:
                file.replace_end(offset, member)
                size = file.size_bytes
                return Answer(0, "", None, size, 0, sacrificed, lost_calls, lost_bytes, len(text))
        return Answer(size_bytes=file.size_bytes, unwritten=unwritten)

    def _close(self, file: TraceFile, answer: Answer) -> Answer:
        self._is_finished = True
        self._file = None
        try:
            file.close()
        except OSError as error:
            return replace(answer, message=f"{error.strerror} when it was closed")
        return answer

    def end(self) -> None:
        """Let go of everything; a file to which nobody wrote is not left."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError, DatacrumbsError):
                if not file.size_bytes and not self._is_finished:
                    file.remove()
                file.close()


def main() -> None:
    """Do what the recorder says until it is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    with suppress(DatacrumbsError):
        give_up(CAP_SYS_RESOURCE)
    connection = socket.socket(fileno=int(sys.argv[1]))
    hand = Hand()
    memory = -1
    while True:
        packet, descriptors, _, _ = socket.recv_fds(connection, messages.PACKET.size, 1)
        if not packet:
            break
        kind, length = messages.PACKET.unpack(packet)
        if kind == messages.MEMORY:
            (memory,) = descriptors
            continue
        if kind == messages.PIECE:
            answer = hand.write(os.pread(memory, length, 0))
        else:
            answer = hand.do(*request_from_memory(descriptors[0]))
        # The recorder may be gone; what it handed over before is done all the same.
        with suppress(OSError):
            connection.send(answer.to_bytes(), socket.MSG_NOSIGNAL)
    hand.end()
    # The recorder waits for the end, and the interpreter would first take itself apart.
    os._exit(0)


if __name__ == "__main__":
    main()
