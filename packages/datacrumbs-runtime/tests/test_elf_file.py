"""Files that say they are ELF and want the recorder's memory or life."""

import os
import resource
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from datacrumbs_runtime.bpf.elf_file import ElfFile
from datacrumbs_runtime.errors import ProbeFileError

SYMTAB, STRTAB, DYNAMIC, DYNSYM = 2, 3, 6, 11
LIMIT_BYTES = 1 << 30
Section = tuple[int, int, int, int]


def write_elf(
    path: Path, sections: Sequence[Section], parts: dict[int, bytes], size: int = 0
) -> Path:
    """Write a file of which only the headers are real.

    Args:
        path: The file.
        sections: Type, offset, size and link of each.
        parts: What is in the file, by offset.
        size: How long it is at least; there is nothing in between.
    """
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        *(3, 62, 1, 0, 0, 64, 0, 64, 56, 0, 64, len(sections), 0),
    )
    table = b"".join(
        struct.pack("<IIQQQQIIQQ", 0, kind, 0, 0, offset, length, link, 0, 8, 0)
        for kind, offset, length, link in sections
    )
    with path.open("wb") as stream:
        stream.write(header + table)
        for offset, data in parts.items():
            stream.seek(offset)
            stream.write(data)
        stream.truncate(max(size, stream.seek(0, os.SEEK_END)))
    return path


def symbol(name: int) -> bytes:
    return struct.pack("<IBBHQQ", name, 2, 0, 1, 0x1000, 8)


SONAME = struct.pack("<qQqQ", 14, 0, 0, 0)
READS = """
import resource, sys
from pathlib import Path
from datacrumbs_runtime.bpf.elf_file import ElfFile
from datacrumbs_runtime.errors import ProbeFileError
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
try:
    with ElfFile(Path(sys.argv[1])) as elf:
        elf.soname()
        elf.symbol_value("main")
except ProbeFileError as error:
    print(error)
"""


def read_within_limits(path: Path) -> str:
    """Read a file in a process that may not take much memory; return what it says."""
    done = subprocess.run(
        [sys.executable, "-c", READS, path, str(LIMIT_BYTES)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (60, 60)),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("kind", [SYMTAB, DYNSYM, DYNAMIC])
def test_table_without_end_is_refused(tmp_path: Path, kind: int) -> None:
    huge = 8 << 30
    sections = ((kind, 4096, huge - 8192, 1), (STRTAB, 4096, huge - 8192, 0))
    read_within_limits(write_elf(tmp_path / "elf", sections, {}, huge))


def test_many_tables_in_one_place_are_refused(tmp_path: Path) -> None:
    table = symbol(1) * 100_000
    begin = 8 << 20
    sections = [(SYMTAB, begin, len(table), 0)] * 60_000
    path = write_elf(tmp_path / "elf", sections, {begin: table})
    assert "broken symbol table" in read_within_limits(path)


def test_name_without_end_is_no_name(tmp_path: Path) -> None:
    text = b"A" * (96 << 20)
    begin = 1 << 20
    sections = (
        (DYNAMIC, 4096, len(SONAME), 2),
        (SYMTAB, 8192, 20_000 * 24, 2),
        (STRTAB, begin, len(text), 0),
    )
    symbols = b"".join(symbol(number) for number in range(20_000))
    path = write_elf(tmp_path / "elf", sections, {4096: SONAME, 8192: symbols, begin: text})
    read_within_limits(path)
    with ElfFile(path) as elf:
        assert elf.soname() is None
        assert elf.symbol_value("A" * 100) is None


def test_names_that_overlap_are_refused(tmp_path: Path) -> None:
    run = b"A" * 16000 + b"\0"
    text = run * 400
    begin = 16 << 20
    symbols = b"".join(symbol(start) for start in range(0, len(text), 16))
    sections = ((SYMTAB, 8192, len(symbols), 1), (STRTAB, begin, len(text), 0))
    path = write_elf(tmp_path / "elf", sections, {8192: symbols, begin: text})
    assert "broken symbol table" in read_within_limits(path)


@pytest.mark.parametrize("kind", [SYMTAB, DYNSYM])
def test_table_without_names_is_broken(tmp_path: Path, kind: int) -> None:
    path = write_elf(tmp_path / "elf", ((kind, 4096, 24, 77),), {4096: symbol(1)})
    with ElfFile(path) as elf, pytest.raises(ProbeFileError, match="broken symbol table"):
        elf.symbol_value("main")


def test_file_that_shrinks_meanwhile_is_broken(tmp_path: Path) -> None:
    """Were it mapped, whoever reads it would be killed."""
    path = tmp_path / "elf"
    path.write_bytes(Path(sys.executable).resolve().read_bytes())
    with ElfFile(path) as elf:
        path.write_bytes(b"")
        with pytest.raises(ProbeFileError, match="broken symbol table"):
            elf.symbol_value("main")
        assert elf.soname() is None
