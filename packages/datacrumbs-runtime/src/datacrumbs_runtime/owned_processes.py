"""The processes of a user, or of his job, that run at this moment."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from datacrumbs_runtime.engine import Engine
from datacrumbs_runtime.errors import KernelError

PROC = Path("/proc")


def register_owned(engine: Engine, uid: int, cgroup: Path | None) -> int:
    """Record all processes of a user that run now; those that come later register themselves.

    Args:
        engine: The run, recording, with ``all_processes``.
        uid: The user.
        cgroup: As of :func:`owned_processes`.

    Returns:
        How many processes are recorded.
    """
    count = 0
    for pid in owned_processes(uid, cgroup):
        # It may have ended meanwhile.
        with suppress(KernelError):
            engine.register_process(pid, descendants_too=False)
            count += 1
            # Or executed a program with more rights, just before it was recorded.
            if not _is_owned(PROC / str(pid), uid):
                engine.unregister_process(pid)
    return count


def owned_processes(uid: int, cgroup: Path | None, proc: Path = PROC) -> list[int]:
    """Return the processes of a user, but for those that he may not look into.

    Args:
        uid: The user.
        cgroup: Directory of a control group (v1 or v2): only those in it or below; None: all.
        proc: Where processes are looked up.
    """
    candidates = _all(proc) if cgroup is None else _in_cgroup(cgroup)
    return [pid for pid in candidates if _is_owned(proc / str(pid), uid)]


def _all(proc: Path) -> Iterator[int]:
    yield from (int(path.name) for path in proc.iterdir() if path.name.isdecimal())


def _in_cgroup(cgroup: Path) -> Iterator[int]:
    for members in cgroup.rglob("cgroup.procs"):
        try:
            yield from map(int, members.read_text().split())
        except OSError:
            # It went away, or is a threaded one, whose processes are listed above it.
            continue


def _is_owned(process: Path, uid: int) -> bool:
    """Return whether a process is its user's own business, as ptrace(2) sees it."""
    path = process / "status"
    try:
        # Root's, if the process is not dumpable: see proc(5).
        is_open = path.stat().st_uid == uid
        status = path.read_text(errors="replace")
    except OSError:
        return False
    ids = {}
    for line in status.splitlines():
        if line.startswith(("Uid:", "Gid:")):
            ids[line[:3]] = line.split()[1:3]
    real, effective = map(int, ids["Uid"])
    return is_open and real == effective == uid and len(set(ids["Gid"])) == 1
