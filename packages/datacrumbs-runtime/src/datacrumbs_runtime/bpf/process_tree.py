"""Which processes descend from a process, as /proc tells it at this moment."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")


def descendants(pid: int, proc: Path = PROC) -> list[int]:
    """Return the processes that a process started, and those that they started.

    Processes whose parent has ended belong to somebody else by now and are not found.
    """
    children: dict[int, list[int]] = defaultdict(list)
    for child, parent in _parents(proc):
        children[parent].append(child)
    found: list[int] = []
    waiting = [pid]
    while waiting:
        own = children[waiting.pop()]
        found += own
        waiting += own
    return found


def _parents(proc: Path) -> Iterator[tuple[int, int]]:
    for directory in proc.iterdir():
        if not directory.name.isdecimal():
            continue
        try:
            stat = (directory / "stat").read_bytes()
        except OSError:
            continue
        # The name is in parentheses and may hold any byte: pid (name) state ppid ...
        yield int(directory.name), int(stat[stat.rindex(b")") + 1 :].split()[1])
