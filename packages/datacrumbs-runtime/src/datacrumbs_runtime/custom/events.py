"""Events of a custom probe as lines of the trace: one each, or counted in intervals."""

import time
from collections.abc import Collection
from dataclasses import dataclass

from datacrumbs_runtime.bpf.layout import Profile
from datacrumbs_runtime.custom.plugin import HEAD, Plugin
from datacrumbs_runtime.trace.aggregator import Aggregator
from datacrumbs_runtime.trace.path_text import text_from_bytes
from datacrumbs_runtime.trace.pump import FunctionFormat, FunctionStatistics
from datacrumbs_runtime.trace.trace_lines import json_line


@dataclass(frozen=True, slots=True)
class Events:
    """What the events of a probe are to the trace.

    Attributes:
        plugin: The probe.
        category: Their category.
        chosen: The functions whose events are kept.
    """

    plugin: Plugin
    category: str
    chosen: Collection[str]

    def function(self, payload: bytes) -> str | None:
        """Return the function of an event, or None if it is not kept."""
        index = HEAD.unpack_from(payload)[5]
        functions = self.plugin.functions
        name = functions[index] if index < len(functions) else None
        return name if name in self.chosen else None

    def is_whole(self, payload: bytes) -> bool:
        """Return whether an event has all that was declared."""
        return len(payload) >= HEAD.size + self.plugin.layout.size


class _Sums:
    """What all events come to, as with the calls of other functions."""

    def __init__(self, events: Events, host_hash: str) -> None:
        names = events.plugin.functions
        self.aggregator = Aggregator(
            [FunctionFormat(events.category, name) for name in names], host_hash
        )

    def add(self, payload: bytes, process: int) -> None:
        """Add an event of a process; a result below 0 is an error."""
        _, duration_ns, ret, _, _, function, _ = HEAD.unpack_from(payload)
        one = Profile(
            count=1,
            errors=ret < 0,
            time_ns=duration_ns,
            min_ns=duration_ns,
            max_ns=duration_ns,
        )
        slot = max(duration_ns.bit_length() - 1, 0)
        one.histogram[min(slot, len(one.histogram) - 1)] = 1
        self.aggregator.add([(function, process, one)])


class TracedEvents:
    """A line for each event.

    Args:
        events: What they are.
        host_hash: Hash of the node's name.
        clock_offset_ns: From CLOCK_MONOTONIC to the epoch.
    """

    interval_s: float | None = None

    def __init__(self, events: Events, host_hash: str, clock_offset_ns: int) -> None:
        self._events = events
        self._host_hash = host_hash
        self._clock_offset_ns = clock_offset_ns
        self._sums = _Sums(events, host_hash)

    def add(self, payload: bytes) -> bytes:
        """Return the line of a whole event, if it is kept."""
        name = self._events.function(payload)
        if name is None:
            return b""
        # There may be any number of processes, which nobody asks for here.
        self._sums.add(payload, process=0)
        start_ns, duration_ns, ret, pid, tid, _, _ = HEAD.unpack_from(payload)
        plugin = self._events.plugin
        arguments: dict[str, object] = {"hhash": self._host_hash, "ret": ret}
        values = plugin.layout.unpack_from(payload, HEAD.size)
        for field, value in zip(plugin.fields, values, strict=True):
            if field.is_text:
                value = text_from_bytes(value.partition(b"\0")[0])
            arguments[field.label] = value
        arguments["ns"] = duration_ns
        begin_us = (start_ns + self._clock_offset_ns) // 1000
        end_us = (start_ns + duration_ns + self._clock_offset_ns) // 1000
        return json_line(
            {
                "name": name,
                "cat": self._events.category,
                "ph": "X",
                "pid": pid,
                "tid": tid,
                "args": arguments,
                "dur": end_us - begin_us,
                "ts": begin_us,
            }
        )

    def take_lines(self) -> bytes:
        """Return what is left to say: nothing."""
        return b""

    def function_statistics(self) -> list[FunctionStatistics]:
        """Return the sums of all events, by position in the probe's list of functions."""
        return self._sums.aggregator.function_statistics()


class CountedEvents:
    """A counter line per function, process and interval; a result below 0 is an error.

    Args:
        events: What they are.
        host_hash: Hash of the node's name.
        clock_offset_ns: From CLOCK_MONOTONIC to the epoch.
        interval_s: Seconds from line to line.
    """

    def __init__(
        self, events: Events, host_hash: str, clock_offset_ns: int, interval_s: float
    ) -> None:
        self._events = events
        self.interval_s: float | None = interval_s
        self._clock_offset_ns = clock_offset_ns
        self._sums = _Sums(events, host_hash)
        self._begin_us = self._now_us()

    def add(self, payload: bytes) -> bytes:
        """Count a whole event, if it is kept; returns no line."""
        if self._events.function(payload) is not None:
            self._sums.add(payload, process=HEAD.unpack_from(payload)[3])
        return b""

    def take_lines(self) -> bytes:
        """Return the lines of the interval that ends now."""
        end_us = max(self._now_us(), self._begin_us)
        lines = self._sums.aggregator.take_lines(self._begin_us, end_us)
        self._begin_us = end_us
        return lines

    def function_statistics(self) -> list[FunctionStatistics]:
        """Return the sums of all events, by position in the probe's list of functions."""
        return self._sums.aggregator.function_statistics()

    def _now_us(self) -> int:
        return (time.monotonic_ns() + self._clock_offset_ns) // 1000
