"""Whole runs: what a process did equals what its trace says, and nothing stays behind."""

import gzip
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from growing_trace import lines_so_far
from kernel_objects import open_ids, still_there
from waiting import wait_until

from datacrumbs_runtime.engine import Engine, Identity, RunSettings, RunSummary
from datacrumbs_runtime.errors import AttachError, KernelError, TraceError
from datacrumbs_runtime.schema.probe_file import Category, ProbeFile, ProbeType, Summary

pytestmark = pytest.mark.kernel

IDENTITY = Identity("tester", os.getuid(), os.getgid(), "run1", "node1")
SYSCALLS = Category(
    ProbeType.SYSCALLS,
    "POSIX",
    ("openat", "close", "read", "write", "pread64", "pwrite64", "lseek", "dup2", "fsync"),
)
SMALL = RunSettings(ring_buffer_bytes=1 << 20, strings_buffer_bytes=1 << 20)
WAIT_S = 300.0  # only what hangs takes so long, also where the processor is emulated


def probe_file(*categories: Category) -> ProbeFile:
    return ProbeFile(Summary("", "p.json", "node1", "tester", "root"), categories)


def lines_of(path: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes()).decode()
    assert text.startswith("[\n")
    return [json.loads(line) for line in text.splitlines()[1:] if line != "]"]


def calls_of(lines: list[dict[str, Any]], process: int) -> list[dict[str, Any]]:
    return [line for line in lines if line["ph"] == "X" and line["pid"] == process]


def files_of(lines: list[dict[str, Any]]) -> dict[str, str]:
    return {line["args"]["value"]: line["args"]["name"] for line in lines if line["name"] == "FH"}


