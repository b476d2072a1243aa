"""One prefix from the source tree: what is installed, with which modes, and that it works."""

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_site import open_directory

from datacrumbs_runtime import __version__
from datacrumbs_runtime.schema.site_config import site_of

# Installs packages with pip, which takes a while; root because the secret must be root's.
pytestmark = pytest.mark.kernel

REPOSITORY = Path(__file__).resolve().parents[3]
BOOTSTRAP = "from datacrumbs_runtime.commands.datacrumbs_bootstrap import main; main()"
SITE = site_of(socket.gethostname())


def bootstrap(prefix: Path, source: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = ["--prefix", str(prefix), "--source", str(source), *arguments]
    needed = {name: os.environ[name] for name in ("HOME", "PYTHONPATH") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-c", BOOTSTRAP, *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        # As by "env -i": not even a PATH.
        env=needed,
        # That of a cautious administrator, which must not keep users out.
        umask=0o077,
    )


@pytest.fixture(scope="module")
def source() -> Iterator[Path]:
    """A copy of the packages, so that nobody's edits change what is installed on the way."""
    with open_directory() as root:
        for name in ("datacrumbs-runtime", "datacrumbs-utils", "datacrumbs-client-c"):
            shutil.copytree(
                REPOSITORY / "packages" / name,
                root / "packages" / name,
                ignore=shutil.ignore_patterns(".*", "__pycache__", "tests", "*.pyc"),
            )
            (root / "packages" / name / "tests").mkdir()
        (root / "packages/datacrumbs-client-c/tests/CMakeLists.txt").write_text("")
        (root / "tools").mkdir()
        for name in ("command_reference.py", "settings_reference.py"):
            shutil.copy(REPOSITORY / "tools" / name, root / "tools")
        yield root


@pytest.fixture(scope="module")
def prefix(source: Path) -> Iterator[Path]:
    with open_directory() as root:
        prefix = root / "prefix"
        done = bootstrap(prefix, source)
        assert done.returncode == 0, done.stderr
        yield prefix


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def closed_to_some(prefix: Path) -> Iterator[Path]:
    """Yield what not everybody can read or enter."""
    for path in prefix.rglob("*"):
        wanted = 0o055 if path.is_dir() else 0o044
        if not path.is_symlink() and mode(path) & wanted != wanted:
            yield path


def empty_environment(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(command), capture_output=True, text=True, check=False, timeout=60, env={}, cwd="/"
    )


def test_files_have_the_names_and_modes_that_others_rely_on(prefix: Path) -> None:
    expected = {
        f"share/datacrumbs/data/system-probe-root-{SITE}.sqlite": 0o644,
        "share/datacrumbs/data/.datacrumbs-probe-secret": 0o400,
        f"etc/datacrumbs/configs/{SITE}.yaml": 0o644,
        "etc/datacrumbs/configs/project.env.local": 0o644,
        "etc/datacrumbs/systemd/datacrumbs@.service": 0o644,
        "etc/datacrumbs/flux/cli/plugins/datacrumbs.py": 0o644,
        f"etc/datacrumbs/lmod/modulefiles/datacrumbs/{__version__}.lua": 0o644,
        "lib/libdatacrumbs_client.so": 0o644,
        "bin/datacrumbs_wrap": 0o755,
        "bin/datacrumbs_probe_configurator_exec": 0o755,
        "bin/datacrumbs_system_configurator": 0o755,
        "bin/datacrumbs_setup": 0o644,
        "sbin/datacrumbs": 0o755,
        "share/man/man1/datacrumbs_status.1": 0o644,
        "share/man/man1/datacrumbs_wrap.1": 0o644,
        "share/man/man7/datacrumbs_settings.7": 0o644,
        "share/man/man8/datacrumbs.8": 0o644,
        "sbin/datacrumbs_sign_probes": 0o755,
    }
    assert {name: mode(prefix / name) for name in expected} == expected
    writable = [path for path in prefix.rglob("*") if not path.is_symlink() and mode(path) & 0o022]
    assert writable == []
    assert [path.name for path in closed_to_some(prefix)] == [".datacrumbs-probe-secret"]


def test_commands_work_by_absolute_path_with_an_empty_environment(prefix: Path) -> None:
    commands = [
        path
        for directory in ("bin", "sbin")
        for path in sorted((prefix / directory).iterdir())
        if path.name != "datacrumbs_setup"
    ]
    assert len(commands) >= 8
    for path in commands:
        done = empty_environment(path, "--help")
        assert done.returncode == 0, (path, done.stderr)
        assert "usage" in done.stdout.lower(), path


def test_unit_starts_the_daemon_directly(prefix: Path) -> None:
    unit = (prefix / "etc/datacrumbs/systemd/datacrumbs@.service").read_text()
    assert f"ExecStart={prefix}/sbin/datacrumbs -- ${{DATACRUMBS_PROBE_FILE}} %i" in unit
    assert "@DATACRUMBS" not in unit


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_setup_exports_the_settings_and_leaves_nothing_readonly(prefix: Path, shell: str) -> None:
    script = (
        f"set -eu; . {prefix}/bin/datacrumbs_setup; . {prefix}/bin/datacrumbs_setup; "
        "DATACRUMBS_USER=other; unset DATACRUMBS_VERSION; env; command -v datacrumbs_wrap"
    )
    done = subprocess.run(
        [shell, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "7", "DATACRUMBS_LOG_DIR": "/own"},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert f"DATACRUMBS_INSTALL_PREFIX={prefix}" in lines
    assert "DATACRUMBS_LOG_DIR=/own" in lines
    assert "DATACRUMBS_SERVER_LOAD_TIMEOUT=600" in lines
    assert f"DATACRUMBS_CLIENT_LIB={prefix}/lib/libdatacrumbs_client.so" in lines
    assert lines[-1] == f"{prefix}/bin/datacrumbs_wrap"


def test_second_run_does_nothing(prefix: Path, source: Path) -> None:
    before = {path: path.lstat().st_mtime_ns for path in prefix.rglob("*") if path.is_file()}
    library = (prefix / "lib/libdatacrumbs_client.so").stat().st_ino
    done = bootstrap(prefix, source)
    assert done.returncode == 0
    assert done.stderr == ""
    after = {path: path.lstat().st_mtime_ns for path in prefix.rglob("*") if path.is_file()}
    changed = {path.name for path in after if after[path] != before.get(path)}
    assert changed == set()
    assert (prefix / "lib/libdatacrumbs_client.so").stat().st_ino == library


def test_what_an_administrator_changed_stays(prefix: Path, source: Path) -> None:
    unit = prefix / "etc/datacrumbs/systemd/datacrumbs@.service"
    host = prefix / f"etc/datacrumbs/configs/{SITE}.yaml"
    secret = prefix / "share/datacrumbs/data/.datacrumbs-probe-secret"
    template = source / "packages/datacrumbs-runtime/data/systemd/datacrumbs@.service.in"
    original, shipped, key = unit.read_bytes(), template.read_bytes(), secret.read_bytes()
    unit.write_bytes(original + b"# ours\n")
    template.write_bytes(shipped + b"# newer\n")
    host.unlink()
    try:
        done = bootstrap(prefix, source)
        assert "which was changed" in done.stderr
        assert unit.read_bytes().endswith(b"# ours\n")
        assert unit.with_name(unit.name + ".new").read_bytes() == original + b"# newer\n"
        assert host.exists()
        assert secret.read_bytes() == key
    finally:
        unit.write_bytes(original)
        template.write_bytes(shipped)


def test_setting_of_an_existing_configuration_is_not_changed_and_said(
    prefix: Path, source: Path
) -> None:
    path = prefix / f"share/datacrumbs/data/system-probe-root-{SITE}.sqlite"
    before = path.read_bytes()
    done = bootstrap(prefix, source, "--set", "DATACRUMBS_LOG_DIR=/elsewhere", "--dry-run")
    assert f"would keep {path}: --set DATACRUMBS_LOG_DIR is for a new one" in done.stderr
    assert "datacrumbs_system_configurator --set changes it" in done.stderr
    same = bootstrap(prefix, source, "--set", "DATACRUMBS_LOG_DIR=/var/log/datacrumbs", "--dry-run")
    assert "--set" not in same.stderr
    assert path.read_bytes() == before


def test_dry_run_names_everything_and_makes_nothing(tmp_path: Path, source: Path) -> None:
    prefix = tmp_path / "prefix"
    done = bootstrap(prefix, source, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert not prefix.exists()
    assert "would make" in done.stderr
    assert "datacrumbs@.service" in done.stderr


def test_tree_without_a_package_is_an_error(tmp_path: Path) -> None:
    done = bootstrap(tmp_path / "prefix", tmp_path)
    assert done.returncode == 1
    assert "datacrumbs_bootstrap: error: " in done.stderr
    assert "packages/datacrumbs-runtime: no such directory" in done.stderr
    assert os.listdir(tmp_path) == []  # noqa: PTH208


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--python", "/bin/true"], "--python: /bin/true: is not Python 3.10 or newer"),
        (["--python", "/bin/false"], "--python: /bin/false"),
        (["--set", "DATACRUMBS_INSTALL_USER=a b"], "'a b': not a name"),
        (["--set", "DATACRUMBS_LOGDIR=/x"], "no such setting"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(
    tmp_path: Path, source: Path, arguments: list[str], message: str
) -> None:
    done = bootstrap(tmp_path / "prefix", source, *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "prefix").exists()


def test_interpreter_that_users_cannot_run_is_refused(tmp_path: Path, source: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    python = home / "python3"
    shutil.copy("/bin/true", python)
    done = bootstrap(tmp_path / "prefix", source, "--python", str(python))
    assert done.returncode == 1
    assert "users cannot run it" in done.stderr
    assert "/usr/bin/python3" in done.stderr
    assert not (tmp_path / "prefix").exists()


@pytest.mark.parametrize("name", ["a b", "a%b", "$(id)", "a:b", "a\nb", "a'b"])
def test_prefix_that_units_or_shells_would_take_apart_is_refused(
    tmp_path: Path, source: Path, name: str
) -> None:
    done = bootstrap(tmp_path / name, source)
    assert done.returncode == 2
    assert "has characters that mean something in units and shells" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


def test_empty_prefix_is_not_the_working_directory(source: Path) -> None:
    options = ["--prefix", "", "--source", str(source), "--dry-run"]
    done = subprocess.run(
        [sys.executable, "-c", BOOTSTRAP, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--prefix: empty" in done.stderr
