"""What became of each probe on this installation's nodes, so that failures are not tried again.

The data directory may be shared between nodes, on a file system without shared memory: hence the
plain rollback journal and not WAL. A database that cannot be used never stops a run.
"""

import logging
import os
import pwd
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from datacrumbs_runtime.schema.probe_file import Category, ProbeType

logger = logging.getLogger(__name__)

MODE = 0o600
# Names are the users' own: what one makes up must not fill the disk, nor delay the starts of all.
MAX_ROWS = 32768
MAX_NAME_CHARS = 255
MAX_SCOPE_CHARS = 512
MAX_REASON_CHARS = 255
MAX_DATABASES = 64
UNNAMED = "unnamed"
INVALID = "invalid"
SUCCESSFUL = "successful"
# Two daemons that start together write a few ms each; a file system that hangs must not hold us.
_LOCK_TIMEOUT_S = 1.0
# Nobody waits for what is written after the start.
_RECORD_TIMEOUT_S = 10.0
# Columns that files of earlier versions lack.
_ADDED_COLUMNS = {
    "kernel_release": "TEXT NOT NULL DEFAULT ''",
    "build_id": "TEXT NOT NULL DEFAULT ''",
    "reason": "TEXT NOT NULL DEFAULT ''",
    "updated": "INTEGER NOT NULL DEFAULT 0",
}
_CREATE = f"""
CREATE TABLE IF NOT EXISTS runtime_probe_status (
    probe_group TEXT NOT NULL,
    scope_key TEXT NOT NULL,
    function_name TEXT NOT NULL,
    status TEXT NOT NULL,
    {", ".join(map(" ".join, _ADDED_COLUMNS.items()))},
    PRIMARY KEY (probe_group, scope_key, function_name)
)
"""
_GROUPS = {
    ProbeType.SYSCALLS: "syscalls",
    ProbeType.KPROBE: "kprobes",
    ProbeType.UPROBE: "binary",
    ProbeType.USDT: "usdt",
    ProbeType.CUSTOM: "custom",
    ProbeType.TRACEPOINT: "tracepoints",
}


class Target(NamedTuple):
    """What a probe is attached to, whatever the probe file that names it.

    Attributes:
        group: ``syscalls``, ``kprobes``, ``binary``, ``usdt``, ``tracepoints`` or ``custom``.
        scope: Path of the binary (binary), path and provider (usdt), plugin (custom), else empty.
        function: The function as the probe file names it.
    """

    group: str
    scope: str
    function: str


