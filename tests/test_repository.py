"""Rules about the repository itself that no linter knows."""

import ast
import dataclasses
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli

from datacrumbs_runtime.trace.losses import Losses

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "datacrumbs_runtime": ROOT / "packages/datacrumbs-runtime",
    "datacrumbs_utils": ROOT / "packages/datacrumbs-utils",
}
# What the utilities may import of the runtime.
SHARED = {"schema", "errors", "process", "cli", "engine"}
# Modules whose distribution has another name.
DISTRIBUTIONS = {
    "clang": "libclang",
    "datacrumbs_runtime": "datacrumbs-runtime",
    "yaml": "PyYAML",
}
# Imported where they are installed: bcc comes with the distribution, the rest with extras.
OPTIONAL = {"bcc", "polars", "flux"}


def modules(package: str) -> Iterator[Path]:
    """Yield the Python files of a package."""
    return (PACKAGES[package] / "src" / package).rglob("*.py")


def imports(path: Path) -> set[str]:
    """Return the absolute names of all modules that a file imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def project(package: str) -> dict[str, Any]:
    """Return the table [project] of a package's pyproject.toml."""
    table: dict[str, Any] = tomli.loads((PACKAGES[package] / "pyproject.toml").read_text())[
        "project"
    ]
    return table


def test_schema_imports_the_standard_library_and_errors_only() -> None:
    allowed = sys.stdlib_module_names | {"datacrumbs_runtime"}
    for path in (PACKAGES["datacrumbs_runtime"] / "src/datacrumbs_runtime/schema").rglob("*.py"):
        for name in imports(path):
            parts = name.split(".")
            assert parts[0] in allowed, f"{path}: {name}"
            if parts[0] == "datacrumbs_runtime":
                assert parts[1] in {"schema", "errors"}, f"{path}: {name}"


def test_utilities_import_only_what_the_runtime_shares() -> None:
    for path in modules("datacrumbs_utils"):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "datacrumbs_runtime" and parts[1:] != ["__version__"]:
                assert parts[1] in SHARED, f"{path}: {name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_dependencies_are_what_is_imported(package: str) -> None:
    declared = {
        re.split(r"[<>=!\[ ;]", requirement)[0].lower()
        for requirement in project(package)["dependencies"]
    }
    used = {name.split(".")[0] for path in modules(package) for name in imports(path)}
    foreign = used - sys.stdlib_module_names - {package} - OPTIONAL
    assert declared == {DISTRIBUTIONS.get(name, name).lower() for name in foreign}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_command_module_is_an_installed_command(package: str) -> None:
    directory = PACKAGES[package] / "src" / package / "commands"
    names = {path.stem for path in directory.glob("*.py")} - {"__init__"}
    scripts = project(package)["scripts"]
    assert scripts == {name: f"{package}.commands.{name}:main" for name in names}


@pytest.mark.parametrize("package", PACKAGES)
def test_installed_commands_are_those_of_the_sources(package: str) -> None:
    installed = {
        script.name
        for script in importlib.metadata.distribution(package).entry_points
        if script.group == "console_scripts"
    }
    assert installed == set(project(package)["scripts"]), "install the package again"


def test_both_packages_have_one_version() -> None:
    versions = {importlib.metadata.version(package) for package in PACKAGES}
    assert len(versions) == 1


def test_no_file_of_a_build_is_committed() -> None:
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    built = re.compile(r"\.(o|so|pyc|pfw\.gz)$|(^|/)(__pycache__|\.venv|dist)/|\.egg-info/")
    assert [name for name in files if built.search(name) and "/tests/" not in name] == []


def test_every_loss_counter_is_documented() -> None:
    page = (ROOT / "docs/formats/trace.md").read_text()
    for field in dataclasses.fields(Losses):
        assert f"| `{field.name}` |" in page
