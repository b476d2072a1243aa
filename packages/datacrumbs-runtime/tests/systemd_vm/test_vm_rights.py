"""The rights of the service: those that the unit lists, which of them are needed, and no other."""

from pathlib import Path

import pytest
import vm_workload
from virtual_machine import VirtualMachine
from vm_root import PREFIX
from vm_service import WRAP, Service, calls_in

pytestmark = pytest.mark.vm
UNIT = PREFIX / "etc/datacrumbs/systemd/datacrumbs@.service"
# Their numbers, from linux/capability.h.
NUMBERS = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_RESOURCE": 24,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
# What every start needs, on kernels that show the types of modules to CAP_BPF (6.2).
NEEDED = frozenset({"CAP_BPF", "CAP_PERFMON", "CAP_SETUID", "CAP_SETGID", "CAP_CHOWN"})
TYPES_FOR_CAP_BPF = (6, 2)


@pytest.fixture(scope="module")
def is_modern(machine: VirtualMachine) -> bool:
    major, minor, *_ = machine.run("uname", "-r").stdout.split(".")
    return (int(major), int(minor)) >= TYPES_FOR_CAP_BPF


def records(machine: VirtualMachine, service: Service) -> bool:
    """Run the workload and return whether all of it is in the trace."""
    status = service.status()
    arguments = ("/home/alice/out", str(vm_workload.ROUNDS))
    pid = int(machine.run(WRAP, vm_workload.PROGRAM, *arguments, user="alice").stdout)
    service.stop()
    kinds = {line["cat"] for line in calls_in(service.trace(), pid)}
    return status["failures"] == [] and kinds == {"POSIX", "LIBC", "KERNEL", "EVENTS", "USDT"}


def test_service_has_the_rights_that_its_unit_lists_and_no_other(
    machine: VirtualMachine, probes: Path
) -> None:
    (line,) = [
        line for line in machine.read(UNIT).splitlines() if line.startswith("CapabilityBounding")
    ]
    listed = line.partition("=")[2].split()
    assert set(listed) == set(NUMBERS)
    service = Service(machine, "rights")
    assert service.start(probes).status == 0
    fields = dict(
        line.split(":\t", 1)
        for line in machine.read(f"/proc/{service.property('MainPID')}/status").splitlines()
    )
    mask = sum(1 << NUMBERS[name] for name in listed)
    for name in ("CapBnd", "CapPrm", "CapEff"):
        assert int(fields[name], 16) == mask, name
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    assert records(machine, service)


def test_fewest_rights_suffice_where_the_kernel_lets_them(
    machine: VirtualMachine, probes: Path, is_modern: bool
) -> None:
    service = Service(machine, "fewest")
    service.drop_in(f"CapabilityBoundingSet=\nCapabilityBoundingSet={' '.join(sorted(NEEDED))}")
    started = service.start(probes)
    if is_modern:
        assert started.status == 0, service.journal()
        assert records(machine, service)
    else:
        assert started.status != 0
        assert "datacrumbs: error: datacrumbs.bpf.o: " in service.journal()


def test_start_that_lacks_a_right_fails_with_one_line(
    machine: VirtualMachine, probes: Path
) -> None:
    for right in ("CAP_SETUID", "CAP_SETGID", "CAP_CHOWN", "CAP_PERFMON CAP_SYS_ADMIN"):
        service = Service(machine, "lacks-" + right.replace(" ", "-").lower())
        service.drop_in(f"CapabilityBoundingSet=~{right}")
        assert service.start(probes).status != 0
        assert service.property("ActiveState") == "failed"
        errors = [line for line in service.journal().splitlines() if ": error: " in line]
        assert len([line for line in errors if ": hint: " not in line]) == 1, errors
