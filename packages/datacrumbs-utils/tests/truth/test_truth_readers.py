"""Recordings of real programs as readers that are not ours see them: DFTracer's, Perfetto."""

import sys
from collections import Counter
from pathlib import Path

import pytest
from recordings import HERE, Recorder, Recording, require
from trace_readers import dftracer, dftracer_bytes_by_file, dftracer_event_count, perfetto

pytestmark = pytest.mark.kernel

# Names whose return value DFTracer's readers take for bytes.
READ_OR_WRITE = """
    read pread64 readv preadv preadv2 write pwrite64 writev pwritev pwritev2 copy_file_range
    sendfile splice
"""
TAR = "mkdir t && for i in 1 2 3 4 5 6 7 8 9; do head -c ${i}0000 /dev/zero >t/$i; done; tar cf x t"


def commands(programs: Path, directory: Path) -> dict[str, tuple[list[str], tuple[str, ...]]]:
    """Return commands and options by name."""
    python = HERE / "programs/threads_and_processes.py"
    fio = ["fio", "--name=j", f"--filename={directory}/f", "--size=1M", "--rw=randrw"]
    asynchronous = [*fio, "--iodepth=16", "--direct=1"]
    return {
        "tar": (["sh", "-c", TAR], ()),
        "python": ([sys.executable, str(python), str(directory), "fork"], ()),
        "streams and calls": ([str(programs / "static_io"), "out"], ("--probes", "posix,stdio")),
        "aio": ([*asynchronous, "--ioengine=libaio"], ("--probes", "all")),
        "io_uring": ([*asynchronous, "--ioengine=io_uring"], ("--probes", "all")),
    }


@pytest.fixture(params=["tar", "python", "streams and calls", "aio", "io_uring"])
def recording(
    request: pytest.FixtureRequest, recorder: Recorder, programs: Path, tmp_path: Path
) -> Recording:
    require("fio")
    directory = tmp_path / "work"
    directory.mkdir()
    argv, options = commands(programs, directory)[request.param]
    recording = recorder(argv, cwd=directory, options=options)
    assert recording.status == 0
    assert recording.report["complete"], recording.report["losses"]
    return recording


def test_dftracer_counts_and_adds_up_the_same(recording: Recording, recorder: Recorder) -> None:
    directory = recorder.directory
    for log in directory.glob("*.strace"):
        log.unlink()
    assert "1 passed, 0 failed" in dftracer("dftracer_validate", directory)
    assert dftracer_event_count(directory) == len(recording.trace.events)
    moved: Counter[str] = Counter()
    for event in recording.trace.events:
        if event.category == "POSIX" and event.name in READ_OR_WRITE.split() and event.file:
            moved[event.file] += max(event.result or 0, 0)
    seen = Counter(dftracer_bytes_by_file(directory))
    streams = {event.file or "" for event in recording.trace.events if event.category == "STDIO"}
    for file in streams:
        # readers take what fread() returned for bytes, which are items
        seen.pop(file, None)
        moved.pop(file, None)
    assert +seen == +moved
    assert sum(moved.values()) > 0


def test_perfetto_loads_every_event_without_an_error(
    recording: Recording, recorder: Recorder
) -> None:
    (path,) = recorder.directory.glob("*.pfw.gz")
    ((count,),), ((total,),) = perfetto(
        path, "select count(*) from slice", "select sum(dur) from slice where dur > 0"
    )
    assert count == len(recording.trace.events)
    assert total == 1000 * sum(event.duration_us for event in recording.trace.events)


def test_system_calls_nest_in_the_streams_that_make_them(recorder: Recorder) -> None:
    recording = recorder(
        ["env", "LC_ALL=C", "wc", "-c", "/etc/passwd"], options=["--probes", "posix,stdio"]
    )
    assert recording.status == 0
    (path,) = recorder.directory.glob("*.pfw.gz")
    ((inner,),), ((outside,),) = perfetto(
        path,
        "select count(*) from slice child join slice parent on child.parent_id = parent.id "
        "where parent.category = 'STDIO' and child.category = 'POSIX'",
        "select count(*) from slice child join slice parent on child.parent_id = parent.id "
        "where child.ts < parent.ts or child.ts + child.dur > parent.ts + parent.dur",
    )
    assert inner > 0
    assert outside == 0
