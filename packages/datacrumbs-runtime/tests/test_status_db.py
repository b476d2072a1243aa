import os
import pwd
import sqlite3
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from datacrumbs_runtime import status_db
from datacrumbs_runtime.schema.probe_file import Category, ProbeType
from datacrumbs_runtime.status_db import (
    Outcome,
    StatusDatabase,
    Target,
    database_path,
    place_of,
)

WRITE = Target("binary", "/lib/libx.so", "x_write:0x100")
READ = Target("binary", "/lib/libx.so", "x_read:0x200")
OWNER = pwd.getpwuid(os.geteuid()).pw_name


def database(path: Path, kernel: str = "6.1") -> StatusDatabase:
    return StatusDatabase(path, OWNER, kernel)


def rows(path: Path) -> set[tuple[str, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return set(
            connection.execute(
                "SELECT probe_group, scope_key, function_name, status FROM runtime_probe_status"
            )
        )


def test_failed_target_is_known_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    database(path).record([Outcome(WRITE, "b1", "no"), Outcome(READ, "b1", None)])
    assert database(path).failures({WRITE: "b1", READ: "b1"}.get) == {WRITE: "no"}
    assert rows(path) == {(*WRITE, "invalid"), (*READ, "successful")}


@pytest.mark.parametrize(("kernel", "build"), [("6.2", "b1"), ("6.1", "b2")])
def test_failure_counts_only_for_that_kernel_and_build(
    tmp_path: Path, kernel: str, build: str
) -> None:
    path = tmp_path / "s.sqlite"
    database(path).record([Outcome(WRITE, "b1", "no")])
    assert database(path, kernel).failures({WRITE: build}.get) == {}


def test_later_success_clears_the_mark(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    database(path).record([Outcome(WRITE, "b1", "no")])
    later = database(path)
    later.failures({WRITE: "b1"}.get)
    later.record([Outcome(WRITE, "b1", None)])
    assert database(path).failures({WRITE: "b1"}.get) == {}
    assert rows(path) == {(*WRITE, "successful")}


def test_unchanged_outcomes_are_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    outcomes = [Outcome(WRITE, "b1", "no"), Outcome(READ, "b1", None)]
    database(path).record(outcomes)
    before = path.stat().st_mtime_ns
    again = database(path)
    again.failures({WRITE: "b1", READ: "b1"}.get)
    again.record(outcomes)
    assert path.stat().st_mtime_ns == before


def test_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    before = os.umask(0)
    try:
        database(path).record([Outcome(WRITE, "", None)])
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_file_belongs_to_the_install_user(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    StatusDatabase(path, "daemon", "6.1").record([Outcome(WRITE, "", None)])
    assert path.stat().st_uid == pwd.getpwnam("daemon").pw_uid


def test_daemons_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    code = """
import sys
import threading
from pathlib import Path
from datacrumbs_runtime.status_db import Outcome, StatusDatabase, Target
for number in range(10):
    database = StatusDatabase(Path(sys.argv[1]), sys.argv[3], "6.1")
    database.failures({}.get)
    name = f"{sys.argv[2]}-{number}"
    database.record([Outcome(Target("kprobes", "", f"{name}-{i}"), "", None) for i in range(100)])
"""

    def write(writer: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, str(path), str(writer), OWNER],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(write, range(4)))
    assert [each.stderr for each in done] == [""] * 4
    assert len(rows(path)) == 4 * 10 * 100


@pytest.mark.parametrize("damage", ["garbage", "torn"])
def test_corrupt_file_is_set_aside_and_said(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s.sqlite"
    many = [Outcome(Target("kprobes", "", f"f{i}"), "", "no") for i in range(2000)]
    database(path).record(many)
    if damage == "garbage":
        path.write_bytes(os.urandom(4096))
    else:
        content = bytearray(path.read_bytes())
        content[4096 : 3 * 4096] = os.urandom(2 * 4096)
        path.write_bytes(content)
    fresh = database(path)
    assert fresh.failures({WRITE: ""}.get) == {}
    fresh.record([Outcome(WRITE, "", None)])
    assert "moved to s.sqlite.corrupt-" in caplog.text
    assert rows(path) == {(*WRITE, "successful")}
    assert len(list(tmp_path.glob("s.sqlite.corrupt-*"))) == 1


def test_locked_database_delays_nobody_for_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_db, "_RECORD_TIMEOUT_S", 0.2)
    path = tmp_path / "s.sqlite"
    database(path).record([Outcome(WRITE, "", None)])
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        other = database(path)
        assert other.failures({WRITE: ""}.get) == {}
        other.record([Outcome(READ, "", "no")])
    assert "database is locked" in caplog.text


def test_outcomes_are_kept_when_others_write_for_longer_than_a_start_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_db, "_LOCK_TIMEOUT_S", 0.0)
    path = tmp_path / "s.sqlite"
    database(path).record([Outcome(WRITE, "", None)])
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        end = threading.Timer(0.3, holder.execute, ["COMMIT"])
        end.start()
        database(path).record([Outcome(READ, "", "no")])
        end.join()
    assert rows(path) == {(*WRITE, "successful"), (*READ, "invalid")}


def test_directory_that_cannot_be_written_does_not_stop_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "missing" / "s.sqlite"
    other = database(path)
    assert other.failures({WRITE: ""}.get) == {}
    other.record([Outcome(WRITE, "", None)])
    assert "results of attaching are not kept" in caplog.text


def test_file_of_the_first_version_gets_the_new_columns(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE TABLE runtime_probe_status (probe_group TEXT, scope_key TEXT, "
            "function_name TEXT, status TEXT, PRIMARY KEY (probe_group, scope_key, function_name))"
        )
        connection.execute(
            "INSERT INTO runtime_probe_status VALUES (?, ?, ?, 'invalid')", tuple(WRITE)
        )
    other = database(path)
    # Nobody knows with which kernel it failed: it is tried again.
    assert other.failures({WRITE: "b1"}.get) == {}
    other.record([Outcome(WRITE, "b1", "no")])
    assert database(path).failures({WRITE: "b1"}.get) == {WRITE: "no"}


@pytest.mark.parametrize(
    ("category", "target"),
    [
        (Category(ProbeType.SYSCALLS, "P", ("read",)), Target("syscalls", "", "read")),
        (Category(ProbeType.KPROBE, "K", ("f",)), Target("kprobes", "", "f")),
        (
            Category(ProbeType.UPROBE, "L", ("f",), binary_path="/l.so"),
            Target("binary", "/l.so", "f"),
        ),
        (
            Category(ProbeType.USDT, "U", ("f",), binary_path="/p", provider="python"),
            Target("usdt", "/p:python", "f"),
        ),
    ],
)
def test_targets_have_the_groups_and_scopes_that_users_know(
    category: Category, target: Target
) -> None:
    assert Target(*place_of(category), category.functions[0]) == target


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("/etc/x/node.yaml", "probes-runtime-status-root-node.sqlite"),
        ("", "probes-runtime-status-root-unnamed.sqlite"),
        ("/e/../../x y\n.yaml", "probes-runtime-status-root-x_y_.sqlite"),
    ],
)
def test_file_is_named_after_the_host_configuration(config: str, name: str) -> None:
    assert database_path(Path("/d"), "root", config) == Path("/d") / name
