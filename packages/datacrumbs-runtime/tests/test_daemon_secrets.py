"""What a user's trace never tells: the kernel's memory, and programs with more rights than his."""

import os
import platform
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_site import ALICE, BOB, SYSCALLS, SYSTEM_PYTHON, Site, as_user, new_site

from datacrumbs_runtime.bpf import features
from datacrumbs_runtime.schema.probe_file import Argument, Category, ProbeType, Span

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may load BPF programs"),
]

# Calls open() with addresses that are none of this program's.
OPENS_ADDRESSES = """
import ctypes, sys
libc = ctypes.CDLL(None)
for address in map(int, sys.argv[1:]):
    assert libc.open(ctypes.c_ulong(address), 0) == -1
"""
READER = """
#include <fcntl.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	char text[16];
	int fd = open(argv[1], O_RDONLY);
	return argc != 2 || fd < 0 || read(fd, text, sizeof(text)) <= 0;
}
"""
# VFS_CAP_REVISION_2 with the bit for "effective", and CAP_DAC_READ_SEARCH.
MAY_READ_ALL = struct.pack("<IIIII", 0x02000001, 1 << 2, 0, 0, 0)
# Queues a signal for itself; takes it if there is a second argument.
SIGNALS = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [40])
os.kill(os.getpid(), 40)
if len(sys.argv) > 1:
    signal.signal(40, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [40])
"""


@pytest.fixture
def site() -> Iterator[Site]:
    with new_site() as made:
        yield made


def code_of_the_kernel() -> int:
    for line in Path("/proc/kallsyms").read_text().splitlines():
        address, kind, name = line.split()[:3]
        if kind in "tT" and name == "ksys_read":
            return int(address, 16)
    pytest.skip("the kernel's addresses are not to be had")


def files_of(lines: list[dict[str, Any]]) -> set[str]:
    return {line["args"]["name"] for line in lines if line["name"] == "FH"}


def test_address_of_the_kernel_in_a_system_call_is_not_read(site: Site) -> None:
    """The kernel says EFAULT; the trace must not say what is there."""
    begin = code_of_the_kernel()
    addresses = [str(begin + offset) for offset in range(64)]
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        done = site.wrapped(ALICE, SYSTEM_PYTHON, "-c", OPENS_ADDRESSES, *addresses)
        assert done.returncode == 0, done.stderr
        daemon.stop()
    lines = site.trace("run1")
    faults = [line for line in lines if line["ph"] == "X" and line["args"].get("ret") == -14]
    assert len(faults) == len(addresses)
    assert not any("fhash" in line["args"] for line in faults)


@pytest.mark.parametrize("rights", ["setgid", "capability", "unreadable"])
def test_program_that_its_user_may_not_look_into_is_not_recorded(site: Site, rights: str) -> None:
    secret = site.root / "secret"
    secret.write_text("root's own")
    secret.chmod(0o644 if rights == "unreadable" else 0o640)
    source, program = site.root / "reader.c", site.root / "reader"
    source.write_text(READER)
    subprocess.run(["cc", "-o", str(program), str(source)], check=True)
    program.chmod({"setgid": 0o2755, "capability": 0o755, "unreadable": 0o711}[rights])
    if rights == "capability":
        os.setxattr(program, "security.capability", MAY_READ_ALL)
    before = site.shared / "before"
    with site.running("run1", site.probe_file(ALICE)):
        command = f"echo x > {before}; exec {program} {secret}"
        done = site.wrapped(ALICE, "/bin/sh", "-c", command)
    assert done.returncode == 0, "the file system ignores what a program may"
    files = files_of(site.trace("run1"))
    assert str(before) in files
    assert str(secret) not in files


def test_program_with_more_rights_cannot_register(site: Site) -> None:
    """One that calls the client library itself, when it is already running."""
    library = site.prefix / "lib/libdatacrumbs_client.so"
    code = f"import ctypes; ctypes.CDLL('{library}').datacrumbs_start(); open('/etc/hostname')"
    python = site.root / "python"
    python.write_bytes(Path(SYSTEM_PYTHON).resolve().read_bytes())
    python.chmod(0o2755)
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        done = subprocess.run(
            [python, "-c", code],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            env={"PYTHONHOME": "/usr"},
            **as_user(ALICE),
        )
        assert done.returncode == 0, done.stderr
        daemon.stop()
    assert not [line for line in site.trace("run1") if line["ph"] == "X"]


def test_object_that_another_user_takes_over_does_not_make_his_work_the_owners(
    site: Site,
) -> None:
    """A span that never ends is found by its key, which others use later."""
    spans = Category(
        ProbeType.TRACEPOINT,
        "SIGNALS",
        ("signal",),
        arguments={"signal": (Argument(0, 4, False, "number", "int", ""),)},
        spans={"signal": Span("signal_generate", "signal_deliver", "0", "0")},
    )
    with site.running("run1", site.probe_file(ALICE, [spans])) as daemon:
        done = site.wrapped(ALICE, SYSTEM_PYTHON, "-c", SIGNALS)
        assert done.returncode == 0, done.stderr
        command = [SYSTEM_PYTHON, "-c", SIGNALS, "takes"]
        subprocess.run(command, check=True, timeout=60, **as_user(BOB))
        daemon.stop()
    numbers = [line["args"]["number"] for line in site.trace("run1") if line["ph"] == "X"]
    assert 40 not in numbers


# Hands an address to a system call, getuid(), that takes any number as its first argument.
GIVES_ADDRESS = """
import ctypes, sys
ctypes.CDLL(None).syscall(102, ctypes.c_ulong(int(sys.argv[1])))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="registers have other names")
@pytest.mark.parametrize(
    ("argument", "path"), [(0, "->di:qstr->hash_len"), (1, ":qstr->hash_len"), (0, "->di")]
)
def test_number_is_not_taken_for_an_address(site: Site, argument: int, path: str) -> None:
    """What a process hands to the kernel must not say where the kernel is read."""
    wanted = Argument(argument, 8, False, "stolen", "unsigned long", path)
    category = Category(
        ProbeType.TRACEPOINT, "CALLS", ("sys_enter",), arguments={"sys_enter": (wanted,)}
    )
    address = code_of_the_kernel()
    with site.running("run1", site.probe_file(ALICE, [SYSCALLS, category])) as daemon:
        done = site.wrapped(ALICE, SYSTEM_PYTHON, "-c", GIVES_ADDRESS, str(address))
        assert done.returncode == 0, done.stderr
        daemon.stop()
    stolen = [
        line["args"]["stolen"] for line in site.trace("run1") if "stolen" in line.get("args", {})
    ]
    # Plain numbers are recorded, but for those that could be addresses of the kernel.
    assert bool(stolen) == (path == "->di")
    assert address not in stolen


