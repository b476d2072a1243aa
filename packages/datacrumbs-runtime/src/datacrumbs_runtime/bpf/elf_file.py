"""Where functions lie in an ELF file: the little of ELF that attaching a probe needs.

The file is its user's. It is read and not mapped, for it may shrink, and no size that it tells is
believed: a table that is larger than that of any real file is as good as a broken one.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datacrumbs_runtime.errors import ProbeFileError

MAX_TABLE_BYTES = 256 << 20
MAX_NAME_BYTES = 16384
_MAX_DYNAMIC_BYTES = 1 << 20
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
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ProbeFileError(f"{path}: {error.strerror}") from error
        try:
            self._read_headers()
        except (struct.error, ValueError, OSError) as error:
            self.close()
            raise ProbeFileError(f"{path}: not a 64-bit ELF file") from error
        self._symbols: dict[str, int] | None = None

    def __enter__(self) -> "ElfFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

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
                entries = self._read(offset, min(size, _MAX_DYNAMIC_BYTES))
                for tag, value in _DYNAMIC_ENTRY.iter_unpack(_whole(entries, _DYNAMIC_ENTRY)):
                    if tag == _DT_SONAME:
                        names = self._sections[link][4]
                        return _text(self._read(names + value, MAX_NAME_BYTES), 0)
                    if tag == _DT_NULL:
                        break
        except (struct.error, ValueError, IndexError, OSError) as error:
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
            except (struct.error, ValueError, IndexError, OSError) as error:
                raise ProbeFileError(f"{self.path}: broken symbol table") from error
        return self._symbols.get(name)

    def _read(self, offset: int, size: int) -> bytes:
        """Return a part of the file, less at its end."""
        if size > MAX_TABLE_BYTES:
            raise ValueError(size)
        # Beyond what the kernel takes for an offset it raises an OverflowError.
        return os.pread(self._fd, size, min(offset, (1 << 63) - 1 - MAX_TABLE_BYTES))

    def _read_headers(self) -> None:
        header_bytes = self._read(0, _HEADER.size)
        if header_bytes[:6] != _IDENT_64_BIT_LITTLE:
            raise ValueError
        header = _HEADER.unpack_from(header_bytes)
        program_offset, section_offset = header[4], header[5]
        program_size, program_count, section_size, section_count = header[8:12]
        programs = self._read(program_offset, program_size * program_count)
        self._segments = tuple(
            _Segment(segment[3], segment[2], segment[5])
            for index in range(program_count)
            if (segment := _PROGRAM_HEADER.unpack_from(programs, index * program_size))[0]
            == _PT_LOAD
        )
        sections = self._read(section_offset, section_size * section_count)
        self._sections = tuple(
            _SECTION_HEADER.unpack_from(sections, index * section_size)
            for index in range(section_count)
        )

    def _functions(self, table_type: int) -> Iterator[tuple[str, int]]:
        left_bytes = MAX_TABLE_BYTES
        for section in self._sections:
            if section[1] != table_type:
                continue
            _, _, _, _, offset, size, link = section[:7]
            # Names are read once for each table, so they count as well.
            names_offset, names_size = self._sections[link][4:6]
            left_bytes -= size + names_size
            if left_bytes < 0:
                raise ValueError(size)
            names = self._read(names_offset, names_size)
            table = self._read(offset, size)
            if size and not table:
                raise ValueError(size)
            for name, info, _, defined, value, _ in _SYMBOL.iter_unpack(_whole(table, _SYMBOL)):
                if defined and info & 0xF in (_STT_FUNC, _STT_GNU_IFUNC):
                    text = _text(names, name)
                    if text is not None:
                        # Names may overlap, and then be more than the table that has them.
                        left_bytes -= len(text)
                        if left_bytes < 0:
                            raise ValueError(size)
                        yield text.partition("@")[0], value


def _whole(data: bytes, entry: struct.Struct) -> bytes:
    return data[: len(data) - len(data) % entry.size]


def _text(names: bytes, start: int) -> str | None:
    """Return the text that begins somewhere; None: it does not end."""
    end = names.find(b"\0", start, start + MAX_NAME_BYTES)
    return None if end < 0 else names[start:end].decode("utf-8", "replace")
