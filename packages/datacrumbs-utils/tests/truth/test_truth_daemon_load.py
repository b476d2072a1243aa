"""As many calls as two processors can make, under the daemon: no call is uncounted in any mode."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trace_file
from daemon_recorder import report_of
from daemon_site import ALICE, RunningDaemon, Site, new_site
from profiles import Sums, of_counters
from recordings import require
from three_modes import POSIX

from datacrumbs_runtime.engine import RunSettings

pytestmark = pytest.mark.kernel

WRITES, PROCESSES = 200_000, 2
JOBS, BLOCK = 4, 512
FORKS, CALLS_OF_FORK = 3_200, 22
# Sums change hands often; nothing is counted instead of traced.
OPTIONS = ("--profile-interval-s", "0.05", "--throttle-calls-per-s", "0")


@pytest.fixture
def site() -> Iterator[Site]:
    with new_site() as made:
        yield made


def trace_of(site: Site, run_id: str) -> trace_file.Trace:
    (path,) = [path for path in site.trace_paths() if f"-{run_id}-" in path.name]
    return trace_file.read(path)


def losses_of(trace: trace_file.Trace) -> Mapping[str, int]:
    losses: Mapping[str, int] = report_of(trace)["losses"]
    return losses


def stop(*daemons: RunningDaemon) -> list[int]:
    for daemon in daemons:
        daemon.stop()
    return [daemon.process.returncode for daemon in daemons]


def test_profile_has_every_call_and_trace_says_which_it_has_not(site: Site, programs: Path) -> None:
    probes = site.probe_file(ALICE, POSIX)
    small = ("--ring-buffer-bytes", "16K")
    with (
        site.running("counted", probes, "--mode", "profile", *OPTIONS) as counting,
        site.running("traced", probes, *small, *OPTIONS) as tracing,
    ):
        target = site.shared / "target"
        done = site.wrapped(
            ALICE, str(programs / "many_writes"), str(target), str(WRITES), str(PROCESSES)
        )
        assert done.returncode == 0, done.stderr
        assert stop(counting, tracing) == [0, 0]

    counted = trace_of(site, "counted")
    sums = of_counters(counted.counters)
    writes = [one for (_, name), one in sums.items() if name == "pwrite64"]
    assert writes == [Sums(WRITES, 0, 8 * WRITES)] * PROCESSES
    assert losses_of(counted)["counted"] == sum(one.count for one in sums.values())
    assert report_of(counted)["complete"]

    traced = trace_of(site, "traced")
    losses = losses_of(traced)
    assert losses["ring_full"] > 0
    assert losses["written"] == len(traced.events)
    assert losses["offered"] == losses["written"] + losses["ring_full"]
    # Both saw the same processes.
    assert losses["entered"] == losses_of(counted)["entered"]


def test_threads_of_one_process_are_added_up(site: Site) -> None:
    require("fio")
    options = ("--mode", "profile", *OPTIONS)
    with site.running("counted", site.probe_file(ALICE, POSIX), *options) as daemon:
        command = (
            *("fio", "--name=job", "--thread", f"--numjobs={JOBS}", "--ioengine=psync"),
            *(f"--bs={BLOCK}", "--size=2M", "--rw=randwrite", "--output-format=json"),
        )
        directory = site.shared / "work"
        directory.mkdir(mode=0o777)
        directory.chmod(0o777)
        done = site.wrapped(ALICE, *command, cwd=directory)
        assert done.returncode == 0, done.stderr
        assert stop(daemon) == [0]
    jobs: list[dict[str, Any]] = json.loads(done.stdout)["jobs"]
    assert len(jobs) == JOBS
    sums = of_counters(trace_of(site, "counted").counters)
    (found,) = [one for (_, name), one in sums.items() if name == "pwrite64"]
    calls = sum(job["write"]["total_ios"] for job in jobs)
    assert found == Sums(calls, 0, BLOCK * calls)


def test_no_interval_is_too_long_for_many_processes(site: Site, programs: Path) -> None:
    """The kernel has room for fewer sums than there are here in one interval."""
    options = ("--mode", "profile", "--profile-interval-s", "30")
    with site.running("counted", site.probe_file(ALICE, POSIX), *options) as daemon:
        done = site.wrapped(ALICE, str(programs / "many_processes"), str(FORKS), "1200")
        assert done.returncode == 0, done.stderr
        assert stop(daemon) == [0]
    assert RunSettings().profile_entries < FORKS * CALLS_OF_FORK
    counted = trace_of(site, "counted")
    assert report_of(counted)["complete"], losses_of(counted)
    children = Counter(process for process, _ in of_counters(counted.counters))
    assert [kinds for kinds in children.values() if kinds == CALLS_OF_FORK] == (
        [CALLS_OF_FORK] * FORKS
    )
