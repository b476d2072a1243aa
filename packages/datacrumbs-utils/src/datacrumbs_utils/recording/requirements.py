"""Whether this process may record at all, on this kernel."""

from pathlib import Path

from datacrumbs_runtime.errors import KernelError

# include/uapi/linux/capability.h
CAPABILITIES = {"CAP_SYS_ADMIN": 21, "CAP_SYS_RESOURCE": 24, "CAP_PERFMON": 38, "CAP_BPF": 39}
KERNEL_TYPES = Path("/sys/kernel/btf/vmlinux")
_STATUS = Path("/proc/self/status")


def held() -> frozenset[str]:
    """Return which of the capabilities that matter here this process has."""
    for line in _STATUS.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "CapEff":
            bits = int(value, 16)
            return frozenset(name for name, bit in CAPABILITIES.items() if bits >> bit & 1)
    return frozenset()


def missing() -> tuple[str, ...]:
    """Return the capabilities that recording needs and this process lacks."""
    has = held()
    if "CAP_SYS_ADMIN" in has:
        return ()
    return tuple(name for name in ("CAP_BPF", "CAP_PERFMON") if name not in has)


def require() -> None:
    """Raise unless this process may record.

    Raises:
        KernelError: It may not; the hint says how it can.
    """
    if not KERNEL_TYPES.exists():
        raise KernelError(
            f"this kernel has no type information (BTF): {KERNEL_TYPES} is missing",
            hint="it needs CONFIG_DEBUG_INFO_BTF, as distributions have it since Linux 5.10, "
            "and /sys must be mounted",
        )
    lacking = missing()
    if lacking:
        raise KernelError(
            f"recording needs {' and '.join(lacking)}",
            hint="run it as root, or with sudo",
        )
