"""The daemon in every mode against strace's log of the very same processes, which are a user's."""

from collections.abc import Iterator
from pathlib import Path

import profiles
import pytest
import three_modes
from daemon_recorder import DaemonRecorder
from daemon_site import ALICE, Site, new_site
from three_modes import POSIX, Run
from workloads import WORKLOADS, recorded_with_witness

pytestmark = pytest.mark.kernel

# About half of the calls take less.
THRESHOLD_NS = 2_000


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


@pytest.mark.parametrize("name", ["python threads and forked processes", "git"])
def test_calls_below_the_threshold_are_counted(name: str, site: Site, programs: Path) -> None:
    number = list(WORKLOADS).index(name)
    runs = (
        Run(f"all{number}", POSIX),
        Run(f"long{number}", POSIX, threshold_ns=THRESHOLD_NS),
    )
    directory = site.shared / f"threshold{number}"
    directory.mkdir()
    workload, _ = WORKLOADS[name]
    recording = DaemonRecorder(site, ALICE, runs)(workload(programs, directory), cwd=directory)
    assert recording.status == 0
    (long,) = recording.others.values()
    assert all(event.arguments["ns"] >= THRESHOLD_NS for event in long.events)
    assert all(line["args"]["max_ns"] < THRESHOLD_NS for line in long.counters)
    sums = profiles.added(profiles.of_counters(long.counters), profiles.of_events(long.events))
    assert sums == profiles.of_events(recording.trace.events)
    assert min(len(long.events), len(recording.trace.events) - len(long.events)) > 100
