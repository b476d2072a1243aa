"""What users make up does not fill the status database, which all runs read."""

import os
import pwd
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from datacrumbs_runtime import status_db
from datacrumbs_runtime.status_db import Outcome, StatusDatabase, Target, database_path

OWNER = pwd.getpwuid(os.geteuid()).pw_name


def record(path: Path, targets: Iterable[Target], reason: str | None = "no such function") -> None:
    database = StatusDatabase(path, OWNER, "6.1")
    database.record([Outcome(target, "build", reason) for target in targets])


def rows(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as database:
        found = database.execute("SELECT function_name, reason FROM runtime_probe_status")
        return [(str(name), str(reason)) for name, reason in found]


def test_names_that_no_function_has_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "status.sqlite"
    longest = "f" * status_db.MAX_NAME_CHARS
    targets = [
        Target("binary", "/lib/a.so", longest),
        Target("binary", "/lib/a.so", longest + "f"),
        Target("binary", "/" + "d" * status_db.MAX_SCOPE_CHARS, "f"),
    ]
    record(path, targets, "r" * 10_000)
    assert rows(path) == [(longest, "r" * status_db.MAX_REASON_CHARS)]
    known = StatusDatabase(path, OWNER, "6.1").failures(lambda _: "build")
    assert set(known) == {targets[0]}


def test_rows_are_bounded_and_the_oldest_go(tmp_path: Path) -> None:
    path = tmp_path / "status.sqlite"
    parts = 3
    count = status_db.MAX_ROWS // 2
    for part in range(parts):
        record(path, [Target("binary", "/a", f"f{part}_{i}") for i in range(count)])
        with closing(sqlite3.connect(path)) as database, database:
            # The clock has seconds.
            database.execute("UPDATE runtime_probe_status SET updated = updated - 10")
    found = {name.partition("_")[0] for name, _ in rows(path)}
    assert len(rows(path)) == status_db.MAX_ROWS
    assert found == {"f1", "f2"}


def test_databases_are_bounded(tmp_path: Path) -> None:
    for number in range(2 * status_db.MAX_DATABASES):
        database_path(tmp_path, "root", f"/home/anna/c{number}.yaml").touch()
    assert len(list(tmp_path.iterdir())) == status_db.MAX_DATABASES + 1
    # Those that were there before are found as ever.
    assert database_path(tmp_path, "root", "/x/c3.yaml").name.endswith("-c3.sqlite")
