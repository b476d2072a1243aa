"""Who writes to the trace file: another process, or this one if there can be no other."""

import errno
import logging
import os
import select
import socket
import subprocess
import sys
from array import array
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from datacrumbs_runtime import process
from datacrumbs_runtime.errors import ProcessError
from datacrumbs_runtime.trace import scribe_program
from datacrumbs_runtime.trace.scribe_messages import (
    MAX_ANSWER_BYTES,
    MEMORY,
    PACKET,
    PIECE,
    REQUEST,
    WRITE,
    Answer,
    Request,
    request_in_memory,
)

logger = logging.getLogger(__name__)

PROGRAM = Path(scribe_program.__file__)
# They end by themselves when the file system lets them.
_left_behind: list["subprocess.Popen[bytes]"] = []


class ScribeGoneError(Exception):
    """The other process ended; what it was to write may be missing or cut."""


class Scribe(Protocol):
    """Does one request after another."""

    def send(self, request: Request, pieces: Sequence[bytes] = ()) -> None:
        """Hand a request over, without waiting for anything.

        Raises:
            OSError: There is no room to do so.
            ScribeGoneError: Nobody is there to take it.
        """

    def answer(self, timeout_s: float) -> Answer | None:
        """Return the answer to the oldest request that has none, or None after so long a wait.

        Raises:
            ScribeGoneError: There will be none.
        """

    def close(self, timeout_s: float) -> int | None:
        """Let go of it.

        Returns:
            The process that is still at it after so long a wait, or None.
        """


class OwnHand:
    """Does everything in this process, at once."""

    def __init__(self) -> None:
        self._hand = scribe_program.Hand()
        self._answers: list[Answer] = []

    def send(self, request: Request, pieces: Sequence[bytes] = ()) -> None:
        """Do it now."""
        self._answers.append(self._hand.do(request, pieces))

    def answer(self, timeout_s: float) -> Answer | None:
        """Return what came of it."""
        del timeout_s
        return self._answers.pop(0)

    def close(self, timeout_s: float) -> None:
        """Close the file."""
        del timeout_s
        self._hand.end()


class OtherProcess:
    """Has a process of its own, which outlives this one as long as it has something to do.

    Raises:
        ProcessError: It cannot be started.
    """

    def __init__(self) -> None:
        if not sys.executable:
            raise ProcessError("python: nobody knows where it is")
        try:
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise ProcessError(f"socketpair: {error.strerror}") from error
        # -I -S: neither the environment nor installed packages have a say.
        command = [sys.executable, "-I", "-S", str(PROGRAM), str(there.fileno())]
        try:
            self._process = process.start(command, pass_fds=[there.fileno()])
        except ProcessError:
            here.close()
            raise
        finally:
            there.close()
        self._socket = here
        self._memory = -1
        self._answers = select.poll()
        self._answers.register(here, select.POLLIN)

    def send(self, request: Request, pieces: Sequence[bytes] = ()) -> None:
        """Hand it over in memory. There is never more than one piece under way."""
        if request.do == WRITE:
            self._send_piece(pieces[0])
            return
        fd = request_in_memory(request, pieces)
        try:
            self._send(PACKET.pack(REQUEST, 0), fd)
        finally:
            os.close(fd)

    def _send_piece(self, piece: bytes) -> None:
        if self._memory < 0:
            self._memory = os.memfd_create("datacrumbs-trace", os.MFD_CLOEXEC)
            self._send(PACKET.pack(MEMORY, 0), self._memory)
        if os.pwrite(self._memory, piece, 0) != len(piece):
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        self._send(PACKET.pack(PIECE, len(piece)))

    def _send(self, packet: bytes, *descriptors: int) -> None:
        # socket.send_fds() of older Pythons ignores flags.
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        try:
            self._socket.sendmsg([packet], [rights] if descriptors else [], flags)
        except OSError as error:
            raise ScribeGoneError from error

    def answer(self, timeout_s: float) -> Answer | None:
        """Look whether the answer is there."""
        if not self._answers.poll(timeout_s * 1000):
            return None
        try:
            data = self._socket.recv(MAX_ANSWER_BYTES)
        except OSError as error:
            raise ScribeGoneError from error
        if not data:
            raise ScribeGoneError
        return Answer.from_bytes(data)

    def close(self, timeout_s: float) -> int | None:
        """Let the process end; wait for it, but not for ever."""
        self._socket.close()
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1
        if not _has_ended(self._process, timeout_s):
            _left_behind.append(self._process)
            return self._process.pid
        return None


def _has_ended(process: "subprocess.Popen[bytes]", timeout_s: float) -> bool:
    """Wait for a process: at once when it ends, while Popen.wait() sleeps longer and longer."""
    with suppress(OSError):
        fd = os.pidfd_open(process.pid)
        try:
            ended = select.poll()
            ended.register(fd, select.POLLIN)
            ended.poll(timeout_s * 1000)
        finally:
            os.close(fd)
        timeout_s = 0.0
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def find_scribe(*, other_process: bool) -> Scribe:
    """Return a process that writes, or this one if there can be no other."""
    if other_process:
        try:
            return OtherProcess()
        except ProcessError as error:
            logger.info("the trace is written by this process: %s", error)
    return OwnHand()
