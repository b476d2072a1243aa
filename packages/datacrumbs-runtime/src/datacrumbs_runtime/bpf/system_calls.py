"""System calls that the C library does not wrap."""

import ctypes
import errno
import os
from enum import IntEnum

_LOAD_ATTEMPTS = 5

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Call(IntEnum):
    """Which system call; the value is where its number stands."""

    BPF = 0
    PERF_EVENT_OPEN = 1


_NUMBERS = {
    "x86_64": (321, 298),
    "aarch64": (280, 241),
    "riscv64": (280, 241),
    "ppc64le": (361, 319),
    "s390x": (351, 331),
}


def system_call(call: Call, *arguments: object) -> int:
    """Make a system call, again if a signal interrupts it.

    Raises:
        OSError: It failed, or this machine is unknown.
    """
    numbers = _NUMBERS.get(os.uname().machine)
    if numbers is None:
        raise OSError(errno.ENOSYS, f"no support for {os.uname().machine}")
    attempts = 0
    while True:
        result = int(_libc.syscall(ctypes.c_long(numbers[call]), *arguments))
        if result >= 0:
            return result
        number = ctypes.get_errno()
        # The verifier answers EAGAIN to a signal that comes meanwhile; everything else EINTR.
        attempts += number == errno.EAGAIN
        if number != errno.EINTR and not 0 < attempts < _LOAD_ATTEMPTS:
            raise OSError(number, os.strerror(number))
