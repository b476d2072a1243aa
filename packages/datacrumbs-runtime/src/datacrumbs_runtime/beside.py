"""Work that waits for others, done in a thread while this one goes on."""

import threading
from collections.abc import Callable

from datacrumbs_runtime.stop_signals import start_without_signals


class Beside:
    """Does something in a thread; whoever needs it waits for it.

    Args:
        work: What is done: in a thread, or by :meth:`wait` if there is no room for one.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="datacrumbs-beside", daemon=True)
        try:
            start_without_signals(self._thread)
        except RuntimeError:
            self._is_started = False
        else:
            self._is_started = True

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 (handed to whoever waits)
            self._error = error

    def wait(self) -> None:
        """Return when it is done; raise what it raised. Later calls do nothing."""
        if self._is_started:
            self._thread.join()
        else:
            self._run()
            self._is_started = True
        error, self._error = self._error, None
        if error is not None:
            raise error
