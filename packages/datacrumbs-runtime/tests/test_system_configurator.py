import json
import os
import re
import socket
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from datacrumbs_runtime.bpf.features import Tier
from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_runtime.schema.setting_types import TIERS
from datacrumbs_runtime.schema.site_config import SiteConfig, site_of
from datacrumbs_runtime.schema.system_configuration import (
    find_system_configuration,
    read_system_configuration,
)
from datacrumbs_runtime.system_config import create_system_configuration, planned_configuration

RUN = "from datacrumbs_runtime.commands.datacrumbs_system_configurator import main; main()"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes configurations")


def configurator(
    prefix: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUN, "--prefix", str(prefix), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": os.environ["PATH"], **environment},
        umask=0o077,
    )


def content(path: Path) -> dict[str, str]:
    with closing(sqlite3.connect(path)) as database:
        return dict(database.execute("SELECT key, value FROM system_configuration"))


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return (
        tmp_path
        / "share/datacrumbs/data"
        / f"system-probe-root-{site_of(socket.gethostname())}.sqlite"
    )


@needs_root
def test_first_run_makes_configuration_and_secret(tmp_path: Path, database: Path) -> None:
    assert configurator(tmp_path).returncode == 0
    secret = database.parent / ".datacrumbs-probe-secret"
    assert stat.S_IMODE(database.stat().st_mode) == 0o644
    assert stat.S_IMODE(secret.stat().st_mode) == 0o400
    for directory in (database.parent, database.parent.parent):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    assert re.fullmatch("[0-9a-f]{64}\n?", secret.read_text())
    with closing(sqlite3.connect(database)) as connection:
        summary = dict(connection.execute("SELECT key, value FROM summary"))
    assert set(summary) == {
        "trace_log_dir",
        "data_dir",
        "system_probe_path",
        "hostname",
        "user",
        "install_user",
    }
    assert summary["system_probe_path"] == str(database)
    assert sorted(path.name for path in database.parent.iterdir()) == [secret.name, database.name]


@needs_root
def test_summary_follows_the_settings(tmp_path: Path, database: Path) -> None:
    configurator(tmp_path)
    with closing(sqlite3.connect(database)) as connection:
        before = dict(connection.execute("SELECT key, value FROM summary"))
    changed = configurator(tmp_path, "--set", "DATACRUMBS_TRACE_DIR_PATTERN=/p/traces/%USER%/%YY%")
    assert changed.returncode == 0, changed.stderr
    assert "systemctl daemon-reload" in changed.stderr
    with closing(sqlite3.connect(database)) as connection:
        after = dict(connection.execute("SELECT key, value FROM summary"))
    assert after == {**before, "trace_log_dir": "/p/traces"}


def test_every_way_of_attaching_is_a_value_and_no_other(tmp_path: Path) -> None:
    assert tuple(tier.value for tier in Tier) == TIERS
    for tier in (*TIERS, "uprobe.multi, kprobe.perf", ""):
        assert SiteConfig.from_values({"DATACRUMBS_MAX_TIER": tier}, "test").max_tier == tier
    with pytest.raises(ConfigurationError, match=r"no tier uprobe.best: known are uprobe.session"):
        SiteConfig.from_values({"DATACRUMBS_MAX_TIER": "uprobe.best"}, "test")


def test_variables_that_decide_nothing_are_found(tmp_path: Path) -> None:
    path, config = planned_configuration(tmp_path, {"DATACRUMBS_KERNEL_THREADS": "1"})
    create_system_configuration(path, config)
    system = read_system_configuration(path)
    # What datacrumbs_setup exports, and what may be overridden, is no surprise.
    harmless = {**system.config.as_values(), "DATACRUMBS_MODE": "profile", "PATH": "/bin"}
    assert system.ignored_variables({**harmless, "DATACRUMBS_INSTALL_PREFIX": "/other"}) == []
    assert system.ignored_variables({"DATACRUMBS_TRACE_ALL_PROCESSES": "no"}) == []
    useless = {"DATACRUMBS_TRACE_ALL_PROCESSES": "1", "DATACRUMBS_MAX_RUNTIME_FUNCTIONS": "many"}
    assert sorted(system.ignored_variables(useless)) == sorted(useless)


