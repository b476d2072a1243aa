import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from datacrumbs_runtime.status_db import Outcome, StatusDatabase, Target
from datacrumbs_runtime.system_config import create_system_configuration, planned_configuration

COMMAND = "from datacrumbs_runtime.commands.datacrumbs_sqlite_extract import main; main()"


def extract(database: Path, section: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMAND, "--database", str(database), "--section", section],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_sections_of_a_system_configuration(tmp_path: Path) -> None:
    path, config = planned_configuration(tmp_path, {"DATACRUMBS_LOG_DIR": "/p/log"})
    create_system_configuration(path, config)
    stored = json.loads(extract(path, "system-configuration").stdout)
    assert stored["DATACRUMBS_LOG_DIR"] == "/p/log"
    assert json.loads(extract(path, "summary").stdout)["system_probe_path"] == str(path)


def test_sections_of_a_status_database(tmp_path: Path) -> None:
    path = tmp_path / "status.sqlite"
    good, bad = Target("syscalls", "", "read"), Target("binary", "/lib/x.so", "x_f:0x10")
    database = StatusDatabase(path, pwd.getpwuid(os.geteuid()).pw_name, "6.1")
    database.record([Outcome(good, "", None), Outcome(bad, "b1", "it jumps into itself")])
    (valid,) = json.loads(extract(path, "valid-probes").stdout)
    (invalid,) = json.loads(extract(path, "invalid-probes").stdout)
    assert (valid["probe_group"], valid["function_name"]) == ("syscalls", "read")
    assert invalid["scope_key"] == "/lib/x.so"
    assert invalid["status"] == "invalid"
    assert (invalid["reason"], invalid["kernel_release"]) == ("it jumps into itself", "6.1")


@pytest.mark.parametrize("section", ["system-configuration", "summary", "invalid-probes"])
def test_file_without_that_section_is_one_clear_error(tmp_path: Path, section: str) -> None:
    path = tmp_path / "x.sqlite"
    path.write_bytes(b"not sqlite at all" * 100)
    done = extract(path, section)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"datacrumbs_sqlite_extract: error: {path}: ")
    assert f"hint: {section} is in a s" in done.stderr


def test_reading_changes_and_makes_nothing(tmp_path: Path) -> None:
    path, config = planned_configuration(tmp_path, {})
    create_system_configuration(path, config)
    before = path.read_bytes(), sorted(path.parent.iterdir())
    extract(path, "invalid-probes")
    extract(path, "summary")
    assert (path.read_bytes(), sorted(path.parent.iterdir())) == before
    assert extract(tmp_path / "none.sqlite", "summary").returncode == 2
    assert not (tmp_path / "none.sqlite").exists()