# status, kernel release, build id and reason of a row
_Known = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened when a target was attached.

    Attributes:
        target: The target.
        build_id: Build id of its binary; empty: it has none.
        reason: Why it failed; None: it is attached.
    """

    target: Target
    build_id: str
    reason: str | None


def place_of(category: Category) -> tuple[str, str]:
    """Return group and scope of the targets that the functions of a category are."""
    scope = category.binary_path or category.plugin or ""
    if category.type is ProbeType.USDT and category.provider:
        scope = f"{scope}:{category.provider}"
    return _GROUPS[category.type], scope


def database_path(data_dir: Path, install_user: str, config_file: str) -> Path:
    """Return where the database of a host configuration is.

    Args:
        data_dir: The installation's data directory.
        install_user: Who owns the installation.
        config_file: The host configuration that the probe file was made from, as it says itself.
    """
    stem = Path(config_file).name.partition(".")[0]
    name = re.sub(r"[^A-Za-z0-9_-]", "_", stem)[:64] or UNNAMED
    beginning = f"probes-runtime-status-{install_user}-"
    path = data_dir / f"{beginning}{name}.sqlite"
    # As many as one likes would be a way to fill the disk.
    if not path.exists() and len(list(data_dir.glob(f"{beginning}*"))) >= MAX_DATABASES:
        return data_dir / f"{beginning}{UNNAMED}.sqlite"
    return path


class StatusDatabase:
    """The status database of one host configuration.

    Args:
        path: The file; it is made when something is recorded.
        owner: Name of the user who shall own it.
        kernel_release: The running kernel.
    """

    def __init__(self, path: Path, owner: str, kernel_release: str) -> None:
        self._path = path
        self._owner = owner
        self._kernel_release = kernel_release

    def failures(self, build_id_of: Callable[[Target], str | None]) -> dict[Target, str]:
        """Return which targets are known to fail here, and why.

        A failure counts only for the kernel and the build of the binary with which it was seen.

        Args:
            build_id_of: Gives the build id of a target's binary; None: it is not in question.
        """
        try:
            if not self._path.exists():
                return {}
            with self._open(_LOCK_TIMEOUT_S) as database:
                known = _rows(database, INVALID)
        except (sqlite3.Error, OSError) as error:
            logger.warning("%s: known failures are not skipped: %s", self._path, error)
            return {}
        return {
            target: reason
            for target, (_, kernel_release, build_id, reason) in known.items()
            if kernel_release == self._kernel_release and build_id == build_id_of(target)
        }

    def record(self, outcomes: Iterable[Outcome]) -> None:
        """Write what has changed; a success clears the mark of a failure."""
        now = int(time.time())
        try:
            with self._open(_RECORD_TIMEOUT_S) as database:
                known = _rows(database)
                rows = []
                for outcome in outcomes:
                    if not _is_kept(outcome.target):
                        continue
                    status = SUCCESSFUL if outcome.reason is None else INVALID
                    reason = (outcome.reason or "")[:MAX_REASON_CHARS]
                    new = (status, self._kernel_release, outcome.build_id, reason)
                    if known.get(outcome.target) != new:
                        rows.append((*outcome.target, *new, now))
                if not rows:
                    return
                database.execute("BEGIN IMMEDIATE")
                database.executemany(
                    "INSERT OR REPLACE INTO runtime_probe_status (probe_group, scope_key, "
                    "function_name, status, kernel_release, build_id, reason, updated) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    rows,
                )
                database.execute(
                    "DELETE FROM runtime_probe_status WHERE rowid IN (SELECT rowid "
                    "FROM runtime_probe_status ORDER BY updated DESC LIMIT -1 OFFSET ?)",
                    (MAX_ROWS,),
                )
                database.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            logger.warning("%s: results of attaching are not kept: %s", self._path, error)

    @contextmanager
    def _open(self, timeout_s: float) -> Iterator[sqlite3.Connection]:
        self._make_file()
        try:
            database = self._connect(timeout_s)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            aside = self._path.with_name(f"{self._path.name}.corrupt-{int(time.time())}")
            logger.warning("%s: %s: moved to %s", self._path, error, aside.name)
            self._path.replace(aside)
            self._make_file()
            database = self._connect(timeout_s)
        with closing(database):
            yield database

    def _connect(self, timeout_s: float) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=timeout_s, isolation_level=None)
        try:
            database.execute("PRAGMA trusted_schema = OFF")
            columns = _columns(database)
            if set(columns) >= set(_ADDED_COLUMNS):
                # A file that is damaged further in is found out when its rows are read.
                if database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                    raise sqlite3.DatabaseError("database disk image is malformed")
                return database
            database.execute("BEGIN IMMEDIATE")
            database.execute(_CREATE)
            for name in set(_ADDED_COLUMNS) - set(_columns(database)):
                database.execute(
                    f"ALTER TABLE runtime_probe_status ADD COLUMN {name} {_ADDED_COLUMNS[name]}"
                )
            database.execute("COMMIT")
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _make_file(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._path, flags, MODE)
        try:
            if os.geteuid() == 0:
                status = os.fstat(fd)
                entry = _account(self._owner)
                if entry and (status.st_uid, status.st_gid) != entry:
                    os.fchown(fd, *entry)
            os.fchmod(fd, MODE)
        finally:
            os.close(fd)


def _is_kept(target: Target) -> bool:
    return len(target.function) <= MAX_NAME_CHARS and len(target.scope) <= MAX_SCOPE_CHARS


def _rows(database: sqlite3.Connection, status: str | None = None) -> dict[Target, _Known]:
    rows = database.execute(
        "SELECT probe_group, scope_key, function_name, status, kernel_release, build_id, reason "
        "FROM runtime_probe_status WHERE status = coalesce(?, status)",
        (status,),
    )
    return {Target(*row[:3]): row[3:] for row in rows}


def _columns(database: sqlite3.Connection) -> list[str]:
    return [row[1] for row in database.execute("PRAGMA table_info(runtime_probe_status)")]


def _account(name: str) -> tuple[int, int] | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return entry.pw_uid, entry.pw_gid
