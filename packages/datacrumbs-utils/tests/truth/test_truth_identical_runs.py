"""Two identical runs, one recorded and one under strace: equal sums of everything.

The runs differ in process ids, addresses and times, so calls are compared as sums: how many by
system call, file and result; bytes by system call and file; how many processes.
"""

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import comparison
import pytest
import strace_log
from recordings import HERE, TIMEOUT_S, Recorder, require, with_witness
from strace_log import Call
from trace_file import Event

pytestmark = pytest.mark.kernel

TREE = "mkdir -p t/a t/b && for i in 1 2 3 4 5; do echo $i >t/a/$i; ln -s $i t/b/$i; done"
WORKLOADS = {
    "dd": ("", "dd if=/dev/zero of=out bs=64k count=50 status=none"),
    "tar": (TREE, "tar cf t.tar t"),
    "find and rm": (TREE, "find t -type f -newer /etc/passwd && rm -r t"),
    "cp": ("head -c 5000000 /dev/zero >large", "cp large copy"),
    "shell": ("", "sh -c 'echo one >f; cat f >>g; mv g h; mkdir d; rmdir d; ln h i; rm h'"),
    "sqlite": ("", f"{sys.executable} {HERE}/programs/sqlite_rows.py rows.db"),
    "static binary": ("", "{programs}/static_io out"),
    "every errno": ("", "{programs}/every_errno ."),
    "static without environment": ("", "env -i {programs}/static_io out"),
}

Key = tuple[str, str | None, int]


def sums_of_log(calls: Iterable[Call]) -> tuple[Counter[Key], Counter[tuple[str, str | None]]]:
    counts: Counter[Key] = Counter()
    moved: Counter[tuple[str, str | None]] = Counter()
    for call in comparison.recorded(calls):
        assert call.result is not None
        if call.is_undecoded:
            continue
        file = comparison.file_of_call(call)
        counts[call.name, file, outcome(call.name, call.result)] += 1
        if call.result > 0:
            moved[call.name, file] += bytes_of(call.name, call.result)
    return counts, +moved


def sums_of_trace(
    events: Iterable[Event],
) -> tuple[Counter[Key], Counter[tuple[str, str | None]]]:
    counts: Counter[Key] = Counter()
    moved: Counter[tuple[str, str | None]] = Counter()
    for event in events:
        name = event.system_call
        if comparison.is_left_aside(event):
            continue
        assert event.result is not None
        file = comparison.anonymous(event.file)
        counts[name, file, outcome(name, event.result)] += 1
        if event.result > 0:
            moved[name, file] += bytes_of(name, event.result)
    return counts, +moved


def outcome(name: str, result: int) -> int:
    """Return what is equal in two runs: errors and small numbers, but no addresses."""
    return 0 if name in ("mmap", "mremap") and result > 0 else result


def bytes_of(name: str, result: int) -> int:
    return result if comparison.moves_bytes(name) else 0


@pytest.mark.parametrize("name", WORKLOADS)
def test_sums_of_two_identical_runs_are_equal(
    name: str, recorder: Recorder, programs: Path, tmp_path: Path
) -> None:
    require("strace")
    before, text = WORKLOADS[name]
    command = ["sh", "-c", f"exec {text.format(programs=programs)}"]
    directory = tmp_path / "work"

    def fresh() -> None:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        subprocess.run(["sh", "-c", before], cwd=directory, check=True)

    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
    fresh()
    recording = recorder(command, cwd=directory, env=environment)
    assert recording.report["complete"], recording.report["losses"]
    log = tmp_path / "log"

    def witness(_attempt: int) -> list[Call]:
        fresh()
        subprocess.run(
            ["strace", *strace_log.OPTIONS, "-o", log, *command],
            cwd=directory,
            env=environment,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=recording.status == 0,
        )
        return strace_log.read(log, str(directory))

    calls = with_witness(witness)
    counts, moved = sums_of_trace(recording.trace.events)
    expected_counts, expected_moved = sums_of_log(calls)
    assert counts - expected_counts == Counter()
    assert expected_counts - counts == Counter()
    assert moved == expected_moved
    processes = {event.process for event in recording.trace.events}
    assert len(processes) == len({call.thread for call in comparison.recorded(calls)})
