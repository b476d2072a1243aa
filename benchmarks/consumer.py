"""What the consumer costs per event: draining, formatting, compressing, without BPF.

The ring lies in memory and holds the calls of typical programs; every round reads it once.
"""

import itertools
import mmap
import os
import random
import statistics
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.rows import Row
from benchmarks.sizes import BUDGET_BYTES
from datacrumbs_runtime.bpf import layout
from datacrumbs_runtime.trace.pump import FunctionFormat, Pump, Value
from datacrumbs_runtime.trace.writer import TraceWriter, WriterSettings

TITLE = "the consumer: draining, formatting, compressing"
BUDGET_NS = 200.0
RING_BYTES = 16 << 20
STRINGS_BYTES = 1 << 20
CLOCK_OFFSET_NS = 1_795_155_786_922_564_000
FILES = 50
_CALL = struct.Struct("=QQqIIIBBH4Q")
_STRING_FILE = 2

_FD = Value("fhash", "f")
_COUNT = Value("count", "u64")
_FLAGS = layout.FunctionFlag.ERRNO | layout.FunctionFlag.BYTES
FUNCTIONS = [
    FunctionFormat("POSIX", "read", flags=_FLAGS, values=(_FD, _COUNT, Value("offset", "i64"))),
    FunctionFormat("POSIX", "write", flags=_FLAGS, values=(_FD, _COUNT, Value("offset", "i64"))),
    FunctionFormat("POSIX", "pread64", flags=_FLAGS, values=(_FD, _COUNT, Value("offset", "i64"))),
    FunctionFormat("POSIX", "pwrite64", flags=_FLAGS, values=(_FD, _COUNT, Value("offset", "i64"))),
    FunctionFormat("POSIX", "open", '"syscall":"openat"', values=(_FD, Value("flags", "i32"))),
    FunctionFormat("POSIX", "close", values=(_FD,)),
    FunctionFormat("POSIX", "stat", '"syscall":"newfstatat"', values=(_FD, Value("flags", "i32"))),
]
READ, WRITE, PREAD, PWRITE, OPEN, CLOSE, STAT = range(len(FUNCTIONS))


class Call(NamedTuple):
    """One call of a workload."""

    function: int
    thread: int
    duration_ns: int
    pause_ns: int
    ret: int
    file: int
    values: tuple[int, ...]


def copying(numbers: random.Random) -> Iterator[Call]:
    """Read and write 4 KiB in turn, as dd does."""
    for offset in itertools.count(0, 4096):
        for function, file, usual_ns in ((READ, 1, 300), (WRITE, 2, 1000)):
            duration = int(usual_ns * numbers.lognormvariate(0, 0.25))
            pause = numbers.randrange(150, 400)
            yield Call(function, 1, duration, pause, 4096, file, (4096, offset))


def writing(numbers: random.Random) -> Iterator[Call]:
    """One thread writes 4 KiB blocks in order."""
    for offset in itertools.count(0, 4096):
        duration = int(1000 * numbers.lognormvariate(0, 0.25))
        yield Call(PWRITE, 1, duration, numbers.randrange(150, 400), 4096, 3, (4096, offset))


def mixed(numbers: random.Random) -> Iterator[Call]:
    """Four threads open, stat, read, write and close many files, with random sizes and places."""
    for round_number in itertools.count():
        thread = round_number // 20 % 4
        file = numbers.randrange(FILES)
        size = numbers.choice((512, 4096, 65536, numbers.randrange(1, 100_000)))
        for function in (STAT, OPEN, PREAD, PREAD, PWRITE, CLOSE):
            duration = int(1500 * numbers.lognormvariate(0, 0.6))
            pause = numbers.randrange(200, 2500)
            values: tuple[int, ...] = ()
            ret = 0
            if function in (PREAD, PWRITE):
                values, ret = (size, numbers.randrange(1 << 20) * 512), size
            elif function in (OPEN, STAT):
                values, ret = (0,), 3 if function == OPEN else 0
            yield Call(function, thread, duration, pause, ret, file, values)


WORKLOADS = {"copying": copying, "writing": writing, "mixed": mixed}