@needs_root
def test_later_runs_change_nothing(tmp_path: Path, database: Path) -> None:
    configurator(tmp_path)
    secret = database.parent / ".datacrumbs-probe-secret"
    before = database.read_bytes(), secret.read_bytes()
    assert configurator(tmp_path, DATACRUMBS_LOG_DIR="/elsewhere").returncode == 0
    assert (database.read_bytes(), secret.read_bytes()) == before


@needs_root
def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    done = configurator(tmp_path, "--dry-run")
    assert done.returncode == 0
    assert "would make" in done.stderr
    assert list(tmp_path.iterdir()) == []


@needs_root
def test_set_changes_one_setting(tmp_path: Path, database: Path) -> None:
    configurator(tmp_path)
    before = content(database)
    assert configurator(tmp_path, "--set", "DATACRUMBS_LOG_DIR=/p/log").returncode == 0
    assert content(database) == {**before, "DATACRUMBS_LOG_DIR": "/p/log"}
    assert stat.S_IMODE(database.stat().st_mode) == 0o644


@needs_root
def test_job_id_variable_follows_a_new_scheduler(tmp_path: Path, database: Path) -> None:
    configurator(tmp_path)
    configurator(tmp_path, "--set", "DATACRUMBS_JOB_SCHEDULER=FLUX")
    assert content(database)["DATACRUMBS_JOB_ID_VAR"] == "FLUX_JOB_ID"


@needs_root
def test_run_id_file_follows_a_new_run_directory(tmp_path: Path, database: Path) -> None:
    configurator(tmp_path)
    done = configurator(tmp_path, "--set", "DATACRUMBS_SERVER_RUN_DIR=/r")
    assert content(database)["DATACRUMBS_SERVER_RUN_ID_FILE"] == "/r/datacrumbs.runid"
    assert "run datacrumbs_bootstrap again" in done.stderr


@needs_root
def test_setting_that_somebody_chose_follows_nothing(tmp_path: Path, database: Path) -> None:
    configurator(tmp_path, "--set", "DATACRUMBS_SERVER_RUN_ID_FILE=/mine/id")
    configurator(tmp_path, "--set", "DATACRUMBS_SERVER_RUN_DIR=/r")
    assert content(database)["DATACRUMBS_SERVER_RUN_ID_FILE"] == "/mine/id"


@needs_root
def test_facts_of_an_installation_cannot_be_set_later(tmp_path: Path, database: Path) -> None:
    configurator(tmp_path)
    before = database.read_bytes()
    done = configurator(tmp_path, "--set", "DATACRUMBS_INSTALL_PREFIX=/elsewhere")
    assert done.returncode == 1
    assert "DATACRUMBS_INSTALL_PREFIX: was fixed when the installation was made" in done.stderr
    assert database.read_bytes() == before


@needs_root
def test_show_tells_where_the_secret_is_but_not_what_it_is(tmp_path: Path, database: Path) -> None:
    configurator(tmp_path)
    secret = database.parent / ".datacrumbs-probe-secret"
    shown = configurator(tmp_path, "--show").stdout
    assert f"# secret: {secret}\n" in shown
    assert secret.read_text().strip() not in shown
    secret.unlink()
    assert f"# secret: {secret} is missing\n" in configurator(tmp_path, "--show").stdout


