"""The table of system calls against what the kernel says of its arguments.

data/kernel_syscall_arguments.json holds type and name of every argument, in order, as the format
files of tracefs list them; where tracefs is at hand the file itself is checked as well.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from datacrumbs_runtime.bpf.layout import MAX_SYSTEM_CALLS, MAX_VALUES, FunctionFlag, SourceKind
from datacrumbs_runtime.bpf.syscall_table import SYSTEM_CALLS, numbers, plain_name
from datacrumbs_runtime.bpf.values import FORMAT_FILE, FORMAT_TEXT, NO_ARGUMENT, Value
from datacrumbs_runtime.errors import KernelError

HERE = Path(__file__).parent
KERNEL: dict[str, list[list[str]]] = json.loads(
    (HERE / "data/kernel_syscall_arguments.json").read_text()
)
TRACEFS = Path("/sys/kernel/tracing/events/syscalls")
NAMES_IN_TRACEFS = {
    "stat": "newstat",
    "lstat": "newlstat",
    "fstat": "newfstat",
    "sendfile": "sendfile64",
}

# Where the trace uses another word than the kernel's source for the same argument.
KERNEL_WORDS = {
    "addr": {"addr", "start"},
    "ctx": {"ctx", "ctx_id", "ctxp"},
    "fd": {"fd", "fildes", "oldfd"},
    "first": {"fd"},
    "last": {"max_fd"},
    "fd_in": {"fd_in", "in_fd", "fdin"},
    "fd_out": {"fd_out", "out_fd", "fdout"},
    "read_fd": {"fildes"},
    "write_fd": {"fildes"},
    "flags": {"flags", "flag", "at_flags", "how"},
    "mode": {"mode", "how"},
    "resolve": {"how"},
    "group": {"group"},
    "iovcnt": {"vlen"},
    "length": {"length", "len"},
    "name": {"name", "uname"},
    "offset": {"offset", "pos", "pos_l", "off"},
    "offset_in": {"off_in", "offset"},
    "offset_out": {"off_out"},
    "old_length": {"old_len"},
    "new_length": {"new_len"},
    "operation": {"cmd"},
    "owner": {"user"},
    "request": {"cmd"},
    "target": {"oldname"},
}
PATH_WORDS = {"filename", "pathname", "path", "name", "oldname", "newname"}
FORMATS_BY_TYPE = {
    "int": {"i32", "u32"},
    "unsigned int": {"u32", "i32"},
    "unsigned": {"u32"},
    "u32": {"u32"},
    "rwf_t": {"i32"},
    "uid_t": {"u32"},
    "gid_t": {"u32"},
    "umode_t": {"u16"},
    "size_t": {"u64"},
    "off_t": {"i64"},
    "loff_t": {"i64"},
    "long": {"i64"},
    # mmap declares all as unsigned long: descriptor, offset and flags mean what libc says
    "unsigned long": {"u64", "i64", "i32", "x"},
    "aio_context_t": {"x"},
    "struct iocb *": {"x"},
}
MOVE_DATA = """
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 copy_file_range
    sendfile splice tee vmsplice
"""
# What dftracer-utils 0.0.14 and dftracer-analyzer 0.0.9 take for reads, writes and metadata calls;
# found by giving them a trace with one event of each name.
KNOWN_TO_READERS = """
    read readv pread pread64 preadv preadv2 write writev pwrite pwrite64 pwritev pwritev2
    copy_file_range sendfile splice open open64 close lseek ftruncate rename unlink link mkdir
    rmdir readlink stat fstat fstatat access readdir fcntl pipe fsync fdatasync sync msync
"""
# Calls without a directory descriptor, and others that have a successor.
NOT_ON_AARCH64 = """
    access chmod chown creat dup2 futimesat getdents lchown link lstat mkdir mknod open pipe
    readlink rename rmdir stat symlink unlink utime utimes
