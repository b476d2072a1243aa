"""Attaching to tracepoints of the kernel: processes, system calls, and the chosen ones."""

import os
import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence

from datacrumbs_runtime.bpf import bpf_syscall
from datacrumbs_runtime.bpf.bisection import reason_of
from datacrumbs_runtime.bpf.features import Tier
from datacrumbs_runtime.bpf.links import Links
from datacrumbs_runtime.bpf.loader import PROCESS_PROGRAMS, Loaded
from datacrumbs_runtime.bpf.tracepoint_rows import TracepointTarget
from datacrumbs_runtime.errors import AttachError, KernelError

# The exit first: a call that is seen to begin is seen to end.
SYSCALL_PROGRAMS = ("dc_sys_exit", "dc_sys_enter")


def programs_of(tier: Tier, targets: Iterable[TracepointTarget]) -> dict[str, int | None]:
    """Return the programs that the tracepoints need; a tier without cookies loads them later."""
    if tier is Tier.TRACEPOINT_SINGLE:
        return {}
    return dict.fromkeys(_program_of(target) for target in targets)


def _program_of(target: TracepointTarget) -> str:
    # A program may only be attached where there are as many arguments as it reads.
    return f"dc_tracepoint_{target.arguments}"


def attach_fixed(loaded: Loaded, links: Links, *, syscalls: bool) -> None:
    """Attach what follows processes and, if wanted, all system calls.

    Raises:
        AttachError: The kernel refused: nothing can be recorded then.
    """
    for name in (*PROCESS_PROGRAMS, *(SYSCALL_PROGRAMS if syscalls else ())):
        try:
            links.add(bpf_syscall.link_create_tracing(loaded.program_fd(name)))
        except OSError as error:
            raise AttachError(f"{name}: the kernel refused to attach: {error.strerror}") from error


def attach_chosen(
    loaded: Loaded, links: Links, tier: Tier, targets: Sequence[TracepointTarget]
) -> dict[int, str]:
    """Attach to tracepoints: to both sides of a span or to none.

    Args:
        loaded: The programs.
        links: Take over what is attached.
        tier: With cookies, or one more load for each.
        targets: The tracepoints.

    Returns:
        Why a function is not attached, by its number.
    """
    refusals: dict[int, str] = {}
    made: dict[int, list[int]] = defaultdict(list)
    for target in targets:
        if target.function in refusals:
            continue
        try:
            made[target.function].append(_attach(loaded, tier, target))
        except OSError as error:
            refusals[target.function] = f"tracepoint {target.name}: {reason_of(error)}"
        except KernelError as error:
            refusals[target.function] = f"tracepoint {target.name}: {error}"
    for function, descriptors in made.items():
        if function in refusals:
            for descriptor in descriptors:
                os.close(descriptor)
        else:
            links.add(*descriptors)
    return refusals


def _attach(loaded: Loaded, tier: Tier, target: TracepointTarget) -> int:
    name = _program_of(target)
    if tier is Tier.TRACEPOINT_COOKIE:
        return bpf_syscall.raw_tracepoint_open(
            loaded.program_fd(name), target.name, target.row_index
        )
    row = struct.pack("=I", target.row_index)
    again = loaded.load_again({name: None}, {"dc_single_tracepoint": row})
    return bpf_syscall.raw_tracepoint_open(again.programs[name].fd, target.name)
