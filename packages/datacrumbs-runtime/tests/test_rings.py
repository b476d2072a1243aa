"""The rings of a run: one for each CPU, as large as the memory allows."""

import errno
import os
import resource
from pathlib import Path

import pytest

from datacrumbs_runtime.bpf.rings import PAGE_BYTES, make_rings, online_cpus

pytestmark = pytest.mark.kernel

MIB = 1 << 20
DESCRIPTORS = 256


def map_entries(fd: int) -> int:
    """Return the size of a map as the kernel tells it."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "max_entries":
            return int(value)
    raise AssertionError(fd)


def descriptors() -> set[str]:
    """Return what this process has open."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_each_cpu_has_a_ring_and_those_that_do_not_run_a_small_one() -> None:
    count = max(online_cpus()) + 5
    rings = make_rings(count, MIB, 64 * MIB)
    try:
        expected = [MIB if cpu in online_cpus() else PAGE_BYTES for cpu in range(count)]
        assert [ring.size_bytes for ring in rings] == expected
        assert [map_entries(ring.fd) for ring in rings] == expected
    finally:
        for ring in rings:
            os.close(ring.fd)


def test_rings_share_what_all_may_have_together() -> None:
    count = max(online_cpus()) + 1
    rings = make_rings(count, 16 * MIB, len(online_cpus()) * 3 * MIB)
    try:
        assert {rings[cpu].size_bytes for cpu in online_cpus()} == {2 * MIB}
    finally:
        for ring in rings:
            os.close(ring.fd)


def test_nothing_is_left_if_there_is_no_room_for_all() -> None:
    before = descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            make_rings(DESCRIPTORS + 1, PAGE_BYTES, MIB)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert descriptors() == before
