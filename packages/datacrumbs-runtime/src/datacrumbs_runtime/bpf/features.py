"""What this kernel can attach, found out by trying.

Each way to attach is a tier. For every kind of probe the tiers are listed best first; a kernel
that lacks one gets the next. Nothing here looks at version numbers: distributions move features
between versions.
"""

import errno
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import MappingProxyType

from datacrumbs_runtime.bpf import bpf_syscall, perf_events
from datacrumbs_runtime.bpf.libbpf import BTF_KIND_FUNC, Btf
from datacrumbs_runtime.bpf.tracefs_events import SharedEvent, user_place
from datacrumbs_runtime.errors import KernelError

EVENT_SOURCES = Path("/sys/bus/event_source/devices")

# Two instructions: r0 = 0; exit.
_RETURN_ZERO = struct.pack("=BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)
# A kernel function that exists everywhere and is called seldom.
_QUIET_FUNCTION = "vfs_truncate"
_NO_TRACEPOINT = "dc_no_such_tracepoint"
_BTF_KIND_STRUCT = 4
_MEMBER = struct.Struct("=III")


class Tier(str, Enum):
    """One way to attach one kind of probe."""

    UPROBE_SESSION = "uprobe.session"
    UPROBE_MULTI = "uprobe.multi"
    UPROBE_TRACEFS = "uprobe.tracefs"
    UPROBE_PERF = "uprobe.perf"
    KPROBE_SESSION = "kprobe.session"
    KPROBE_MULTI = "kprobe.multi"
    KPROBE_FENTRY = "kprobe.fentry"
    KPROBE_TRACEFS = "kprobe.tracefs"
    KPROBE_PERF = "kprobe.perf"
    TRACEPOINT_COOKIE = "tracepoint.cookie"
    TRACEPOINT_SINGLE = "tracepoint.single"

    @property
    def kind(self) -> str:
        """The kind of probe: ``uprobe``, ``kprobe`` or ``tracepoint``."""
        return self.value.partition(".")[0]


def tiers_of(kind: str, max_tier: str | None = None) -> list[Tier]:
    """Return the tiers of a kind, best first.

    Args:
        kind: ``uprobe``, ``kprobe`` or ``tracepoint``.
        max_tier: Tiers above which nothing is tried, separated by commas; for tests of lower ones.

    Raises:
        KernelError: ``max_tier`` names no tier.
    """
    tiers = [tier for tier in Tier if tier.kind == kind]
    for name in filter(None, (max_tier or "").replace(" ", "").split(",")):
        try:
            highest = Tier(name)
        except ValueError:
            known = ", ".join(tier.value for tier in Tier)
            raise KernelError(f"max tier: no tier {name}", hint=f"known are {known}") from None
        if highest.kind == kind:
            tiers = tiers[tiers.index(highest) :]
    return tiers


def best_tier(
    kind: str, max_tier: str | None = None, refused: Mapping[Tier, str] = MappingProxyType({})
) -> Tier:
    """Return the best tier that this kernel has; see :func:`tiers_of`.

    Args:
        kind: ``uprobe``, ``kprobe`` or ``tracepoint``.
        max_tier: Tiers above which nothing is tried.
        refused: Tiers that are known not to work, with the reason.

    Raises:
        KernelError: It has none.
    """
    refusals = []
    for tier in tiers_of(kind, max_tier):
        reason = refused.get(tier) or refusal(tier)
        if reason is None:
            return tier
        refusals.append(f"{tier.value}: {reason}")
    raise KernelError(f"this kernel cannot attach any {kind} ({'; '.join(refusals)})")


def refusal(tier: Tier) -> str | None:
    """Try a tier and return why this kernel does not have it, or None if it does."""
    try:
        _TRIALS[tier]()
    except OSError as error:
        return error.strerror or str(error)
    except KernelError as error:
        return str(error)
    return None


def probe_event_source(kind: str) -> tuple[int, int]:
    """Return the type of the perf events of a kind of probe, and the bit that means return.

    Args:
        kind: ``uprobe`` or ``kprobe``.

    Raises:
        OSError: This kernel has none.
    """
    directory = EVENT_SOURCES / kind
    event_type = int((directory / "type").read_text())
    bit = (directory / "format" / "retprobe").read_text().partition(":")[2]
    return event_type, 1 << int(bit)


def returns_come_from_a_pool() -> bool:
    """Return whether a multi link of kernel functions has a fixed number of returns to give.

    They are two for each function and CPU, shared by all functions of the link. Linux 6.14
    (4346ba160409, "fprobe: Rewrite fprobe on function-graph tracer") gave them up.
    """
    types = Btf.of_kernel()
    try:
        link = types.find("fprobe", _BTF_KIND_STRUCT)
        if link is None:
            return False
        return any(types.name(name) == "rethook" for name, *_ in types.records(link, _MEMBER))
    finally:
        types.close()


def semaphore_shift() -> int:
    """Return the bit at which the config of a uprobe's perf event holds the semaphore's offset.

    Raises:
        OSError: This kernel's perf events know nothing of semaphores.
    """
    text = (EVENT_SOURCES / "uprobe" / "format" / "ref_ctr_offset").read_text()
    return int(text.partition(":")[2].partition("-")[0])


def _load(attach_type: int = 0, program_type: int = bpf_syscall.PROG_TYPE_KPROBE) -> int:
    return bpf_syscall.program_load(program_type, _RETURN_ZERO, expected_attach_type=attach_type)


def _try_uprobe_multi(session: bool) -> None:
    attach_type = bpf_syscall.ATTACH_UPROBE_SESSION if session else bpf_syscall.ATTACH_UPROBE_MULTI
    program = _load(attach_type)
    try:
        # A directory is no ELF file: a kernel that knows this link says so (EBADF), others say
        # EINVAL. A real attachment would take some 10 ms of every start, and 40 ms to remove.
        os.close(bpf_syscall.link_create_uprobe_multi(program, b"/", [0], [0], session=session))
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
    finally:
        os.close(program)


def _try_kprobe_multi(session: bool) -> None:
    attach_type = bpf_syscall.ATTACH_KPROBE_SESSION if session else bpf_syscall.ATTACH_KPROBE_MULTI
    program = _load(attach_type)
    try:
        os.close(
            bpf_syscall.link_create_kprobe_multi(program, [_QUIET_FUNCTION], [1], session=session)
        )
    finally:
        os.close(program)


def _try_fentry() -> None:
    types = Btf.of_kernel()
    try:
        function = types.find(_QUIET_FUNCTION, BTF_KIND_FUNC)
    finally:
        types.close()
    if function is None:
        raise OSError(errno.ENOENT, f"no {_QUIET_FUNCTION} in the kernel's BTF")
    program = bpf_syscall.program_load(
        bpf_syscall.PROG_TYPE_TRACING,
        _RETURN_ZERO,
        expected_attach_type=bpf_syscall.ATTACH_TRACE_FENTRY,
        attach_btf_id=function,
    )
    try:
        os.close(bpf_syscall.link_create_tracing(program))
    finally:
        os.close(program)


def _try_perf(kind: str) -> None:
    event_type, _ = probe_event_source(kind)
    program = _load()
    try:
        if kind == "kprobe":
            event = perf_events.open_probe(event_type, 0, _QUIET_FUNCTION.encode(), 0)
        else:
            event = _open_uprobe_on_nothing(event_type)
        try:
            os.close(bpf_syscall.link_create_perf_event(program, event, 1))
        finally:
            os.close(event)
    finally:
        os.close(program)


def _open_uprobe_on_nothing(event_type: int) -> int:
    with _file_of_nobody() as file:
        return perf_events.open_probe(event_type, 0, b"/proc/self/fd/%d" % file, 0)


@contextmanager
def _file_of_nobody() -> Iterator[int]:
    # A file in memory that nobody maps: the event is as real as any other and disturbs nobody.
    file = os.memfd_create("datacrumbs", os.MFD_CLOEXEC)
    try:
        os.write(file, bytes(64))
        yield file
    finally:
        os.close(file)


def _try_tracefs(kind: str) -> None:
    # Opening an event of tracefs works wherever there are perf events; defining one may not.
    # Closing one takes 0.1 s on the kernels that need this tier, so that is not tried.
    event = SharedEvent(kind)
    try:
        if kind == "kprobe":
            event.add(_QUIET_FUNCTION.encode())
        else:
            with _file_of_nobody() as file:
                event.add(user_place(b"/proc/self/fd/%d" % file, file, 0))
    finally:
        event.remove()


def _try_tracepoint_cookie() -> None:
    program = _load(program_type=bpf_syscall.PROG_TYPE_RAW_TRACEPOINT)
    try:
        # Attaching patches the kernel's code on all CPUs. A kernel that knows cookies gets as far
        # as not finding the tracepoint (ENOENT), others stop at the cookie (EINVAL, E2BIG).
        os.close(bpf_syscall.raw_tracepoint_open(program, _NO_TRACEPOINT, 1))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    finally:
        os.close(program)


def _try_tracepoint() -> None:
    program = _load(program_type=bpf_syscall.PROG_TYPE_RAW_TRACEPOINT)
    try:
        os.close(bpf_syscall.raw_tracepoint_open(program, _NO_TRACEPOINT))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    finally:
        os.close(program)


_TRIALS: Mapping[Tier, Callable[[], None]] = {
    Tier.UPROBE_SESSION: lambda: _try_uprobe_multi(True),
    Tier.UPROBE_MULTI: lambda: _try_uprobe_multi(False),
    Tier.UPROBE_TRACEFS: lambda: _try_tracefs("uprobe"),
    Tier.UPROBE_PERF: lambda: _try_perf("uprobe"),
    Tier.KPROBE_SESSION: lambda: _try_kprobe_multi(True),
    Tier.KPROBE_MULTI: lambda: _try_kprobe_multi(False),
    Tier.KPROBE_FENTRY: _try_fentry,
    Tier.KPROBE_TRACEFS: lambda: _try_tracefs("kprobe"),
    Tier.KPROBE_PERF: lambda: _try_perf("kprobe"),
    Tier.TRACEPOINT_COOKIE: _try_tracepoint_cookie,
    Tier.TRACEPOINT_SINGLE: _try_tracepoint,
}