@contextmanager
def stopped_child(program: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start Python code that waits for a line on its standard input before it does anything."""
    code = "import sys; sys.stdin.readline()\n" + program
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def go(child: subprocess.Popen[bytes]) -> bytes:
    output, _ = child.communicate(b"\n", timeout=WAIT_S)
    return output


def record(
    path: Path,
    program: str,
    *arguments: str,
    categories: tuple[Category, ...] = (SYSCALLS,),
    settings: RunSettings = SMALL,
) -> tuple[RunSummary, int]:
    with (
        stopped_child(program, *arguments) as child,
        Engine(probe_file(*categories), path, IDENTITY, settings) as engine,
    ):
        report = engine.attach()
        assert report.failures == ()
        engine.register_process(child.pid)
        engine.start()
        go(child)
        return engine.stop(), child.pid


WRITES = """
import os
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for size in range(1, 200):
    os.write(fd, b"x" * size)
os.dup2(fd, 77)
os.pwrite(77, b"y" * 5000, 100)
os.fsync(fd)
try:
    os.write(99, b"z")
except OSError:
    pass
os.close(77)
os.close(fd)
"""


def test_writes_of_a_process_are_in_its_trace(tmp_path: Path) -> None:
    data = tmp_path / "data.bin"
    summary, child = record(tmp_path / "t.pfw.gz", WRITES, str(data))
    lines = lines_of(summary.trace_path)
    names = files_of(lines)
    own = [
        line
        for line in calls_of(lines, child)
        if names.get(line["args"].get("fhash", "")) == str(data)
    ]
    writes = [line["args"]["ret"] for line in own if line["name"] == "write"]
    assert writes == list(range(1, 200))
    (positioned,) = [line for line in own if line["name"] in {"pwrite", "pwrite64"}]
    assert (positioned["args"]["ret"], positioned["args"]["offset"]) == (5000, 100)
    assert Counter(line["name"] for line in own)["close"] == 2
    failed = [
        line
        for line in calls_of(lines, child)
        if line["name"] == "write" and line["args"]["ret"] == -9
    ]
    assert len(failed) == 1
    assert "fhash" not in failed[0]["args"]
    losses = summary.statistics.losses
    assert (losses.lost_calls, losses.unaccounted) == (0, 0)
    # The child waited in a read() when it was registered.
    assert losses.missed_begin == 1
    assert summary.events == sum(line["ph"] == "X" for line in lines)
    by_name = {each.name: each.statistics for each in summary.statistics.functions}
    assert by_name["write"].bytes == sum(range(1, 200))
    assert by_name["write"].errors == 1
    busiest = summary.statistics.files.by_bytes[0]
    assert (busiest.path, busiest.bytes) == (str(data), sum(range(1, 200)) + 5000)


CHANGES_ROOT = """
import os
fd = os.open(sys.argv[1] + "/data.bin", os.O_RDWR | os.O_CREAT)
os.pwrite(fd, b"x", 0)
os.chroot(sys.argv[1])
os.pwrite(fd, b"x", 0)
"""


def test_names_begin_at_the_root_that_the_process_has(tmp_path: Path) -> None:
    trace = tmp_path / "t.pfw.gz"
    _, child = record(trace, CHANGES_ROOT, str(tmp_path))
    lines = lines_of(trace)
    names = files_of(lines)
    written = [call for call in calls_of(lines, child) if call["name"] == "pwrite64"]
    # A thread that moved to another CPU has its lines in the order in which these are read.
    written.sort(key=lambda call: call["ts"])
    assert [names[call["args"]["fhash"]] for call in written] == [
        str(tmp_path / "data.bin"),
        "/data.bin",
    ]


def test_the_run_describes_itself_and_its_losses(tmp_path: Path) -> None:
    summary, _ = record(tmp_path / "t.pfw.gz", "import os; os.close(os.dup(0))")
    lines = lines_of(summary.trace_path)
    (about,) = [line["args"] for line in lines if line["name"] == "datacrumbs"]
    assert (about["run_id"], about["user"], about["attached"]) == ("run1", "tester", 9)
    assert about["tier_syscalls"] == "tp_btf"
    assert len(about["probe_file_sha256"]) == 64
    last = [line["args"] for line in lines if line["name"] == "datacrumbs_losses"][-1]
    assert last["final"] is True
    assert last["offered"] == last["written"] + last["ring_full"] == summary.events
    assert summary.in_flight >= 0


def test_a_ring_that_is_too_small_loses_calls_and_says_how_many(tmp_path: Path) -> None:
    program = """
import os
fd = os.open("/dev/zero", os.O_RDONLY)
for _ in range(60000):
    os.pread(fd, 1, 0)
"""
    settings = RunSettings(ring_buffer_bytes=4096, poll_interval_s=0.1)
    summary, _ = record(tmp_path / "t.pfw.gz", program, settings=settings)
    losses = summary.statistics.losses
    lines = lines_of(summary.trace_path)
    assert losses.ring_full > 0
    assert losses.offered == losses.written + losses.ring_full
    assert losses.offered >= 60000
    assert summary.events == sum(line["ph"] == "X" for line in lines)
    last = [line["args"] for line in lines if line["name"] == "datacrumbs_losses"][-1]
    assert (last["ring_full"], last["lost"]) == (losses.ring_full, losses.ring_full)


def test_processes_that_were_started_before_are_recorded(tmp_path: Path) -> None:
    grandchild = "import os\nsys.stdin.readline()\nos.fsync(os.open(sys.argv[1], os.O_CREAT))\n"
    program = f"""
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import sys" + {chr(10) + grandchild!r},
                          sys.argv[1]], stdin=subprocess.PIPE)
