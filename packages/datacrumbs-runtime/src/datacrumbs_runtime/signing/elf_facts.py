"""What a binary itself says: its build id, where its functions begin, where its USDT probes are.

Files that users chose are read here, so nothing is mapped (a file that shrinks would kill the
reader), every read is bounded, and no number of the file is believed before it was compared.
"""

import lzma
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from datacrumbs_runtime.errors import SigningError

EM_X86_64 = 62
EM_AARCH64 = 183
MAX_TABLE_BYTES = 256 << 20
MAX_HELD_BYTES = 64 << 20
MAX_HEADERS = 65536
MAX_NOTES_BYTES = 1 << 20

_PT_LOAD = 1
_PT_NOTE = 4
_PF_X = 1
_SHT_SYMTAB = 2
_SHT_NOTE = 7
_SHT_DYNSYM = 11
_NT_GNU_BUILD_ID = 3
_NT_STAPSDT = 3
_FUNCTION_KINDS = (2, 10)


class Segment(NamedTuple):
    """A loadable part of the file."""

    address: int
    offset: int
    size: int
    executable: bool


class Section(NamedTuple):
    """A section header; ``name`` is an offset into the section names."""

    name: int
    type: int
    address: int
    offset: int
    size: int
    link: int


class UsdtPlace(NamedTuple):
    """A USDT probe of the file: offsets in the file, as a probe file names them."""

    provider: str
    name: str
    offset: int
    semaphore: int


