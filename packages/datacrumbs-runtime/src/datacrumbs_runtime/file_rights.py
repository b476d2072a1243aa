"""Touching files with a user's rights, within one thread.

The kernel keeps the ids that decide about files apart for each thread (setfsuid(2)). Changing only
those needs no other process, so the thread that writes a trace can do it at any time.
"""

import ctypes
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from datacrumbs_runtime.errors import KernelError
from datacrumbs_runtime.signing.accounts import Account

# The C library's setgroups() changes all threads; the system call only the calling one.
_SYS_SETGROUPS = {"x86_64": 116, "aarch64": 159, "ppc64le": 81, "riscv64": 159, "s390x": 206}
_CAPABILITY_VERSION = 0x20080522
CAP_SYS_RESOURCE = 24
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def rights_of(account: Account) -> Iterator[None]:
    """Let the calling thread open and make files as a user, until the block ends.

    Does nothing unless the caller is root, who alone can.

    Raises:
        KernelError: The kernel did not let us.
    """
    if os.geteuid() != 0 or account.uid == 0:
        yield
        return
    groups = os.getgroups()
    try:
        _set_groups(account.groups)
        _set_id("setfsgid", account.gid)
        # Last: with it go the rights to do the others.
        _set_id("setfsuid", account.uid)
        yield
    finally:
        _set_id("setfsuid", 0)
        _set_id("setfsgid", os.getegid())
        _set_groups(groups)


def _set_id(function: str, wanted: int) -> None:
    call = getattr(_libc, function)
    call.argtypes = [ctypes.c_uint]
    call(wanted)
    # It reports no errors: asked with an impossible id it tells the present one.
    if call(0xFFFFFFFF) & 0xFFFFFFFF != wanted:
        raise KernelError(f"{function}({wanted}) is not permitted")


def _set_groups(groups: Sequence[int]) -> None:
    number = _SYS_SETGROUPS.get(platform.machine())
    if number is None:
        raise KernelError(f"{platform.machine()}: cannot act as another user")
    array = (ctypes.c_uint * len(groups))(*groups)
    if _libc.syscall(ctypes.c_long(number), ctypes.c_size_t(len(groups)), array) != 0:
        error = ctypes.get_errno()
        raise KernelError(f"setgroups: {os.strerror(error)}")


def give_up(capability: int) -> None:
    """Let the calling thread, and the processes that it starts, never have a capability again.

    With ``CAP_SYS_RESOURCE`` quotas and the blocks that are kept for root would not hold.

    Raises:
        KernelError: The kernel refused.
    """
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    # Effective, permitted and inheritable of the first 32, then of the others.
    sets = (ctypes.c_uint32 * 6)()
    for call in (_libc.capget, _libc.capset):
        if call(header, sets) != 0:
            raise KernelError(f"capabilities: {os.strerror(ctypes.get_errno())}")
        first = capability // 32 * 3
        for position in range(first, first + 3):
            sets[position] &= ~(1 << capability % 32)
