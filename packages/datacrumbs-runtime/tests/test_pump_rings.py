"""How the pump reads rings: wrap-around, busy, discarded and senseless records, full buffers."""

import json
import os
import random
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pump_rings import BUSY, DISCARD, FILE, PAGE, TEXT, MemoryRing, call, components, string

from datacrumbs_runtime.trace.pump import FunctionFormat, Pump, Value

PLAIN = FunctionFormat("c", "f", values=(Value("n", "u64"),))
NAMED = FunctionFormat("c", "g", values=(Value("fhash", "f"),))


@pytest.fixture
def events() -> Iterator[MemoryRing]:
    with MemoryRing(PAGE) as ring:
        yield ring


@pytest.fixture
def strings() -> Iterator[MemoryRing]:
    with MemoryRing(PAGE) as ring:
        yield ring


@pytest.fixture
def pump(events: MemoryRing, strings: MemoryRing) -> Iterator[Pump]:
    with Pump([events.pair], strings.pair, [PLAIN, NAMED], "n", 0) as opened:
        opened.take()
        yield opened


def returned(pump: Pump) -> list[int]:
    lines = [json.loads(line) for line in pump.take().splitlines()]
    return [line["args"]["ret"] for line in lines if line["ph"] == "X"]


def test_records_wrap_around(events: MemoryRing, pump: Pump) -> None:
    numbers = random.Random(1)  # noqa: S311
    expected = []
    for round_number in range(500):
        for i in range(numbers.randrange(1, 30)):
            values = tuple(range(numbers.choice((0, 4, 8))))
            expected.append(round_number * 100 + i)
            events.put(call(ret=expected[-1], values=values))
        pump.drain()
    assert events.producer > 100 * PAGE
    assert events.consumer == events.producer
    assert returned(pump) == expected


def test_a_busy_record_is_waited_for(events: MemoryRing, pump: Pump) -> None:
    events.put(call(ret=1))
    busy = call(ret=2)
    at = events.put(busy, BUSY)
    events.put(call(ret=3))
    assert pump.drain() == 1
    assert pump.drain() == 0
    assert returned(pump) == [1]
    assert events.consumer == at
    events.set_header(at, len(busy))
    assert pump.drain() == 2
    assert returned(pump) == [2, 3]


def test_discarded_records_are_skipped(events: MemoryRing, pump: Pump) -> None:
    events.put(call(ret=1), DISCARD)
    events.put(call(ret=2))
    events.put(call(ret=3), DISCARD)
    assert pump.drain() == 1
    assert returned(pump) == [2]
    assert events.consumer == events.producer
    assert pump.counters().discarded == 2


@pytest.mark.parametrize(
    "record",
    [
        b"",
        call()[:-1],
        call(2),
        call(2**32 - 1),
        call(values=(1,))[:-1],
        call(values=range(8))[:-8],
    ],
    ids=["empty", "short", "no such function", "last function", "cut values", "missing value"],
)
def test_senseless_calls_are_counted(events: MemoryRing, pump: Pump, record: bytes) -> None:
    events.put(record)
    events.put(call(ret=5))
    pump.drain()
    assert returned(pump) == [5]
    assert pump.counters().bad_records == 1


@pytest.mark.parametrize(
    "record",
    [
        b"",
        string(TEXT)[:-1],
        string(0),
        string(10),
        string(TEXT, b"longer than the record")[:-1],
    ],
    ids=["empty", "short", "kind 0", "kind 10", "cut text"],
)
def test_senseless_strings_are_counted(strings: MemoryRing, pump: Pump, record: bytes) -> None:
    strings.put(record)
    pump.drain()
    assert pump.take() == b""
    assert pump.counters().bad_records == 1


def test_a_ring_with_a_senseless_header_is_left(
    events: MemoryRing, strings: MemoryRing, pump: Pump
) -> None:
    events.put(call(ret=1))
    at = events.put(call(ret=2))
    events.set_header(at, 10 * PAGE)
    strings.put(string(FILE, components(b"/x"), identifier=1))
    pump.drain()
    pump.drain()
    assert pump.counters().bad_records == 1
    assert pump.counters().strings == 1
    assert returned(pump) == [1]


def test_a_producer_ahead_of_its_ring_is_left(events: MemoryRing, pump: Pump) -> None:
    events.set_positions(0)
    events.put(call(ret=1))
    pump.drain()
    os.pwrite(events.fd, (1 << 40).to_bytes(8, "little"), PAGE)
    pump.drain()
    pump.drain()
    assert returned(pump) == [1]
    assert pump.counters().bad_records == 1


@pytest.mark.parametrize("size_bytes", [0, PAGE - 1, PAGE + 8, 3 * PAGE, 2 * PAGE])
def test_rings_of_impossible_size_are_refused(events: MemoryRing, size_bytes: int) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        Pump([(events.fd, size_bytes)], events.pair, [], "n", 0)


def test_a_descriptor_that_is_no_ring_is_refused(events: MemoryRing) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        Pump([(-1, PAGE)], events.pair, [], "n", 0)


