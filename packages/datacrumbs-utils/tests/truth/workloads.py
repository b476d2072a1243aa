"""Real programs that are recorded while strace watches, each with the calls that it makes at least.

Whoever records them, they are the same, so that what is compared is the same.
"""

from collections.abc import Callable
from pathlib import Path

from recordings import Recorder, Recording, require, with_witness

# The system's own: everybody can run it, unlike the interpreter of the tests.
PYTHON = "/usr/bin/python3"
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


def forked_python(programs: Path, directory: Path) -> list[str]:
    return [PYTHON, str(programs / "threads_and_processes.py"), str(directory), "fork"]


def spawned_python(programs: Path, directory: Path) -> list[str]:
    return [PYTHON, str(programs / "threads_and_processes.py"), str(directory), "spawn"]


def sqlite(programs: Path, _directory: Path) -> list[str]:
    return [PYTHON, str(programs / "sqlite_rows.py"), "rows.db"]


def git(_programs: Path, _directory: Path) -> list[str]:
    require("git")
    return ["bash", "-c", GIT]


def every_errno(programs: Path, directory: Path) -> list[str]:
    return [str(programs / "every_errno"), str(directory)]


def other_names(programs: Path, directory: Path) -> list[str]:
    return [PYTHON, str(programs / "other_names.py"), str(directory / "names")]


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


def recorded_with_witness(
    name: str, recorder: Recorder, programs: Path, directory: Path
) -> Recording:
    """Record a workload that strace watches, in a new directory below one that everybody can enter.

    Args:
        name: Name of the workload.
        recorder: What records it.
        programs: The compiled programs.
        directory: Where it shall work.
    """
    require("strace")
    workload, _ = WORKLOADS[name]

    def record(attempt: int) -> Recording:
        work = directory / f"work{attempt}"
        work.mkdir()
        return recorder(workload(programs, work), with_strace=True, cwd=work)

    recording = with_witness(record)
    assert recording.status == 0
    assert recording.report["complete"], recording.report["losses"]
    return recording
