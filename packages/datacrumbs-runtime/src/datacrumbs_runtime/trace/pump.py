"""The event pump: drains the rings of the BPF programs into lines of a DFTracer trace.

The work is done in C (native/), without the interpreter lock; this module gives it types.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from datacrumbs_runtime.trace import _pump
from datacrumbs_runtime.trace.path_text import text_from_bytes

hash_text = _pump.hash_text
HISTOGRAM_SLOTS = 32


class Ring(NamedTuple):
    """A BPF ring buffer.

    Attributes:
        fd: Descriptor of the map; it stays the caller's and may be closed once the pump is open.
        size_bytes: Size of the data, a power of two.
    """

    fd: int
    size_bytes: int


class Value(NamedTuple):
    """How one value of a call is shown.

    Attributes:
        label: The key under ``args``.
        format: ``i8`` to ``i64``, ``u8`` to ``u64``: a number; ``x``: a pointer, as "0x...";
            ``b``: true or false; ``s``: a captured text; ``f``: a file, as the hash of its path;
            ``-``: not shown.
    """

    label: str
    format: str


class FunctionFormat(NamedTuple):
    """How the calls of one function are shown and counted.

    Attributes:
        category: ``cat`` of its lines.
        name: ``name`` of its lines.
        extra: JSON members that stand in every line's ``args``, such as ``"syscall":"openat"``.
        flags: enum dc_function_flag.
        lanes: Its calls overlap within one thread and get invented thread ids.
        bytes_argument: Number (from 1) of the value whose product with the return value is the
            number of bytes moved; 0: none.
        values: In the order of the call records' values, at most 8.
    """

    category: str
    name: str
    extra: str = ""
    flags: int = 0
    lanes: bool = False
    bytes_argument: int = 0
    values: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True)
class FunctionStatistics:
    """The calls of one function, summed up.

    Attributes:
        index: The function's place in the pump's list.
        calls: Finished calls.
        errors: Calls that failed, by the rule of the function's flags.
        time_ns: Sum of their durations.
        min_ns: Shortest.
        max_ns: Longest.
        bytes: Bytes moved.
        p50_ns: Median, at most 1.6 % off.
        p99_ns: 99th percentile, at most 1.6 % off.
        histogram: Slot i counts durations in [2^i, 2^(i+1)) ns, the last all above.
    """

    index: int
    calls: int
    errors: int
    time_ns: int
    min_ns: int
    max_ns: int
    bytes: int
    p50_ns: int
    p99_ns: int
    histogram: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FileStatistics:
    """The calls on one file, summed up.

    Attributes:
        path: As the trace shows it; None: too many files to keep all names, see the FH lines.
        file_hash: ``fhash`` of its lines.
        calls: Finished calls.
        time_ns: Sum of their durations.
        bytes: Bytes moved.
    """

    path: str | None
    file_hash: str
    calls: int
    time_ns: int
    bytes: int


@dataclass(frozen=True, slots=True)
class BusiestFiles:
    """The files that calls spent most time on, and those that most bytes went through."""

    by_time: tuple[FileStatistics, ...]
    by_bytes: tuple[FileStatistics, ...]


@dataclass(frozen=True, slots=True)
class PumpCounters:
    """What went through the pump.

    Attributes:
        events: Lines of calls.
        strings: String records read.
        discarded: Records that a program reserved and gave up.
        bad_records: Records that make no sense: always 0 unless there is a bug.
        unknown_ids: File names and texts left out of lines because their string was lost.
        excluded: Calls left out because they are on files that are not to be recorded.
        text_bytes: Bytes of all lines.
        files: Different paths in memory.
    """

    events: int
    strings: int
    discarded: int
    bad_records: int
    unknown_ids: int
    excluded: int
    text_bytes: int
    files: int


class Pump:
    """Turns what BPF programs wrote into rings into the lines of a trace.

    All methods may be called from any thread. The first lines, ``[`` and the host's, are there at
    once.

    Args:
        events: The rings with call records.
        strings: The ring with strings.
        functions: What the index in call records stands for.
        hostname: Name of this node in the trace.
        clock_offset_ns: What to add to CLOCK_MONOTONIC for nanoseconds since the epoch.
        buffer_bytes: A drain ends when this much text waits to be taken.
        kept_ids: Ids of names that no call uses while so many others are defined are forgotten. At
            least twice as many as the programs remember as sent (the size of "seen_strings").
        kept_bytes: Beyond this, only the names of directories are kept in memory.
        included: Calls of functions that are about files are kept only if one of their files is
            below one of these directories; empty: all calls.

    Raises:
        OSError: A ring cannot be mapped.
        ValueError: A function is described in a way that makes no sense.
    """

    def __init__(
        self,
        events: Sequence[tuple[int, int]],
        strings: tuple[int, int],
        functions: Sequence[tuple[str, str, str, int, bool, int, tuple[tuple[str, str], ...]]],
        hostname: str,
        clock_offset_ns: int,
        *,
        buffer_bytes: int = 1 << 20,
        kept_ids: int = 128 << 10,
        kept_bytes: int = 32 << 20,
        included: Sequence[bytes] = (),
    ) -> None:
        self._native = _pump.Pump(
            events,
            strings,
            functions,
            hostname,
            clock_offset_ns,
            buffer_bytes=buffer_bytes,
            kept_ids=kept_ids,
            kept_bytes=kept_bytes,
            included=included,
        )

    def drain(self) -> int:
        """Read what the rings hold now, without the interpreter lock, and make lines of it.

        Returns:
            The number of records read. It ends early when ``buffer_bytes`` of text are waiting:
            take them and drain again until nothing comes.
        """
        return self._native.drain()

    def take(self) -> bytes:
        """Return the lines made so far, whole ones, and forget them."""
        return self._native.take()

    def append(self, line: bytes) -> None:
        """Add a line, which ends with a newline, behind those made so far."""
        self._native.append(line)

    @property
    def pending(self) -> int:
        """Bytes of lines that wait to be taken."""
        return self._native.pending

    @property
    def host_hash(self) -> str:
        """The ``hhash`` of all lines."""
        return self._native.host_hash

    def set_clock_offset(self, offset_ns: int) -> None:
        """Set what is added to CLOCK_MONOTONIC from now on, in nanoseconds."""
        self._native.set_clock_offset(offset_ns)

    def counters(self) -> PumpCounters:
        """Return what went through the pump so far."""
        return PumpCounters(**self._native.counters())

    def function_statistics(self) -> list[FunctionStatistics]:
        """Return the sums of all functions that were called."""
        return [FunctionStatistics(*row) for row in self._native.function_statistics()]

    def file_statistics(self, limit: int) -> BusiestFiles:
        """Return up to ``limit`` files by time and as many by bytes, the busiest first."""
        by_time, by_bytes = (
            tuple(
                FileStatistics(
                    None if path is None else text_from_bytes(path), file_hash, calls, time, moved
                )
                for path, file_hash, calls, time, moved in rows
            )
            for rows in self._native.file_statistics(limit)
        )
        return BusiestFiles(by_time, by_bytes)

    def close(self) -> None:
        """Unmap the rings and free all memory. Lines that were not taken are lost."""
        self._native.close()

    def __enter__(self) -> "Pump":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
