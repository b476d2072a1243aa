"""USDT notes, against readelf."""

import re
import subprocess
from pathlib import Path

import pytest

from datacrumbs_utils.discovery import usdt
from datacrumbs_utils.discovery.elf_image import ElfImage

BINARIES = [Path("/usr/bin/python3.11"), Path("/usr/lib/x86_64-linux-gnu/libstdc++.so.6")]

# Written by hand as sys/sdt.h would: a note with provider, name, arguments, base and semaphore.
SOURCE = """
__asm__(".pushsection .probes,\\"aw\\",\\"progbits\\"\\n"
        "semaphore_one: .zero 2\\n"
        ".popsection\\n"
        ".pushsection .stapsdt.base,\\"aG\\",\\"progbits\\",.stapsdt.base,comdat\\n"
        ".weak _.stapsdt.base\\n.hidden _.stapsdt.base\\n_.stapsdt.base: .space 1\\n"
        ".size _.stapsdt.base, 1\\n.popsection\\n");
#define PROBE(name, semaphore, arguments) __asm__ volatile( \\
    "990: nop\\n.pushsection .note.stapsdt,\\"?\\",\\"note\\"\\n.balign 4\\n" \\
    ".4byte 992f-991f, 994f-993f, 3\\n991: .asciz \\"stapsdt\\"\\n992: .balign 4\\n" \\
    "993: .8byte 990b\\n.8byte _.stapsdt.base\\n.8byte " semaphore "\\n" \\
    ".asciz \\"testing\\"\\n.asciz \\"" name "\\"\\n.asciz \\"" arguments "\\"\\n" \\
    "994: .balign 4\\n.popsection\\n")
int work(int a) { PROBE("work__entry", "semaphore_one", "-4@%edi"); a *= 3;
                  PROBE("work__return", "0", "-4@%eax"); return a; }
int other(int a) { PROBE("work__entry", "semaphore_one", "-4@%edi"); return a; }
"""


@pytest.fixture
def fixture_library(tmp_path: Path) -> Path:
    (tmp_path / "probes.c").write_text(SOURCE)
    library = tmp_path / "libprobes.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-o", library, tmp_path / "probes.c"], check=True
    )
    return library


def readelf(path: Path) -> list[tuple[str, str, int, int, str]]:
    output = subprocess.run(
        ["readelf", "-n", path], capture_output=True, text=True, check=False
    ).stdout
    rows = re.findall(
        r"Provider: (\S+)\s+Name: (\S+)\s+Location: (0x\w+), Base: (0x\w+), "
        r"Semaphore: (0x\w+)\s+Arguments: ?(.*)",
        output,
    )
    sections = subprocess.run(
        ["readelf", "-SW", path], capture_output=True, text=True, check=False
    ).stdout
    base = re.search(r"\.stapsdt\.base\s+PROGBITS\s+(\w+)", sections)
    assert base is not None
    # The addresses of the notes hold only while the section is where they say.
    assert all(int(row[3], 16) == int(base[1], 16) for row in rows)
    return [(row[0], row[1], int(row[2], 16), int(row[4], 16), row[5]) for row in rows]


def offset(path: Path, address: int) -> int:
    with ElfImage(path) as image:
        found = image.file_offset(address)
    assert found is not None
    return found


def check(path: Path) -> int:
    expected = sorted(
        (provider, name, offset(path, place), offset(path, semaphore) if semaphore else 0, text)
        for provider, name, place, semaphore, text in readelf(path)
    )
    found = sorted(
        (one.provider, one.name, one.point.offset, one.point.semaphore, one.point.arguments)
        for one in usdt.notes(path)
    )
    assert found == expected
    return len(found)


@pytest.mark.parametrize("path", BINARIES, ids=lambda path: path.name)
def test_installed_probes_are_those_of_readelf(path: Path) -> None:
    if not path.exists():
        pytest.skip(f"{path} is not installed")
    assert check(path) > 0


def test_probes_of_a_compiled_library_are_those_of_readelf(fixture_library: Path) -> None:
    assert check(fixture_library) == 3
    found = usdt.points(fixture_library, "testing")
    assert {name: len(places) for name, places in found.items()} == {
        "work__entry": 2,
        "work__return": 1,
    }
    assert found["work__entry"][0].semaphore > 0
    assert found["work__return"][0].semaphore == 0


def test_every_probe_is_at_its_nop(fixture_library: Path) -> None:
    image = fixture_library.read_bytes()
    for note in usdt.notes(fixture_library):
        assert image[note.point.offset] == 0x90


def test_prelinked_library_is_followed_by_its_base(fixture_library: Path) -> None:
    before = usdt.points(fixture_library, "testing")["work__return"]
    image = bytearray(fixture_library.read_bytes())
    # As prelink leaves it: the library moved, the note still has the addresses of before.
    at = image.index(b"testing\0work__return\0") - 24
    for field in (at, at + 8):
        value = int.from_bytes(image[field : field + 8], "little")
        image[field : field + 8] = (value + 0x10000).to_bytes(8, "little")
    fixture_library.write_bytes(image)
    assert usdt.points(fixture_library, "testing")["work__return"] == before


def test_other_providers_are_not_mixed_in(fixture_library: Path) -> None:
    assert usdt.points(fixture_library, "python") == {}
    assert usdt.providers(fixture_library) == ("testing",)
