"""Every call of a workload, with every value, against strace's log of the very same processes."""

import sys
from collections.abc import Callable
from pathlib import Path

import comparison
import pytest
from recordings import HERE, Recorder, Recording, require, with_witness

pytestmark = pytest.mark.kernel

PIPELINE = """
cat /etc/passwd | env -i /usr/bin/sort -r | env -i /usr/bin/uniq -c |
    (cd / && env -i /bin/sed s/x/y/) | env -i /usr/bin/wc
"""
GIT = """
git init -q repository && cd repository && for i in 1 2 3; do
    echo $i >file$i && git add . &&
    git -c user.name=n -c user.email=e@example.org commit -q -m "commit $i"
done && git log --stat >/dev/null && git gc -q && git status --short
"""

Workload = Callable[[Path, Path], list[str]]


def dd(_programs: Path, _directory: Path) -> list[str]:
    return ["dd", "if=/dev/zero", "of=out", "bs=64k", "count=50"]


def tar(_programs: Path, directory: Path) -> list[str]:
    tree = directory / "tree"
    for number in range(50):
        below = tree / f"d{number % 7}"
        below.mkdir(parents=True, exist_ok=True)
        (below / f"file {number}é").write_bytes(bytes(number * 100))
    (tree / "link").symlink_to("d0")
    return ["tar", "cf", "tree.tar", "tree"]


def copy(_programs: Path, directory: Path) -> list[str]:
    (directory / "large").write_bytes(bytes(64 << 20))
    return ["cp", "large", "copy"]


def pipeline(_programs: Path, _directory: Path) -> list[str]:
    return ["bash", "-c", PIPELINE]


def static_binary(programs: Path, _directory: Path) -> list[str]:
    return [str(programs / "static_io"), "out"]


def forked_python(_programs: Path, directory: Path) -> list[str]:
    program = HERE / "programs/threads_and_processes.py"
    return [sys.executable, str(program), str(directory), "fork"]


def spawned_python(_programs: Path, directory: Path) -> list[str]:
    program = HERE / "programs/threads_and_processes.py"
    return [sys.executable, str(program), str(directory), "spawn"]


def sqlite(_programs: Path, _directory: Path) -> list[str]:
    return [sys.executable, str(HERE / "programs/sqlite_rows.py"), "rows.db"]


def git(_programs: Path, _directory: Path) -> list[str]:
    require("git")
    return ["bash", "-c", GIT]


def every_errno(programs: Path, directory: Path) -> list[str]:
    return [str(programs / "every_errno"), str(directory)]


def other_names(_programs: Path, directory: Path) -> list[str]:
    return [sys.executable, str(HERE / "programs/other_names.py"), str(directory / "names")]


def fio(engine: str) -> Workload:
    def workload(_programs: Path, _directory: Path) -> list[str]:
        require("fio")
        return [
            "fio",
            "--name=job",
            "--filename=data",
            "--size=1M",
            "--bs=4k",
            "--rw=randrw",
            f"--ioengine={engine}",
            "--iodepth=8",
            "--end_fsync=1",
        ]

    return workload


WORKLOADS: dict[str, tuple[Workload, int]] = {
    "dd": (dd, 100),
    "tar": (tar, 200),
    "cp with copy_file_range": (copy, 40),
    "pipeline of five processes without environment": (pipeline, 300),
    "static binary": (static_binary, 200),
    "python threads and forked processes": (forked_python, 3000),
    "python threads and spawned processes": (spawned_python, 5000),
    "sqlite": (sqlite, 1000),
    "git": (git, 1000),
    "every errno": (every_errno, 200),
    "files renamed, linked, deleted, passed on, with strange names": (other_names, 1000),
    "fio psync": (fio("psync"), 500),
    "fio libaio": (fio("libaio"), 500),
    "fio io_uring": (fio("io_uring"), 500),
}


@pytest.mark.parametrize("name", WORKLOADS)
def test_trace_equals_strace(name: str, recorder: Recorder, programs: Path, tmp_path: Path) -> None:
    require("strace")
    workload, expected_calls = WORKLOADS[name]

    def record(attempt: int) -> Recording:
        directory = tmp_path / f"work{attempt}"
        directory.mkdir()
        argv = workload(programs, directory)
        return recorder(argv, with_strace=True, cwd=directory)

    recording = with_witness(record)
    assert recording.status == 0
    assert recording.report["complete"], recording.report["losses"]
    report = comparison.compare(recording.trace, recording.calls)
    assert report.differences == []
    assert report.calls >= expected_calls
    assert report.values >= report.calls
    assert report.files > 0.8 * report.calls
