"""Profile mode: counter lines and sums, beside what trace mode says of the same calls."""

import json
import random

from pump_rings import MemoryRing, call

from datacrumbs_runtime.bpf.layout import FunctionFlag, Profile
from datacrumbs_runtime.trace.aggregator import Aggregator
from datacrumbs_runtime.trace.pump import FunctionFormat, Pump

FUNCTIONS = [FunctionFormat("POSIX", "read"), FunctionFormat("POSIX", "write")]


def profile_of(durations: list[int], *, errors: int = 0, moved: int = 0) -> Profile:
    """What the programs would have summed up."""
    row = Profile(
        count=len(durations),
        errors=errors,
        time_ns=sum(durations),
        min_ns=min(durations, default=2**64 - 1),
        max_ns=max(durations, default=0),
        bytes=moved,
    )
    for duration in durations:
        row.histogram[min(max(duration.bit_length() - 1, 0), 31)] += 1
    return row


def test_cpus_are_added_up_per_function_and_process() -> None:
    aggregator = Aggregator(FUNCTIONS, "00ff")
    aggregator.add(
        [
            (1, 7, profile_of([100, 300], errors=1, moved=4096)),
            (1, 7, profile_of([50], moved=10)),
            (1, 8, profile_of([1])),
            (0, 7, profile_of([0])),
            (0, 9, profile_of([])),
            (2, 7, profile_of([5])),
        ]
    )
    lines = [json.loads(line) for line in aggregator.take_lines(1_000, 2_500).splitlines()]
    assert [(line["name"], line["pid"]) for line in lines] == [
        ("read", 7), ("write", 7), ("write", 8)
    ]  # fmt: skip
    assert lines[1] == {
        "name": "write",
        "cat": "POSIX",
        "ph": "C",
        "pid": 7,
        "tid": 7,
        "hhash": "00ff",
        "args": {
            "count": 3,
            "errors": 1,
            "time_ns": 450,
            "min_ns": 50,
            "max_ns": 300,
            "bytes": 4106,
            "log2_5": 1,
            "log2_6": 1,
            "log2_8": 1,
        },
        "ts": 1000,
        "dur": 1500,
    }


def test_functions_of_one_name_have_one_line() -> None:
    """Readers would take the second line of a counter for its newer value."""
    functions = [*FUNCTIONS, FunctionFormat("POSIX", "read"), FunctionFormat("OTHER", "read")]
    aggregator = Aggregator(functions, "00ff")
    aggregator.add([(index, 7, profile_of([10 * (index + 1)])) for index in range(4)])
    lines = [json.loads(line) for line in aggregator.take_lines(0, 1).splitlines()]
    assert [(line["cat"], line["name"], line["args"]["count"]) for line in lines] == [
        ("POSIX", "read", 2), ("POSIX", "write", 1), ("OTHER", "read", 1)
    ]  # fmt: skip
    assert (lines[0]["args"]["min_ns"], lines[0]["args"]["max_ns"]) == (10, 30)
    assert [each.index for each in aggregator.function_statistics()] == [0, 1, 2, 3]


def test_an_interval_holds_only_its_own_calls() -> None:
    aggregator = Aggregator(FUNCTIONS, "00ff")
    aggregator.add([(0, 7, profile_of([10]))])
    assert b'"count":1,' in aggregator.take_lines(0, 1)
    assert aggregator.take_lines(1, 2) == b""
    aggregator.add([(0, 7, profile_of([20, 30]))])
    assert b'"count":2,' in aggregator.take_lines(2, 3)
    (sums,) = aggregator.function_statistics()
    assert (sums.calls, sums.time_ns, sums.min_ns, sums.max_ns) == (3, 60, 10, 30)


def test_sums_equal_those_of_trace_mode() -> None:
    numbers = random.Random(5)  # noqa: S311
    durations = [int(numbers.lognormvariate(9, 2)) for _ in range(2000)]
    returned = [numbers.choice((-5, 0, 100, 4096)) for _ in durations]
    functions = [FunctionFormat("c", "f", flags=FunctionFlag.ERRNO | FunctionFlag.BYTES)]
    with (
        MemoryRing(1 << 20) as events,
        MemoryRing() as strings,
        Pump([events.pair], strings.pair, functions, "n", 0) as pump,
    ):
        for duration, ret in zip(durations, returned, strict=True):
            events.put(call(duration_ns=duration, ret=ret))
        while pump.drain():
            pump.take()
        (traced,) = pump.function_statistics()
    aggregator = Aggregator(functions, "00ff")
    for cpu in range(4):
        shares = list(zip(durations, returned, strict=True))[cpu::4]
        row = profile_of(
            [duration for duration, _ in shares],
            errors=sum(ret < 0 for _, ret in shares),
            moved=sum(max(ret, 0) for _, ret in shares),
        )
        aggregator.add([(0, 1, row)])
    (counted,) = aggregator.function_statistics()
    for name in ("index", "calls", "errors", "time_ns", "min_ns", "max_ns", "bytes", "histogram"):
        assert getattr(counted, name) == getattr(traced, name)
    # A slot of the log2 histogram is a factor of two wide.
    assert traced.p50_ns / 2 <= counted.p50_ns <= traced.p50_ns * 2
    assert traced.p99_ns / 2 <= counted.p99_ns <= traced.p99_ns * 2
    assert counted.p99_ns <= counted.max_ns
