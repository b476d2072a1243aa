"""What a node does to a run: modules that go, no memory, a cgroup that is killed."""

import time
from collections import Counter
from pathlib import Path

import pytest
import vm_service
import vm_workload
from virtual_machine import VirtualMachine
from vm_service import WRAP, Service, calls_in

from datacrumbs_runtime.schema.probe_file import Category, ProbeType

pytestmark = pytest.mark.vm
ARGUMENTS = ("/home/alice/out", str(vm_workload.ROUNDS))
DEVICE = "/dev/net/tun"
OPEN = f"for _ in range(3): open({DEVICE!r}, 'rb').close()"
HOLDING_TIERS = ("kprobe.session", "kprobe.multi", "kprobe.fentry")
TIERS = (*HOLDING_TIERS, "kprobe.tracefs", "kprobe.perf")


@pytest.fixture(scope="module")
def module_probes(machine: VirtualMachine) -> Path:
    functions = ("tun_chr_open", "tun_chr_close")
    categories = (
        Category(ProbeType.SYSCALLS, "POSIX", ("openat",)),
        Category(ProbeType.KPROBE, "TUN", functions, returns=dict.fromkeys(functions, "int")),
    )
    return vm_service.probe_file(machine, "alice", categories, "module")


def load_module(machine: VirtualMachine) -> None:
    machine.run("modprobe", "tun")
    machine.run("chmod", "666", DEVICE)


def use_module(machine: VirtualMachine) -> None:
    machine.run(WRAP, "/usr/bin/python3", "-Sc", OPEN, user="alice")


def failures_of(service: Service) -> set[str]:
    return {function for _, function, _ in service.status()["failures"]}


@pytest.mark.parametrize("tier", TIERS)
def test_unloading_a_module_is_refused_or_said(
    machine: VirtualMachine, module_probes: Path, tier: str
) -> None:
    load_module(machine)
    service = Service(machine, tier.replace(".", "-"))
    assert service.start(module_probes, DATACRUMBS_MAX_TIER=tier).status == 0
    status = service.status()
    assert (status["failures"], status["attached"]) == ([], 3)
    used = status["tiers"]["kprobe"]
    if used != tier:
        service.stop()
        assert tier in HOLDING_TIERS
        pytest.skip(f"this kernel has no {tier}: {used}")
    use_module(machine)
    unloaded = machine.run("rmmod", "tun", check=False)
    assert (unloaded.status == 0) == (tier not in HOLDING_TIERS)
    if unloaded.status == 0:
        # What is loaded again is not recorded, so this must have been said.
        load_module(machine)
        wait_for_failures(service)
        assert failures_of(service) == {"tun_chr_open", "tun_chr_close"}
        assert service.status()["attached"] == 1
        assert "the module tun was unloaded" in service.log()
    else:
        assert "is in use" in unloaded.stderr
    use_module(machine)
    service.stop()
    assert service.property("Result") == "success"
    lines = service.trace()
    calls = Counter(line["name"] for line in calls_in(lines) if line["cat"] == "TUN")
    expected = 6 if tier in HOLDING_TIERS else 3
    assert calls == {"tun_chr_open": expected, "tun_chr_close": expected}
    detached = [line["args"] for line in lines if line["name"] == "datacrumbs_detached"]
    assert {args["function"] for args in detached} == (
        set() if tier in HOLDING_TIERS else {"tun_chr_open", "tun_chr_close"}
    )
    # After the stop nothing holds it.
    machine.run("rmmod", "tun")


def wait_for_failures(service: Service) -> None:
    deadline = time.monotonic() + 20
    while not failures_of(service):
        assert time.monotonic() < deadline, service.log()
        time.sleep(0.3)


def test_functions_of_a_module_that_is_not_loaded_are_left_out_until_it_is(
    machine: VirtualMachine, module_probes: Path
) -> None:
    machine.run("modprobe", "-r", "tun")
    service = Service(machine, "without")
    # The second time it is known from the first.
    for _ in range(2):
        assert service.start(module_probes).status == 0
        assert failures_of(service) == {"tun_chr_open", "tun_chr_close"}
        service.stop()
    load_module(machine)
    assert service.start(module_probes).status == 0
    assert service.status()["failures"] == []
    service.stop()
    machine.run("rmmod", "tun")


