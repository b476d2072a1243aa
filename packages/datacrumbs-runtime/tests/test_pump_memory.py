"""What the pump remembers of names, and what it forgets."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pump_rings import DIRECTORY, FILE, PATH, TEXT, MemoryRing, call, components, string

from datacrumbs_runtime.bpf.layout import FunctionFlag
from datacrumbs_runtime.trace.pump import FunctionFormat, Pump, Value, hash_text

FUNCTION = FunctionFormat(
    "c", "f", flags=FunctionFlag.BYTES, values=(Value("fhash", "f"), Value("text", "s"))
)
KEPT = 20


class Programs:
    """Define and use names as the programs do: again, if enough others were used meanwhile."""

    def __init__(self, kept_ids: int) -> None:
        self.events = MemoryRing(1 << 18)
        self.strings = MemoryRing(1 << 18)
        self.pump = Pump(
            [self.events.pair], self.strings.pair, [FUNCTION], "n", 0, kept_ids=kept_ids
        )
        self.pump.take()
        self.seen: dict[int, None] = {}
        self.remembered = kept_ids // 2

    def use(self, number: int, **calls: int) -> dict[str, Any]:
        if number in self.seen:
            del self.seen[number]
        else:
            self.strings.put(string(FILE, components(b"/%d" % number), identifier=2 * number + 2))
            self.strings.put(string(TEXT, b"t%d\0" % number, identifier=2 * number + 3))
        self.seen[number] = None
        while len(self.seen) > self.remembered // 2:
            del self.seen[next(iter(self.seen))]
        self.events.put(call(values=(2 * number + 2, 2 * number + 3), **calls))
        self.pump.drain()
        *_, line = self.pump.take().splitlines()
        arguments: dict[str, Any] = json.loads(line)["args"]
        assert arguments["fhash"] == hash_text(b"/%d" % number)
        assert arguments["text"] == f"t{number}"
        return arguments

    def close(self) -> None:
        self.pump.close()
        self.events.close()
        self.strings.close()


@given(st.lists(st.integers(0, 60) | st.integers(0, 4), max_size=300))
@settings(deadline=None, max_examples=50)
def test_a_name_in_use_is_never_forgotten(numbers: list[int]) -> None:
    programs = Programs(KEPT)
    try:
        for number in numbers:
            programs.use(number)
        assert programs.pump.counters().unknown_ids == 0
    finally:
        programs.close()


def test_memory_is_bounded_and_the_busiest_files_stay() -> None:
    programs = Programs(KEPT)
    try:
        programs.use(100_000, ret=1 << 30)
        programs.use(100_001, duration_ns=1 << 40)
        for number in range(5000):
            programs.use(number)
        assert programs.pump.counters().files < 1000
        busiest = programs.pump.file_statistics(1)
        assert busiest.by_bytes[0].path == "/100000"
        assert busiest.by_time[0].path == "/100001"
    finally:
        programs.close()


def test_a_directory_in_use_is_never_forgotten() -> None:
    with (
        MemoryRing() as events,
        MemoryRing() as strings,
        Pump([events.pair], strings.pair, [FUNCTION], "n", 0, kept_ids=KEPT) as pump,
    ):
        strings.put(string(FILE, components(b"/d"), identifier=1, flags=DIRECTORY))
        for number in range(500):
            strings.put(string(PATH, b"%d\0" % number, identifier=10 + number, directory=1))
            pump.drain()
            lines = pump.take().splitlines()
            assert f'"name":"/d/{number}"'.encode() in lines[-1]


@pytest.mark.parametrize("kept_ids", [0, 1, 7])
def test_names_of_one_drain_are_never_forgotten_within_it(kept_ids: int) -> None:
    with (
        MemoryRing() as events,
        MemoryRing() as strings,
        Pump([events.pair], strings.pair, [FUNCTION], "n", 0, kept_ids=kept_ids) as pump,
    ):
        for _ in range(5):
            for number in range(1, 200):
                strings.put(string(FILE, components(b"/%d" % number), identifier=number))
                events.put(call(values=(number, None)))
            pump.drain()
            lines = [json.loads(line) for line in pump.take().splitlines() if line != b"["]
            used = [line["args"]["fhash"] for line in lines if line["ph"] == "X"]
            assert used == [hash_text(b"/%d" % number) for number in range(1, 200)]
