"""What profile mode counted, compared with the calls themselves: of a trace, of strace's log."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import comparison
from comparison import moves_bytes
from strace_log import Call
from trace_file import Event

from datacrumbs_runtime.bpf.syscall_table import SYSTEM_CALLS

_LOG2 = "log2_"
MAX_ERRNO = 4095
# Names in traces of the calls that move bytes.
TRANSFERS = frozenset(call.shown_as for call in SYSTEM_CALLS.values() if moves_bytes(call.name))


@dataclass(slots=True)
class Sums:
    """Sums of the calls of one function in one process.

    Attributes:
        count: How many.
        errors: How many failed.
        bytes: How many bytes they moved.
    """

    count: int = 0
    errors: int = 0
    bytes: int = 0

    def add(self, name: str, result: int | None) -> None:
        """Add a system call."""
        self.count += 1
        if result is None:
            return
        self.errors += -MAX_ERRNO <= result < 0
        self.bytes += max(result, 0) if moves_bytes(name) else 0


# Process, and name in the trace: libc's name, which several system calls can share.
Key = tuple[int, str]


def of_counters(lines: Iterable[Mapping[str, Any]]) -> dict[Key, Sums]:
    """Return the sums of counter lines, each of which must agree with itself."""
    sums: dict[Key, Sums] = defaultdict(Sums)
    intervals: dict[tuple[int, str, str], int] = {}
    for line in lines:
        counted = line["args"]
        counter = line["pid"], line["cat"], line["name"]
        # A second value for the same time would replace the first one for those who draw it.
        assert line["ts"] >= intervals.get(counter, 0)
        intervals[counter] = line["ts"] + line["dur"]
        slots = {int(name.removeprefix(_LOG2)): n for name, n in counted.items() if _LOG2 in name}
        assert sum(slots.values()) == counted["count"] > 0
        assert 0 <= counted["errors"] <= counted["count"]
        # Only what has no duration takes no time.
        assert counted["time_ns"] > 0 or counted["max_ns"] == 0
        mean_ns = counted["time_ns"] / counted["count"]
        assert counted["min_ns"] <= mean_ns <= counted["max_ns"]
        assert min(slots) == max(counted["min_ns"].bit_length() - 1, 0)
        assert max(slots) == max(counted["max_ns"].bit_length() - 1, 0)
        assert line["dur"] > 0
        found = sums[line["pid"], line["name"]]
        found.count += counted["count"]
        found.errors += counted["errors"]
        found.bytes += counted["bytes"]
    return dict(sums)


def of_events(events: Iterable[Event]) -> dict[Key, Sums]:
    """Return the sums of the calls of system calls in a trace."""
    sums: dict[Key, Sums] = defaultdict(Sums)
    for event in events:
        sums[event.process, event.name].add(event.system_call, event.result)
    return dict(sums)


def added(one: Mapping[Key, Sums], other: Mapping[Key, Sums]) -> dict[Key, Sums]:
    """Return the sums of calls of which some are here and some are there."""
    sums: dict[Key, Sums] = defaultdict(Sums)
    for key, part in (*one.items(), *other.items()):
        found = sums[key]
        found.count += part.count
        found.errors += part.errors
        found.bytes += part.bytes
    return dict(sums)


def of_log(calls: Iterable[Call], processes: Mapping[int, int]) -> dict[Key, Sums]:
    """Return the sums of the calls in strace's log.

    Args:
        calls: The log.
        processes: Process of each thread.
    """
    sums: dict[Key, Sums] = defaultdict(Sums)
    for call in comparison.recorded(calls):
        shown_as = SYSTEM_CALLS[call.name].shown_as
        sums[processes[call.thread], shown_as].add(call.name, call.result)
    return dict(sums)


def require_equal(
    counted: Iterable[Mapping[str, Any]],
    events: list[Event],
    calls: list[Call],
    before: Iterable[Event],
) -> int:
    """Fail unless a profile has the sums of a trace and of a log of the same run.

    Args:
        counted: The counter lines.
        events: The calls in a trace.
        calls: The log.
        before: Calls that strace did not see of processes that it watched.

    Returns:
        How many calls of the log were counted.
    """
    ours = of_counters(counted)
    assert ours == of_events(events)

    processes = {event.thread: event.process for event in events}
    watched = {processes[call.thread] for call in comparison.recorded(calls)}
    expected = of_log(calls, processes)
    calls_in_log = sum(sums.count for sums in expected.values())
    for event in before:
        found = expected.setdefault((event.process, event.name), Sums())
        found.add(event.system_call, event.result)
    known = {key: sums for key, sums in ours.items() if key[0] in watched and is_in_log(key[1])}
    assert known == expected
    return calls_in_log


def is_in_log(shown_as: str) -> bool:
    """Return whether strace's log tells which calls of a name must be in a trace.

    It does not say what is mapped in memory that munmap is about, nor a word of asynchronous
    requests.
    """
    names = [call.name for call in SYSTEM_CALLS.values() if call.shown_as == shown_as]
    return any(not comparison.is_mapping_call(name) for name in names)