def test_a_lost_name_is_left_out_and_counted(
    events: MemoryRing, strings: MemoryRing, pump: Pump
) -> None:
    events.put(call(1, values=(77,)))
    events.put(call(1, values=(77,)))
    pump.drain()
    lines = [json.loads(line) for line in pump.take().splitlines()]
    assert all("fhash" not in line["args"] for line in lines)
    assert pump.counters().unknown_ids == 2
    strings.put(string(FILE, components(b"/late"), identifier=77))
    events.put(call(1, values=(77,)))
    pump.drain()
    assert b'"fhash"' in pump.take()
    assert pump.counters().unknown_ids == 2


def test_a_text_is_not_taken_for_a_file(
    events: MemoryRing, strings: MemoryRing, pump: Pump
) -> None:
    strings.put(string(TEXT, b"x\0", identifier=3))
    events.put(call(1, values=(3,)))
    pump.drain()
    assert b'"fhash"' not in pump.take()
    assert pump.counters().unknown_ids == 1


def test_a_name_that_comes_while_a_call_is_read_is_found(
    events: MemoryRing, strings: MemoryRing, pump: Pump
) -> None:
    record = string(FILE, components(b"/x"), identifier=1)
    at = strings.put(record, BUSY)
    events.put(call(1, values=(1,)))
    finish = threading.Timer(0.0003, strings.set_header, (at, len(record)))
    finish.start()
    pump.drain()
    finish.join()
    text = pump.take()
    # The pump waits about a millisecond; a machine that is slower than that loses the name.
    assert text.count(b'"fhash"') + pump.counters().unknown_ids == 1


def test_a_full_buffer_ends_a_drain(strings: MemoryRing) -> None:
    with (
        MemoryRing(1 << 16) as one,
        MemoryRing(1 << 16) as other,
        Pump([one.pair, other.pair], strings.pair, [PLAIN], "n", 0, buffer_bytes=1000) as pump,
    ):
        pump.take()
        for i in range(100):
            one.put(call(ret=i))
            other.put(call(ret=1000 + i))
        drained = 0
        seen = []
        while count := pump.drain():
            assert pump.pending < 1300
            drained += count
            seen += returned(pump)
        assert drained == 200
        assert sorted(seen) == [*range(100), *range(1000, 1100)]
        assert max(seen[:10]) >= 1000, "both rings get their turn"
        assert pump.pending == 0


def test_all_threads_see_whole_lines(strings: MemoryRing) -> None:
    taken: list[bytes] = []
    with (
        MemoryRing(1 << 20) as ring,
        Pump([ring.pair], strings.pair, [PLAIN], "n", 0) as pump,
    ):
        stop = threading.Event()

        def take() -> None:
            while not stop.is_set():
                taken.append(pump.take())
                pump.function_statistics()
                pump.append(b'{"ph":"M"}\n')

        thread = threading.Thread(target=take)
        thread.start()
        for _ in range(50):
            for i in range(200):
                ring.put(call(ret=i))
            pump.drain()
        stop.set()
        thread.join()
        taken.append(pump.take())
    lines = b"".join(taken).splitlines()[1:]
    assert sum(json.loads(line)["ph"] == "X" for line in lines) == 10_000


def test_a_closed_pump_says_so(events: MemoryRing) -> None:
    pump = Pump([events.pair], events.pair, [], "n", 0)
    pump.close()
    pump.close()
    with pytest.raises(ValueError, match="the pump is closed"):
        pump.drain()
    with pytest.raises(ValueError, match="the pump is closed"):
        pump.take()


FIELDS = st.integers(0, 2**16 - 1)


@given(
    calls=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.integers(0, 2**64 - 1),
            st.lists(st.none() | st.integers(0, 5) | st.integers(0, 2**64 - 1), max_size=8),
        ),
        max_size=30,
    ),
    texts=st.lists(
        st.tuples(
            st.integers(0, 10),
            st.binary(max_size=60),
            st.integers(0, 5),
            st.integers(0, 5),
            FIELDS,
            st.integers(0, 70),
        ),
        max_size=30,
    ),
    bits=st.lists(st.sampled_from([0, 0, 0, DISCARD, BUSY]), min_size=60, max_size=60),
)
@settings(deadline=None, max_examples=200)
def test_whatever_is_in_the_rings_lines_stay_whole(
    calls: list[tuple[int, int, list[int | None]]],
    texts: list[tuple[int, bytes, int, int, int, int]],
    bits: list[int],
) -> None:
    functions = [
        FunctionFormat("c", "f", values=tuple(Value(f"v{i}", kind) for i, kind in enumerate(kinds)))
        for kinds in (["f", "s", "x", "b", "i8", "f", "s", "u64"], ["s", "f"])
    ]
    with (
        MemoryRing(1 << 14) as events,
        MemoryRing(1 << 14) as strings,
        Pump([events.pair], strings.pair, functions, "n", 0, kept_ids=3) as pump,
    ):
        pump.take()
        bit = iter(bits)
        for kind, text, identifier, directory, flags, cut in texts:
            record = string(
                kind, text, identifier=identifier, directory=directory, flags=flags, number=flags
            )
            strings.put(record[: len(record) - cut % 80 if cut > 60 else None], next(bit))
        for function, number, values in calls:
            ret = number - 2**63
            record = call(function, start_ns=number, duration_ns=number, ret=ret, values=values)
            events.put(record, next(bit))
        for _ in range(3):
            pump.drain()
        pump.function_statistics()
        pump.file_statistics(10)
        for line in pump.take().split(b"\n")[:-1]:
            json.loads(line)
