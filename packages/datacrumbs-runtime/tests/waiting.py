"""Waiting for what is about to happen, however slow or busy the machine is."""

import time
from collections.abc import Callable

# Only what hangs takes so long.
HANG_S = 120.0


def wait_until(condition: Callable[[], object], missing: Callable[[], object] = str) -> None:
    """Wait until something is so, and fail if it hangs.

    Args:
        condition: Asks whether it is.
        missing: Tells what there is instead.
    """
    end_s = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < end_s, missing()
        time.sleep(0.01)
