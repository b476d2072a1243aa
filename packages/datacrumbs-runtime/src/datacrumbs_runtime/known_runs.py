"""The runs of a node, as their files in the run directory tell."""

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_runtime.reading_rights import reader_of
from datacrumbs_runtime.run_files import run_file
from datacrumbs_runtime.signing.accounts import user_name

_SUFFIX = ".pid"
_PREFIX = "datacrumbs-"
_MAX_PID_DIGITS = 10
# What the status must have for a reader to show it, and of which type.
_NEEDED: dict[str, type | tuple[type, ...]] = {
    "user": str,
    "since": (int, float),
    "updated": (int, float),
    "probe_file": str,
    "trace": str,
    "mode": str,
    "attached": int,
    "requested": int,
    "failed": int,
    "failures": list,
    "tiers": dict,
    "events": int,
    "counted": int,
    "events_per_s": (int, float),
    "lost": int,
    "losses": dict,
    "memory_bytes": int,
    "trace_bytes": int,
    "functions": list,
    "files": list,
}


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A run on this node.

    Attributes:
        run_id: Its id.
        pid: Its daemon; None: not known.
        is_active: Whether the daemon lives.
        is_ready: Whether it records.
        status: What it tells about itself; None: it tells nothing yet, or not to us.
        owner: Whose it is, as far as the files tell: a name, or a uid without one.
        since: When it was ready, in seconds since the epoch, likewise.
    """

    run_id: str
    pid: int | None
    is_active: bool
    is_ready: bool
    status: dict[str, Any] | None
    owner: str | None = None
    since: float | None = None

    @property
    def state(self) -> str:
        """One word: ``starting``, ``recording``, ``stopping``, or ``dead``."""
        if not self.is_active:
            return "dead"
        if self.status is not None:
            return str(self.status.get("state", "recording"))
        return "recording" if self.is_ready else "starting"

    def to_dict(self) -> dict[str, Any]:
        """Return everything for a program."""
        return {
            **(self.status or {"user": self.owner, "since": self.since}),
            "run_id": self.run_id,
            "pid": self.pid,
            "state": self.state,
            "readable": self.status is not None,
        }


def known_runs(run_dir: Path) -> list[KnownRun]:
    """Return the runs of a node, by id.

    Raises:
        ConfigurationError: The run directory cannot be read.
    """
    try:
        paths = sorted(run_dir.glob(f"{_PREFIX}*{_SUFFIX}"))
    except OSError as error:
        raise ConfigurationError(f"{run_dir}: {error.strerror}") from error
    names = [path.name.removeprefix(_PREFIX).removesuffix(_SUFFIX) for path in paths]
    return [_known_run(run_dir, run_id) for run_id in names]


def _known_run(run_dir: Path, run_id: str) -> KnownRun:
    pid, is_active = _daemon(run_dir, run_id)
    ready = _facts(run_file(run_dir, run_id, "ready"))
    owner_uid = reader_of(run_file(run_dir, run_id, "json"))
    return KnownRun(
        run_id,
        pid,
        is_active,
        ready is not None,
        _status(run_file(run_dir, run_id, "json")),
        owner=None if owner_uid is None else user_name(owner_uid),
        since=None if ready is None else ready.st_mtime,
    )


def _facts(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None


def _daemon(run_dir: Path, run_id: str) -> tuple[int | None, bool]:
    """Return the pid of a run's daemon, and whether it lives."""
    try:
        text = run_file(run_dir, run_id, "pid").read_text(errors="replace").strip()
    except OSError:
        return None, False
    pid = int(text) if text.isdecimal() and len(text) < _MAX_PID_DIGITS else None
    try:
        fd = os.open(run_file(run_dir, run_id, "lock"), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return pid, False
    except OSError:
        # Only root may try the lock; for others a process of that pid has to do.
        return pid, pid is not None and Path(f"/proc/{pid}").exists()
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return pid, True
    finally:
        os.close(fd)
    return pid, False


def _status(path: Path) -> dict[str, Any] | None:
    """Return a status that can be shown, or None: the file belongs to the run's user."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    for name, types in _NEEDED.items():
        if not isinstance(document.get(name), types):
            return None
    return document
