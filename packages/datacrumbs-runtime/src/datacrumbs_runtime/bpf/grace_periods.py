"""Grace periods of RCU, which the kernel waits for when it takes probes out.

One takes some 15 ms, since it ends when all CPUs have scheduled. Where each probe costs one or
more, one after another, hundreds of them take many seconds.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

RCU_EXPEDITED = Path("/sys/kernel/rcu_expedited")


@contextmanager
def expedited_grace_periods() -> Iterator[None]:
    """Let the kernel ask all CPUs instead of waiting until they have scheduled, for a moment.

    A setting of the whole machine, hence as short as possible and by one process at a time, which
    leaves it as it was. Where it cannot be written nothing changes.
    """
    file = -1
    with suppress(OSError):
        file = os.open(RCU_EXPEDITED, os.O_RDWR | os.O_CLOEXEC)
    if file < 0:
        yield
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = os.pread(file, 16, 0)
        os.pwrite(file, b"1\n", 0)
        try:
            yield
        finally:
            os.pwrite(file, before, 0)
    finally:
        os.close(file)
