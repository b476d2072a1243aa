"""USDT probes: places that a program's authors marked, described in ``.note.stapsdt``."""

import os
import struct
from collections import defaultdict
from dataclasses import dataclass

from datacrumbs_runtime.schema.probe_file import UsdtPoint
from datacrumbs_utils.discovery.elf_image import ElfImage

NOTE_OWNER = "stapsdt"
NOTE_TYPE = 3
_ADDRESSES = struct.Struct("<QQQ")


@dataclass(frozen=True, slots=True)
class UsdtNote:
    """One note: a probe of a provider at one place.

    Attributes:
        provider: Who placed it, such as ``python``.
        name: The probe, such as ``function__entry``.
        point: Where it is.
    """

    provider: str
    name: str
    point: UsdtPoint


def notes(path: str | os.PathLike[str]) -> list[UsdtNote]:
    """Return all USDT probes of a binary in the order of its notes.

    Raises:
        DatacrumbsError: The file cannot be read as ELF.
    """
    found = []
    with ElfImage(path) as image:
        base_section = image.section(".stapsdt.base")
        for owner, kind, description in image.notes():
            if owner == NOTE_OWNER and kind == NOTE_TYPE:
                note = _decode(image, description, base_section.address if base_section else None)
                if note is not None:
                    found.append(note)
    return found


def points(path: str | os.PathLike[str], provider: str) -> dict[str, tuple[UsdtPoint, ...]]:
    """Return the places of each probe of a provider, by the probe's name.

    One probe has several places where the compiler copied the code around it.

    Raises:
        DatacrumbsError: The file cannot be read as ELF.
    """
    found: dict[str, list[UsdtPoint]] = defaultdict(list)
    for note in notes(path):
        if note.provider == provider:
            found[note.name].append(note.point)
    return {name: tuple(places) for name, places in sorted(found.items())}


def providers(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the providers of a binary's USDT probes, sorted."""
    return tuple(sorted({note.provider for note in notes(path)}))


def _decode(image: ElfImage, description: bytes, actual_base: int | None) -> UsdtNote | None:
    if len(description) < _ADDRESSES.size:
        return None
    address, link_base, semaphore = _ADDRESSES.unpack_from(description)
    texts = description[_ADDRESSES.size :].split(b"\0")
    if len(texts) < 3:
        return None
    if actual_base is not None and link_base:
        # A prelinked file was moved after the notes were written; .stapsdt.base moved with it.
        moved = actual_base - link_base
        address += moved
        semaphore += moved if semaphore else 0
    offset = image.file_offset(address)
    if offset is None:
        return None
    provider, name, arguments = (text.decode("utf-8", "surrogateescape") for text in texts[:3])
    semaphore_offset = image.file_offset(semaphore) if semaphore else 0
    return UsdtNote(provider, name, UsdtPoint(offset, semaphore_offset or 0, arguments))
