"""What readers that are not ours make of a trace."""

import random
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from pump_rings import (
    DIRECTORY,
    FILE,
    PATH,
    PROCESS_EXIT,
    PROCESS_NAME,
    TEXT,
    THREAD_NAME,
    MemoryRing,
    call,
    components,
    string,
)
from trace_readers import dftracer, dftracer_bytes_by_file, dftracer_event_count, perfetto

from datacrumbs_runtime.bpf.layout import FunctionFlag, Profile
from datacrumbs_runtime.trace.aggregator import Aggregator
from datacrumbs_runtime.trace.losses import Losses, LossesInTrace
from datacrumbs_runtime.trace.pump import FunctionFormat, Pump, Value
from datacrumbs_runtime.trace.trace_lines import metadata_line
from datacrumbs_runtime.trace.writer import TraceWriter, WriterSettings

CLOCK_NS = 1_795_155_786_000_000_000
FD = Value("fhash", "f")
MOVES = FunctionFlag.ERRNO | FunctionFlag.BYTES
FUNCTIONS = [
    FunctionFormat("STDIO", "fwrite", "", 0, False, 0, (FD,)),
    FunctionFormat("POSIX", "write", "", MOVES, values=(FD, Value("count", "u64"))),
    FunctionFormat("POSIX", "open", '"syscall":"openat"', values=(FD, Value("name", "s"))),
    FunctionFormat("block", "rq", "", FunctionFlag.NO_RETURN, lanes=True),
]
FWRITE, WRITE, OPEN, BLOCK = range(4)
NAMES = [b"plain", b"sp ace", b'quo"te', b"back\\slash", b"new\nline", b"\xff\xfe", "ü€😀".encode()]


class Written(NamedTuple):
    """A trace and what is in it."""

    path: Path
    calls: int
    bytes_by_file: dict[str, int]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A trace with all that a trace can have, in several members."""
    directory = tmp_path_factory.mktemp("trace")
    numbers = random.Random(4)  # noqa: S311
    path = directory / "trace-u-1-n-p.pfw.gz"
    moved = dict.fromkeys(range(len(NAMES)), 0)
    settings = WriterSettings(member_bytes=20_000)
    with (
        MemoryRing(1 << 20) as events,
        MemoryRing(1 << 18) as strings,
        Pump([events.pair], strings.pair, FUNCTIONS, "node1", CLOCK_NS) as pump,
        TraceWriter.at(path, settings=settings) as writer,
    ):
        described = metadata_line(
            "datacrumbs",
            {"run_id": "run", "clock_offset_ns": CLOCK_NS, "user": "u\udcff", "none": None},
            host_hash=pump.host_hash,
        )
        pump.append(described)
        strings.put(string(FILE, components(b"/d"), identifier=1, flags=DIRECTORY))
        for i, name in enumerate(NAMES):
            strings.put(string(PATH, name + b"\0", identifier=10 + i, directory=1))
            strings.put(string(TEXT, name + b"\0", identifier=30 + i))
            strings.put(string(PROCESS_NAME, name + b"\0", process=100 + i, thread=100 + i))
            strings.put(string(THREAD_NAME, name + b"\0", process=100 + i, thread=200 + i))
        now = 0
        calls = 0
        for i in range(2000):
            file = numbers.randrange(len(NAMES))
            at = partial(call, process=100 + file, thread=200 + file)
            length = numbers.randrange(1, 100_000)
            moved[file] += length
            # fwrite calls write: sometimes both within a microsecond.
            outer = numbers.choice((300, 900, 5000))
            inner = (10 + file, length)
            inner_ns = outer - 100
            events.put(at(WRITE, start_ns=now + 50, duration_ns=inner_ns, ret=length, values=inner))
            events.put(at(FWRITE, start_ns=now, duration_ns=outer, values=inner[:1]))
            events.put(at(BLOCK, start_ns=now, duration_ns=numbers.randrange(20_000)))
            named = (10 + file, 30 + file)
            events.put(at(OPEN, start_ns=now + outer, duration_ns=0, ret=-2, values=named))
            calls += 4
            now += outer + numbers.randrange(100, 3000)
            if i % 100 == 0:
                pump.drain()
                writer.write(pump.take())
        strings.put(string(PROCESS_EXIT, process=100))
        while pump.drain():
            writer.write(pump.take())
        counted = Aggregator(FUNCTIONS, pump.host_hash)
        counted.add([(WRITE, 100, Profile(count=5, time_ns=10, min_ns=1, max_ns=4, bytes=7))])
        pump.append(counted.take_lines(CLOCK_NS // 1000, CLOCK_NS // 1000 + 1_000_000))
        last = LossesInTrace(pump.host_hash).line(
            Losses(offered=calls, written=calls), CLOCK_NS // 1000, is_last=True
        )
        assert last is not None
        pump.append(last)
        writer.write(pump.take())
    shown = [
        "plain", "sp ace", 'quo"te', "back\\slash", "new\nline", "\\xff\\xfe", "ü€😀"
    ]  # fmt: skip
    return Written(path, calls, {f"/d/{name}": moved[i] for i, name in enumerate(shown)})


def test_dftracer_finds_it_valid(written: Written) -> None:
    assert "1 passed, 0 failed" in dftracer("dftracer_validate", written.path.parent)


def test_dftracer_counts_all_events(written: Written) -> None:
    counters = 1
    assert dftracer_event_count(written.path.parent) == written.calls + counters


def test_dftracer_adds_up_the_bytes_of_each_file(written: Written) -> None:
    assert dftracer_bytes_by_file(written.path.parent) == written.bytes_by_file


def test_perfetto_loads_every_call(written: Written) -> None:
    ((count,),), ((threads,),) = perfetto(
        written.path, "select count(*) from slice", "select count(*) from thread where name != ''"
    )
    assert count == written.calls
    assert threads > len(NAMES)


def test_perfetto_nests_calls_as_they_were_nested(written: Written) -> None:
    # A call that begins and ends within one microsecond has no place of its own on a time line of
    # microseconds; all others have.
    rows, looking_alike = perfetto(
        written.path,
        "select parent.name, count(*) from slice child "
        "left join slice parent on child.parent_id = parent.id "
        "where child.name = 'write' and child.dur > 0 group by 1",
        "select count(*) from slice child join slice parent on child.parent_id = parent.id "
        "where child.name = 'write' and child.ts = parent.ts and child.dur = parent.dur",
    )
    ((parent, count),) = rows
    assert parent == "fwrite"
    assert count > 1000
    assert looking_alike[0][0] > 100


def test_perfetto_reads_arguments_and_counters(written: Written) -> None:
    names, counters = perfetto(
        written.path,
        "select distinct display_value from args where key = 'args.name'",
        "select track.name, value from counter join track on track_id = track.id "
        "where track.name like 'write %' order by 1 limit 2",
    )
    assert {'quo"te', "ü€😀"} < {name for (name,) in names}
    assert counters == [["write bytes", 7], ["write count", 5]]
