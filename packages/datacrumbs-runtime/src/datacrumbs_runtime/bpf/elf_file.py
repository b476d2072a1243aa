"""Where functions lie in an ELF file: the little of ELF that attaching a probe needs."""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datacrumbs_runtime.errors import ProbeFileError

_IDENT_64_BIT_LITTLE = b"\x7fELF\x02\x01"
_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_PT_LOAD = 1
_DYNAMIC_ENTRY = struct.Struct("<qQ")
_SHT_SYMTAB = 2
_SHT_DYNAMIC = 6
_SHT_DYNSYM = 11
_DT_NULL = 0
_DT_SONAME = 14
_STT_FUNC = 2
_STT_GNU_IFUNC = 10


class _Segment(NamedTuple):
    address: int
    offset: int
    size: int


class ElfFile:
    """An ELF file that is open for looking up functions; close it, or use it in a ``with``."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            ProbeFileError: It cannot be read, or is no 64-bit little-endian ELF file.
        """
        self.path = path
        try:
            with path.open("rb") as stream:
                self._data = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "empty"
            raise ProbeFileError(f"{path}: {reason}") from error
        try:
            self._read_headers()
        except (struct.error, ValueError) as error:
            self.close()
            raise ProbeFileError(f"{path}: not a 64-bit ELF file") from error
        self._symbols: dict[str, int] | None = None

    def __enter__(self) -> "ElfFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._data.close()

    def file_offset(self, address: int) -> int | None:
        """Return the file offset of a symbol's address; None if no segment holds it."""
        for segment in self._segments:
            if segment.address <= address < segment.address + segment.size:
                return address - segment.address + segment.offset
        return None

    def soname(self) -> str | None:
        """Return the name that programs know a library by; None if it has none."""
        try:
            for section in self._sections:
                if section[1] != _SHT_DYNAMIC:
                    continue
                _, _, _, _, offset, size, link = section[:7]
                for tag, value in _DYNAMIC_ENTRY.iter_unpack(
                    self._data[offset : offset + size - size % _DYNAMIC_ENTRY.size]
                ):
                    if tag == _DT_SONAME:
                        return self._text(self._sections[link][4] + value)
                    if tag == _DT_NULL:
                        break
        except (struct.error, IndexError) as error:
            raise ProbeFileError(f"{self.path}: broken dynamic section") from error
        return None

    def symbol_value(self, name: str) -> int | None:
        """Return the value of a function's symbol, without its version; None if there is none."""
        if self._symbols is None:
            try:
                # .dynsym wins: what it exports is what programs call.
                self._symbols = dict(self._functions(_SHT_SYMTAB)) | dict(
                    self._functions(_SHT_DYNSYM)
                )
            except (struct.error, ValueError) as error:
                raise ProbeFileError(f"{self.path}: broken symbol table") from error
        return self._symbols.get(name)

    def _read_headers(self) -> None:
        if self._data[:6] != _IDENT_64_BIT_LITTLE:
            raise ValueError
        header = _HEADER.unpack_from(self._data)
        program_offset, section_offset = header[4], header[5]
        program_size, program_count, section_size, section_count = header[8:12]
        self._segments = tuple(
            _Segment(segment[3], segment[2], segment[5])
            for index in range(program_count)
            if (
                segment := _PROGRAM_HEADER.unpack_from(
                    self._data, program_offset + index * program_size
                )
            )[0]
            == _PT_LOAD
        )
        self._sections = tuple(
            _SECTION_HEADER.unpack_from(self._data, section_offset + index * section_size)
            for index in range(section_count)
        )

    def _functions(self, table_type: int) -> Iterator[tuple[str, int]]:
        for section in self._sections:
            if section[1] != table_type:
                continue
            _, _, _, _, offset, size, link = section[:7]
            names = self._sections[link][4]
            for name, info, _, defined, value, _ in _SYMBOL.iter_unpack(
                self._data[offset : offset + size - size % _SYMBOL.size]
            ):
                if defined and info & 0xF in (_STT_FUNC, _STT_GNU_IFUNC):
                    yield self._text(names + name).partition("@")[0], value

    def _text(self, start: int) -> str:
        return self._data[start : self._data.find(b"\0", start)].decode("utf-8", "replace")
