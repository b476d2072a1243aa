"""Which calls are kept when only files below some directories are to be recorded."""

import json

import pytest
from pump_rings import MemoryRing, call, components, string

from datacrumbs_runtime.bpf.layout import StringKind
from datacrumbs_runtime.trace.pump import FunctionFormat, Pump, Value

ON_TWO_FILES = FunctionFormat("c", "rename", values=(Value("fhash", "f"), Value("fhash2", "f")))
ON_NO_FILE = FunctionFormat("c", "barrier")


def kept(
    included: list[bytes], paths: list[bytes], *, function: int = 0
) -> tuple[list[str], int, int]:
    """What one call on the files leaves: declared paths, lines of calls, calls left out."""
    events, strings = MemoryRing(), MemoryRing()
    functions = [ON_TWO_FILES, ON_NO_FILE]
    with Pump([events.pair], strings.pair, functions, "n", 0, included=included) as pump:
        for number, path in enumerate(paths, start=1):
            strings.put(string(StringKind.FILE, components(path), identifier=number))
        events.put(call(function=function, values=tuple(range(1, len(paths) + 1))))
        pump.drain()
        lines = [json.loads(line) for line in pump.take().decode().split("\n")[1:-1]]
        counters = pump.counters()
    events.close()
    strings.close()
    declared = [line["args"]["name"] for line in lines if line["name"] == "FH"]
    assert counters.events == sum(line["ph"] == "X" for line in lines)
    return sorted(declared), counters.events, counters.excluded


@pytest.mark.parametrize("path", [b"/scratch", b"/scratch/a", b"/scratch/a/b", b"/data/x"])
def test_files_at_and_below_the_directories_are_kept(path: bytes) -> None:
    assert kept([b"/scratch/", b"/data"], [path]) == ([path.decode()], 1, 0)


@pytest.mark.parametrize("path", [b"/scratch2", b"/", b"/home/scratch/x", b"/dat"])
def test_other_files_are_counted_and_not_even_named(path: bytes) -> None:
    assert kept([b"/scratch/", b"/data"], [path]) == ([], 0, 1)


def test_one_file_of_two_is_enough() -> None:
    assert kept([b"/scratch"], [b"/home/a", b"/scratch/b"]) == (["/home/a", "/scratch/b"], 1, 0)


def test_a_call_without_its_file_is_left_out() -> None:
    assert kept([b"/scratch"], []) == ([], 0, 1)


def test_functions_that_are_not_about_files_are_kept() -> None:
    assert kept([b"/scratch"], [], function=1) == ([], 1, 0)


def test_the_root_includes_every_path() -> None:
    assert kept([b"/"], [b"/any/thing"]) == (["/any/thing"], 1, 0)


def test_without_directories_everything_is_kept() -> None:
    assert kept([], [b"/any/thing"]) == (["/any/thing"], 1, 0)
