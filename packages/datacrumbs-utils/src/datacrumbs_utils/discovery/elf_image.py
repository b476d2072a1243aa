"""One ELF file on disk: its headers, sections, segments and symbols, without decoding more.

Symbol tables are unpacked in bulk; a library with 20,000 symbols takes some 10 ms.
"""

import contextlib
import lzma
import mmap
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datacrumbs_runtime.errors import ConfigurationError, DatacrumbsError
from datacrumbs_runtime.process import run

ET_REL = 1
EM_X86_64 = 62
EM_AARCH64 = 183
PT_LOAD = 1
PT_NOTE = 4
PF_X = 1
SHT_SYMTAB = 2
SHT_NOTE = 7
SHT_NOBITS = 8
SHT_DYNSYM = 11
SHT_GNU_VERSYM = 0x6FFFFFFF
SHF_EXECINSTR = 4
SHF_COMPRESSED = 0x800
SHN_UNDEF = 0
STB_LOCAL = 0
STT_FUNC, STT_GNU_IFUNC = 2, 10
NT_GNU_BUILD_ID = 3
MAX_COMPRESSED_MODULE_BYTES = 256 << 20

_SECTION = struct.Struct("<IIQQQQIIQQ")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SYMBOL = struct.Struct("<IBBHQQ")


class ElfError(DatacrumbsError):
    """A file is not an ELF file that can be read."""


@dataclass(frozen=True, slots=True)
class Section:
    """One row of the section header table, sizes and positions in bytes."""

    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int


@dataclass(frozen=True, slots=True)
class Segment:
    """One row of the program header table, sizes and positions in bytes."""

    type: int
    flags: int
    offset: int
    address: int
    file_size: int


@dataclass(frozen=True, slots=True)
class Symbol:
    """One named symbol.

    Attributes:
        name: Its name without version.
        value: Its address (in a relocatable file: its offset in the section).
        size: Its size in bytes, 0 if unknown.
        kind: STT_FUNC, STT_GNU_IFUNC, ...
        binding: STB_LOCAL, or that of a symbol that other files see.
        section: Index of its section, SHN_UNDEF if it is defined elsewhere.
        exported: Whether the dynamic linker can see it.
        default_version: False for an older version kept for old programs (``name@VERSION``).
    """

    name: str
    value: int
    size: int
    kind: int
    binding: int
    section: int
    exported: bool
    default_version: bool = True