class MemoryRing:
    """A ring buffer map in a memory file, filled once and offered again and again."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * mmap.PAGESIZE + size_bytes)
        self.memory = mmap.mmap(self.fd, 2 * mmap.PAGESIZE + size_bytes)
        self._position = 0

    def fill(self, records: Iterator[bytes]) -> int:
        """Fill the ring with records of one length, and return how many it holds."""
        count = 0
        at = 2 * mmap.PAGESIZE
        stride = 0
        for record in records:
            stride = (len(record) + 15) // 8 * 8
            if at + stride > len(self.memory):
                break
            struct.pack_into("=II", self.memory, at, len(record), 0)
            self.memory[at + 8 : at + 8 + len(record)] = record
            at += stride
            count += 1
        # What is left is one discarded record, so that a round ends where it began.
        rest = len(self.memory) - at
        if rest:
            struct.pack_into("=II", self.memory, at, rest - 8 | 1 << 30, 0)
        return count

    def offer(self, size_bytes: int | None = None) -> None:
        """Let the reader see the records once more."""
        self._position += self.size_bytes if size_bytes is None else size_bytes
        struct.pack_into("=Q", self.memory, mmap.PAGESIZE, self._position)


def call_records(calls: Iterator[Call]) -> Iterator[bytes]:
    """Yield the calls as struct dc_call with four values."""
    now_ns = 1_000_000_000
    for call in calls:
        now_ns += call.pause_ns
        values = (call.file + 1, *call.values)
        present = (1 << len(values)) - 1
        values += (0,) * (4 - len(values))
        yield _CALL.pack(
            now_ns, call.duration_ns, call.ret, 7785, 7785 + call.thread, call.function, 4, present,
            0, *values,
        )  # fmt: skip
        now_ns += call.duration_ns


def file_records() -> Iterator[bytes]:
    """Yield the strings behind the files."""
    for number in range(FILES):
        text = b"\0".join((b"data-%05d.h5" % number, b"run-17", b"project", b"scratch", b""))
        yield struct.pack(
            "=QQQQIIIHHII", number + 1, 0, 0, 0, 7785, 7785, 0, _STRING_FILE, 0, len(text), 0
        ) + text  # fmt: skip


def consume(workload: str, level: int | None, repeats: int) -> tuple[float, float]:
    """Return nanoseconds and bytes per event: medians; of text if level is None, else of the file.

    With a level, the lines are compressed and written to a file as in a run.
    """
    ring, strings = MemoryRing(RING_BYTES), MemoryRing(STRINGS_BYTES)
    events = ring.fill(call_records(WORKLOADS[workload](random.Random(1))))
    strings.fill(file_records())
    strings.offer()
    took = []
    with (
        TemporaryDirectory() as directory,
        Pump(
            [(ring.fd, ring.size_bytes)],
            (strings.fd, strings.size_bytes),
            FUNCTIONS,
            "node1",
            CLOCK_OFFSET_NS,
        ) as pump,
        TraceWriter.at(
            Path(directory, "trace.pfw.gz"), settings=WriterSettings(compression_level=level or 0)
        ) as writer,
    ):
        for _ in range(repeats):
            ring.offer()
            begin_s = time.process_time()
            while pump.drain():
                lines = pump.take()
                if level is not None:
                    writer.write(lines)
            took.append((time.process_time() - begin_s) / events * 1e9)
        counters = pump.counters()
        if counters.events != events * repeats or counters.unknown_ids:
            raise RuntimeError(f"the pump lost something: {counters}")
        writer.flush()
        size = counters.text_bytes if level is None else writer.counters().file_bytes
    ring.memory.close()
    strings.memory.close()
    os.close(ring.fd)
    os.close(strings.fd)
    return statistics.median(took), size / counters.events


def measure(scratch: Path, *, seconds: float, repeats: int) -> list[Row]:
    """Return the rows of all workloads; the length of a round is that of the ring."""
    del scratch, seconds
    result: list[Row] = []
    consume("mixed", 1, 1)  # the first round of all pays for memory that the others find
    for workload in WORKLOADS:
        bare_ns, text_bytes = consume(workload, None, repeats)
        result.append(
            Row(
                "consumer", f"{workload}: format", bare_ns, "ns", note=f"{text_bytes:.0f} B of text"
            )
        )
        for level in range(4):
            ns, size = consume(workload, level, repeats)
            result.append(
                Row(
                    "consumer",
                    f"{workload}: format, igzip {level}, write",
                    ns,
                    "ns",
                    added=ns - bare_ns,
                    budget=f"<= {BUDGET_NS:.0f} ns",
                    kept=ns <= BUDGET_NS,
                    note=f"{1e3 / ns:.1f} M events/s",
                )
            )
            result.append(
                Row(
                    "trace size",
                    f"{workload}: igzip {level}",
                    size,
                    "B/event",
                    budget=f"<= {BUDGET_BYTES:.0f} B",
                    kept=size <= BUDGET_BYTES,
                )
            )
    return result
