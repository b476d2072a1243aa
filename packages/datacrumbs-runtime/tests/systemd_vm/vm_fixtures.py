"""What tests in the virtual machine begin with; the machine is one for all of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import vm_service
import vm_workload
from virtual_machine import VirtualMachine, booted, why_not


@pytest.fixture(scope="session")
def machine() -> Iterator[VirtualMachine]:
    """A machine that has booted, with the service installed and the workload in it."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with booted() as made:
        vm_service.install_unit(made)
        yield made


@pytest.fixture(scope="session")
def program(machine: VirtualMachine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workload, as it is on this machine; the other has it as vm_workload.PROGRAM."""
    path = vm_workload.build(tmp_path_factory.mktemp("workload"))
    machine.put(vm_workload.PROGRAM, path.read_bytes(), "755")
    return path


@pytest.fixture(scope="session")
def probes(machine: VirtualMachine, program: Path) -> Path:
    """A probe file of alice with probes of every kind."""
    return vm_service.probe_file(machine, "alice", vm_workload.categories(program), "every-kind")
