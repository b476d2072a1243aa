"""Calls into real libraries under the daemon, in both modes, against the callers' own books."""

import shlex
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import profiles
import pytest
from daemon_recorder import DaemonRecorder
from daemon_site import ALICE, Site, new_site
from profiles import Sums
from recordings import HERE, Recording, require
from three_modes import Run
from trace_file import Event

from datacrumbs_utils.recording import probes

pytestmark = pytest.mark.kernel

ROWS, CALLS, RANKS = 200, 150, 2
HDF5 = """
capture_probes:
  - name: HDF5
    probe: uprobe
    type: binary
    file: soname:{soname}
    regex: H5([FD]create2?|Dopen2|D(read|write)|[FDS]close|S(create_simple|select_hyperslab))
"""
MPI = """
include: [posix]
capture_probes:
  - name: MPI
    probe: uprobe
    type: binary
    file: soname:{soname}
    regex: MPI_(Init|Finalize|Barrier|File_(open|close|read_at|write_at))
"""
PYTHON = """
capture_probes:
  - name: PYTHON
    probe: usdt
    type: usdt
    binary_path: {python}
    provider: python
    regex: (audit|gc__(start|done))
"""
PYTHON_PROGRAM = """
import gc, sys
gc.disable()
for number in range(int(sys.argv[1])):
    sys.audit("own.event", number)
for number in range(int(sys.argv[2])):
    gc.collect()
"""


@pytest.fixture
def site() -> Iterator[Site]:
    with new_site() as made:
        yield made


def traced_and_counted(site: Site, probes_of: str) -> DaemonRecorder:
    """Return what records a built-in set or the text of a configuration in both modes."""
    if "\n" in probes_of:
        path = site.shared / "host.yaml"
        path.write_text(probes_of)
        probes_of = str(path)
    categories = probes.load(probes_of).probe_file.categories
    runs = (Run("traced", categories), Run("counted", categories, "profile"))
    return DaemonRecorder(site, ALICE, runs)


def compiled(site: Site, name: str, *options: str, compiler: str = "cc") -> Path:
    program = site.shared / name
    source = HERE / f"programs/libraries/{name}.c"
    subprocess.run([compiler, "-O1", "-o", program, source, *options], check=True, timeout=60)
    program.chmod(0o755)
    return program


def soname(program: Path, name: str) -> str:
    """Return the name of a library that a program needs."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if name in line]
    return line.split()[0]


def books(recording: Recording) -> dict[profiles.Key, Sums]:
    """Return what every process says that it did."""
    lines = [line.split() for line in recording.stdout.splitlines()]
    return {(int(line[0]), line[1]): Sums(*map(int, line[2:])) for line in lines}


def sums_of(events: list[Event], is_error: Callable[[Event], bool]) -> dict[profiles.Key, Sums]:
    sums: dict[profiles.Key, Sums] = defaultdict(Sums)
    for event in events:
        found = sums[event.process, event.name]
        found.count += 1
        found.errors += is_error(event)
    return dict(sums)


def test_hdf5(site: Site) -> None:
    require("pkg-config", "cc")
    found = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "hdf5"], capture_output=True, text=True, check=False
    )
    if found.returncode:
        pytest.skip("HDF5 is not installed")
    program = compiled(site, "hdf5_rows", *shlex.split(found.stdout))
    recorder = traced_and_counted(site, HDF5.format(soname=soname(program, "libhdf5")))
    recording = recorder([program, site.shared / "daemon-traces/rows.h5", str(ROWS)])
    assert recording.status == 0
    own = books(recording)
    events = recording.trace.events
    assert sums_of(events, lambda event: (event.result or 0) < 0) == own
    assert profiles.of_counters(recording.others["counted"].counters) == own


def test_mpi_io_of_several_ranks(site: Site) -> None:
    require("mpicc", "mpirun")
    program = compiled(site, "mpi_file", compiler="mpicc")
    recorder = traced_and_counted(site, MPI.format(soname=soname(program, "libmpi.so")))
    target = site.shared / "daemon-traces/ranks"
    command: Sequence[str | Path] = (
        *("mpirun", "--oversubscribe", "-np", str(RANKS), program, target, str(CALLS)),
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(recorder.directory)}
    recording = recorder(command, env=environment)
    assert recording.status == 0
    own = books(recording)
    assert len({process for process, _ in own}) == RANKS
    events = [event for event in recording.trace.events if event.category == "MPI"]
    assert sums_of(events, lambda _: False) == own
    counted = recording.others["counted"].counters
    assert profiles.of_counters(each for each in counted if each["cat"] == "MPI") == own
    # and every rank's bytes reach the file through the calls below
    moved: Counter[tuple[int, bool]] = Counter()
    for event in recording.trace.events:
        if event.file == str(target) and event.name in profiles.TRANSFERS:
            moved[event.process, "write" in event.name] += max(event.result or 0, 0)
    ranks = {process for process, _ in own}
    assert moved == {(rank, wrote): CALLS * 1000 for rank in ranks for wrote in (False, True)}


def test_streams_of_the_c_library(site: Site, programs: Path) -> None:
    recorder = traced_and_counted(site, "stdio")
    recording = recorder([programs / "stdio_calls", recorder.directory / "target"])
    assert recording.status == 0
    logged = [line.split() for line in recording.stdout.splitlines()]
    own = Counter(name for name, _ in logged)
    # getline() calls getdelim() in the library
    own["getdelim"] += own["getline"]
    assert Counter(event.name for event in recording.trace.events) == own
    counted = {
        name: sums
        for (_, name), sums in profiles.of_counters(recording.others["counted"].counters).items()
    }
    assert {name: sums.count for name, sums in counted.items()} == own
    # whole items only, as the caller was told
    item_bytes = {"fwrite": 100, "fread": 1000}
    for name, size in item_bytes.items():
        assert counted[name].bytes == size * sum(int(n) for each, n in logged if each == name)
    assert counted["fopen"].errors == sum(
        result == "0" for name, result in logged if name == "fopen"
    )


def test_marks_of_python(site: Site) -> None:
    """Not those of functions: Python 3.11 marks more ends than begins."""
    python = Path("/usr/bin/python3").resolve()
    notes = subprocess.run(["readelf", "-n", python], capture_output=True, text=True, check=False)
    if "gc__start" not in notes.stdout:
        pytest.skip("this Python has no USDT probes")
    recorder = traced_and_counted(site, PYTHON.format(python=python))
    few, many = (
        recorder([python, "-S", "-E", "-c", PYTHON_PROGRAM, *numbers])
        for numbers in (("100", "7"), ("300", "17"))
    )
    assert few.status == many.status == 0
    made = Counter(event.name for event in many.trace.events)
    # What the interpreter does of its own accord it does both times.
    made.subtract(event.name for event in few.trace.events)
    assert made == {"audit": 200, "gc__start": 10, "gc__done": 10}
    for recording in (few, many):
        traced = sums_of(recording.trace.events, lambda _: False)
        assert profiles.of_counters(recording.others["counted"].counters) == traced