class ElfFacts:
    """A 64-bit ELF file that is read through a descriptor or from memory."""

    def __init__(self, source: int | bytes, where: str) -> None:
        """Read the headers.

        Args:
            source: A descriptor of the file, which stays the caller's, or its content.
            where: What errors call it.

        Raises:
            SigningError: It is not a 64-bit ELF file.
        """
        self.where = where
        try:
            self._size = len(source) if isinstance(source, bytes) else os.fstat(source).st_size
            if not isinstance(source, bytes) and self._size <= MAX_HELD_BYTES:
                # One call instead of thousands of small ones. Too little, if the file shrinks
                # meanwhile, is as good as a broken file.
                source = os.pread(source, self._size, 0)
            self._source = source
            self._read_headers()
        except (struct.error, ValueError, OSError) as error:
            raise SigningError(f"{where}: not a 64-bit ELF file") from error

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of the file, fewer at its end.

        Raises:
            ValueError: More than any table of a real file.
        """
        if size > MAX_TABLE_BYTES or offset > self._size:
            raise ValueError(offset)
        if isinstance(self._source, bytes):
            return self._source[offset : offset + size]
        return os.pread(self._source, min(size, self._size - offset), offset)

    def build_id(self) -> str | None:
        """Return the GNU build id in hex, or None if it has none."""
        for owner, kind, description in self._notes():
            if owner == b"GNU\0" and kind == _NT_GNU_BUILD_ID and 2 <= len(description) <= 64:
                return description.hex()
        return None

    def file_offset(self, address: int, *, executable: bool = True) -> int | None:
        """Return where the file holds an address; None if no (executable) segment does."""
        for segment in self.segments:
            if 0 <= address - segment.address < segment.size:
                if executable and not segment.executable:
                    return None
                return address - segment.address + segment.offset
        return None

    def is_executable(self, offset: int) -> bool:
        """Return whether an offset of the file belongs to code."""
        return any(
            segment.executable and 0 <= offset - segment.offset < segment.size
            for segment in self.segments
        )

    def named_functions(self) -> Iterator[tuple[int, bytes]]:
        """Yield value and name of all functions of the symbol tables."""
        tables: dict[int, bytes] = {}
        for value, (name, link) in self._function_symbols():
            if link not in tables:
                if link >= len(self._sections):
                    raise ValueError(link)
                tables[link] = self.read(self._sections[link].offset, self._sections[link].size)
            names = tables[link]
            yield value, names[name : names.find(b"\0", name)]

    def functions_at(self, addresses: frozenset[int]) -> set[int]:
        """Return those addresses at which a function of the symbol tables begins."""
        try:
            found = {value for value, _ in self._function_symbols() if value in addresses}
            if found != addresses:
                small = self._small_debug_file()
                if small is not None:
                    found |= small.functions_at(addresses - found)
        except (struct.error, ValueError, OSError) as error:
            raise SigningError(f"{self.where}: broken symbol table") from error
        return found

    def addresses_of(self, names: frozenset[str]) -> dict[str, set[int]]:
        """Return where functions with these names (without version) begin."""
        found: dict[str, set[int]] = {}
        wanted = {name.encode() for name in names}
        try:
            for value, name in self.named_functions():
                plain = name.partition(b"@")[0]
                if plain in wanted:
                    found.setdefault(plain.decode(), set()).add(value)
            if len(found) < len(wanted):
                small = self._small_debug_file()
                if small is not None:
                    found = {**small.addresses_of(names - found.keys()), **found}
        except (struct.error, ValueError, OSError) as error:
            raise SigningError(f"{self.where}: broken symbol table") from error
        return found

    def usdt_places(self) -> frozenset[UsdtPlace]:
        """Return all USDT probes of the file."""
        base = next(
            (section.address for name, section in self._named() if name == b".stapsdt.base"), None
        )
        places = set()
        for owner, kind, description in self._notes():
            if owner != b"stapsdt\0" or kind != _NT_STAPSDT or len(description) < 24:
                continue
            address, link_base, semaphore = struct.unpack_from(self._order + "QQQ", description)
            texts = description[24:].split(b"\0")
            if base is not None and link_base:
                # A prelinked file was moved after its notes were written.
                address += base - link_base
                semaphore += base - link_base if semaphore else 0
            offset = self.file_offset(address)
            if offset is None or len(texts) < 3:
                continue
            counter = self.file_offset(semaphore, executable=False) if semaphore else 0
            provider, name = (text.decode("utf-8", "replace") for text in texts[:2])
            places.add(UsdtPlace(provider, name, offset, counter or 0))
        return frozenset(places)

    def _read_headers(self) -> None:
        ident = self.read(0, 64)
        if ident[:5] != b"\x7fELF\x02" or ident[5] not in (1, 2):
            raise ValueError(ident)
        self._order = "<" if ident[5] == 1 else ">"
        (self.machine,) = struct.unpack_from(self._order + "H", ident, 18)
        program_offset, section_offset = struct.unpack_from(self._order + "QQ", ident, 32)
        sizes = struct.unpack_from(self._order + "HHHHH", ident, 54)
        program_size, program_count, section_size, section_count, self._names_index = sizes
        self.segments: list[Segment] = []
        self._note_areas: list[tuple[int, int]] = []
        for header in self._table(program_offset, program_size, program_count, "IIQQQQQQ"):
            kind, flags, offset, address, _, size = header[:6]
            if kind == _PT_LOAD:
                self.segments.append(Segment(address, offset, size, bool(flags & _PF_X)))
            elif kind == _PT_NOTE:
                self._note_areas.append((offset, size))
        self._sections: list[Section] = []
        for header in self._table(section_offset, section_size, section_count, "IIQQQQIIQQ"):
            name, kind, _, address, offset, size, link = header[:7]
            self._sections.append(Section(name, kind, address, offset, size, link))
            # USDT notes are in no segment, and kernel modules have no segments.
            if kind == _SHT_NOTE:
                self._note_areas.append((offset, size))

    def _table(
        self, offset: int, entry_bytes: int, count: int, layout: str
    ) -> Iterator[tuple[int, ...]]:
        entry = struct.Struct(self._order + layout)
        if count and (entry_bytes < entry.size or count > MAX_HEADERS):
            raise ValueError(entry_bytes)
        data = self.read(offset, entry_bytes * count) if count else b""
        for position in range(count):
            yield entry.unpack_from(data, position * entry_bytes)

    def _notes(self) -> Iterator[tuple[bytes, int, bytes]]:
        header = struct.Struct(self._order + "III")
        for offset, size in self._note_areas:
            data = self.read(offset, min(size, MAX_NOTES_BYTES))
            at = 0
            while at + header.size <= len(data):
                owner_size, description_size, kind = header.unpack_from(data, at)
                at += header.size
                owner = data[at : at + owner_size]
                at += (owner_size + 3) & ~3
                yield owner, kind, data[at : at + description_size]
                at += (description_size + 3) & ~3

    def _named(self) -> Iterator[tuple[bytes, Section]]:
        if self._names_index >= len(self._sections):
            return
        table = self._sections[self._names_index]
        names = self.read(table.offset, table.size)
        for section in self._sections:
            yield names[section.name : names.find(b"\0", section.name)], section

    def _function_symbols(self) -> Iterator[tuple[int, tuple[int, int]]]:
        """Yield value, and offset of the name with the section that has it, of all functions."""
        symbol = struct.Struct(self._order + "IBBHQQ")
        for section in self._sections:
            if section.type in (_SHT_SYMTAB, _SHT_DYNSYM):
                data = self.read(section.offset, section.size)
                whole = len(data) - len(data) % symbol.size
                for name, info, _, defined, value, _ in symbol.iter_unpack(data[:whole]):
                    if defined and info & 0xF in _FUNCTION_KINDS:
                        yield value, (name, section.link)

    def _small_debug_file(self) -> "ElfFacts | None":
        """Return the symbols that some distributions leave in a stripped binary, compressed."""
        for name, section in self._named():
            if name == b".gnu_debugdata":
                unpack = lzma.LZMADecompressor(memlimit=MAX_TABLE_BYTES)
                try:
                    data = unpack.decompress(
                        self.read(section.offset, section.size), MAX_TABLE_BYTES
                    )
                except lzma.LZMAError as error:
                    raise ValueError(section) from error
                return ElfFacts(data, f"{self.where} (.gnu_debugdata)")
        return None