# Reads an address of the kernel as the number of bytes that are wanted.
READS_MANY = """
import ctypes, os, sys
fd = os.open("/etc/passwd", os.O_RDONLY)
libc = ctypes.CDLL(None)
assert libc.read(fd, ctypes.create_string_buffer(8), ctypes.c_ulong(int(sys.argv[1]))) == -1
assert os.pread(fd, 8, 0)
"""


@pytest.mark.skipif(
    not any(features.refusal(tier) is None for tier in features.tiers_of("kprobe")),
    reason="this kernel has no kprobes",
)
def test_function_of_the_kernel_tells_neither_its_memory_nor_where_that_is(site: Site) -> None:
    said = (
        Argument(0, 8, False, "number", "unsigned long"),
        Argument(0, 4, False, "half", "int"),
        Argument(0, 8, True, "pointer", "void *"),
        Argument(2, 8, True, "text", "char *"),
        Argument(2, 8, True, "file", "struct file *"),
        Argument(3, 8, True, "pos", "loff_t *"),
    )
    category = Category(ProbeType.KPROBE, "KERNEL", ("vfs_read",), arguments={"vfs_read": said})
    address = code_of_the_kernel()
    with site.running("run1", site.probe_file(ALICE, [category])) as daemon:
        done = site.wrapped(ALICE, SYSTEM_PYTHON, "-c", READS_MANY, str(address))
        assert done.returncode == 0, done.stderr
        daemon.stop()
    calls = [line["args"] for line in site.trace("run1") if line["ph"] == "X"]
    assert calls
    for call in calls:
        assert not {"number", "half", "text", "fhash"} & call.keys()
        shown = [int(call[name], 16) for name in ("pointer", "file", "pos") if name in call]
        assert all(number < 1 << 47 for number in shown)
        assert int(call["pointer"], 16) < 1 << 32
