"""What the pump counts per function and per file, and the lanes of overlapping work."""

import itertools
import json
import math
import random
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pump_rings import FILE, PROCESS_EXIT, MemoryRing, call, components, string

from datacrumbs_runtime.bpf.layout import FunctionFlag
from datacrumbs_runtime.trace.pump import FunctionFormat, FunctionStatistics, Pump, Value

FD = Value("fhash", "f")
LANES_FROM = 1 << 24


def percentile(values: list[int], share: float) -> int:
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def log2_slot(duration_ns: int) -> int:
    return min(max(duration_ns.bit_length() - 1, 0), 31)


def sums_of(durations: list[int]) -> FunctionStatistics:
    with (
        MemoryRing() as events,
        MemoryRing() as strings,
        Pump([events.pair], strings.pair, [FunctionFormat("c", "f")], "n", 0) as pump,
    ):
        for duration in durations:
            events.put(call(duration_ns=duration))
        pump.drain()
        (sums,) = pump.function_statistics()
    return sums


@given(durations=st.lists(st.integers(0, 2**43) | st.integers(0, 10**6), min_size=1, max_size=200))
@settings(deadline=None)
def test_statistics_are_those_of_the_calls(durations: list[int]) -> None:
    sums = sums_of(durations)
    assert (sums.index, sums.calls, sums.errors, sums.bytes) == (0, len(durations), 0, 0)
    assert sums.time_ns == sum(durations)
    assert (sums.min_ns, sums.max_ns) == (min(durations), max(durations))
    for share, shown in ((0.5, sums.p50_ns), (0.99, sums.p99_ns)):
        exact = percentile(durations, share)
        assert abs(shown - exact) <= exact / 60
    slots = [0] * 32
    for duration in durations:
        slots[log2_slot(duration)] += 1
    assert list(sums.histogram) == slots


def test_durations_beyond_the_histogram_are_counted() -> None:
    sums = sums_of([2**50])
    assert sums.max_ns == 2**50
    assert sums.histogram[31] == 1


@pytest.mark.parametrize(
    ("flags", "ret", "is_error"),
    [
        (0, -1, False),
        (FunctionFlag.ERRNO, -5, True),
        (FunctionFlag.ERRNO, 0, False),
        (FunctionFlag.NULL_ERROR, 0, True),
        (FunctionFlag.NULL_ERROR, 0x7F0000000000, False),
        (FunctionFlag.MINUS_ERROR, -1, True),
        (FunctionFlag.MINUS_ERROR, -2, False),
        (FunctionFlag.MINUS_ERROR, 0xFFFF_FFFF, False),
        (FunctionFlag.MINUS_ERROR | FunctionFlag.RET_INT, 0xFFFF_FFFF, True),
        (FunctionFlag.ERRNO | FunctionFlag.NO_RETURN, -5, False),
    ],
)
def test_errors_follow_the_flags(flags: int, ret: int, is_error: bool) -> None:
    with MemoryRing() as events, MemoryRing() as strings:
        function = FunctionFormat("c", "f", flags=flags)
        with Pump([events.pair], strings.pair, [function], "n", 0) as pump:
            events.put(call(ret=ret))
            pump.drain()
            (sums,) = pump.function_statistics()
    assert sums.errors == is_error


@pytest.mark.parametrize(
    ("flags", "bytes_argument", "ret", "moved"),
    [
        (FunctionFlag.BYTES, 0, 4096, 4096),
        (FunctionFlag.BYTES, 0, 0, 0),
        (FunctionFlag.BYTES | FunctionFlag.ERRNO, 0, -4, 0),
        (FunctionFlag.BYTES, 1, 3, 24),
        (FunctionFlag.BYTES, 2, 3, 0),
        (0, 1, 3, 0),
    ],
)
def test_bytes_follow_the_flags(flags: int, bytes_argument: int, ret: int, moved: int) -> None:
    with MemoryRing() as events, MemoryRing() as strings:
        values = (Value("size", "u64"), Value("absent", "u64"), FD)
        function = FunctionFormat("c", "f", "", flags, False, bytes_argument, values)
        with Pump([events.pair], strings.pair, [function], "n", 0) as pump:
            strings.put(string(FILE, components(b"/x"), identifier=1))
            events.put(call(ret=ret, values=(8, None, 1)))
            pump.drain()
            (sums,) = pump.function_statistics()
            (file,) = pump.file_statistics(1).by_bytes
    assert sums.bytes == file.bytes == moved


