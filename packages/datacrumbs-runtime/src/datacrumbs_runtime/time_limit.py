"""A limit for what may hang in the kernel, where no exception can reach it."""

import logging
import os
import threading
from collections.abc import Callable
from types import TracebackType

logger = logging.getLogger(__name__)


class TimeLimit:
    """Ends the process when a block takes too long.

    Programs and links vanish from the kernel with the process, so this is safe at any time.

    Args:
        seconds: How long the block may take.
        what: What the log calls it.
        on_expiry: Called before the end, from another thread.
    """

    def __init__(self, seconds: float, what: str, on_expiry: Callable[[], None]) -> None:
        self._seconds = seconds
        self._what = what
        self._on_expiry = on_expiry
        self._is_over = threading.Event()
        self._thread = threading.Thread(
            target=self._wait, name="datacrumbs-time-limit", daemon=True
        )

    def _wait(self) -> None:
        if not self._is_over.wait(self._seconds):
            logger.error("%s took longer than %g s", self._what, self._seconds)
            try:
                self._on_expiry()
            finally:
                os._exit(1)

    def __enter__(self) -> "TimeLimit":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