class ElfImage:
    """A 64-bit little-endian ELF file, mapped read-only. Use it as a context manager.

    Attributes:
        path: Where it was opened.
        type: ET_REL, or that of a program or library.
        machine: EM_X86_64, EM_AARCH64, ...
        sections: The section header table.
        segments: The program header table.
    """

    def __init__(self, path: str | os.PathLike[str], data: bytes | None = None) -> None:
        """Open a file, or take ``data`` that was found inside another one.

        Raises:
            ElfError: It is not an ELF file, is cut short, or is of a kind that is not supported.
            ConfigurationError: It cannot be opened.
        """
        self.path = Path(path)
        self._map: mmap.mmap | bytes = b""
        try:
            self._map = _open(self.path) if data is None else data
            self._read_headers()
        except (struct.error, IndexError, UnicodeDecodeError, EOFError) as error:
            self.close()
            raise ElfError(f"{self.path}: cut short or damaged ELF file") from error
        except ElfError:
            self.close()
            raise

    def __enter__(self) -> "ElfImage":
        """Return the image itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Unmap the file."""
        self.close()

    def close(self) -> None:
        """Unmap the file."""
        if isinstance(self._map, mmap.mmap):
            # Views that are still held keep the map until they are gone.
            with contextlib.suppress(BufferError):
                self._map.close()

    def _read_headers(self) -> None:
        image = self._map
        if image[:4] != b"\x7fELF":
            raise ElfError(f"{self.path}: not an ELF file")
        if image[4] != 2 or image[5] != 1:
            raise ElfError(f"{self.path}: only 64-bit little-endian ELF files are supported")
        header = struct.unpack_from("<HHIQQQIHHHHHH", image, 16)
        self.type, self.machine = header[0], header[1]
        segment_table, section_table = header[4], header[5]
        segment_size, segment_count = header[8], header[9]
        section_size, section_count, names_index = header[10], header[11], header[12]
        self.segments = tuple(
            Segment(row[0], row[1], row[2], row[3], row[5])
            for row in (
                _SEGMENT.unpack_from(image, segment_table + number * segment_size)
                for number in range(segment_count)
            )
        )
        rows = []
        if section_table:
            first = _SECTION.unpack_from(image, section_table)
            section_count = section_count or first[5]
            names_index = first[6] if names_index == 0xFFFF else names_index
            if section_count * section_size > len(image):
                raise ElfError(f"{self.path}: cut short or damaged ELF file")
            rows = [
                _SECTION.unpack_from(image, section_table + number * section_size)
                for number in range(section_count)
            ]
        names = b""
        if rows:
            start, size = rows[names_index][4], rows[names_index][5]
            names = image[start : start + size]
        self.sections = tuple(Section(text_at(names, row[0]), *row[1:7]) for row in rows)

    def section(self, name: str) -> Section | None:
        """Return the first section of that name, or None."""
        return next((section for section in self.sections if section.name == name), None)

    def data(self, section: Section) -> bytes:
        """Return a section's bytes, decompressed; empty if the file holds none.

        Raises:
            ElfError: They lie outside the file, or are compressed in an unknown way.
        """
        if section.type == SHT_NOBITS:
            return b""
        if section.offset + section.size > len(self._map):
            raise ElfError(f"{self.path}: section {section.name} lies outside the file")
        raw = self._map[section.offset : section.offset + section.size]
        if not section.flags & SHF_COMPRESSED:
            return raw
        kind, _, size, _ = struct.unpack_from("<IIQQ", raw)
        if kind != 1:
            raise ElfError(f"{self.path}: section {section.name} is compressed in an unknown way")
        try:
            unpacker = zlib.decompressobj()
            return unpacker.decompress(raw[24:], size)
        except zlib.error as error:
            raise ElfError(f"{self.path}: section {section.name}: {error}") from error

    def read(self, offset: int, size: int) -> bytes:
        """Return at most ``size`` bytes at a file offset."""
        return self._map[offset : offset + size]

    def file_offset(self, address: int) -> int | None:
        """Return where the file holds an address, in bytes, or None if no segment does."""
        for segment in self.segments:
            distance = address - segment.address
            if segment.type == PT_LOAD and 0 <= distance < segment.file_size:
                return segment.offset + distance
        return None

    def is_executable(self, address: int) -> bool:
        """Return whether an address lies in a segment that is mapped executable."""
        return any(
            segment.type == PT_LOAD
            and segment.flags & PF_X
            and 0 <= address - segment.address < segment.file_size
            for segment in self.segments
        )

    def symbols(self, kinds: frozenset[int]) -> Iterator[Symbol]:
        """Yield the named symbols of all symbol tables that are defined here.

        Args:
            kinds: The symbol types that are wanted, such as STT_FUNC.
        """
        for table in self.sections:
            if table.type not in (SHT_SYMTAB, SHT_DYNSYM) or table.link >= len(self.sections):
                continue
            strings = self.data(self.sections[table.link])
            exported = table.type == SHT_DYNSYM
            versions = self._symbol_versions() if exported else ()
            rows = self.data(table)
            rows = rows[: len(rows) // _SYMBOL.size * _SYMBOL.size]
            for number, row in enumerate(_SYMBOL.iter_unpack(rows)):
                name, info, _, section, value, size = row
                if section == SHN_UNDEF or info & 15 not in kinds or not name:
                    continue
                # Debug files keep the version in the name: memcpy@GLIBC_2.2.5, read@@GLIBC_2.2.5.
                plain, at, version = text_at(strings, name).partition("@")
                older = number < len(versions) and bool(versions[number] & 0x8000)
                yield Symbol(
                    name=plain,
                    value=value,
                    size=size,
                    kind=info & 15,
                    binding=info >> 4,
                    section=section,
                    exported=exported,
                    default_version=not older and (not at or version.startswith("@")),
                )

    def _symbol_versions(self) -> tuple[int, ...]:
        for section in self.sections:
            if section.type == SHT_GNU_VERSYM:
                data = self.data(section)
                return struct.unpack(f"<{len(data) // 2}H", data[: len(data) // 2 * 2])
        return ()

    def notes(self) -> Iterator[tuple[str, int, bytes]]:
        """Yield owner, type and description of every note, sections before segments."""
        areas = [
            (section.offset, section.size) for section in self.sections if section.type == SHT_NOTE
        ] or [
            (segment.offset, segment.file_size)
            for segment in self.segments
            if segment.type == PT_NOTE
        ]
        for offset, size in areas:
            yield from iterate_notes(self.read(offset, size))

    def build_id(self) -> str | None:
        """Return the GNU build id in hex, or None if the file has none."""
        for owner, kind, description in self.notes():
            if owner == "GNU" and kind == NT_GNU_BUILD_ID:
                return description.hex()
        return None


def iterate_notes(data: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Yield owner, type and description of the notes in a section, up to where it is damaged."""
    position = 0
    while position + 12 <= len(data):
        name_size, size, kind = struct.unpack_from("<III", data, position)
        start = position + 12
        description = start + (name_size + 3 & ~3)
        if description + size > len(data):
            return
        owner = data[start : start + name_size].rstrip(b"\0").decode("latin-1")
        yield owner, kind, data[description : description + size]
        position = description + (size + 3 & ~3)


def text_at(strings: bytes, position: int) -> str:
    """Return the zero-terminated string at a position of a string table."""
    end = strings.find(b"\0", position)
    return strings[position : end if end >= 0 else len(strings)].decode("utf-8", "surrogateescape")


def _open(path: Path) -> mmap.mmap | bytes:
    """Map a file; kernel modules that are compressed as a whole are unpacked into memory."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    try:
        if not os.path.isfile(descriptor):  # noqa: PTH113 (a descriptor has no Path)
            raise ElfError(f"{path}: not a regular file")
        if os.fstat(descriptor).st_size == 0:
            raise ElfError(f"{path}: empty file")
        mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if mapped[:6].startswith((b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")):
        with mapped:
            return _decompress(path, mapped[:])
    return mapped


def _decompress(path: Path, data: bytes) -> bytes:
    try:
        if data[:2] == b"\x1f\x8b":
            unpacker = zlib.decompressobj(wbits=31)
            return unpacker.decompress(data, MAX_COMPRESSED_MODULE_BYTES)
        if data[:6] == b"\xfd7zXZ\0":
            return lzma.LZMADecompressor().decompress(data, MAX_COMPRESSED_MODULE_BYTES)
    except (zlib.error, lzma.LZMAError) as error:
        raise ElfError(f"{path}: {error}") from error
    # The standard library of Python 3.10 has no zstd; the program comes with the kernel's modules.
    with tempfile.TemporaryDirectory(prefix="datacrumbs-") as scratch:
        unpacked = Path(scratch) / "module"
        run(["zstd", "-dqf", "-o", unpacked, "--", path])
        return unpacked.read_bytes()
