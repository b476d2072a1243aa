"""A virtual machine with systemd as its first process, and what tests do in it."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vm_image
import vm_root

BOOT_LIMIT_S = 300.0
COMMAND_LIMIT_S = 180.0
MEMORY = "3G"
_KVM_TRIAL_S = 3.0


class MachineError(Exception):
    """The machine does not do what is asked; the text has the end of its console."""


@dataclass(frozen=True)
class Done:
    """What came of a command."""

    status: int
    stdout: str
    stderr: str


class VirtualMachine:
    """A machine that has booted."""

    def __init__(self, connection: socket.socket, console: Path) -> None:
        self._connection = connection
        self._console = console
        self._trouble: str | None = None

    def run(
        self,
        *argv: str | Path,
        user: str | None = None,
        stdin: bytes = b"",
        check: bool = True,
        timeout_s: float = COMMAND_LIMIT_S,
    ) -> Done:
        """Run a command in the machine, as root or as another user."""
        request = {
            "argv": [os.fspath(part) for part in argv],
            "user": user,
            "stdin": base64.b64encode(stdin).decode(),
            "timeout_s": timeout_s,
        }
        if self._trouble is None:
            self._connection.sendall(json.dumps(request).encode() + b"\n")
        answer = self.answer(timeout_s + 30)
        done = Done(
            answer["status"],
            base64.b64decode(answer["stdout"]).decode(errors="replace"),
            base64.b64decode(answer["stderr"]).decode(errors="replace"),
        )
        assert not check or done.status == 0, (argv, done)
        return done

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """Wait for the next line of the agent."""
        if self._trouble is not None:
            # No other test waits for a machine that one has found dead.
            raise MachineError(f"the machine is not there any more: {self._trouble}")
        self._connection.settimeout(timeout_s)
        received = b""
        try:
            while not received.endswith(b"\n"):
                data = self._connection.recv(1 << 20)
                if not data:
                    raise self._given_up("the machine is gone")
                received += data
        except TimeoutError:
            raise self._given_up("the machine says nothing") from None
        answer: dict[str, Any] = json.loads(received)
        return answer

    def _given_up(self, trouble: str) -> MachineError:
        self._trouble = trouble
        return MachineError(f"{trouble}:\n{self.console()}")

    def console(self) -> str:
        """Return the end of what the machine printed."""
        return self._console.read_text(errors="replace")[-4000:]

    def read(self, path: str | Path) -> str:
        """Return the text of a file in the machine."""
        return self.run("cat", path).stdout

    def put(self, path: str | Path, data: str | bytes, mode: str = "644") -> None:
        """Write a file in the machine."""
        content = data.encode() if isinstance(data, str) else data
        self.run("tee", path, stdin=content)
        self.run("chmod", mode, path)


def kernel_path() -> Path | None:
    """Return the kernel to boot: the one that is asked for, else the newest there is."""
    if wanted := os.environ.get("DATACRUMBS_VM_KERNEL"):
        return Path(wanted)
    found = vm_root.run(vm_root.SOURCE / "tools/kernel-vm.sh", "--list").splitlines()
    return Path(found[-1]) if found else None


def why_not() -> str | None:
    """Return why no machine can be started here, or None."""
    if os.geteuid() != 0:
        return "only root makes the disks of a virtual machine"
    if missing := vm_image.missing_tools():
        return f"no virtual machine: apt-get install {' '.join(missing)}"
    kernel = kernel_path()
    if kernel is None or not vm_image.modules_of(kernel).is_dir():
        return f"no virtual machine: {kernel}: no kernel with its modules: tools/fetch-kernel.sh"
    return None


def has_kvm() -> bool:
    """Return whether KVM works; it may be there in name only."""
    command = ["qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-S"]
    command += ["-display", "none", "-serial", "none", "-monitor", "none"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as trial:
        try:
            trial.wait(_KVM_TRIAL_S)
        except subprocess.TimeoutExpired:
            # A machine that does nothing runs until it is stopped.
            return True
        finally:
            trial.kill()
    return False


@contextmanager
def booted() -> Iterator[VirtualMachine]:
    """Have a machine with an installation of this source tree in a block."""
    kernel = kernel_path()
    assert kernel is not None
    with vm_root.scratch() as directory:
        root = vm_root.root_directory()
        installation = vm_image.installation_disk(directory)
        initrd = vm_image.initrd(kernel, root / "busybox", directory)
        console, port = directory / "console", directory / "port"
        accelerator = ["kvm", "-cpu", "host"] if has_kvm() else ["tcg,thread=multi", "-cpu", "max"]
        command = [
            *("qemu-system-x86_64", "-M", "q35", "-accel", *accelerator),
            *("-smp", "2", "-m", MEMORY, "-nic", "none", "-no-reboot"),
            *("-display", "none", "-monitor", "none", "-serial", f"file:{console}"),
            *("-kernel", str(kernel), "-initrd", str(initrd)),
            *("-append", "console=ttyS0 quiet mitigations=off audit=0 systemd.show_status=0"),
            *("-drive", f"file={root / 'disk.img'},if=virtio,format=raw,snapshot=on"),
            *("-drive", f"file={installation},if=virtio,format=raw,snapshot=on"),
            *("-device", "virtio-serial", "-chardev", f"socket,id=c,path={port},server=on"),
            *("-device", "virtserialport,chardev=c"),
        ]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
            try:
                with socket.socket(socket.AF_UNIX) as connection:
                    yield _connected(connection, process, port, console)
            finally:
                process.kill()


def _connected(
    connection: socket.socket, process: "subprocess.Popen[bytes]", port: Path, console: Path
) -> VirtualMachine:
    deadline = time.monotonic() + BOOT_LIMIT_S
    while not port.exists():
        assert process.poll() is None, "qemu ended"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    connection.connect(str(port))
    machine = VirtualMachine(connection, console)
    # The agent says so when it begins.
    machine.answer(BOOT_LIMIT_S)
    while time.monotonic() < deadline:
        state = machine.run("systemctl", "is-system-running", check=False).stdout.strip()
        if state in ("running", "degraded"):
            return machine
        time.sleep(0.5)
    raise MachineError(f"systemd did not start:\n{machine.console()}")


if __name__ == "__main__":
    # For nox: nothing if a machine can be started here.
    sys.stdout.write(why_not() or "")
