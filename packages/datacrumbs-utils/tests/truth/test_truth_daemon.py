"""The daemon in every mode against strace's log of the very same processes, which are a user's."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import three_modes
from daemon_recorder import DaemonRecorder
from daemon_site import ALICE, Site, new_site
from workloads import WORKLOADS, recorded_with_witness

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with new_site() as made:
        yield made


@pytest.fixture(scope="module")
def daemons(site: Site) -> DaemonRecorder:
    return DaemonRecorder(site, ALICE, three_modes.RUNS)


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_mode_equals_strace(
    name: str, daemons: DaemonRecorder, site: Site, programs: Path
) -> None:
    directory = site.shared / f"work{list(WORKLOADS).index(name)}"
    directory.mkdir()
    recording = recorded_with_witness(name, daemons, programs, directory)
    three_modes.require_equal(recording, WORKLOADS[name][1])
