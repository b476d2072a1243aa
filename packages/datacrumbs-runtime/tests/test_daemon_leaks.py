"""Nothing stays behind: many runs one after the other, and many processes within one."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_site import ALICE, SYSCALLS, SYSTEM_PYTHON, Site, new_site
from waiting import HANG_S, wait_until

from datacrumbs_runtime.schema.probe_file import Category, ProbeType

pytestmark = pytest.mark.kernel

# As many as an installation sees in a day or so, or enough of them for every day.
SOAK = "DATACRUMBS_TEST_SOAK" in os.environ
CYCLES = 200 if SOAK else 20
PROCESSES = 50_000 if SOAK else 2000
HELD = re.compile(r"^(link|prog|map)_id:\s*([0-9]+)$", re.MULTILINE)
TRACING = Path("/sys/kernel/tracing")

# Children that exec something small, several at a time.
MANY_PROCESSES = """
import os, sys
left, alive = int(sys.argv[1]), 0
while left or alive:
    while left and alive < 8:
        if os.posix_spawn("/bin/true", ["true"], {}):
            left, alive = left - 1, alive + 1
    os.wait()
    alive -= 1
"""


@pytest.fixture
def site() -> Iterator[Site]:
    with new_site() as made:
        yield made


def shown(kind: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        ["bpftool", "-j", kind, "show"], capture_output=True, text=True, check=True, timeout=HANG_S
    )
    objects: list[dict[str, Any]] = json.loads(done.stdout)
    return objects


def held_ids() -> set[tuple[str, int]]:
    """Return the BPF objects that processes hold by descriptor: kind and id."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/fdinfo/*"):
        try:
            text = path.read_text()
        except OSError:
            continue
        found |= {(kind, int(number)) for kind, number in HELD.findall(text)}
    return found


def orphans() -> set[tuple[str, int]]:
    """Return the BPF objects that no process of this machine holds."""
    objects = {kind: shown(kind) for kind in ("link", "prog", "map")}
    held = held_ids()
    held |= {
        ("map", number)
        for program in objects["prog"]
        if ("prog", int(program["id"])) in held
        for number in program.get("map_ids", [])
    }
    existing = {(kind, int(item["id"])) for kind, items in objects.items() for item in items}
    return existing - held


def probe_events(processes: set[int]) -> set[str]:
    """Return the events of tracefs that some processes have made."""
    path = TRACING / "uprobe_events"
    lines = path.read_text().splitlines() if path.exists() else []
    owners = {line: re.search(r":datacrumbs_[0-9]+_([0-9]+)/", line) for line in lines}
    return {line for line, owner in owners.items() if owner and int(owner[1]) in processes}


def open_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208


def resident_bytes(pid: int) -> int:
    statm = Path(f"/proc/{pid}/statm").read_text().split()
    return int(statm[1]) * os.sysconf("SC_PAGESIZE")


def with_children(pid: int) -> set[tuple[int, str]]:
    """Return a process and its children, each with the time of its start."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {(each, started(each)) for each in (pid, *map(int, children))} - {(pid, "")}


def started(pid: int) -> str:
    """Return when a process was started, which no other of its number was; "": it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_many_runs_leave_nothing_in_the_kernel_or_on_the_disk(site: Site) -> None:
    library = site.prefix / "lib/libdatacrumbs_client.so.1"
    functions = Category(
        ProbeType.UPROBE, "CLIENT", ("datacrumbs_stop",), binary_path=str(library.resolve())
    )
    probes = site.probe_file(ALICE, [SYSCALLS, functions])
    before = orphans()
    processes: set[tuple[int, str]] = set()
    for number in range(CYCLES):
        with site.running(f"run{number}", probes) as daemon:
            processes |= with_children(daemon.process.pid)
            if number % 10 == 0:
                site.workload(ALICE, calls=10)
    # The kernel frees programs and maps a moment after their last user. Those of others on this
    # machine come and go: only what stays is left behind.
    left = orphans() - before
    wait_until(lambda: not left & orphans(), lambda: left & orphans())
    assert probe_events({pid for pid, _ in processes}) == set()
    assert list(site.run_dir.iterdir()) == []
    assert len(site.trace_paths()) == CYCLES
    assert len(processes) >= 2 * CYCLES
    assert {pid for pid, begin in processes if started(pid) == begin} == set()


def test_daemon_does_not_grow_with_the_processes_that_it_records(site: Site) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        pid = daemon.process.pid

        def run(count: int) -> None:
            done = site.wrapped(ALICE, SYSTEM_PYTHON, "-c", MANY_PROCESSES, str(count))
            assert done.returncode == 0, done.stderr
            seen: list[tuple[float, int]] = []

            # Until a status tells of no more calls than the one before.
            def is_quiet() -> bool:
                status = daemon.status()
                if (status["updated"], status["events"]) not in seen:
                    seen.append((status["updated"], status["events"]))
                return len(seen) > 1 and seen[-1][1] == seen[-2][1]

            wait_until(is_quiet)

        run(PROCESSES)
        descriptors, memory = open_descriptors(pid), resident_bytes(pid)
        run(PROCESSES)
        # One more while it writes its status.
        wait_until(lambda: open_descriptors(pid) == descriptors)
        # Strings of files that are known already take no more room.
        assert resident_bytes(pid) < memory + (8 << 20)
        assert daemon.status()["lost"] == 0
    lines = site.trace("run1")
    [cache] = (
        line["args"]["value"]
        for line in lines
        if line["name"] == "FH" and line["args"]["name"] == "/etc/ld.so.cache"
    )
    loaded = [line for line in lines if line["name"] == "open" and line["args"]["fhash"] == cache]
    # The program that starts the others is one itself. Numbers of processes are used again.
    assert len(loaded) >= 2 * PROCESSES
    assert SOAK or len({line["pid"] for line in loaded}) >= 2 * PROCESSES
