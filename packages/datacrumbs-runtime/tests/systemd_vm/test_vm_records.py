"""The service under systemd on a kernel with kprobes and cgroup v2: what its traces say."""

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import vm_workload
from virtual_machine import VirtualMachine
from vm_root import PREFIX
from vm_service import (
    RUN_DIR,
    WRAP,
    Line,
    Service,
    calls_in,
    sums_of_calls,
    sums_of_counters,
)

pytestmark = pytest.mark.vm
ARGUMENTS = ("/home/alice/out", str(vm_workload.ROUNDS))
# The trace calls it as the C library does.
TRACED_AS = {"openat": "open"}


@dataclass(frozen=True)
class Recorded:
    """One process, seen by two runs side by side."""

    pid: int
    calls: list[Line]
    counters: list[Line]
    status: dict[str, Any]

    def of(self, category: str) -> dict[str, list[dict[str, Any]]]:
        """Return the ``args`` of the calls of a category by function, in order of their begin."""
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for line in sorted(calls_in(self.calls, self.pid), key=lambda line: line["ts"]):
            if line["cat"] == category:
                found[line["name"]].append(line["args"])
        return found


def results(calls: list[dict[str, Any]]) -> list[int]:
    return [call["ret"] for call in calls]


@pytest.fixture(scope="module")
def recorded(machine: VirtualMachine, probes: Path) -> Recorded:
    traced, counted = Service(machine, "traced"), Service(machine, "counted")
    for service, mode in ((traced, "trace"), (counted, "profile")):
        started = service.start(probes, DATACRUMBS_MODE=mode)
        assert started.status == 0, service.journal()
    status = traced.status()
    # Neither the same user's processes that are not wrapped nor another's belong to the run.
    machine.run(vm_workload.PROGRAM, *ARGUMENTS, user="alice")
    machine.run(WRAP, vm_workload.PROGRAM, "/home/bob/out", ARGUMENTS[1], user="bob")
    pid = int(machine.run(WRAP, vm_workload.PROGRAM, *ARGUMENTS, user="alice").stdout)
    traced.stop()
    counted.stop()
    return Recorded(pid, traced.trace(), counted.trace(), status)


def test_start_returns_when_it_records_and_stop_when_the_trace_is_closed(
    machine: VirtualMachine, probes: Path
) -> None:
    service = Service(machine, "j1")
    assert service.start(probes).status == 0
    assert service.property("ActiveState") == "active"
    assert machine.read(RUN_DIR / "datacrumbs-j1.ready") == "ready\n"
    pid = int(machine.run(WRAP, vm_workload.PROGRAM, *ARGUMENTS, user="alice").stdout)
    service.stop()
    assert (service.property("ActiveState"), service.property("Result")) == ("inactive", "success")
    assert {line["pid"] for line in calls_in(service.trace())} == {pid}
    assert "ready" not in service.files()
    owner = machine.run("stat", "-c", "%U %a", service.trace_path()).stdout.strip()
    assert owner == "alice 600"


def test_every_probe_is_attached_in_the_best_way_that_the_kernel_has(
    machine: VirtualMachine, recorded: Recorded
) -> None:
    assert (recorded.status["failures"], recorded.status["attached"]) == ([], 18)
    symbols = machine.run(
        "grep", "-wE", "bpf_session_cookie|bpf_kprobe_multi_link_attach|register_fprobe_ips",
        "/proc/kallsyms", check=False,
    ).stdout  # fmt: skip
    has_multi = "register_fprobe_ips" in symbols
    best = "kprobe.session" if "bpf_session_cookie" in symbols else "kprobe.multi"
    assert recorded.status["tiers"]["kprobe"] == (best if has_multi else "kprobe.fentry")


def test_calls_are_those_that_the_program_made(recorded: Recorded) -> None:
    did = vm_workload.what_it_did()
    system_calls, libc = recorded.of("POSIX"), recorded.of("LIBC")
    for name, expected in did.items():
        # What the dynamic linker does comes first.
        assert results(system_calls[name])[-len(expected) :] == expected
    for name in ("pwrite64", "pread64", "fsync"):
        # To the C library's caller a failure is -1.
        assert results(libc[name]) == [max(result, -1) for result in did[name]]
    assert [call["count"] for call in libc["pwrite64"]] == did["pwrite64"]


