"""What the kernel tells of the runs of programs that it left out.

A program's own misses are those that had come as far as the program: it, or another one, was
running on that CPU. A link's are those that had not: the kernel had no room to remember the return
of one more call, or was in another probe. None is counted in both.
"""

import struct

from datacrumbs_runtime.bpf import bpf_syscall

# Parts of struct bpf_prog_info and bpf_link_info, up to and with what is read of them.
_PROGRAM_BYTES = 216
_RECURSION_MISSES_OFFSET = 208
_LINK_BYTES = 56
_PERF_EVENT_TYPE_OFFSET = 16
_MULTI_MISSED_OFFSET = 32
_PERF_EVENT_MISSED_OFFSET = 48

# enum bpf_link_type, enum bpf_perf_event_type
_LINK_PERF_EVENT = 7
_LINK_KPROBE_MULTI = 8
_KERNEL_PROBES = frozenset({3, 4})


def program_misses(program: int) -> int:
    """Return how often the kernel did not run a program because one was running on that CPU.

    Counted since Linux 5.12 (9ed9e9ba2337, "bpf: Count the number of times recursion was
    prevented"), on kernel functions but for fentry since 6.7 (f915fcb38553, "bpf: Count stats for
    kprobe_multi programs"; dd8657894c11, "bpf: Count missed stats in trace_call_bpf"); before, 0.
    """
    info = bpf_syscall.object_info(program, _PROGRAM_BYTES)
    if len(info) < _PROGRAM_BYTES:
        return 0
    return int(struct.unpack_from("=Q", info, _RECURSION_MISSES_OFFSET)[0])


def link_misses(link: int) -> int | None:
    """Return how often a link did not get as far as its program; None: the kernel does not tell.

    For multi links and perf events of kernel functions, since Linux 6.7 (e2b2cd592adb, "bpf: Add
    missed value to kprobe_multi link info"; 3acf8ace6823, "bpf: Add missed value to kprobe perf
    link info"). Of other links it tells nothing.
    """
    try:
        info = bpf_syscall.object_info(link, _LINK_BYTES)
    except OSError:
        return None
    # Longer since the same release in which multi links got theirs, which made nothing longer.
    if len(info) < _LINK_BYTES:
        return None
    (link_type,) = struct.unpack_from("=I", info)
    if link_type == _LINK_KPROBE_MULTI:
        return int(struct.unpack_from("=Q", info, _MULTI_MISSED_OFFSET)[0])
    (event_type,) = struct.unpack_from("=I", info, _PERF_EVENT_TYPE_OFFSET)
    if link_type == _LINK_PERF_EVENT and event_type in _KERNEL_PROBES:
        return int(struct.unpack_from("=Q", info, _PERF_EVENT_MISSED_OFFSET)[0])
    return None
