"""Nothing stays behind: many runs one after the other, and many processes within one."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_site import ALICE, SYSCALLS, SYSTEM_PYTHON, Site, new_site

from datacrumbs_runtime.schema.probe_file import Category, ProbeType

pytestmark = pytest.mark.kernel

CYCLES = 50
PROCESSES = 2000
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
        ["bpftool", "-j", kind, "show"], capture_output=True, text=True, check=True, timeout=30
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


def probe_events() -> set[str]:
    """Return the events of tracefs whose process is gone."""
    path = TRACING / "uprobe_events"
    lines = path.read_text().splitlines() if path.exists() else []
    owners = {line: re.search(r":datacrumbs_[0-9]+_([0-9]+)/", line) for line in lines}
    return {
        line
        for line, owner in owners.items()
        if owner is None or not Path("/proc", owner[1]).exists()
    }


def open_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208


def resident_bytes(pid: int) -> int:
    statm = Path(f"/proc/{pid}/statm").read_text().split()
    return int(statm[1]) * os.sysconf("SC_PAGESIZE")


def threads_and_processes() -> int:
    return sum(name.isdecimal() for name in os.listdir("/proc"))  # noqa: PTH208


def test_many_runs_leave_nothing_in_the_kernel_or_on_the_disk(site: Site) -> None:
    library = site.prefix / "lib/libdatacrumbs_client.so.1"
    functions = Category(
        ProbeType.UPROBE, "CLIENT", ("datacrumbs_stop",), binary_path=str(library.resolve())
    )
    probes = site.probe_file(ALICE, [SYSCALLS, functions])
    before = orphans()
    events, processes = probe_events(), threads_and_processes()
    for number in range(CYCLES):
        with site.running(f"run{number}", probes):
            if number % 10 == 0:
                site.workload(ALICE, calls=10)
    deadline = time.monotonic() + 10
    # The kernel frees programs and maps a moment after their last user.
    while (left := orphans() - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == set()
    assert probe_events() <= events
    assert list(site.run_dir.iterdir()) == []
    assert len(site.trace_paths()) == CYCLES
    assert threads_and_processes() < processes + 20


def test_daemon_does_not_grow_with_the_processes_that_it_records(site: Site) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        pid = daemon.process.pid

        def run(count: int) -> None:
            done = site.wrapped(ALICE, SYSTEM_PYTHON, "-c", MANY_PROCESSES, str(count))
            assert done.returncode == 0, done.stderr
            time.sleep(1.2)

        run(PROCESSES)
        descriptors, memory = open_descriptors(pid), resident_bytes(pid)
        run(PROCESSES)
        assert open_descriptors(pid) == descriptors
        # Strings of files that are known already take no more room.
        assert resident_bytes(pid) < memory + (8 << 20)
        assert daemon.status()["lost"] == 0
    lines = site.trace("run1")
    opened = [line for line in lines if line["ph"] == "X" and line["name"] == "open"]
    assert len({line["pid"] for line in opened}) >= 2 * PROCESSES
