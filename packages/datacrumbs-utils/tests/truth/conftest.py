"""Fixtures of the truth tests: what records, and what is recorded."""

import subprocess
from pathlib import Path

import pytest
from recordings import HERE, Recorder


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    """Return what records commands."""
    directory = tmp_path / "traces"
    directory.mkdir()
    return Recorder(directory)


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the compiled programs of these tests."""
    directory = tmp_path_factory.mktemp("programs")
    for source in sorted((HERE / "programs").glob("*.c")):
        target = directory / source.stem
        linking = ["-static"] if source.stem.startswith("static") else []
        subprocess.run(
            ["cc", "-O1", "-pthread", *linking, "-o", target, source], check=True, timeout=60
        )
    return directory
