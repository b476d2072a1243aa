"""The rings that call records cross to user space in, one per CPU."""

import errno
import logging
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

from datacrumbs_runtime.bpf import bpf_syscall
from datacrumbs_runtime.bpf.links import in_threads

logger = logging.getLogger(__name__)

PAGE_BYTES = mmap.PAGESIZE
ONLINE_CPUS = Path("/sys/devices/system/cpu/online")


@dataclass(frozen=True, slots=True)
class Ring:
    """A ring buffer. The descriptor belongs to the loaded object."""

    fd: int
    size_bytes: int


def online_cpus() -> set[int]:
    """Return the numbers of the CPUs that run now."""
    cpus: set[int] = set()
    for part in ONLINE_CPUS.read_text().strip().split(","):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def ring_size(wanted_bytes: int) -> int:
    """Return the size of a ring: a power of two, at least a page, at most what is wanted."""
    return max(PAGE_BYTES, 1 << (max(wanted_bytes, 1).bit_length() - 1))


def make_rings(possible_cpus: int, wanted_bytes: int, total_bytes: int) -> tuple[Ring, ...]:
    """Make a ring for each CPU, in their order; CPUs that do not run get the smallest.

    The kernel clears their memory, for some milliseconds each: several at once.

    Args:
        possible_cpus: How many CPUs the kernel may ever see.
        wanted_bytes: Size of a ring.
        total_bytes: All together have at most this size.

    Returns:
        The rings; their descriptors belong to the caller.

    Raises:
        OSError: There is no memory, not even for smaller ones.
    """
    online = online_cpus()
    size = ring_size(min(wanted_bytes, total_bytes // max(len(online), 1)))
    if size < ring_size(wanted_bytes):
        logger.info("event rings of %d KiB instead of %d", size >> 10, wanted_bytes >> 10)
    rings: dict[int, Ring] = {}

    def make(cpu: int) -> None:
        nonlocal size
        rings[cpu] = _make_ring(size if cpu in online else PAGE_BYTES, cpu)
        if cpu in online:
            # What one does not get the next ones need not ask for.
            size = min(size, rings[cpu].size_bytes)

    try:
        in_threads(range(possible_cpus), make)
    except OSError:
        for ring in rings.values():
            os.close(ring.fd)
        raise
    return tuple(rings[cpu] for cpu in range(possible_cpus))


def _make_ring(size: int, cpu: int) -> Ring:
    while True:
        try:
            fd = bpf_syscall.map_create(
                bpf_syscall.MAP_TYPE_RINGBUF, 0, 0, size, f"dc_events_{cpu}"
            )
        except OSError as error:
            if error.errno != errno.ENOMEM or size <= PAGE_BYTES:
                raise
            size //= 2
            logger.warning("no memory for an event ring: trying %d KiB", size >> 10)
        else:
            return Ring(fd, size)
