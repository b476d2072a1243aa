"""The kernel: what it is, what it lets us do, what it can attach."""

import os
import platform
import resource
from collections.abc import Iterator
from pathlib import Path

from datacrumbs_runtime.engine import MachineFeatures, TierFeature
from datacrumbs_utils.doctor.check import Check, State
from datacrumbs_utils.recording import requirements

_MOUNTS = Path("/proc/mounts")
_LOCKDOWN = Path("/sys/kernel/security/lockdown")
_MODULE_TYPES = Path("/sys/kernel/btf")
_FILE_SYSTEMS = {
    "tracefs": ("/sys/kernel/tracing", "lists of functions; recording does without"),
    "bpf": ("/sys/fs/bpf", "bpftool and pinned maps; recording does without"),
    "debugfs": ("/sys/kernel/debug", "lists of kernel functions on old kernels"),
}
_KINDS = {
    "uprobe": "functions of programs and libraries",
    "kprobe": "functions of the kernel",
    "tracepoint": "tracepoints of the kernel",
}
_CONFIGURATION = {
    "uprobe": "CONFIG_UPROBES",
    "kprobe": "CONFIG_KPROBES and CONFIG_FPROBE or CONFIG_FUNCTION_TRACER",
    "tracepoint": "CONFIG_TRACEPOINTS",
}
_FEW_FILES = 4096


def kernel_checks() -> Iterator[Check]:
    """Look at the kernel and at what this process may do."""
    yield Check("system", "kernel", State.FACT, f"{platform.release()} {platform.machine()}")
    yield Check("system", "distribution", State.FACT, _distribution())
    yield Check("system", "CPUs", State.FACT, str(os.cpu_count()))
    types = requirements.KERNEL_TYPES
    if types.exists():
        modules = sum(1 for _ in _MODULE_TYPES.iterdir()) - 1
        size = types.stat().st_size >> 10
        yield Check(
            "kernel", "type information (BTF)", State.GOOD, f"{size} KiB, {modules} modules"
        )
    else:
        yield Check(
            "kernel",
            "type information (BTF)",
            State.MISSING,
            f"{types} is not there",
            "a kernel with CONFIG_DEBUG_INFO_BTF, and /sys mounted",
        )
    yield from _privileges()
    yield from _lockdown()


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        return "unknown"


def _privileges() -> Iterator[Check]:
    held = requirements.held()
    lacking = requirements.missing()
    shown = ", ".join(sorted(held)) or "none of those that matter"
    yield Check(
        "kernel",
        "capabilities",
        State.MISSING if lacking else State.GOOD,
        shown,
        f"run as root, or with {' and '.join(lacking)}" if lacking else None,
    )


def _lockdown() -> Iterator[Check]:
    try:
        text = _LOCKDOWN.read_text().strip()
    except OSError:
        return
    mode = text.partition("[")[2].partition("]")[0]
    confidential = mode == "confidentiality"
    yield Check(
        "kernel",
        "lockdown",
        State.MISSING if confidential else State.GOOD,
        mode or text,
        "confidentiality forbids BPF to read memory: boot without lockdown=confidentiality"
        if confidential
        else None,
    )


def tier_checks(features: MachineFeatures) -> Iterator[Check]:
    """Say for each kind of probe which tiers there are."""
    for kind, meaning in _KINDS.items():
        tiers = [tier for tier in features.tiers if tier.kind == kind]
        usable = [tier.tier for tier in tiers if tier.refusal is None]
        if not usable:
            yield Check(
                "probes",
                kind,
                State.LESS,
                f"{meaning} cannot be recorded ({_reasons(tiers)})",
                f"a kernel with {_CONFIGURATION[kind]}",
            )
            continue
        best = tiers[0].refusal is None
        value = f"{meaning}: {usable[0]}"
        if not best:
            value += f" ({_reasons(tiers[: [t.tier for t in tiers].index(usable[0])])})"
        yield Check(
            "probes",
            kind,
            State.GOOD if best else State.LESS,
            value,
            None if best else f"a newer kernel has {tiers[0].tier}, which costs less",
        )
    if features.storage:
        there = [part for part, found in features.storage.items() if found]
        absent = [part for part, found in features.storage.items() if not found]
        value = ", ".join(there) or "none"
        if absent:
            value += f"; not: {', '.join(absent)}"
        yield Check("probes", "storage tracepoints", State.FACT, value)


def _reasons(tiers: list[TierFeature]) -> str:
    return ", ".join(f"{tier.tier}: {tier.refusal}" for tier in tiers)


def place_checks() -> Iterator[Check]:
    """Look at mounted file systems and limits."""
    mounted: dict[str, str] = {}
    for line in _MOUNTS.read_text().splitlines():
        _, mount_point, file_system = line.split()[:3]
        mounted.setdefault(file_system, mount_point)
    for file_system, (place, purpose) in _FILE_SYSTEMS.items():
        where = mounted.get(file_system)
        yield Check(
            "places",
            file_system,
            State.GOOD if where else State.FACT,
            where or f"not mounted ({purpose})",
            None if where else f"mount -t {file_system} {file_system} {place}",
        )
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = files == resource.RLIM_INFINITY or files >= _FEW_FILES
    yield Check(
        "places",
        "open files",
        State.GOOD if enough else State.LESS,
        f"at most {files}",
        None if enough else "raise the hard limit NOFILE: old kernels need a file per probe",
    )
    _, memory = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    shown = "unlimited" if memory == resource.RLIM_INFINITY else f"at most {memory >> 10} KiB"
    yield Check("places", "locked memory", State.FACT, shown)