print(child.pid, flush=True)
sys.stdin.readline()
child.communicate(b"\\n")
"""
    path = tmp_path / "t.pfw.gz"
    with (
        stopped_child(program, str(tmp_path / "late.bin")) as child,
        Engine(probe_file(SYSCALLS), path, IDENTITY, SMALL) as engine,
    ):
        engine.attach()
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"\n")
        child.stdin.flush()
        late = int(child.stdout.readline())
        assert engine.register_process(child.pid) == 2
        assert engine.register_process(child.pid) == 0
        engine.start()
        go(child)
        summary = engine.stop()
    lines = lines_of(summary.trace_path)
    assert [line["name"] for line in calls_of(lines, late)].count("fsync") == 1
    named = {line["pid"] for line in lines if line["name"] == "process_name"}
    assert named >= {child.pid, late}


def test_unregistered_processes_are_not_recorded(tmp_path: Path) -> None:
    with Engine(probe_file(SYSCALLS), tmp_path / "t.pfw.gz", IDENTITY, SMALL) as engine:
        engine.attach()
        engine.start()
        subprocess.run(["true"], check=True)
        summary = engine.stop()
    assert summary.events == 0
    assert summary.statistics.losses.entered == 0


def test_counted_calls_equal_traced_ones(tmp_path: Path) -> None:
    data = tmp_path / "data.bin"
    traced, _ = record(tmp_path / "trace.pfw.gz", WRITES, str(data))
    data.unlink()
    settings = RunSettings(mode="profile", ring_buffer_bytes=1 << 20)
    counted, child = record(tmp_path / "profile.pfw.gz", WRITES, str(data), settings=settings)
    assert counted.events == 0
    for name in ("write", "fsync", "dup2"):
        pair = [
            (each.statistics.calls, each.statistics.errors, each.statistics.bytes)
            for summary in (traced, counted)
            for each in summary.statistics.functions
            if each.name == name
        ]
        assert pair[0] == pair[1], name
    lines = lines_of(counted.trace_path)
    writes = [line for line in lines if line["ph"] == "C" and line["name"] == "write"]
    assert {line["pid"] for line in writes} == {child}
    assert sum(line["args"]["bytes"] for line in writes) == sum(range(1, 200))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("library")
    (directory / "calls.c").write_text(
        """
        #include <setjmp.h>
        int leaf(int a) { return a + 1; }
        int deep(int n) { return n ? deep(n - 1) + 1 : leaf(0); }
        static jmp_buf place;
        int leaves(int n) { longjmp(place, n); }
        int jumps(int n) { if (setjmp(place)) return n; return leaves(n); }
        """
    )
    path = directory / "libcalls.so"
    subprocess.run(
        ["gcc", "-O0", "-shared", "-fPIC", "-o", path, directory / "calls.c"], check=True
    )
    return path


TIERS = ["uprobe.session", "uprobe.multi", "uprobe.tracefs", "uprobe.perf"]


@pytest.mark.parametrize("max_tier", TIERS)
def test_recursion_nests(tmp_path: Path, library: Path, max_tier: str) -> None:
    functions = Category(ProbeType.UPROBE, "LIB", ("leaf", "deep"), binary_path=str(library))
    program = """
import ctypes
calls = ctypes.CDLL(sys.argv[1])
assert calls.deep(10) == 11
"""
    settings = RunSettings(ring_buffer_bytes=1 << 20, max_tier=max_tier)
    summary, child = record(
        tmp_path / "t.pfw.gz", program, str(library), categories=(functions,), settings=settings
    )
    calls = calls_of(lines_of(summary.trace_path), child)
    assert Counter(call["name"] for call in calls) == {"deep": 11, "leaf": 1}
    # From the innermost outwards; rings of several CPUs are not in the order of time.
    calls.sort(key=lambda call: (call["name"] == "deep", call["args"]["ret"]))
    assert [call["args"]["ret"] for call in calls] == [1, *range(1, 12)]
    for inner, outer in pairwise(calls):
        assert outer["ts"] <= inner["ts"]
        assert inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"]
        assert inner["args"]["ns"] <= outer["args"]["ns"]


def test_calls_left_by_longjmp_are_counted_not_guessed(tmp_path: Path, library: Path) -> None:
    functions = Category(
        ProbeType.UPROBE, "LIB", ("leaves", "jumps", "leaf"), binary_path=str(library)
    )
    program = """
import ctypes
calls = ctypes.CDLL(sys.argv[1])
for n in range(1, 101):
    assert calls.jumps(n) == n