def test_the_busiest_files_by_time_and_by_bytes() -> None:
    with MemoryRing() as events, MemoryRing() as strings:
        function = FunctionFormat("c", "f", flags=FunctionFlag.BYTES, values=(FD,))
        with Pump([events.pair], strings.pair, [function], "n", 0) as pump:
            for i in range(10):
                strings.put(string(FILE, components(b"/f%d" % i), identifier=100 + i))
                for _ in range(i):
                    events.put(call(values=(100 + i,), duration_ns=10, ret=1000 // i))
            pump.drain()
            busiest = pump.file_statistics(3)
            assert [file.path for file in busiest.by_time] == ["/f9", "/f8", "/f7"]
            assert [(file.calls, file.time_ns) for file in busiest.by_time] == [
                (9, 90), (8, 80), (7, 70)
            ]  # fmt: skip
            assert [file.path for file in busiest.by_bytes] == ["/f8", "/f5", "/f4"]
            assert [file.bytes for file in busiest.by_bytes] == [1000] * 3
            assert len(pump.file_statistics(100).by_time) == 9


Slice = tuple[int, int]


def lanes_of(slices: list[tuple[int, int, int]]) -> dict[tuple[int, int], list[Slice]]:
    """Slices by (pid, tid) as the pump places (process, begin, duration)."""
    with MemoryRing(1 << 20) as events, MemoryRing() as strings:
        function = FunctionFormat("block", "rq", lanes=True)
        with Pump([events.pair], strings.pair, [function], "n", 0) as pump:
            pump.take()
            named = set()
            placed: dict[tuple[int, int], list[Slice]] = defaultdict(list)
            for process, begin, duration in slices:
                events.put(call(process=process, thread=7, start_ns=begin, duration_ns=duration))
            while pump.drain():
                for line in map(json.loads, pump.take().splitlines()):
                    lane = line["pid"], line["tid"]
                    if line["name"] == "thread_name":
                        assert lane not in named
                        named.add(lane)
                        continue
                    assert lane in named, "a lane is named before its first slice"
                    placed[lane].append((line["ts"], line["ts"] + line["dur"]))
    return placed


@given(
    st.lists(
        st.tuples(st.integers(1, 2), st.integers(0, 60_000), st.integers(0, 9_000)), max_size=120
    )
)
@settings(deadline=None)
def test_slices_of_one_lane_never_overlap(slices: list[tuple[int, int, int]]) -> None:
    placed = lanes_of(slices)
    assert sum(map(len, placed.values())) == len(slices)
    assert all(tid >= LANES_FROM for _, tid in placed)
    assert len({tid for _, tid in placed}) == len(placed)
    for lane in placed.values():
        lane.sort()
        for (_, end), (begin, _) in itertools.pairwise(lane):
            assert begin >= end


def test_there_are_no_more_lanes_than_slices_at_one_time() -> None:
    numbers = random.Random(3)  # noqa: S311
    depth = 8
    free_at = [0] * depth
    slices = []
    for _ in range(5000):
        worker = min(range(depth), key=free_at.__getitem__)
        begin = free_at[worker] + numbers.randrange(1, 100)
        duration = numbers.randrange(1000, 5000)
        free_at[worker] = begin + duration
        slices.append((1, begin, duration))
    slices.sort(key=lambda slice_: slice_[1] + slice_[2])
    assert len(lanes_of(slices)) <= 2 * depth


def test_lanes_of_an_ended_process_are_not_used_again() -> None:
    with MemoryRing() as events, MemoryRing() as strings:
        function = FunctionFormat("block", "rq", lanes=True)
        with Pump([events.pair], strings.pair, [function], "n", 0) as pump:
            tids = []
            for _ in range(2):
                events.put(call(process=5))
                pump.drain()
                *_, line = pump.take().splitlines()
                tids.append(json.loads(line)["tid"])
                strings.put(string(PROCESS_EXIT, process=5))
            assert tids[0] != tids[1]
