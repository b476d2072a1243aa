"""Work that nobody waits for."""

import threading
from collections.abc import Callable


class Afterwards:
    """Does something in a thread, which is there from the beginning: later there may be no room.

    Args:
        action: What is done; it raises nothing that matters.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self._go = threading.Event()
        self._thread = threading.Thread(target=self._run, name="datacrumbs-afterwards", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Let it begin."""
        self._go.set()

    def is_done(self, timeout_s: float) -> bool:
        """Return whether it is done, after waiting so long for that."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        self._go.wait()
        self._action()
