"""A program that does the same each time, and probes of all kinds that see what it does."""

import re
import subprocess
from pathlib import Path

from datacrumbs_runtime.bpf.elf_file import ElfFile
from datacrumbs_runtime.schema.probe_file import Argument, Category, ProbeType, Span, UsdtPoint

PROGRAM = Path("/usr/local/bin/workload")
ROUNDS = 40
LIBC = "/lib/x86_64-linux-gnu/libc.so.6"
SOURCE = """
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#define PROBE(name, number) __asm__ volatile( \\
    "990: nop\\n.pushsection .note.stapsdt,\\"?\\",\\"note\\"\\n.balign 4\\n" \\
    ".4byte 992f-991f, 994f-993f, 3\\n991: .asciz \\"stapsdt\\"\\n992: .balign 4\\n" \\
    "993: .8byte 990b\\n.8byte 0\\n.8byte 0\\n" \\
    ".asciz \\"workload\\"\\n.asciz \\"" name "\\"\\n.asciz \\"-4@%%edi\\"\\n" \\
    "994: .balign 4\\n.popsection\\n" : : "D"(number))
static char buffer[4096] = "data";
int main(int argc, char **argv)
{
	int rounds = atoi(argv[2]), fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
	off_t end = 0;
	for (int i = 0; i < rounds; i++) {
		PROBE("round__entry", i);
		end += pwrite(fd, buffer, 100 + i, end);
		if (i % 2 == 0 && pread(fd, buffer, 50 + i, 0) < 0)
			return 1;
		if (i % 5 == 0 && write(fd, buffer, i + 1) != i + 1)
			return 1;
		if (lseek(fd, i, SEEK_SET) != i)
			return 1;
		PROBE("round__return", i);
	}
	if (argc != 3 || end == 0 || read(fd, buffer, 7) != 7 || fsync(fd) != 0 || close(fd) != 0)
		return 1;
	PROBE("end", rounds);
	if (pread(fd, buffer, 9, 0) != -1 || errno != EBADF || open("/missing", O_RDONLY) != -1)
		return 1;
	return printf("%d\\n", getpid()) <= 0;
}
"""
SYSCALLS = ("openat", "close", "read", "write", "pread64", "pwrite64", "lseek", "fsync")


def what_it_did() -> dict[str, list[int]]:
    """Return the results of the program's own calls, in order, by system call."""
    return {
        "pwrite64": [100 + i for i in range(ROUNDS)],
        # The first read comes after the first write and finds no more than that.
        "pread64": [*(min(50 + i, end_after(i)) for i in range(0, ROUNDS, 2)), -9],
        "lseek": list(range(ROUNDS)),
        "fsync": [0],
    }


def end_after(number: int) -> int:
    return sum(100 + i for i in range(number + 1))


def build(directory: Path) -> Path:
    """Compile the program."""
    (directory / "workload.c").write_text(SOURCE)
    program = directory / "workload"
    subprocess.run(
        ["cc", "-O1", "-Wall", "-Werror", "-o", program, directory / "workload.c"], check=True
    )
    return program


def usdt_points(program: Path) -> dict[str, tuple[UsdtPoint, ...]]:
    notes = subprocess.run(
        ["readelf", "-nW", program], capture_output=True, text=True, check=True
    ).stdout
    found = re.findall(r"Name: (\S+)\s+Location: (0x\w+),.*\s+Arguments: ?(.*)", notes)
    with ElfFile(program) as file:
        points: dict[str, tuple[UsdtPoint, ...]] = {
            name: (UsdtPoint(file.file_offset(int(address, 16)) or 0, 0, operands),)
            for name, address, operands in found
        }
    assert set(points) == {"round__entry", "round__return", "end"}
    return points


def number(index: int, label: str, size: int = 8, c_type: str = "long") -> Argument:
    return Argument(index, size, False, label, c_type)


def categories(program: Path) -> tuple[Category, ...]:
    """Return probes of every kind that a kernel with kprobes has."""
    fd, count = number(0, "fd", 4, "int"), number(2, "count", 8, "size_t")
    return (
        Category(ProbeType.SYSCALLS, "POSIX", SYSCALLS),
        Category(
            ProbeType.UPROBE,
            "LIBC",
            ("pwrite64", "pread64", "fsync"),
            binary_path=LIBC,
            arguments={"pwrite64": (fd, count), "pread64": (fd, count), "fsync": (fd,)},
            returns={"pwrite64": "ssize_t", "pread64": "ssize_t", "fsync": "int"},
        ),
        Category(
            ProbeType.KPROBE,
            "KERNEL",
            ("vfs_read", "vfs_write", "ext4_sync_file"),
            arguments={
                "vfs_read": (count,),
                "vfs_write": (count,),
                "ext4_sync_file": (number(1, "start"), number(3, "datasync", 4, "int")),
            },
            returns={"vfs_read": "ssize_t", "vfs_write": "ssize_t", "ext4_sync_file": "int"},
        ),
        Category(
            ProbeType.TRACEPOINT,
            "EVENTS",
            ("sched_process_exec", "sync_file"),
            spans={"sync_file": Span("ext4_sync_file_enter", "ext4_sync_file_exit")},
            arguments={"sync_file": (Argument(1, 4, False, "ret", "int", "end"),)},
        ),
        Category(
            ProbeType.USDT,
            "USDT",
            ("round", "end"),
            binary_path=str(PROGRAM),
            provider="workload",
            usdt_points=usdt_points(program),
            arguments={
                "round": (number(0, "number", 4, "int"),),
                "end": (number(0, "number", 4, "int"),),
            },
        ),
    )
