"""Addresses of the kernel's functions."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

KALLSYMS = Path("/proc/kallsyms")

_FUNCTION_TYPES = frozenset("tTwW")


def function_addresses(symbols: Iterable[str]) -> dict[str, list[int]]:
    """Return the addresses of functions of the kernel: several if several share the name.

    Names that the kernel does not have, or whose addresses it keeps to itself, are left out.
    """
    wanted = set(symbols)
    found: dict[str, list[int]] = defaultdict(list)
    with KALLSYMS.open() as lines:
        for line in lines:
            address, kind, name, *_ = line.split()
            if name in wanted and kind in _FUNCTION_TYPES and int(address, 16):
                found[name].append(int(address, 16))
    return found