def test_run_that_the_kernel_kills_for_memory_leaves_a_whole_trace(
    machine: VirtualMachine, probes: Path
) -> None:
    service = Service(machine, "oom")
    assert service.start(probes).status == 0
    pid = record(machine)
    # What was recorded reaches the file within a second.
    time.sleep(3)
    machine.run("systemctl", "set-property", "--runtime", service.unit, "MemoryMax=60M")
    use_memory_until_killed(machine, service)
    assert service.property("Result") == "signal"
    assert "killed by the OOM killer" in service.journal()
    assert service.property("NRestarts") == "0"
    assert_left_whole(service, pid)
    machine.run("systemctl", "set-property", "--runtime", service.unit, "MemoryMax=infinity")
    assert_starts_again(machine, service, probes)


def use_memory_until_killed(machine: VirtualMachine, service: Service) -> None:
    """Let the run work; with that little memory the kernel ends it."""
    deadline = time.monotonic() + 60
    while service.property("ActiveState") == "active":
        assert time.monotonic() < deadline, service.status()["memory_bytes"]
        record(machine)
    service.wait_until("failed")


def test_too_little_memory_is_a_failed_start_with_one_line(
    machine: VirtualMachine, probes: Path
) -> None:
    service = Service(machine, "small")
    service.drop_in("MemoryMax=30M")
    assert service.start(probes).status != 0
    assert service.property("ActiveState") == "failed"
    assert service.files().isdisjoint({"ready", "json"})


def test_run_whose_cgroup_is_killed_leaves_a_whole_trace(
    machine: VirtualMachine, probes: Path
) -> None:
    service = Service(machine, "killed")
    assert service.start(probes).status == 0
    pid = record(machine)
    time.sleep(3)
    cgroup = f"/sys/fs/cgroup{service.property('ControlGroup')}"
    machine.run("tee", f"{cgroup}/cgroup.kill", stdin=b"1")
    service.wait_until("failed")
    assert service.property("Result") == "signal"
    assert_left_whole(service, pid)
    assert_starts_again(machine, service, probes)


def test_job_whose_cgroup_is_killed_is_recorded_up_to_then(
    machine: VirtualMachine, probes: Path
) -> None:
    service = Service(machine, "job")
    assert service.start(probes).status == 0
    sleeps = "import os, time; os.pread(os.open('/etc/passwd', 0), 7, 0); time.sleep(600)"
    machine.run(
        *("systemd-run", "--unit=step", "--uid=alice", "--collect"),
        *(WRAP, "/usr/bin/python3", "-Sc", sleeps),
    )
    time.sleep(3)
    cgroup = machine.run("systemctl", "show", "-P", "ControlGroup", "step").stdout.strip()
    machine.run("tee", f"/sys/fs/cgroup{cgroup}/cgroup.kill", stdin=b"1")
    pid = record(machine)
    service.stop()
    assert service.property("Result") == "success"
    lines = service.trace()
    reads = [line for line in calls_in(lines) if line["args"].get("count") == 7]
    (killed,) = {line["pid"] for line in reads if line["name"] == "pread64"} - {pid}
    ended = [line["pid"] for line in lines if line["name"] == "process_exit"]
    assert killed in ended


def record(machine: VirtualMachine) -> int:
    return int(machine.run(WRAP, vm_workload.PROGRAM, *ARGUMENTS, user="alice").stdout)


def assert_left_whole(service: Service, pid: int) -> None:
    """The trace is valid and has all calls; nothing says that the run still is ready."""
    found = Counter(
        line["name"] for line in calls_in(service.trace(), pid) if line["cat"] == "USDT"
    )
    assert found == {"round": vm_workload.ROUNDS, "end": 1}
    assert service.files().isdisjoint({"ready", "json"})


def assert_starts_again(machine: VirtualMachine, service: Service, probes: Path) -> None:
    # Two traces would be there, the second with a number.
    machine.run("rm", service.trace_path())
    assert service.start(probes).status == 0
    pid = record(machine)
    service.stop()
    assert calls_in(service.trace(), pid) != []
