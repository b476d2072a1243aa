"""From the kernel's monotonic clock to the time of day."""

import time

_ATTEMPTS = 7


def clock_offset_ns() -> int:
    """Return what to add to CLOCK_MONOTONIC for nanoseconds since the epoch, now.

    The attempt that was least interrupted counts: it is off by less than a microsecond.
    """
    best_width, best_offset = 1 << 62, 0
    for _ in range(_ATTEMPTS):
        before = time.monotonic_ns()
        since_epoch = time.time_ns()
        after = time.monotonic_ns()
        if after - before < best_width:
            best_width = after - before
            best_offset = since_epoch - (before + after) // 2
    return best_offset
