"""Fixtures of the truth tests: what records, and what is recorded."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_site import open_directory
from recordings import HERE, CommandRecorder, Recorder


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    """Return what records commands."""
    directory = tmp_path / "traces"
    directory.mkdir()
    return CommandRecorder(directory)


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """Return a directory with the programs of these tests, which everybody can run."""
    with open_directory() as directory:
        for source in sorted((HERE / "programs").iterdir()):
            target = directory / source.name
            if source.suffix == ".py":
                shutil.copy(source, target)
            elif source.suffix == ".c":
                target = directory / source.stem
                linking = ["-static"] if source.stem.startswith("static") else []
                subprocess.run(
                    ["cc", "-g", "-O1", "-pthread", *linking, "-o", target, source],
                    check=True,
                    timeout=60,
                )
            else:
                continue
            target.chmod(0o755)
        yield directory
