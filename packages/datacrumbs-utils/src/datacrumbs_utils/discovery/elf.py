"""Functions of an ELF file: what could be probed in a program, a library or a kernel module."""

import ctypes
import logging
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from datacrumbs_utils.discovery import debug_files, hazards
from datacrumbs_utils.discovery.candidates import Candidate
from datacrumbs_utils.discovery.elf_image import (
    ET_REL,
    PF_X,
    SHF_EXECINSTR,
    STB_LOCAL,
    STT_FUNC,
    STT_GNU_IFUNC,
    ElfImage,
    Symbol,
)

logger = logging.getLogger(__name__)

_FUNCTION_KINDS = frozenset({STT_FUNC, STT_GNU_IFUNC})


def build_id(path: str | os.PathLike[str]) -> str | None:
    """Return the GNU build id of a file in hex, or None if it has none.

    Raises:
        DatacrumbsError: The file cannot be read as ELF.
    """
    with ElfImage(path) as image:
        return image.build_id()


def functions(path: str | os.PathLike[str]) -> list[Candidate]:
    """Return the functions of an ELF file, sorted by name.

    Both symbol tables are read, and those of a separate debug file if there is one. Names of one
    address are one candidate: the plainest name and its aliases. Where a name has several versions
    the default one comes first. ``_init``, ``_fini`` and ``_start`` are left out; functions that
    must not be probed are listed with the reason.

    Raises:
        DatacrumbsError: The file cannot be read as ELF.
    """
    with ElfImage(path) as image:
        symbols = list(image.symbols(_FUNCTION_KINDS))
        if not any(not symbol.exported for symbol in symbols):
            symbols += _separate_symbols(image)
        places: dict[tuple[int, int, bool], list[Symbol]] = defaultdict(list)
        relocatable = image.type == ET_REL
        for symbol in symbols:
            if symbol.name not in hazards.GLUE:
                section = symbol.section if relocatable else 0
                places[section, symbol.value, symbol.kind == STT_GNU_IFUNC].append(symbol)
        names_at = {
            value: _primary(group).name
            for (_, value, indirect), group in places.items()
            if not indirect
        }
        found = [_candidate(image, group, names_at) for group in places.values()]
    older = {(symbol.name, symbol.value) for symbol in symbols if not symbol.default_version}
    found.sort(key=lambda one: (one.symbol, (one.symbol, one.value) in older, one.value or 0))
    return found


def _separate_symbols(image: ElfImage) -> list[Symbol]:
    """Read the local symbols of a stripped file from where the distribution keeps them."""
    separate = debug_files.find(image)
    if separate is not None:
        with ElfImage(separate) as debug_image:
            return list(debug_image.symbols(_FUNCTION_KINDS))
    mini = debug_files.mini_debug_image(image)
    return list(mini.symbols(_FUNCTION_KINDS)) if mini is not None else []


def _plainness(symbol: Symbol) -> tuple[bool, bool, int, bool, int, str]:
    underscores = len(symbol.name) - len(symbol.name.lstrip("_"))
    return (
        not symbol.exported,
        not symbol.default_version,
        underscores,
        symbol.binding == STB_LOCAL,
        len(symbol.name),
        symbol.name,
    )


def _primary(group: Iterable[Symbol]) -> Symbol:
    return min(group, key=_plainness)


def _candidate(image: ElfImage, group: list[Symbol], names_at: dict[int, str]) -> Candidate:
    primary = _primary(group)
    names = sorted({symbol.name for symbol in group} - {primary.name})
    relocatable = image.type == ET_REL
    return Candidate(
        symbol=primary.name,
        value=primary.value,
        file_offset=None if relocatable else image.file_offset(primary.value),
        size=max(symbol.size for symbol in group) or None,
        aliases=tuple(names),
        refused=_refusal(image, primary, (primary.name, *names), names_at),
    )


def _refusal(
    image: ElfImage, primary: Symbol, names: tuple[str, ...], names_at: dict[int, str]
) -> str | None:
    for name in names:
        known = hazards.reason(name)
        if known is not None:
            return known if name == primary.name else f"same code as {name}, which {known}"
    if image.type == ET_REL:
        section = image.sections[primary.section] if primary.section < len(image.sections) else None
        in_code = section is not None and bool(section.flags & SHF_EXECINSTR)
        return None if in_code else "not in executable code"
    if not image.is_executable(primary.value):
        return "not in executable code"
    if primary.kind == STT_GNU_IFUNC:
        return _indirect(image, primary, names, names_at)
    return None


def _indirect(
    image: ElfImage, primary: Symbol, names: tuple[str, ...], names_at: dict[int, str]
) -> str:
    """Say what an indirect function (IFUNC) stands for; its symbol is only the chooser."""
    text = "indirect function (IFUNC): the CPU decides at load time which code runs"
    exported = next((name for name in names if primary.exported), None)
    address = _resolved_here(image, exported) if exported else None
    if address is None:
        return text
    if not image.is_executable(address):
        return f"{text}; here it is the kernel's vDSO, which cannot be probed"
    target = names_at.get(address)
    if target is None:
        return f"{text}; here it is unnamed code at 0x{address:x}"
    return f"{text}; here it is {target}, which can be probed by that name"


def _resolved_here(image: ElfImage, name: str) -> int | None:
    """Return the address in the file that the dynamic linker chose for this very process.

    Only a library that is loaded anyway is asked: nothing foreign is ever loaded for it.
    """
    base = _load_address(image)
    if base is None:
        return None
    try:
        function = getattr(ctypes.CDLL(None), name)
    except AttributeError:
        return None
    address = ctypes.cast(function, ctypes.c_void_p).value
    return None if address is None else address - base


def _load_address(image: ElfImage) -> int | None:
    try:
        wanted = image.path.stat()
        maps = Path("/proc/self/maps").read_text("utf-8", "surrogateescape")
    except OSError:
        return None
    file = [f"{os.major(wanted.st_dev):02x}:{os.minor(wanted.st_dev):02x}", str(wanted.st_ino)]
    for line in maps.splitlines():
        span, rights, offset, *rest = line.split(maxsplit=5)
        # This module's own read-only map of the file is not where the library runs.
        if "x" in rights and rest[:2] == file:
            for segment in image.segments:
                if segment.flags & PF_X and segment.offset == int(offset, 16):
                    return int(span.partition("-")[0], 16) - segment.address
    return None
