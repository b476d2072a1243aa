"""The checks of style, types, imports, documentation and build, as tests: one list of results."""

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RUNTIME = "packages/datacrumbs-runtime"
UTILS = "packages/datacrumbs-utils"
SCRIPTS = Path(sysconfig.get_path("scripts"))


def check(*argv: str, cwd: Path = ROOT) -> None:
    """Run a program and fail with its output if it fails."""
    completed = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    if completed.returncode != 0:
        pytest.fail(f"{' '.join(argv)}\n{completed.stdout}{completed.stderr}", pytrace=False)


def script(name: str) -> str:
    """Return the path of a program of this Python environment."""
    path = SCRIPTS / name
    if not path.exists():
        pytest.skip(f"{name} is not installed: pip install -r tools/test-requirements.txt")
    return str(path)


def test_style() -> None:
    script("ruff")
    check("env", f"PATH={SCRIPTS}:/usr/local/bin:/usr/bin:/bin", "tools/lint.sh")


@pytest.mark.parametrize("package", [RUNTIME, UTILS])
def test_types(package: str) -> None:
    check(script("mypy"), f"{package}/src", f"{package}/tests")


def test_types_of_tools() -> None:
    check(
        *(script("mypy"), "tests", "benchmarks", f"{RUNTIME}/hatch_build.py"),
        *(f"{RUNTIME}/tools", f"{UTILS}/tools"),
    )


def test_import_contracts() -> None:
    check(script("lint-imports"))


def test_changelog_fragments() -> None:
    check(script("towncrier"), "build", "--draft", "--version", "next")


def test_documentation_builds_without_warnings(tmp_path: Path) -> None:
    check(script("sphinx-build"), "-q", "-n", "-W", "-b", "html", "docs", str(tmp_path / "html"))


def test_manual_page_of_every_command(tmp_path: Path) -> None:
    check(sys.executable, "tools/command_reference.py", "man", str(tmp_path))
    pages = {page.name for page in tmp_path.glob("*.1")}
    assert "datacrumbs_record.1" in pages
    # Its exit status is that of another program.
    assert "COMMAND's own" in (tmp_path / "datacrumbs_record.1").read_text()
    for page in sorted(tmp_path.iterdir()):
        assert page.read_text().startswith(".TH ")


def test_python_layout_matches_event_h() -> None:
    if shutil.which("bpftool") is None and not Path("/usr/sbin/bpftool").exists():
        pytest.skip("bpftool is not installed")
    check(sys.executable, f"{RUNTIME}/tools/gen_event_layout.py", "--check")


def test_client_library(tmp_path: Path) -> None:
    """Configure and build the C client from its sources; ctest finds its tests and runs one."""
    check("cmake", "-S", "packages/datacrumbs-client-c", "-B", str(tmp_path))
    check("cmake", "--build", str(tmp_path))
    ctest = ("ctest", "--test-dir", str(tmp_path), "--output-on-failure", "--no-tests=error")
    # pytest runs all of them anyway.
    check(*ctest, "-R", "^library$")


@pytest.mark.parametrize("target", ["wheel", "sdist"])
def test_distributions_hold_all_parts(tmp_path: Path, target: str) -> None:
    for package in (RUNTIME, UTILS):
        build = (sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(tmp_path))
        check(*build, cwd=ROOT / package)
    if target == "wheel":
        (runtime,) = tmp_path.glob("datacrumbs_runtime-*.whl")
        with zipfile.ZipFile(runtime) as archive:
            names = set(archive.namelist())
        assert "datacrumbs_runtime/bpf/datacrumbs.bpf.o" in names
        assert f"datacrumbs_runtime/trace/_pump{sysconfig.get_config_var('EXT_SUFFIX')}" in names
        assert "-any" not in runtime.name
    else:
        (runtime,) = tmp_path.glob("datacrumbs_runtime-*.tar.gz")
        with tarfile.open(runtime) as archive:
            names = {name.split("/", 1)[1] for name in archive.getnames()}
        assert {"bpf/event.h", "bpf/datacrumbs.bpf.c", "hatch_build.py"} <= names
        assert any(name.startswith("native/") for name in names)
        assert not any(name.endswith((".o", ".so")) for name in names)
