"""The kernel's functions: where they are, and which of them can be traced."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from datacrumbs_runtime.bpf.targets import KprobeTarget
from datacrumbs_runtime.bpf.tracefs_events import event_directory
from datacrumbs_runtime.errors import KernelError

KALLSYMS = Path("/proc/kallsyms")
_STANDARD_INPUT = 0

_FUNCTION = re.compile(rb"^([0-9a-f]+) [tTwW] (\S+)", re.MULTILINE)


def symbol_list() -> bytes:
    """Return the kernel's list of its symbols.

    The kernel tells their addresses to whoever could read its log when he opened the list. The
    service may not; it gets the list as standard input, opened by its manager.

    Raises:
        OSError: There is no list of symbols.
    """
    try:
        is_given = Path(f"/proc/self/fd/{_STANDARD_INPUT}").readlink().name == KALLSYMS.name
    except OSError:
        is_given = False
    if not is_given:
        return KALLSYMS.read_bytes()
    # The descriptor stays as it is: somebody may ask again.
    os.lseek(_STANDARD_INPUT, 0, os.SEEK_SET)
    with open(_STANDARD_INPUT, "rb", buffering=0, closefd=False) as file:
        return file.read()


def function_addresses(symbols: Iterable[str]) -> dict[str, list[int]]:
    """Return the addresses of functions of the kernel: several if several share the name.

    An address that the kernel keeps to itself is 0; names that it does not have are left out.

    Raises:
        OSError: There is no list of symbols.
    """
    wanted = {symbol.encode() for symbol in symbols}
    found: dict[str, list[int]] = defaultdict(list)
    for address, name in _FUNCTION.findall(symbol_list()):
        if name in wanted:
            found[name.decode()].append(int(address, 16))
    return found


def locate(
    targets: Sequence[KprobeTarget],
) -> tuple[list[KprobeTarget], list[tuple[KprobeTarget, str]]]:
    """Find the functions that are meant.

    Returns:
        The targets with their address, and those that are nowhere to be found, or in several
        places, with the reason.
    """
    try:
        addresses = function_addresses(target.symbol for target in targets)
    except OSError:
        return list(targets), []
    found: list[KprobeTarget] = []
    refused: list[tuple[KprobeTarget, str]] = []
    for target in targets:
        places = addresses.get(target.symbol, ())
        if len(places) == 1:
            found.append(replace(target, address=places[0]))
        elif places:
            refused.append((target, f"the kernel has {len(places)} functions of that name"))
        else:
            refused.append((target, "the kernel has no function of that name"))
    return found, refused


def traceable_functions() -> frozenset[str] | None:
    """Return the names of the functions that may be traced, or None where that cannot be read."""
    try:
        data = (event_directory() / "available_filter_functions").read_bytes()
    except (OSError, KernelError):
        return None
    # A function of a module is followed by the module's name in brackets.
    return frozenset(line.split(None, 1)[0].decode() for line in data.splitlines() if line)
