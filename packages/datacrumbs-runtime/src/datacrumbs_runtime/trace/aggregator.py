"""Profile mode: from the sums that the BPF programs keep to counter lines and to statistics."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from datacrumbs_runtime.bpf.layout import Profile
from datacrumbs_runtime.trace.pump import HISTOGRAM_SLOTS, FunctionStatistics
from datacrumbs_runtime.trace.trace_lines import json_line


class NamedFunction(Protocol):
    """What the lines need to know of a function: `FunctionFormat` has it."""

    @property
    def category(self) -> str:
        """The ``cat`` of its lines."""

    @property
    def name(self) -> str:
        """The ``name`` of its lines."""


@dataclass(slots=True)
class _Sums:
    calls: int = 0
    errors: int = 0
    time_ns: int = 0
    min_ns: int | None = None
    max_ns: int = 0
    bytes: int = 0
    histogram: list[int] = field(default_factory=lambda: [0] * HISTOGRAM_SLOTS)

    def add(self, row: Profile) -> None:
        """Add the sums of one CPU."""
        count, min_ns, max_ns = row.count, row.min_ns, row.max_ns
        self.calls += count
        self.errors += row.errors
        self.time_ns += row.time_ns
        self.bytes += row.bytes
        self.min_ns = min_ns if self.min_ns is None else min(self.min_ns, min_ns)
        self.max_ns = max(self.max_ns, max_ns)
        first, after = _slot(min_ns), _slot(max_ns) + 1
        if self._add_slots(row, range(first, after)) != count:
            # The programs give up on the extremes when too many change them at once.
            self._add_slots(row, (*range(first), *range(after, HISTOGRAM_SLOTS)))

    def _add_slots(self, row: Profile, slots: Iterable[int]) -> int:
        added = 0
        for slot in slots:
            count = row.histogram[slot]
            self.histogram[slot] += count
            added += count
        return added

    def percentile(self, share: float) -> int:
        """Return the duration that a share of the calls does not exceed.

        Known up to the slot of the histogram, within which durations are taken to be spread
        evenly.
        """
        wanted = share * self.calls
        seen = 0
        for slot, count in enumerate(self.histogram):
            if count and seen + count >= wanted:
                lowest = max(1 << slot if slot else 0, self.min_ns or 0)
                highest = self.max_ns
                if slot < HISTOGRAM_SLOTS - 1:
                    highest = min((1 << slot + 1) - 1, self.max_ns)
                return lowest + int((highest - lowest) * (wanted - seen) / count)
            seen += count
        return self.max_ns


def _slot(duration_ns: int) -> int:
    """Return the slot of the histogram that a duration counts in."""
    return min(max(duration_ns.bit_length() - 1, 0), HISTOGRAM_SLOTS - 1)


class Aggregator:
    """Adds up what profile mode counted in each interval.

    Functions that share a name in the trace, such as the system calls ``openat`` and ``open``,
    share a line: time lines know counters by their name alone.

    Args:
        functions: What the function index of a row stands for.
        host_hash: Hash of the node's name, see ``Pump.host_hash``.
    """

    def __init__(self, functions: Sequence[NamedFunction], host_hash: str) -> None:
        self._functions = functions
        first: dict[tuple[str, str], int] = {}
        self._shown_as = [
            first.setdefault((function.category, function.name), index)
            for index, function in enumerate(functions)
        ]
        # How the lines of a function begin; of thousands only some are called.
        self._heads: dict[int, bytes] = {}
        self._host_hash = host_hash.encode()
        self._interval: dict[tuple[int, int], _Sums] = {}
        self._total: dict[int, _Sums] = {}

    def add(self, rows: Iterable[tuple[int, int, Profile]]) -> None:
        """Add the emptied rows of the map "profile".

        Args:
            rows: Function index, process and sums; several rows of the same function and process
                come from several CPUs. Rows without a call are left out.
        """
        interval, total = self._interval, self._total
        for function, process, row in rows:
            if not row.count or not 0 <= function < len(self._functions):
                continue
            key = self._shown_as[function], process
            sums = interval.get(key)
            if sums is None:
                sums = interval[key] = _Sums()
            sums.add(row)
            sums = total.get(function)
            if sums is None:
                sums = total[function] = _Sums()
            sums.add(row)

    @property
    def pending(self) -> int:
        """How many lines the interval has so far."""
        return len(self._interval)

    def take_lines(self, begin_us: int, end_us: int) -> bytes:
        """Return a counter line per name and process with calls in the interval that ends.

        Times are microseconds since the epoch. Counters are all numbers, as timelines want it:
        the host's hash stands outside ``args``.
        """
        tail = b',"ts":%d,"dur":%d}\n' % (begin_us, end_us - begin_us)
        lines = [
            self._line(function, process, sums, tail)
            for (function, process), sums in sorted(self._interval.items())
        ]
        self._interval.clear()
        return b"".join(lines)

    def _head(self, function: int) -> bytes:
        head = self._heads.get(function)
        if head is None:
            named = self._functions[function]
            line = json_line({"name": named.name, "cat": named.category, "ph": "C"})
            head = self._heads[function] = line[:-2]
        return head

    def _line(self, function: int, process: int, sums: _Sums, tail: bytes) -> bytes:
        # There can be hundreds of thousands a second: json.dumps() takes four times as long.
        histogram = b"".join(
            b',"log2_%d":%d' % (slot, count) for slot, count in enumerate(sums.histogram) if count
        )
        return (
            b'%s,"pid":%d,"tid":%d,"hhash":"%s","args":{"count":%d,"errors":%d,"time_ns":%d,'
            b'"min_ns":%d,"max_ns":%d,"bytes":%d%s}%s'
        ) % (
            self._head(function),
            process,
            process,
            self._host_hash,
            sums.calls,
            sums.errors,
            sums.time_ns,
            sums.min_ns or 0,
            sums.max_ns,
            sums.bytes,
            histogram,
            tail,
        )

    def function_statistics(self) -> list[FunctionStatistics]:
        """Return the sums of all intervals, in the form that the pump gives them in trace mode.

        Percentiles are only as exact as the histogram.
        """
        return [
            FunctionStatistics(
                index=function,
                calls=sums.calls,
                errors=sums.errors,
                time_ns=sums.time_ns,
                min_ns=sums.min_ns or 0,
                max_ns=sums.max_ns,
                bytes=sums.bytes,
                p50_ns=sums.percentile(0.50),
                p99_ns=sums.percentile(0.99),
                histogram=tuple(sums.histogram),
            )
            for function, sums in sorted(self._total.items())
        ]