@pytest.mark.parametrize("arguments", [["--json"], ["--shell"], ["--show", "--set", "A=1"]])
def test_options_that_do_not_go_together_are_wrong_usage(
    tmp_path: Path, arguments: list[str]
) -> None:
    done = configurator(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("datacrumbs_system_configurator: error: --")
    assert list(tmp_path.iterdir()) == []


@needs_root
@pytest.mark.parametrize(
    "assignment",
    ["DATACRUMBS_MODE=x", "DATACRUMBS_MAX_TIER=x", "DATACRUMBS_X=1", "DATACRUMBS_MODE"],
)
def test_impossible_setting_is_refused_and_nothing_changes(
    tmp_path: Path, database: Path, assignment: str
) -> None:
    configurator(tmp_path)
    before = database.read_bytes()
    done = configurator(tmp_path, "--set", assignment)
    assert done.returncode == 1
    assert done.stderr.startswith("datacrumbs_system_configurator: error: --set")
    assert database.read_bytes() == before


@needs_root
def test_show_is_for_programs_and_shells_too(tmp_path: Path) -> None:
    configurator(tmp_path, "--set", "DATACRUMBS_TRACE_DIR_PATTERN=/t/it's/%YY%")
    shown = json.loads(configurator(tmp_path, "--show", "--json").stdout)
    assert shown["system_configuration"]["DATACRUMBS_INSTALL_PREFIX"] == str(tmp_path)
    lines = configurator(tmp_path, "--show", "--shell").stdout
    echoed = subprocess.run(
        ["sh", "-c", lines + 'printf "%s" "$DATACRUMBS_TRACE_DIR_PATTERN"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert echoed.stdout == "/t/it's/%YY%"
    # Else it would win over a default of runs that is set later.
    assert "DATACRUMBS_MODE" not in lines
    assert "export DATACRUMBS_INCLUSION_PATHS=''" in lines


def test_without_configuration_the_hint_says_how_to_make_one(tmp_path: Path) -> None:
    done = configurator(tmp_path, "--show")
    assert done.returncode == 1
    assert "no system configuration" in done.stderr
    assert "hint: make it with datacrumbs_system_configurator" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_others_cannot_make_one(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    prefix = tmp_path / "prefix"
    code = f"""
import os, sys
from datacrumbs_runtime.commands.datacrumbs_system_configurator import main
sys.argv = ["datacrumbs_system_configurator", "--prefix", {str(prefix)!r}]
os.setuid(65534)
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "only root makes or changes" in done.stderr
    assert not prefix.exists()


def make(prefix: Path, **changes: str) -> Path:
    path, config = planned_configuration(prefix, changes)
    assert create_system_configuration(path, config)
    return path


def test_environment_overrides_only_what_it_may(tmp_path: Path) -> None:
    system = read_system_configuration(make(tmp_path))
    config = system.with_environment(
        {"DATACRUMBS_LOG_DIR": "/e", "DATACRUMBS_DISABLE_PROBE_SIGNING": "1"}
    )
    assert config.log_dir == Path("/e")
    assert not config.disable_probe_signing


def test_impossible_variable_in_the_environment_is_named(tmp_path: Path) -> None:
    system = read_system_configuration(make(tmp_path))
    with pytest.raises(ConfigurationError, match="environment: DATACRUMBS_MODE"):
        system.with_environment({"DATACRUMBS_MODE": "x"})


@needs_root
def test_configuration_that_others_can_write_is_not_roots_alone(tmp_path: Path) -> None:
    path = make(tmp_path)
    assert read_system_configuration(path).root_only
    path.chmod(0o666)
    assert not read_system_configuration(path).root_only
    path.chmod(0o644)
    path.parent.chmod(0o777)
    assert not read_system_configuration(path).root_only


def test_file_can_be_named_by_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "mine.sqlite"
    environment = {"DATACRUMBS_SYSTEM_PROBE_FILE_OVERRIDE": str(path)}
    assert find_system_configuration(tmp_path, environment) == path


def test_other_site_is_used_if_it_is_the_only_one(tmp_path: Path) -> None:
    path = make(tmp_path, DATACRUMBS_INSTALL_HOST="elsewhere")
    assert find_system_configuration(tmp_path, {}) == path
    make(tmp_path, DATACRUMBS_INSTALL_HOST="nowhere")
    with pytest.raises(ConfigurationError, match="several system configurations"):
        find_system_configuration(tmp_path, {})


def test_broken_file_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    path.write_bytes(b"not sqlite at all" * 100)
    with pytest.raises(ConfigurationError, match="not a system configuration"):
        read_system_configuration(path)


def test_two_makers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    path, config = planned_configuration(tmp_path, {})
    other = SiteConfig.from_values({**config.as_values(), "DATACRUMBS_LOG_DIR": "/other"}, "test")
    assert create_system_configuration(path, config)
    assert not create_system_configuration(path, other)
    assert read_system_configuration(path).config == config
