"""The daemon in every mode against strace's log of the very same processes, which are a user's."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import comparison
import profiles
import pytest
from daemon_recorder import DaemonRecorder, DaemonRun
from daemon_site import ALICE, Site, new_site
from workloads import WORKLOADS, recorded_with_witness

from datacrumbs_utils.recording import probes

pytestmark = pytest.mark.kernel

POSIX = probes.load("posix").probe_file.categories
# The same calls in two categories, of which one says that it is counted.
DATA = tuple(name for name in POSIX[0].functions if comparison.moves_bytes(name))
NAMES = tuple(name for name in POSIX[0].functions if name not in DATA)
MIXED = (
    replace(POSIX[0], name="DATA", functions=DATA, mode="profile"),
    replace(POSIX[0], name="NAMES", functions=NAMES),
)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with new_site() as made:
        yield made


@pytest.fixture(scope="module")
def daemons(site: Site) -> DaemonRecorder:
    runs = (
        DaemonRun("traced", POSIX),
        DaemonRun("counted", POSIX, "profile"),
        DaemonRun("mixed", MIXED),
    )
    return DaemonRecorder(site, ALICE, runs)


@pytest.fixture
def work(site: Site, request: pytest.FixtureRequest) -> Path:
    """A directory that everybody can enter."""
    path = site.shared / f"work{list(WORKLOADS).index(request.node.callspec.params['name'])}"
    path.mkdir()
    return path


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_mode_equals_strace(
    name: str, daemons: DaemonRecorder, programs: Path, work: Path
) -> None:
    recording = recorded_with_witness(name, daemons, programs, work)
    trace, calls = recording.trace, recording.calls
    report = comparison.require_equal(trace, calls, WORKLOADS[name][1])

    counted = recording.others["counted"]
    assert counted.events == []
    assert report.calls == profiles.require_equal(
        counted.counters, trace.events, calls, report.before
    )

    mixed = recording.others["mixed"]
    named = comparison.compare(mixed, [call for call in calls if call.name in NAMES])
    assert named.differences == []
    assert {line["cat"] for line in mixed.counters} == {"DATA"}
    in_bytes = profiles.require_equal(
        mixed.counters,
        [event for event in trace.events if event.system_call in DATA],
        [call for call in calls if call.name in DATA],
        [event for event in report.before if event.system_call in DATA],
    )
    assert in_bytes + named.calls == report.calls
