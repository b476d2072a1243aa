"""Perf events, to which programs are attached where there are no links for many places."""

import ctypes
import struct

from datacrumbs_runtime.bpf.system_calls import Call, system_call

_FLAG_FD_CLOEXEC = 8
_TYPE_TRACEPOINT = 2
_ATTRIBUTE_BYTES = 128


def open_probe(event_type: int, config: int, target: bytes, offset: int) -> int:
    """Open a perf event of the dynamic kinds ``uprobe`` and ``kprobe``, for all processes.

    Args:
        event_type: From ``/sys/bus/event_source/devices/{uprobe,kprobe}/type``.
        config: Return bit and semaphore, as that directory's ``format`` says.
        target: Path of the ELF file, or name of the kernel function.
        offset: File offset, or offset within the kernel function, in bytes.
    """
    text = ctypes.create_string_buffer(target + b"\0")
    return _open(event_type, config, ctypes.addressof(text), offset)


def open_tracepoint(number: int) -> int:
    """Open a perf event of an event of tracefs, for all processes.

    Args:
        number: What its file ``id`` says.
    """
    return _open(_TYPE_TRACEPOINT, number)


def _open(event_type: int, config: int, config1: int = 0, config2: int = 0) -> int:
    attributes = ctypes.create_string_buffer(
        struct.pack(
            "=IIQQQQQIIQQ",
            event_type,
            _ATTRIBUTE_BYTES,
            config,
            *(0, 0, 0, 0, 0, 0),
            config1,
            config2,
        ),
        _ATTRIBUTE_BYTES,
    )
    # A probe's event is bound to one CPU only in name: its program runs on all of them.
    return system_call(
        Call.PERF_EVENT_OPEN,
        attributes,
        ctypes.c_int(-1),
        ctypes.c_int(0),
        ctypes.c_int(-1),
        ctypes.c_ulong(_FLAG_FD_CLOEXEC),
    )
