"""The signals that end a run: they wait until they are asked for."""

import ctypes
import os
import select
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LOOK_S = 0.1
# struct signalfd_siginfo begins with the number of the signal.
_SIGINFO_BYTES = 128
_NUMBER = struct.Struct("=I")
_SIGSET_BYTES = 128


def start_without_signals(thread: threading.Thread) -> None:
    """Start a thread that never gets a signal: one is enough for a signal to end the process.

    Raises:
        RuntimeError: There is no room for a thread.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopSignals:
    """Holds the signals back from here to the end of the process; threads inherit that.

    One that comes when everything is done changes nothing about how the process ends.

    The thread for further signals is there from the beginning: later there may be no room for one.
    """

    def __init__(self) -> None:
        self._action: Callable[[], None] | None = None
        self._fd = -1
        self._poll = select.poll()
        self._is_stopping = threading.Event()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="datacrumbs-signals", daemon=True)

    def __enter__(self) -> "StopSignals":
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        return self

    def start(self) -> None:
        """Begin to look for signals.

        Raises:
            OSError: There is no room for a descriptor.
            RuntimeError: There is no room for a thread.
        """
        self._fd = _signal_descriptor()
        self._poll.register(self._fd, select.POLLIN)
        self._thread.start()

    def wait(self, timeout_s: float) -> str | None:
        """Return the name of a signal, or None if none came in time."""
        if not self._poll.poll(max(0.0, timeout_s) * 1000):
            return None
        try:
            (number,) = _NUMBER.unpack_from(os.read(self._fd, _SIGINFO_BYTES))
        except BlockingIOError:
            return None
        return signal.Signals(number).name

    @contextmanager
    def calling(self, action: Callable[[], None]) -> Iterator[None]:
        """Have a block in which a further signal calls something, from another thread."""
        self._action = action
        self._is_stopping.set()
        try:
            yield
        finally:
            self._is_over.set()

    def _look(self) -> None:
        self._is_stopping.wait()
        while not self._is_over.is_set():
            if self.wait(_LOOK_S) is not None and self._action is not None:
                self._action()
                return

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._is_stopping.set()


def _signal_descriptor() -> int:
    """Return a descriptor that is readable when one of the signals came.

    signal.sigtimedwait() makes signals up when a stopped process goes on after the time was over.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    signals = ctypes.create_string_buffer(_SIGSET_BYTES)
    libc.sigemptyset(signals)
    for number in STOP_SIGNALS:
        libc.sigaddset(signals, int(number))
    fd: int = libc.signalfd(-1, signals, os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return fd
