"""Who writes to the trace file: another process, or this one if there can be no other."""

import logging
import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from datacrumbs_runtime import process
from datacrumbs_runtime.errors import ProcessError
from datacrumbs_runtime.trace.scribe_program import ANSWER, REQUEST, USE_FILE, WRITE, write_whole

logger = logging.getLogger(__name__)

PROGRAM = Path(__file__).with_name("scribe_program.py")
LAST_WAIT_S = 5.0
# They end by themselves when the disk lets them.
_left_behind: list["subprocess.Popen[bytes]"] = []


class ScribeGoneError(Exception):
    """The other process ended; what it was to write may be missing or cut."""


class Scribe(Protocol):
    """Writes one piece of data at a time."""

    def use_file(self, fd: int) -> None:
        """Write to this file from now on; the descriptor stays the caller's."""

    def begin(self, data: bytes, offset: int) -> None:
        """Begin to write; nothing else is under way."""

    def finished(self, timeout_s: float) -> bool:
        """Return whether it was written, after waiting so long for it.

        Raises:
            OSError: It was not; nothing of it is in the file.
            ScribeGoneError: Nobody knows.
        """

    def close(self) -> None:
        """Let go of everything."""


class OwnHand:
    """Writes in this process, at once."""

    def __init__(self) -> None:
        self._fd = -1
        self._errno = 0

    def use_file(self, fd: int) -> None:
        """Write to this file from now on."""
        self._fd = fd

    def begin(self, data: bytes, offset: int) -> None:
        """Write now."""
        self._errno = write_whole(self._fd, data, offset)

    def finished(self, timeout_s: float) -> bool:
        """Return True or raise what went wrong."""
        del timeout_s
        if self._errno:
            raise OSError(self._errno, os.strerror(self._errno))
        return True

    def close(self) -> None:
        """Do nothing."""


class OtherProcess:
    """Writes in a process of its own, which outlives this one as long as a write takes.

    Raises:
        ProcessError: It cannot be started.
    """

    def __init__(self) -> None:
        if not sys.executable:
            raise ProcessError("python: nobody knows where it is")
        here, there = socket.socketpair()
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
        self._answers = select.poll()
        self._answers.register(here, select.POLLIN)

    def use_file(self, fd: int) -> None:
        """Hand the file over."""
        try:
            socket.send_fds(self._socket, [REQUEST.pack(USE_FILE, 0, 0)], [fd])
        except OSError as error:
            raise ScribeGoneError from error

    def begin(self, data: bytes, offset: int) -> None:
        """Hand the data over."""
        try:
            self._socket.sendall(REQUEST.pack(WRITE, offset, len(data)))
            self._socket.sendall(data)
        except OSError as error:
            raise ScribeGoneError from error

    def finished(self, timeout_s: float) -> bool:
        """Look whether the answer is there."""
        if not self._answers.poll(timeout_s * 1000):
            return False
        try:
            answer = self._socket.recv(ANSWER.size, socket.MSG_WAITALL)
        except OSError as error:
            raise ScribeGoneError from error
        if len(answer) < ANSWER.size:
            raise ScribeGoneError
        (error_number,) = ANSWER.unpack(answer)
        if error_number:
            raise OSError(error_number, os.strerror(error_number))
        return True

    def close(self) -> None:
        """Let the process end; wait for it, but not for ever."""
        self._socket.close()
        try:
            self._process.wait(LAST_WAIT_S)
        except subprocess.TimeoutExpired:
            logger.warning("process %d still writes to the trace", self._process.pid)
            _left_behind.append(self._process)


def find_scribe(*, other_process: bool) -> Scribe:
    """Return a process that writes, or this one if there can be no other."""
    if other_process:
        try:
            return OtherProcess()
        except ProcessError as error:
            logger.info("the trace is written by this process: %s", error)
    return OwnHand()
