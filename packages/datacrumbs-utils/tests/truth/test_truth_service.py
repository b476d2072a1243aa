"""The service under a real systemd, in every mode, against strace's log of the same processes."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import three_modes
from service_recorder import ServiceRecorder
from systemd_container import Container, booted
from workloads import WORKLOADS, recorded_with_witness

pytestmark = pytest.mark.kernel

# Those that need no more than the container has.
NAMES = (
    "pipeline of five processes without environment",
    "static binary",
    "python threads and forked processes",
    "sqlite",
)


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    with booted() as made:
        yield made


@pytest.fixture(scope="module")
def services(container: Container) -> ServiceRecorder:
    return ServiceRecorder(container, three_modes.RUNS)


@pytest.fixture(scope="module")
def programs_there(container: Container, programs: Path) -> Path:
    return Path(shutil.copytree(programs, container.shared / "programs"))


@pytest.mark.parametrize("name", NAMES)
def test_every_mode_equals_strace(
    name: str, services: ServiceRecorder, container: Container, programs_there: Path
) -> None:
    directory = container.shared / f"work{NAMES.index(name)}"
    directory.mkdir()
    recording = recorded_with_witness(name, services, programs_there, directory)
    three_modes.require_equal(recording, WORKLOADS[name][1])
