"""What ./quickstart says and does: on this machine as it is, and with something taken away."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("packages", "tools", "quickstart")
OTHER_UID = "65534"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes users and mounts file systems")
needs_installation = pytest.mark.skipif(
    not (ROOT / ".venv/.datacrumbs-sources").exists(), reason="./quickstart has not been run here"
)


def run(
    *argv: str | Path, cwd: Path | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        list(argv),
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )


def copy_sources(target: Path) -> Path:
    """Copy what quickstart needs, and nothing that it made."""
    made = shutil.ignore_patterns(".*", "__pycache__", "*.o", "*.so", "tests", "build")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=made)
        else:
            shutil.copy(source, target / name)
    return target / "quickstart"


@pytest.fixture
def bare_clone() -> Iterator[Path]:
    """The sources where every user can read them; nothing is installed."""
    directory = Path(tempfile.mkdtemp(prefix="quickstart-"))
    directory.chmod(0o755)
    try:
        yield copy_sources(directory)
    finally:
        shutil.rmtree(directory)


def within(script: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run a shell script in mount and network namespaces of its own."""
    return run("unshare", "-m", "-n", "bash", "-ec", script, "bash", *arguments, PIP_RETRIES="0")


def one_error(done: "subprocess.CompletedProcess[str]") -> str:
    """Return the error that a failed run ended with."""
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("quickstart: error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0].removeprefix("quickstart: error: ")


def test_unknown_option_is_wrong_usage() -> None:
    done = run(ROOT / "quickstart", "--evn")
    assert done.returncode == 2
    assert done.stderr.startswith("quickstart: error: --evn: no such option\n")


@needs_root
def test_other_users_are_told_to_be_root(bare_clone: Path) -> None:
    done = run("setpriv", f"--reuid={OTHER_UID}", "--clear-groups", bare_clone, "true")
    assert one_error(done).startswith("not root: ")


@needs_root
def test_container_without_capabilities_is_named(bare_clone: Path) -> None:
    done = run("setpriv", "--bounding-set=-all", bare_clone, "true")
    assert one_error(done).startswith("no BPF: this process has neither CAP_SYS_ADMIN nor")


@needs_root
def test_kernel_without_type_information_is_named(bare_clone: Path) -> None:
    done = within('mount -t tmpfs none /sys/kernel/btf; exec "$1" true', bare_clone)
    assert one_error(done).startswith("no BPF: the kernel ")


@needs_root
def test_unsupported_distribution_names_what_is_missing(bare_clone: Path) -> None:
    script = """
        printf 'ID=other\\nPRETTY_NAME="Other Linux 1"\\n' >"${1%/*}/os-release"
        mount --bind "${1%/*}/os-release" "$(readlink -f /etc/os-release)"
        mount -t tmpfs none /usr/include/bpf
        exec "$1" true
    """
    error = one_error(within(script, bare_clone))
    assert error == (
        "unsupported distribution: Other Linux 1: cannot install what is missing: libbpf"
    )


@needs_root
def test_no_network_is_named(bare_clone: Path) -> None:
    error = one_error(within('exec "$1" true', bare_clone))
    assert error.endswith(": no network: the package server does not answer")
    assert not (bare_clone.parent / ".venv/.datacrumbs-sources").exists()


@needs_root
def test_full_disk_is_named(bare_clone: Path) -> None:
    script = """
        mkdir "${1%/*}/small"
        mount -t tmpfs -o size=20m none "${1%/*}/small"
        cp -r "${1%/*}"/{packages,tools,quickstart} "${1%/*}/small"
        exec "${1%/*}/small/quickstart" true
    """
    assert one_error(within(script, bare_clone)).startswith("disk full: ")


@needs_root
def test_directory_that_cannot_be_written_is_named(bare_clone: Path) -> None:
    script = 'mount --bind -o ro "${1%/*}" "${1%/*}"; mount -o remount,bind,ro "${1%/*}"; "$1" true'
    assert one_error(within(script, bare_clone)).endswith("build/setup.log: cannot write")


@needs_root
@needs_installation
def test_environment_finds_the_commands() -> None:
    done = run(ROOT / "quickstart", "--env")
    assert done.stdout == f'export PATH={ROOT}/.venv/bin:"$PATH"\n'
    found = run("bash", "-c", f"{done.stdout} command -v datacrumbs_record datacrumbs_wrap")
    assert found.stdout.split() == [
        f"{ROOT}/.venv/bin/datacrumbs_record",
        f"{ROOT}/.venv/bin/datacrumbs_wrap",
    ]


@needs_root
@needs_installation
@pytest.mark.kernel
def test_second_run_installs_nothing_and_passes_the_status_on(tmp_path: Path) -> None:
    done = run(ROOT / "quickstart", "sh", "-c", "echo hello; exit 3", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "hello\n"), done.stderr
    (trace,) = tmp_path.glob("trace-*.pfw.gz")
    assert str(trace) in "".join(done.stderr.splitlines())
    assert "installing" not in done.stderr


@needs_root
@needs_installation
@pytest.mark.kernel
def test_without_a_command_a_small_dd_is_recorded(tmp_path: Path) -> None:
    done = run(ROOT / "quickstart", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "4096000 bytes" in done.stderr
    # The file that dd wrote is gone, the trace is there.
    assert [path.suffixes[-2:] for path in tmp_path.iterdir()] == [[".pfw", ".gz"]]
