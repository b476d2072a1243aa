"""A limit for what may hang in the kernel, where no exception can reach it."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from datacrumbs_runtime.stop_signals import start_without_signals

logger = logging.getLogger(__name__)

_LAST_WORDS_S = 1.0
_CLEANING_S = 5.0


class TimeLimit:
    """Ends the process when a block takes too long.

    Programs and links vanish from the kernel with the process, so this is safe at any time. The
    thread that watches is there from the beginning: later there may be no room for one. If there is
    none even then, the kernel's own alarm ends the process, without a word.

    Args:
        on_expiry: Called before the end, from another thread.
    """

    def __init__(self, on_expiry: Callable[[], None]) -> None:
        self._on_expiry = on_expiry
        self._changed = threading.Condition()
        self._deadline_s: float | None = None
        self._is_over = False
        self._what = ""
        self._has_thread = True
        self._thread = threading.Thread(
            target=self._watch, name="datacrumbs-time-limit", daemon=True
        )

    @contextmanager
    def within(self, seconds: float, what: str) -> Iterator[None]:
        """Have a block that must end in time, as must the cleaning up if it fails.

        Args:
            seconds: How long it may take.
            what: What the log calls it.
        """
        self._what = f"{what} took longer than {seconds:g} s"
        self._set(time.monotonic() + seconds)
        try:
            yield
        except BaseException:
            self._what = f"cleaning up after {what} took longer than {_CLEANING_S:g} s"
            self._set(time.monotonic() + _CLEANING_S)
            raise
        self._set(None)

    def _set(self, deadline_s: float | None) -> None:
        if not self._has_thread:
            left_s = 0.0 if deadline_s is None else max(deadline_s - time.monotonic(), 0.001)
            signal.setitimer(signal.ITIMER_REAL, left_s)
        with self._changed:
            self._deadline_s = deadline_s
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._is_over:
                left_s = None if self._deadline_s is None else self._deadline_s - time.monotonic()
                if left_s is not None and left_s <= 0:
                    break
                self._changed.wait(left_s)
            else:
                return
        # Whatever hangs may also hold what is needed for a clean end: the kernel does not wait.
        signal.setitimer(signal.ITIMER_REAL, _LAST_WORDS_S)
        logger.error("%s", self._what)
        try:
            self._on_expiry()
        finally:
            logging.shutdown()
            os._exit(1)

    def __enter__(self) -> "TimeLimit":
        # Whoever started us may have left it ignored; only the main thread may change that.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        try:
            start_without_signals(self._thread)
        except RuntimeError:
            self._has_thread = False
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify()