"""
UNKNOWN_TO_READERS = "openat newfstatat statx unlinkat renameat2 getdents64 mkdirat faccessat"
DESCRIPTOR_WORDS = KERNEL_WORDS["fd"] | KERNEL_WORDS["fd_in"] | KERNEL_WORDS["fd_out"]


def check_value(call: str, value: Value) -> None:
    arguments = KERNEL[call]
    if value.argument == NO_ARGUMENT:
        assert value.kind == SourceKind.RETURNED_FD
        return
    c_type, word = arguments[value.argument]
    if value.directory != NO_ARGUMENT:
        directory_type, directory_word = arguments[value.directory]
        assert directory_type == "int"
        assert directory_word.endswith("dfd")
        assert value.directory < value.argument
    if value.kind in (SourceKind.PATH, SourceKind.RETURNED_FD):
        assert c_type.endswith("char *")
        assert word in PATH_WORDS
        # a path that has a descriptor before it is relative to that descriptor
        before = arguments[value.argument - 1][1] if value.argument else ""
        assert (value.directory != NO_ARGUMENT) == before.endswith("dfd")
    elif value.kind in (SourceKind.FD, SourceKind.POSITION):
        assert word in DESCRIPTOR_WORDS
    elif value.kind == SourceKind.MAPPING:
        assert word in KERNEL_WORDS["addr"]
    elif value.kind == SourceKind.USER_STRING:
        assert c_type == "const char *"
        assert value.format == FORMAT_TEXT
        assert word in KERNEL_WORDS.get(value.label, {value.label})
    elif value.kind == SourceKind.USER_VALUE:
        assert c_type.endswith("*")
        assert word in KERNEL_WORDS.get(value.label, {value.label})
    else:
        assert value.kind == SourceKind.ARGUMENT
        assert word in KERNEL_WORDS.get(value.label, {value.label})
        assert value.format in FORMATS_BY_TYPE[c_type]


@pytest.mark.parametrize("name", SYSTEM_CALLS)
def test_values_are_the_arguments_that_the_kernel_declares(name: str) -> None:
    for value in SYSTEM_CALLS[name].values:
        check_value(name, value)


@pytest.mark.parametrize("name", SYSTEM_CALLS)
def test_values_fit_a_record_and_the_file_comes_first(name: str) -> None:
    call = SYSTEM_CALLS[name]
    assert len(call.values) <= MAX_VALUES
    labels = [value.label for value in call.values]
    assert len(set(labels)) == len(labels)
    files = [index for index, value in enumerate(call.values) if value.format == FORMAT_FILE]
    assert files == list(range(len(files)))
    assert labels[: len(files)] == ["fhash", "fhash2"][: len(files)]


@pytest.mark.parametrize("name", SYSTEM_CALLS)
def test_no_data_buffer_is_read(name: str) -> None:
    buffers = {"buf", "iov", "vec", "uiov", "value", "dirent", "statbuf", "buffer", "list"}
    read = {SourceKind.USER_STRING, SourceKind.USER_VALUE}
    for value in SYSTEM_CALLS[name].values:
        if value.kind in read:
            assert KERNEL[name][value.argument][1] not in buffers


def test_every_number_or_text_argument_is_captured_or_left_out_on_purpose() -> None:
    left_out = set()
    for name, call in SYSTEM_CALLS.items():
        seen = {value.argument for value in call.values}
        seen |= {value.directory for value in call.values}
        for index, (_, word) in enumerate(KERNEL[name]):
            if index not in seen:
                left_out.add(f"{name}.{word}")
    pointers = {
        f"{name}.{word}"
        for name, arguments in KERNEL.items()
        for c_type, word in arguments
        if c_type.endswith("*")
    }
    assert left_out - pointers == {
        "io_uring_enter.argsz",
        "mmap.addr",
        "mremap.new_addr",
        "open_by_handle_at.mountdirfd",
        "openat2.usize",
        # the upper half of the offset on 32-bit machines only
        "preadv.pos_h",
        "preadv2.pos_h",
        "pwritev.pos_h",
        "pwritev2.pos_h",
        "getxattrat.usize",
        "setxattrat.usize",
    }


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_call_that_an_architecture_has_is_numbered(machine: str) -> None:
    table = numbers(machine)
    assert len(set(table.values())) == len(table)
    assert max(table.values()) < MAX_SYSTEM_CALLS
    missing = set(SYSTEM_CALLS) - set(table)
    assert missing == (set() if machine == "x86_64" else set(NOT_ON_AARCH64.split()))


def test_numbers_of_well_known_calls() -> None:
    assert numbers("x86_64")["openat"] == 257
    assert numbers("aarch64")["openat"] == 56
    assert numbers("x86_64")["fchmodat2"] == numbers("aarch64")["fchmodat2"] == 452


def test_an_unknown_architecture_names_the_known_ones() -> None:
    with pytest.raises(KernelError, match="s390x are not known, only of x86_64 and aarch64"):
        numbers("s390x")


@pytest.mark.parametrize(
    "spelling", ["openat", "sys_openat", "__x64_sys_openat", "__arm64_sys_openat"]
)
def test_spellings_of_a_call(spelling: str) -> None:
    assert plain_name(spelling) == "openat"


def test_calls_that_move_data_count_bytes() -> None:
    counted = {name for name, call in SYSTEM_CALLS.items() if call.flags & FunctionFlag.BYTES}
    assert counted == set(MOVE_DATA.split())


def test_calls_shown_under_names_that_readers_know() -> None:
    known = set(KNOWN_TO_READERS.split())
    shown = {SYSTEM_CALLS[name].shown_as for name in UNKNOWN_TO_READERS.split()}
    assert shown <= known
    assert not {call.shown_as for call in SYSTEM_CALLS.values()} & set(UNKNOWN_TO_READERS.split())
    assert {SYSTEM_CALLS[name].shown_as for name in MOVE_DATA.split()} - known == {
        "tee",
        "vmsplice",
    }


def test_generated_numbers_are_current() -> None:
    generator = HERE.parent / "tools/gen_syscall_numbers.py"
    if not Path("/usr/include/asm-generic/unistd.h").exists():
        pytest.skip("no kernel headers (linux-libc-dev) to generate from")
    completed = subprocess.run(
        [sys.executable, generator, "--check"], capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr


@pytest.mark.kernel
def test_recorded_arguments_are_those_of_the_running_kernel() -> None:
    assert TRACEFS.is_dir(), "mount tracefs at /sys/kernel/tracing"
    compared = 0
    for name, arguments in KERNEL.items():
        declaration = TRACEFS / f"sys_enter_{NAMES_IN_TRACEFS.get(name, name)}" / "format"
        if not declaration.exists():
            continue  # an older kernel, or another architecture
        fields = re.findall(r"field:([^;]*?)(\w+);\toffset:\d+;\tsize:8", declaration.read_text())
        assert [[c_type.strip(), word] for c_type, word in fields] == arguments, name
        compared += 1
    assert compared > 80


def test_documentation_lists_what_is_recorded() -> None:
    generator = HERE.parent / "tools/gen_syscall_docs.py"
    completed = subprocess.run(
        [sys.executable, generator, "--check"], capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