calls.leaf(1)
"""
    summary, child = record(tmp_path / "t.pfw.gz", program, str(library), categories=(functions,))
    calls = calls_of(lines_of(summary.trace_path), child)
    assert Counter(call["name"] for call in calls) == {"jumps": 100, "leaf": 1}
    assert [call["args"]["ret"] for call in calls if call["name"] == "jumps"] == list(range(1, 101))
    assert summary.in_flight == 100


def test_stopping_twice_returns_the_same(tmp_path: Path) -> None:
    with Engine(probe_file(SYSCALLS), tmp_path / "t.pfw.gz", IDENTITY, SMALL) as engine:
        engine.attach()
        engine.start()
        first = engine.stop()
        assert engine.stop() is first
    assert engine.stop() is first
    assert engine.statistics() is first.statistics


def test_an_existing_trace_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "t.pfw.gz"
    path.write_text("mine")
    with Engine(probe_file(SYSCALLS), path, IDENTITY, SMALL) as engine:
        engine.attach()
        engine.start()
    assert path.read_text() == "mine"
    assert engine.trace_path == tmp_path / "t-2.pfw.gz"
    assert engine.trace_path.stat().st_mode & 0o777 == 0o600


def test_a_run_that_attaches_nothing_fails_and_leaves_no_file(tmp_path: Path) -> None:
    nothing = Category(ProbeType.TRACEPOINT, "NONE", ("of_nobody",))
    path = tmp_path / "t.pfw.gz"
    with (
        pytest.raises(AttachError, match="none of 1 functions can be recorded: of_nobody: "),
        Engine(probe_file(nothing), path, IDENTITY, SMALL) as engine,
    ):
        engine.attach()
    assert list(tmp_path.iterdir()) == []


def test_a_trace_that_cannot_be_created_stops_before_attaching(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="No such file or directory"):
        Engine(probe_file(SYSCALLS), tmp_path / "missing" / "t.pfw.gz", IDENTITY, SMALL)


def test_a_process_that_is_gone_is_said(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with Engine(probe_file(SYSCALLS), tmp_path / "t.pfw.gz", IDENTITY, SMALL) as engine:
        engine.attach()
        with pytest.raises(KernelError, match=f"process {gone.pid}: No such process"):
            engine.register_process(gone.pid)


RECORDER = """
import os, sys, time
from pathlib import Path
from datacrumbs_runtime.engine import Engine, Identity
from datacrumbs_runtime.schema.probe_file import *
category = Category(ProbeType.SYSCALLS, "POSIX", ("pread64",))
probes = ProbeFile(Summary("", "", "", "", ""), (category,))
with Engine(probes, Path(sys.argv[1]), Identity("t", os.getuid(), os.getgid(), "r", "n")) as engine:
    engine.attach()
    engine.register_process(int(sys.argv[2]))
    engine.start()
    print("ready", flush=True)
    time.sleep(600)
"""
READS = """
import os, time
fd = os.open("/dev/zero", os.O_RDONLY)
for number in range(1 << 30):
    os.pread(fd, 8, number)
    time.sleep(0.001)
"""


def test_a_killed_recorder_leaves_a_valid_trace_and_nothing_in_the_kernel(tmp_path: Path) -> None:
    path = tmp_path / "t.pfw.gz"
    with stopped_child(READS) as child:
        with subprocess.Popen(
            [sys.executable, "-c", RECORDER, path, str(child.pid)], stdout=subprocess.PIPE
        ) as recorder:
            assert recorder.stdout is not None
            assert recorder.stdout.readline() == b"ready\n"
            ids = open_ids(recorder.pid)
            assert {kind for kind, _ in ids} == {"prog", "map", "link"}
            assert child.stdin is not None
            child.stdin.write(b"\n")
            child.stdin.flush()
            # It is written while the recording goes on.
            wait_until(lambda: len(calls_of(lines_so_far(path), child.pid)) > 1000)
            recorder.send_signal(signal.SIGKILL)
            recorder.wait()
        reads = calls_of(lines_so_far(path), child.pid)
    assert sorted(line["args"]["offset"] for line in reads) == list(range(len(reads)))
    wait_until(lambda: not still_there(ids), lambda: still_there(ids))
