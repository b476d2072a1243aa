"""The tools that get other kernels and run tests on them: what they find and what they say."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"
MISSING_STATUS = 77
RELEASES = ("6.9.1+x-amd64", "6.12.74+deb12-amd64", "7.2.12+deb13-amd64")


def run(tool: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TOOLS / tool, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    for release in reversed(RELEASES):
        boot = tmp_path / release / "boot"
        boot.mkdir(parents=True)
        (boot / f"vmlinuz-{release}").touch()
        (boot / f"config-{release}").touch()
    return tmp_path


def only(directory: Path, *programs: str) -> str:
    """Return a PATH with a few programs alone."""
    directory.mkdir()
    for program in programs:
        found = shutil.which(program)
        assert found is not None, program
        (directory / program).symlink_to(found)
    return str(directory)


def test_fetched_kernels_are_listed_oldest_first(kernels: Path) -> None:
    listed = run("fetch-kernel.sh", "--list", DATACRUMBS_KERNEL_DIRECTORY=str(kernels))
    expected = [str(kernels / each / "boot" / f"vmlinuz-{each}") for each in RELEASES]
    assert listed.stdout.splitlines() == expected
    everywhere = run("kernel-vm.sh", "--list", DATACRUMBS_KERNEL_DIRECTORY=str(kernels))
    lines = everywhere.stdout.splitlines()
    assert [line for line in lines if line in expected] == expected


def test_no_kernel_is_an_empty_list(tmp_path: Path) -> None:
    listed = run("fetch-kernel.sh", "--list", DATACRUMBS_KERNEL_DIRECTORY=str(tmp_path / "none"))
    assert (listed.returncode, listed.stdout) == (0, "")


def test_a_machine_without_apt_is_told_so(tmp_path: Path) -> None:
    path = only(tmp_path / "bin", "bash", "sed", "find", "sort")
    fetched = run("fetch-kernel.sh", "sid", PATH=path)
    assert fetched.returncode == MISSING_STATUS
    assert fetched.stderr.startswith("fetch-kernel: skipped: no apt-get\nfetch-kernel: hint: ")


def test_a_machine_without_an_emulator_is_told_so(tmp_path: Path) -> None:
    python = shutil.which("python3") or ""
    path = only(tmp_path / "bin", "bash", "sed", "uname", "dirname", "python3")
    checked = run("kernel-vm.sh", "--check", PATH=path, PYTHON=python)
    assert checked.returncode == MISSING_STATUS
    assert checked.stderr.startswith("kernel-vm: skipped: ")
    assert "kernel-vm: hint: " in checked.stderr


@pytest.mark.parametrize("arguments", [(), ("--no-such-option",)])
def test_wrong_usage_has_status_2(arguments: tuple[str, ...]) -> None:
    assert run("fetch-kernel.sh", *arguments).returncode == 2
