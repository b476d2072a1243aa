"""Prototypes of the Linux system calls, by their names in ``unistd.h``.

The kernel's own type information has only the wrappers that take a register set, and tracefs, which
lists the parameters, is closed to users. The table beside this module is generated from tracefs by
``tools/gen_syscall_prototypes.py``.
"""

from functools import lru_cache
from importlib.resources import files

# The kernel's functions are called otherwise than the calls: sys_newstat() serves stat.
_KERNEL_NAMES = {
    "stat": "newstat",
    "fstat": "newfstat",
    "lstat": "newlstat",
    "uname": "newuname",
    "sendfile": "sendfile64",
    "umount2": "umount",
}


def kernel_name(name: str) -> str:
    """Return what the kernel calls its function for a system call, without ``sys_``."""
    return _KERNEL_NAMES.get(name, name)


@lru_cache(maxsize=1)
def prototypes() -> dict[str, tuple[str, ...]]:
    """Return the declarations of each system call's parameters."""
    text = files(__package__).joinpath("syscall_prototypes.txt").read_text("ascii")
    table = {}
    for line in text.splitlines():
        name, _, parameters = line.rstrip(")").partition("(")
        table[name] = tuple(parameters.split(", ")) if parameters else ()
    return table
