"""Trace and profile mode of the daemon, and the switch of a function that drowns the run."""

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from daemon_site import ALICE, SYSCALLS, SYSTEM_PYTHON, Site, calls_on, new_site

from datacrumbs_runtime.schema.probe_file import Category

pytestmark = pytest.mark.kernel

# Fast, but not so fast that reading the trace takes long; then slow for a while.
BUSY = """
import json, os, sys, time
fd = os.open("/dev/zero", os.O_RDONLY)
calls = 0
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    for _ in range(2000):
        os.pread(fd, 1, 0)
    calls += 2000
    time.sleep(0.02)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    os.pread(fd, 1, 0)
    calls += 1
    time.sleep(0.01)
print(json.dumps({"pid": os.getpid(), "calls": calls}))
"""


@pytest.fixture
def site() -> Iterator[Site]:
    with new_site() as made:
        yield made


def counted(lines: list[dict[str, Any]], pid: int) -> dict[str, dict[str, int]]:
    """Return the sums of all counter lines of a process by function."""
    sums: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for line in lines:
        if line["ph"] == "C" and line["pid"] == pid:
            for name in ("count", "errors", "bytes", "time_ns"):
                sums[line["name"]][name] += line["args"][name]
            slots = [n for key, n in line["args"].items() if key.startswith("log2_")]
            assert sum(slots) == line["args"]["count"]
            assert line["args"]["min_ns"] <= line["args"]["max_ns"] <= line["args"]["time_ns"]
    return sums


def traced(lines: list[dict[str, Any]], pid: int) -> dict[str, dict[str, int]]:
    """Return the same sums of all calls of a process."""
    sums: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for line in lines:
        if line["ph"] == "X" and line["pid"] == pid:
            result = line["args"].get("ret", 0)
            sums[line["name"]]["count"] += 1
            sums[line["name"]]["errors"] += result < 0
            sums[line["name"]]["time_ns"] += line["args"]["ns"]
            if line["name"] in ("read", "write", "pread", "pread64", "pwrite", "pwrite64"):
                sums[line["name"]]["bytes"] += max(result, 0)
    return sums


def test_sums_of_profile_mode_are_those_of_trace_mode(site: Site) -> None:
    """Two runs side by side see the same process."""
    probes = site.probe_file(ALICE)
    with (
        site.running("traced", probes),
        site.running("counted", probes, "--mode", "profile", "--profile-interval-s", "0.2"),
    ):
        did = site.workload(ALICE, calls=2000, size=300)
    by_trace = traced(site.trace("traced"), did["pid"])
    by_profile = counted(site.trace("counted"), did["pid"])
    assert by_trace.keys() == by_profile.keys()
    for name, sums in by_trace.items():
        for what in ("count", "errors", "bytes"):
            assert by_profile[name][what] == sums[what], (name, what)
    name = "pwrite64" if "pwrite64" in by_profile else "pwrite"
    assert [by_profile[name]["count"], by_profile[name]["bytes"]] == did["done"]["pwrite64"]
    # Each run measures the time itself.
    assert by_profile[name]["time_ns"] == pytest.approx(by_trace[name]["time_ns"], rel=0.5)


def test_profile_mode_writes_no_calls(site: Site) -> None:
    with site.running("run1", site.probe_file(ALICE), "--mode", "profile"):
        did = site.workload(ALICE, calls=200)
    lines = site.trace("run1")
    assert not [line for line in lines if line["ph"] == "X"]
    assert counted(lines, did["pid"])


def test_categories_of_one_run_have_modes_of_their_own(site: Site) -> None:
    writes = Category(SYSCALLS.type, "WRITES", ("pwrite64",), mode="profile")
    reads = Category(SYSCALLS.type, "READS", ("pread64", "openat"), mode="trace")
    with site.running("run1", site.probe_file(ALICE, [writes, reads])):
        did = site.workload(ALICE, calls=300)
    lines = site.trace("run1")
    assert calls_on(lines, did["pid"], did["path"])["pread64"] == did["done"]["pread64"]
    assert {line["cat"] for line in lines if line["ph"] == "C"} == {"WRITES"}
    ((sums),) = counted(lines, did["pid"]).values()
    assert [sums["count"], sums["bytes"]] == did["done"]["pwrite64"]


def test_drowning_function_is_counted_for_a_while_and_no_call_is_missed(site: Site) -> None:
    probes = site.probe_file(ALICE)
    with site.running("run1", probes, "--throttle-calls-per-s", "20000") as daemon:
        done = site.wrapped(ALICE, SYSTEM_PYTHON, "-c", BUSY, "3", "9")
        assert done.returncode == 0, done.stderr
        daemon.stop()
        assert "counted instead of traced" in daemon.output()
        assert "traced again" in daemon.output()

    did = json.loads(done.stdout)
    lines = site.trace("run1")
    switches = [line["args"] for line in lines if line["name"] == "datacrumbs_mode"]
    assert [switch["mode"] for switch in switches] == ["profile", "trace"]
    assert all(switch["function"].startswith("pread") for switch in switches)
    assert switches[0]["calls_per_s"] > 20000 == switches[0]["limit_calls_per_s"]
    (name,) = {line["name"] for line in lines if line["ph"] == "C"}
    by_trace, by_profile = traced(lines, did["pid"]), counted(lines, did["pid"])

    total = by_trace[name]["count"] + by_profile[name]["count"]
    assert did["calls"] <= total <= did["calls"] + 20
    assert by_profile[name]["count"] > 20000
    # Traced at the beginning and again at the end.
    assert by_trace[name]["count"] > 100


def test_throttle_can_be_switched_off(site: Site) -> None:
    with site.running("run1", site.probe_file(ALICE), "--throttle-calls-per-s", "0"):
        done = site.wrapped(ALICE, SYSTEM_PYTHON, "-c", BUSY, "2", "0")
        assert done.returncode == 0
    lines = site.trace("run1")
    assert not [line for line in lines if line["ph"] == "C" or line["name"] == "datacrumbs_mode"]


def test_only_files_below_the_inclusion_paths_are_in_the_trace(site: Site) -> None:
    with site.running("run1", site.probe_file(ALICE), "--inclusion-paths", str(site.shared)):
        did = site.workload(ALICE, calls=50)
    lines = site.trace("run1")
    found = calls_on(lines, did["pid"], did["path"])
    assert {name: found[name] for name in did["done"]} == did["done"]
    files = {line["args"]["name"] for line in lines if line["name"] == "FH"}
    assert files == {did["path"]}