def test_functions_of_the_kernel_are_called_by_the_system_calls(recorded: Recorded) -> None:
    system_calls, kernel = recorded.of("POSIX"), recorded.of("KERNEL")
    for name, callers in (("vfs_read", ("read", "pread64")), ("vfs_write", ("write", "pwrite64"))):
        expected = [
            (call["count"], call["ret"])
            for caller in callers
            for call in system_calls[caller]
            if call["ret"] >= 0
        ]
        found = [(call["count"], call["ret"]) for call in kernel[name]]
        assert sorted(found) == sorted(expected)
    (synced,) = kernel["ext4_sync_file"]
    assert (synced["start"], synced["datasync"], synced["ret"]) == (0, 0, 0)


def test_tracepoints_and_marks_of_the_program_are_recorded(recorded: Recorded) -> None:
    events, marks = recorded.of("EVENTS"), recorded.of("USDT")
    assert len(events["sched_process_exec"]) == 1
    assert results(events["sync_file"]) == [0]
    assert [call["number"] for call in marks["round"]] == list(range(vm_workload.ROUNDS))
    assert [call["number"] for call in marks["end"]] == [vm_workload.ROUNDS]


def test_system_calls_are_those_that_strace_sees(
    machine: VirtualMachine, recorded: Recorded
) -> None:
    library = f"LD_PRELOAD={PREFIX}/lib/libdatacrumbs_client.so"
    names = ",".join(vm_workload.SYSCALLS)
    seen = machine.run(
        *("strace", "-e", f"trace={names}", "-E", library, vm_workload.PROGRAM, *ARGUMENTS),
        user="alice",
    ).stderr
    expected: dict[str, list[int]] = defaultdict(list)
    for name, result, error in re.findall(r"^(\w+)\(.*\) += (-?\d+)(?: (E\w+))?", seen, re.M):
        numbers = {"EBADF": -9, "ENOENT": -2, "": int(result)}
        expected[TRACED_AS.get(name, name)].append(numbers[error])
    # How many digits the process id has is no matter of the recording.
    found = {name: results(calls) for name, calls in recorded.of("POSIX").items()}
    assert found == expected


def test_sums_of_profile_mode_are_those_of_trace_mode(recorded: Recorded) -> None:
    calls = sums_of_calls(recorded.calls, recorded.pid)
    assert sums_of_counters(recorded.counters, recorded.pid) == calls
    assert calls_in(recorded.counters) == []
    assert len(calls) == 18


def test_nobody_else_is_recorded(recorded: Recorded) -> None:
    lines = [line for line in recorded.calls + recorded.counters if line["ph"] in "XC"]
    assert {line["pid"] for line in lines} == {recorded.pid}


def test_nothing_is_lost(recorded: Recorded) -> None:
    for lines in (recorded.calls, recorded.counters):
        (last,) = [line for line in lines if line["args"].get("final") is True]
        losses = last["args"]
        assert (losses["lost"], losses["missed_begin"], losses["unknown_ids"]) == (0, 0, 0)


def test_only_processes_of_the_jobs_cgroup_are_recorded(
    machine: VirtualMachine, probes: Path
) -> None:
    """The job is a slice of the user; a step of it is a scope below that."""
    machine.run("systemctl", "start", "job4711.slice")
    slice_ = machine.run("systemctl", "show", "-P", "ControlGroup", "job4711.slice").stdout.strip()
    service = Service(machine, "4711")
    assert service.start(probes, DATACRUMBS_CGROUP=f"/sys/fs/cgroup{slice_}").status == 0
    assert service.status()["cgroup"] == f"/sys/fs/cgroup{slice_}"
    command = (WRAP, vm_workload.PROGRAM, *ARGUMENTS)
    scope = ("systemd-run", "--quiet", "--scope", "--slice=job4711.slice", "--uid=alice")
    outside = int(machine.run(*command, user="alice").stdout)
    inside = int(machine.run(*scope, *command).stdout)
    other_scope = ("systemd-run", "--quiet", "--scope", "--uid=alice")
    outside_too = int(machine.run(*other_scope, *command).stdout)
    machine.run("systemctl", "stop", "job4711.slice")
    assert service.property("ActiveState") == "active"
    service.stop()
    lines = service.trace()
    assert {line["pid"] for line in calls_in(lines)} == {inside}
    assert len({outside, inside, outside_too}) == 3
    assert str(outside) not in json.dumps([line["pid"] for line in lines])
