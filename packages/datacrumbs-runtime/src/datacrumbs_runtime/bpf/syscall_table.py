"""What the I/O system calls mean: their files, paths, offsets and sizes, and their libc names.

Readers of DFTracer traces know libc's names and take the size of an I/O call from what a call of
such a name returned. So a call is shown under the name of the libc function that does the same
and that readers know (``openat`` as ``open``), and the kernel's name beside it where it differs.

Arguments are as the kernel's SYSCALL_DEFINE macros declare them; all architectures agree on them.
Of a directory descriptor the trace shows only the path that results; buffers are never read.
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass

from datacrumbs_runtime.bpf.layout import FunctionFlag
from datacrumbs_runtime.bpf.syscall_numbers import NUMBERS
from datacrumbs_runtime.bpf.values import (
    FORMAT_POINTER,
    SECOND_FILE,
    Value,
    behind,
    descriptor_file,
    entered_directory,
    mapped_file,
    number,
    opened_file,
    path_file,
    position,
    text,
)
from datacrumbs_runtime.errors import KernelError

PREFIXES = ("__x64_sys_", "__arm64_sys_", "__se_sys_", "__do_sys_", "sys_")


@dataclass(frozen=True, slots=True)
class SystemCall:
    """What is recorded of a system call.

    Attributes:
        name: The kernel's name, as in asm/unistd.h.
        shown_as: Its name in the trace.
        values: What is captured, the file first.
        flags: How its calls are judged and counted.
    """

    name: str
    shown_as: str
    values: tuple[Value, ...]
    flags: FunctionFlag


_TABLE: dict[str, SystemCall] = {}
_BYTES = FunctionFlag.BYTES
_FILE_ONLY = FunctionFlag.FILE_ONLY
_RENAMES = FunctionFlag.RENAMES


def _add(
    names: str, *values: Value, shown_as: str | None = None, flags: FunctionFlag | int = 0
) -> None:
    for name in names.split():
        all_flags = FunctionFlag(flags) | FunctionFlag.ERRNO
        _TABLE[name] = SystemCall(name, shown_as or name, values, all_flags)


def _i32(label: str, argument: int) -> Value:
    return number(label, argument, "i32")


def _u32(label: str, argument: int) -> Value:
    return number(label, argument, "u32")


def _i64(label: str, argument: int) -> Value:
    return number(label, argument, "i64")


def _u64(label: str, argument: int) -> Value:
    return number(label, argument, "u64")


def _mode(argument: int) -> Value:
    return number("mode", argument, "u16")


def _pointer(label: str, argument: int) -> Value:
    return number(label, argument, FORMAT_POINTER)


_FD = (descriptor_file(0), _i32("fd", 0))
_COUNT = _u64("count", 2)
_IOVCNT = _u64("iovcnt", 2)

# open and close
_add("open", opened_file(0), _i32("flags", 1), _mode(2))
_add("openat", opened_file(1, 0), _i32("flags", 2), _mode(3), shown_as="open")
_add(
    "openat2",
    opened_file(1, 0),
    behind("flags", 2, "u64"),
    behind("mode", 2, "u64", offset=8),
    behind("resolve", 2, "u64", offset=16),
    shown_as="open",
)
_add("creat", opened_file(0), _mode(1), shown_as="open")
_add("memfd_create", opened_file(), text("name", 0), _u32("flags", 1))
_add("name_to_handle_at", path_file(1, 0), _i32("flags", 4))
_add("open_by_handle_at", opened_file(), _i32("flags", 2))
_add("close", *_FD)
_add("close_range", _u32("first", 0), _u32("last", 1), _u32("flags", 2))
_add("dup", *_FD)
_add("dup2", *_FD, _i32("newfd", 1))
_add("dup3", *_FD, _i32("newfd", 1), _i32("flags", 2))
_PIPE = (
    behind("read_fd", 0, "i32", at_end=True),
    behind("write_fd", 0, "i32", offset=4, at_end=True),
)
_add("pipe", *_PIPE)
_add("pipe2", *_PIPE, _i32("flags", 1), shown_as="pipe")

# read and write
_add("read write", *_FD, _COUNT, position(0), flags=_BYTES)
_add("readv writev", *_FD, _IOVCNT, position(0), flags=_BYTES)
_add("pread64 pwrite64", *_FD, _COUNT, _i64("offset", 3), flags=_BYTES)
_add("preadv pwritev", *_FD, _IOVCNT, _i64("offset", 3), flags=_BYTES)
_add("preadv2 pwritev2", *_FD, _IOVCNT, _i64("offset", 3), _i32("flags", 5), flags=_BYTES)
_add("lseek", *_FD, _i64("offset", 1), _u32("whence", 2))
_add("readahead", *_FD, _i64("offset", 1), _u64("count", 2))
_add(
    "fadvise64",
    *_FD,
    _i64("offset", 1),
    _u64("len", 2),
    _i32("advice", 3),
    shown_as="posix_fadvise",
)
_COPIED = (
    descriptor_file(0),
    descriptor_file(2, SECOND_FILE),
    _i32("fd_in", 0),
    behind("offset_in", 1, "i64"),
    _i32("fd_out", 2),
    behind("offset_out", 3, "i64"),
    _u64("len", 4),
    _u32("flags", 5),
)
_add("copy_file_range splice", *_COPIED, flags=_BYTES)
_add(
    "sendfile",
    descriptor_file(1),
    descriptor_file(0, SECOND_FILE),
    _i32("fd_in", 1),
    behind("offset_in", 2, "i64"),
    _i32("fd_out", 0),
    _u64("count", 3),
    flags=_BYTES,
)
_add(
    "tee",
    descriptor_file(0),
    descriptor_file(1, SECOND_FILE),
    _i32("fd_in", 0),
    _i32("fd_out", 1),
    _u64("len", 2),
    _u32("flags", 3),
    flags=_BYTES,
)
_add("vmsplice", *_FD, _u64("nr_segs", 2), _u32("flags", 3), flags=_BYTES)

# to the device
_add("fsync fdatasync syncfs", *_FD)
_add("sync")
_add("sync_file_range", *_FD, _i64("offset", 1), _i64("nbytes", 2), _u32("flags", 3))

# size and space
_add("truncate", path_file(0), _i64("length", 1))
_add("ftruncate", *_FD, _i64("length", 1))
_add("fallocate", *_FD, _i32("mode", 1), _i64("offset", 2), _i64("len", 3))

# names
_add("rename", path_file(0), path_file(1, label=SECOND_FILE), flags=_RENAMES)
_add(
    "renameat",
    path_file(1, 0),
    path_file(3, 2, SECOND_FILE),
    shown_as="rename",
    flags=_RENAMES,
)
_add(
    "renameat2",
    path_file(1, 0),
    path_file(3, 2, SECOND_FILE),
    _u32("flags", 4),
    shown_as="rename",
    flags=_RENAMES,
)
_add("link", path_file(0), path_file(1, label=SECOND_FILE))
_add("linkat", path_file(1, 0), path_file(3, 2, SECOND_FILE), _i32("flags", 4), shown_as="link")
_add("symlink", path_file(1), text("target", 0))
_add("symlinkat", path_file(2, 1), text("target", 0), shown_as="symlink")
_add("unlink rmdir", path_file(0))
_add("unlinkat", path_file(1, 0), _i32("flags", 2), shown_as="unlink")
_add("mkdir", path_file(0), _mode(1))
_add("mkdirat", path_file(1, 0), _mode(2), shown_as="mkdir")
_add("mknod", path_file(0), _mode(1), _u32("dev", 2))
_add("mknodat", path_file(1, 0), _mode(2), _u32("dev", 3), shown_as="mknod")
_add("readlink", path_file(0), _i32("bufsiz", 2))
_add("readlinkat", path_file(1, 0), _i32("bufsiz", 3), shown_as="readlink")
_add("chdir", entered_directory(0))
_add("fchdir", *_FD)

# attributes
_add("stat", path_file(0))
_add("lstat", path_file(0), shown_as="stat")
_add("fstat", *_FD)
_add("newfstatat", path_file(1, 0), _i32("flags", 3), shown_as="fstatat")
_add("statx", path_file(1, 0), _u32("flags", 2), _u32("mask", 3), shown_as="stat")
_add("statfs", path_file(0))
_add("fstatfs", *_FD)
_add("access", path_file(0), _i32("mode", 1))
_add("faccessat", path_file(1, 0), _i32("mode", 2), shown_as="access")
_add("faccessat2", path_file(1, 0), _i32("mode", 2), _i32("flags", 3), shown_as="access")
_add("getdents getdents64", *_FD, _u32("count", 2), shown_as="readdir")
_add("chmod", path_file(0), _mode(1))
_add("fchmod", *_FD, _mode(1))
_add("fchmodat", path_file(1, 0), _mode(2), shown_as="chmod")
_add("fchmodat2", path_file(1, 0), _mode(2), _u32("flags", 3), shown_as="chmod")
_add("chown lchown", path_file(0), _u32("owner", 1), _u32("group", 2))
_add("fchown", *_FD, _u32("owner", 1), _u32("group", 2))
_add(
    "fchownat",
    path_file(1, 0),
    _u32("owner", 2),
    _u32("group", 3),
    _i32("flags", 4),
    shown_as="chown",
)
_add("utime utimes", path_file(0))
_add("futimesat", path_file(1, 0), shown_as="utimes")
_add("utimensat", path_file(1, 0), _i32("flags", 3))
_XATTR = text("name", 1)
_add("setxattr lsetxattr", path_file(0), _XATTR, _u64("size", 3), _i32("flags", 4))
_add("fsetxattr", *_FD, _XATTR, _u64("size", 3), _i32("flags", 4))
_add("getxattr lgetxattr", path_file(0), _XATTR, _u64("size", 3))
_add("fgetxattr", *_FD, _XATTR, _u64("size", 3))
_add("listxattr llistxattr", path_file(0), _u64("size", 2))
_add("flistxattr", *_FD, _u64("size", 2))
_add("removexattr lremovexattr", path_file(0), _XATTR)
_add("fremovexattr", *_FD, _XATTR)
_add("setxattrat", path_file(1, 0), _u32("flags", 2), text("name", 3), shown_as="setxattr")
_add("getxattrat", path_file(1, 0), _u32("flags", 2), text("name", 3), shown_as="getxattr")
_add("listxattrat", path_file(1, 0), _u32("flags", 2), _u64("size", 4), shown_as="listxattr")
_add("removexattrat", path_file(1, 0), _u32("flags", 2), text("name", 3), shown_as="removexattr")

# mapped files; calls for other memory are not kept
_add(
    "mmap",
    descriptor_file(4),
    _i32("fd", 4),
    _u64("length", 1),
    _i64("offset", 5),
    _i32("prot", 2),
    _i32("flags", 3),
    flags=_FILE_ONLY,
)
_add("munmap", mapped_file(0), _pointer("addr", 0), _u64("length", 1), flags=_FILE_ONLY)
_add(
    "mremap",
    mapped_file(0),
    _pointer("addr", 0),
    _u64("old_length", 1),
    _u64("new_length", 2),
    _u64("flags", 3),
    flags=_FILE_ONLY,
)
_add(
    "msync",
    mapped_file(0),
    _pointer("addr", 0),
    _u64("length", 1),
    _i32("flags", 2),
    flags=_FILE_ONLY,
)

# asynchronous
_add("io_uring_setup", opened_file(), _u32("entries", 0))
_add(
    "io_uring_enter",
    *_FD,
    _u32("to_submit", 1),
    _u32("min_complete", 2),
    _u32("flags", 3),
)
_add("io_uring_register", *_FD, _u32("opcode", 1), _u32("nr_args", 3))
_add("io_setup", _u32("nr_events", 0), behind("ctx", 1, FORMAT_POINTER, at_end=True))
_add("io_destroy", _pointer("ctx", 0))
_add("io_submit", _pointer("ctx", 0), _i64("nr", 1))
_add("io_cancel", _pointer("ctx", 0), _pointer("iocb", 1))
_add("io_getevents io_pgetevents", _pointer("ctx", 0), _i64("min_nr", 1), _i64("nr", 2))

# the rest
_add("flock", *_FD, _u32("operation", 1))
_add("fcntl", *_FD, _u32("cmd", 1), _u64("arg", 2))
_add("ioctl", *_FD, _u32("request", 1), _u64("arg", 2))

SYSTEM_CALLS: Mapping[str, SystemCall] = _TABLE

# After one of these a file that is known may have another name: its own or that of a directory
# above it was changed, or the root that names begin at, or what is mounted where.
RENAMING = frozenset(name for name, call in _TABLE.items() if call.flags & _RENAMES) | {
    "chroot",
    "mount",
    "move_mount",
    "pivot_root",
    "setns",
}


def plain_name(function_name: str) -> str:
    """Return the kernel's name of a system call without ``sys_`` or ``__x64_sys_`` before it."""
    for prefix in PREFIXES:
        if function_name.startswith(prefix):
            return function_name.removeprefix(prefix)
    return function_name


def numbers(machine: str | None = None) -> Mapping[str, int]:
    """Return the system call numbers of an architecture.

    Args:
        machine: As ``uname -m`` says it; None: this machine's.

    Raises:
        KernelError: The architecture is not known.
    """
    machine = machine or platform.machine()
    try:
        return NUMBERS[machine]
    except KeyError:
        known = " and ".join(NUMBERS)
        raise KernelError(f"system calls of {machine} are not known, only of {known}") from None
