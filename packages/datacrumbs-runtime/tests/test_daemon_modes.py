"""Trace and profile mode of the daemon, and the switch of a function that drowns the run."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from daemon_site import ALICE, SYSCALLS, SYSTEM_PYTHON, Site, calls_on, new_site
from waiting import wait_until

from datacrumbs_runtime.schema.probe_file import Category

pytestmark = pytest.mark.kernel

# Fast, but not so fast that reading the trace takes long, until there is a file; then slow, until
# there is another one.
BUSY = """
import json, os, sys, time
fd = os.open("/dev/zero", os.O_RDONLY)
calls = 0
while not os.path.exists(sys.argv[1]):
    for _ in range(2000):
        os.pread(fd, 1, 0)
    calls += 2000
    time.sleep(0.02)
while not os.path.exists(sys.argv[2]):
    os.pread(fd, 1, 0)
    calls += 1
    time.sleep(0.02)
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


def slots_of_calls(lines: list[dict[str, Any]], pid: int, name: str) -> Counter[int]:
    """Return how many calls took how long, as powers of two of nanoseconds."""
    calls = [line for line in lines if line["ph"] == "X" and line["pid"] == pid]
    return Counter(line["args"]["ns"].bit_length() - 1 for line in calls if line["name"] == name)


def slots_of_counters(lines: list[dict[str, Any]], pid: int, name: str) -> Counter[int]:
    slots: Counter[int] = Counter()
    for line in lines:
        if line["ph"] == "C" and line["pid"] == pid and line["name"] == name:
            for key, count in line["args"].items():
                if key.startswith("log2_"):
                    slots[int(key.removeprefix("log2_"))] += count
    return slots


def median(slots: Counter[int]) -> int:
    values = sorted(slots.elements())
    return values[len(values) // 2]


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
    # Each run measures the time itself; what interrupts the process may be in one of them only.
    in_trace = slots_of_calls(site.trace("traced"), did["pid"], name)
    in_profile = slots_of_counters(site.trace("counted"), did["pid"], name)
    assert abs(median(in_trace) - median(in_profile)) <= 1


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


def is_traced_again(lines: list[dict[str, Any]]) -> bool:
    switches = [line["args"]["at"] for line in lines if line["name"] == "datacrumbs_mode"]
    times = [line["ts"] for line in lines if line["ph"] == "X"]
    return len(switches) == 2 and min(times) < switches[0] < switches[1] < max(times)


def test_drowning_function_is_counted_for_a_while_and_no_call_is_missed(site: Site) -> None:
    probes = site.probe_file(ALICE)
    slow, over = site.shared / "slow", site.shared / "over"
    with (
        site.running("run1", probes, "--throttle-calls-per-s", "2000") as daemon,
        ThreadPoolExecutor(1) as pool,
    ):
        command = (SYSTEM_PYTHON, "-c", BUSY, str(slow), str(over))
        work = pool.submit(site.wrapped, ALICE, *command)
        try:
            daemon.wait_to_say("counted instead of traced")
            slow.touch()
            daemon.wait_to_say("traced again")
            wait_until(lambda: is_traced_again(site.trace_so_far("run1")))
        finally:
            slow.touch()
            over.touch()
        done = work.result()
        assert done.returncode == 0, done.stderr
        daemon.stop()

    did = json.loads(done.stdout)
    lines = site.trace("run1")
    switches = [line["args"] for line in lines if line["name"] == "datacrumbs_mode"]
    assert [switch["mode"] for switch in switches] == ["profile", "trace"]
    assert all(switch["function"].startswith("pread") for switch in switches)
    assert switches[0]["calls_per_s"] > 2000 == switches[0]["limit_calls_per_s"]
    (name,) = {line["name"] for line in lines if line["ph"] == "C"}
    by_trace, by_profile = traced(lines, did["pid"]), counted(lines, did["pid"])

    total = by_trace[name]["count"] + by_profile[name]["count"]
    assert did["calls"] <= total <= did["calls"] + 20
    assert by_profile[name]["count"] > 0
    assert by_trace[name]["count"] > 0


def test_throttle_can_be_switched_off(site: Site) -> None:
    over = site.shared / "over"
    with (
        site.running("run1", site.probe_file(ALICE), "--throttle-calls-per-s", "0") as daemon,
        ThreadPoolExecutor(1) as pool,
    ):
        work = pool.submit(site.wrapped, ALICE, SYSTEM_PYTHON, "-c", BUSY, str(over), str(over))
        try:
            # It is looked at once a second, as often as the status is written.
            begin_s = daemon.status()["updated"]
            wait_until(lambda: daemon.status()["updated"] > begin_s + 2.5)
        finally:
            over.touch()
        assert work.result().returncode == 0
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
