"""Work that waits for others, done in a thread while this one goes on."""

import threading
from collections.abc import Callable
from contextlib import suppress

from datacrumbs_runtime.stop_signals import start_without_signals


class Beside:
    """Does something in a thread; whoever needs it waits for it.

    Args:
        work: What is done: in a thread, or by :meth:`wait` if there is no room for one.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._is_done = False
        self._thread = threading.Thread(target=self._run, name="datacrumbs-beside", daemon=True)
        with suppress(RuntimeError):
            start_without_signals(self._thread)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 (handed to whoever waits)
            self._error = error
        self._is_done = True

    def wait(self) -> None:
        """Return when it is done; raise what it raised. Later calls do nothing."""
        if self._thread.ident is not None:
            self._thread.join()
        elif not self._is_done:
            self._run()
        error, self._error = self._error, None
        if error is not None:
            raise error
