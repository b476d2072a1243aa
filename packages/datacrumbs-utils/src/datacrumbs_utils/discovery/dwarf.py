"""Arguments of functions from debugging information, for the functions that somebody wants.

Functions are found by their addresses, so that every alias of one is found whatever the debugging
information calls it. Results are kept by build id.
"""

import contextlib
import logging
import os
import re
import struct
from collections.abc import Iterable, Iterator
from typing import Any

from datacrumbs_utils.discovery import cache, debug_files, dwarf_types, elf
from datacrumbs_utils.discovery import dwarf_entries as dw
from datacrumbs_utils.discovery.candidates import Candidate
from datacrumbs_utils.discovery.dwarf_entries import DebugInfo, Entry, Unit
from datacrumbs_utils.discovery.dwarf_forms import DwarfError
from datacrumbs_utils.discovery.elf_image import ElfError, ElfImage
from datacrumbs_utils.discovery.signatures import Signature, from_row, to_row

logger = logging.getLogger(__name__)

_CACHE_KIND = "signatures"
_CACHE_VERSION = 1
# The compiler changed what these copies of a function take; no one wrote down how.
_CHANGED = re.compile(r".*\.(?:isra|constprop|part)\.\d+.*")
_CONTAINERS = frozenset({dw.TAG_SUBPROGRAM, dw.TAG_NAMESPACE})


def signatures(path: str | os.PathLike[str], symbols: Iterable[str]) -> dict[str, Signature]:
    """Return the signatures of functions by symbol.

    Args:
        path: The binary. Its debugging information may be in a separate file.
        symbols: Names from its symbol tables, or ``symbol:0xVALUE`` where a name is not enough.

    Returns:
        What the debugging information says. Symbols without any are missing.

    Raises:
        DatacrumbsError: The file cannot be read as ELF, or the debugging information is damaged.
    """
    with ElfImage(path) as image:
        separate = None if image.section(".debug_info") else debug_files.find(image)
        if separate is None and not image.section(".debug_info"):
            return {}
        key = cache.file_key(path, image.build_id())
    functions = _functions(path, symbols)
    known = cache.load(_CACHE_KIND, _CACHE_VERSION, key)
    missing = {one.value: one for one in functions.values() if f"{one.value:x}" not in known}
    if missing:
        rows = _compute(separate or path, {value: one for value, one in missing.items() if value})
        known = {**known, **rows}
        cache.store(_CACHE_KIND, _CACHE_VERSION, key, known)
    found = {}
    for symbol, one in functions.items():
        signature = from_row(known.get(f"{one.value:x}"))
        if signature is not None:
            found[symbol] = signature
    return found


def _functions(path: str | os.PathLike[str], symbols: Iterable[str]) -> dict[str, Candidate]:
    by_name: dict[str, Candidate] = {}
    for one in elf.functions(path):
        # What debugging information has for an indirect function is its chooser, not itself.
        if one.value is None or one.refused is not None or _CHANGED.fullmatch(one.symbol):
            continue
        for name in (one.symbol, *one.aliases):
            by_name.setdefault(name, one)
            by_name[f"{name}:{one.value:#x}"] = one
    return {symbol: by_name[symbol] for symbol in symbols if symbol in by_name}


def _compute(
    path: str | os.PathLike[str], wanted: dict[int, Candidate]
) -> dict[str, list[Any] | None]:
    """Read the signatures of functions by address; None for those that are not described."""
    rows: dict[str, list[Any] | None] = {f"{value:x}": None for value in wanted}
    try:
        with ElfImage(path) as image, _alternate(image) as alternate:
            info = DebugInfo(image, alternate=alternate)
        for value, entry in _entries(info, wanted):
            rows[f"{value:x}"] = to_row(dwarf_types.signature(entry))
    except (IndexError, struct.error, ValueError) as error:
        raise DwarfError(f"{path}: debugging information is damaged") from error
    return rows


@contextlib.contextmanager
def _alternate(image: ElfImage) -> Iterator[DebugInfo | None]:
    path = debug_files.supplementary(image)
    if path is None:
        yield None
        return
    try:
        with ElfImage(path) as shared:
            yield DebugInfo(shared)
    except ElfError as error:
        logger.warning("%s: %s", path, error)
        yield None


def _entries(info: DebugInfo, wanted: dict[int, Candidate]) -> Iterator[tuple[int, Entry]]:
    """Find the functions that begin at some addresses.

    A function that the compiler split in two has no single start; it is found by its name.
    """
    open_values = set(wanted)
    values: dict[str, int] = {}
    for value, one in wanted.items():
        values.update(dict.fromkeys((one.symbol, *one.aliases), value))
    for unit in _units(info, open_values):
        if dwarf_types.is_assembler(unit):
            continue
        for entry in _subprograms(info, info.root(unit)):
            low = entry.values.get(dw.AT_LOW_PC)
            if low is None and dw.AT_RANGES in entry.values:
                names = dwarf_types.names(entry)
                low = next((values[name] for name in names if name in values), None)
            if isinstance(low, int) and low in open_values:
                open_values.discard(low)
                yield low, entry
        if not open_values:
            return


def _subprograms(info: DebugInfo, parent: Entry) -> Iterator[Entry]:
    for position, tag in info.child_positions(parent, _CONTAINERS.__contains__):
        entry = info.entry(position)
        if tag == dw.TAG_NAMESPACE:
            yield from _subprograms(info, entry)
        else:
            yield entry


def _units(info: DebugInfo, values: set[int]) -> Iterator[Unit]:
    """Yield the units that contain some addresses first, then those about which nothing is said."""
    ranges, described = _address_ranges(info.aranges)
    addresses = sorted(values)
    starts = set()
    position = 0
    for low, high, start in ranges:
        while position < len(addresses) and addresses[position] < low:
            position += 1
        if position < len(addresses) and addresses[position] < high:
            starts.add(start)
    for start in sorted(starts):
        yield info.unit_at(start)
    for unit in info.units:
        if unit.start not in described and unit.signature is None:
            yield unit


def _address_ranges(data: bytes) -> tuple[list[tuple[int, int, int]], set[int]]:
    """Decode ``.debug_aranges``: (low, high, unit) by address, and the units that it describes."""
    ranges = []
    described = set()
    position = 0
    while position + 12 <= len(data):
        (length,) = struct.unpack_from("<I", data, position)
        if length >= 0xFFFFFFF0:
            break
        end = position + 4 + length
        version, unit, address_size, _ = struct.unpack_from("<HIBB", data, position + 4)
        if version != 2 or address_size != 8 or end > len(data):
            break
        described.add(unit)
        # Pairs begin at a multiple of their size, counted from the start of the set.
        for at in range(position + 16, end - 15, 16):
            low, size = struct.unpack_from("<QQ", data, at)
            if size:
                ranges.append((low, low + size, unit))
        position = end
    ranges.sort()
    return ranges, described
