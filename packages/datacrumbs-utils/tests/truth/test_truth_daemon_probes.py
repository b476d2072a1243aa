"""Functions, USDT probes and tracepoints under the daemon, against the program's own books."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import profiles
import pytest
from daemon_recorder import DaemonRecorder
from daemon_site import ALICE, Site, new_site
from profiles import Sums
from recordings import Recording
from three_modes import Run
from trace_file import Event

from datacrumbs_runtime.schema.probe_file import Category, plain_symbol
from datacrumbs_utils.recording import probes

pytestmark = pytest.mark.kernel

TIERS = ("uprobe.session", "uprobe.multi", "uprobe.tracefs", "uprobe.perf")
ROUNDS, PROCESSES, THREADS = 300, 3, 4
SIGUSR1 = 10
# Of recordings: in another order of the tests a tier may be recorded again.
NUMBERS = itertools.count(1)
CONFIGURATION = """
capture_probes:
  - name: FUNCTIONS
    probe: uprobe
    type: binary
    file: {program}
    regex: (add|say|refuse|depth|leap|around)
    mode: {functions_mode}
  - name: MARKS
    probe: usdt
    type: usdt
    binary_path: {program}
    provider: own
    function_arguments:
      step: [int number, const char *text]
      mark: [int number, const char *text]
    mode: {marks_mode}
  - name: KERNEL
    probe: tracepoint
    type: btf
    regex: signal_generate
    mode: {kernel_mode}
"""
NAMES = {"add", "say", "refuse", "depth", "leap", "around", "step", "mark", "signal_generate"}


def discovered(site: Site, program: Path, *modes: str) -> tuple[Category, ...]:
    """Return what a host configuration selects."""
    names = ("functions_mode", "marks_mode", "kernel_mode")
    text = CONFIGURATION.format(program=program, **dict(zip(names, modes, strict=True)))
    path = site.shared / "host.yaml"
    path.write_text(text)
    found = probes.load(str(path))
    functions = [name for each in found.probe_file.categories for name in each.functions]
    assert {plain_symbol(name).rpartition(":")[2] for name in functions} == NAMES
    return found.probe_file.categories


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with new_site() as made:
        yield made


@pytest.fixture(scope="module", params=TIERS)
def recording(site: Site, programs: Path, request: pytest.FixtureRequest) -> Recording:
    tier: str = request.param
    program = programs / "own_probes"
    name = f"{tier.partition('.')[2]}-{next(NUMBERS)}"
    runs = (
        Run(f"traced-{name}", discovered(site, program, "trace", "trace", "trace")),
        Run(f"counted-{name}", discovered(site, program, "profile", "profile", "profile")),
        Run(f"mixed-{name}", discovered(site, program, "profile", "trace", "profile")),
    )
    recorder = DaemonRecorder(site, ALICE, runs)
    command = [str(program), str(ROUNDS), str(PROCESSES), str(THREADS)]
    made = recorder(command, options=["--max-tier", tier])
    assert made.status == 0
    for trace in (made.trace, *made.others.values()):
        # A kernel that lacks it takes one below.
        assert trace.metadata["datacrumbs"][0]["tier_uprobe"] in TIERS[TIERS.index(tier) :]
    return made


def books(recording: Recording) -> dict[profiles.Key, Sums]:
    """Return what every process says that it did."""
    lines = [line.split() for line in recording.stdout.splitlines()]
    return {
        (int(process), name): Sums(int(calls), int(errors))
        for process, name, calls, errors in lines
    }


def sums_of(events: list[Event]) -> dict[profiles.Key, Sums]:
    sums: dict[profiles.Key, Sums] = defaultdict(Sums)
    for event in events:
        found = sums[event.process, event.name]
        found.count += 1
        found.errors += event.name == "refuse" and event.result == -1
    return dict(sums)


def without_signals(sums: dict[profiles.Key, Sums]) -> dict[profiles.Key, Sums]:
    return {key: one for key, one in sums.items() if not key[1].startswith("signal")}


def test_every_mode_has_what_the_program_did(recording: Recording) -> None:
    own = books(recording)
    assert len(own) == PROCESSES * len(NAMES)
    assert own[next(iter(own))[0], "add"].count == ROUNDS * THREADS

    events = recording.trace.events
    traced = sums_of(events)
    assert without_signals(traced) == without_signals(own)
    signals = Counter(
        event.process
        for event in events
        if event.name == "signal_generate" and event.arguments["sig"] == SIGUSR1
    )
    assert signals == {key[0]: one.count for key, one in own.items() if key[1] == "signal"}

    counted, mixed = recording.others.values()
    assert counted.events == []
    assert profiles.of_counters(counted.counters) == traced

    assert {event.category for event in mixed.events} == {"MARKS"}
    assert {line["cat"] for line in mixed.counters} == {"FUNCTIONS", "KERNEL"}
    assert sums_of(mixed.events) | profiles.of_counters(mixed.counters) == traced


def test_every_argument_and_result_is_right(recording: Recording) -> None:
    by_thread: dict[tuple[int, str], list[Event]] = defaultdict(list)
    for event in sorted(recording.trace.events, key=lambda event: event.start_us):
        by_thread[event.thread, event.name].append(event)
    threads = {thread for thread, name in by_thread if name == "add"}
    assert len(threads) == PROCESSES * THREADS
    for thread in threads:
        for name, expected in expected_calls().items():
            found = [(dict(event.arguments) | {"ns": 0}) for event in by_thread[thread, name]]
            for arguments in found:
                arguments.pop("back", None)  # a pointer
            assert found == expected, name
        ends = [event.start_us + event.duration_us for event in by_thread[thread, "step"]]
        for event, end in zip(by_thread[thread, "step"], ends, strict=True):
            number = event.arguments["number"]
            (inner,) = by_thread[thread, "add"][number : number + 1]
            assert event.start_us <= inner.start_us <= inner.start_us + inner.duration_us <= end


def expected_calls() -> dict[str, list[dict[str, object]]]:
    rounds = range(ROUNDS)
    texts = [f'round "{i}"' for i in rounds]
    return {
        "add": [{"first": i, "second": -i - 2, "ret": -2, "ns": 0} for i in rounds],
        "say": [
            {"text": texts[i], "letter": 200, "big": 1 << 40, "ret": 314 + (1 << 40), "ns": 0}
            for i in rounds
        ],
        "refuse": [{"number": i, "ret": i if i % 3 else -1, "ns": 0} for i in rounds],
        "around": [{"number": i, "ret": i if i % 4 else -2, "ns": 0} for i in rounds],
        "leap": [{"number": i, "ret": i, "ns": 0} for i in rounds if i % 4],
        "step": [{"number": i, "text": texts[i], "ns": 0} for i in rounds],
        "mark": [{"number": -i, "text": texts[i], "ns": 0} for i in rounds],
    }
