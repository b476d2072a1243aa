"""Functions and arguments from C headers, against nm, gdb and a compiler."""

import re
import subprocess
import time
from pathlib import Path

import pytest

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_utils.discovery import (
    dwarf,
    elf,
    header_parser,
    headers,
    include_directories,
    library_headers,
)
from datacrumbs_utils.discovery.signatures import Kind

LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
INSTALLED = {"mpi.h": "libmpi.so.40", "hdf5.h": "libhdf5_serial.so.103", "math.h": "libm.so.6"}


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def installed(header: str) -> tuple[Path, Path]:
    library = LIBRARIES / INSTALLED[header]
    path = library_headers.find(header, library) if library.exists() else None
    if path is None:
        pytest.skip(f"{header} or its library is not installed")
    return path, library


@pytest.mark.parametrize(
    ("header", "prefix", "at_least"),
    [("mpi.h", "MPI_", 350), ("mpi.h", "PMPI_", 350), ("hdf5.h", "H5", 500)],
)
def test_public_functions_of_a_library_are_those_of_nm(
    header: str, prefix: str, at_least: int
) -> None:
    path, library = installed(header)
    output = subprocess.run(
        ["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split() for line in output.splitlines()]
    exported = {row[2].partition("@")[0] for row in rows if row[1] in "TWi"}
    declared = {name for name in headers.functions(path) if name.startswith(prefix)}
    assert len(declared & exported) >= at_least
    # A header may declare what this build of the library leaves out, but little of it.
    assert len(declared - exported) <= len(declared) // 100


def test_signatures_are_those_of_the_debugging_information(tmp_path: Path) -> None:
    """A compiler that reads the same header agrees on every function of libc that has both."""
    libc = LIBRARIES / "libc.so.6"
    checked = 0
    names = [one.symbol for one in elf.functions(libc) if one.refused is None]
    described = dwarf.signatures(libc, names)
    if not described:
        pytest.skip("libc6-dbg is not installed")
    for header in ("stdio.h", "unistd.h", "fcntl.h", "sys/stat.h", "sys/mman.h", "string.h"):
        path = library_headers.find(header, libc)
        if path is None:
            continue
        for name, signature in headers.signatures(path, names).items():
            if name not in described:
                continue
            ours = [(one.index, one.num_bytes, one.is_pointer) for one in signature.arguments()]
            theirs = [
                (one.index, one.num_bytes, one.is_pointer) for one in described[name].arguments()
            ]
            assert ours == theirs, name
            signs = [one.type.kind for one in signature.parameters]
            assert signs == [one.type.kind for one in described[name].parameters], name
            checked += 1
    assert checked >= 200


def test_arguments_as_written_in_the_header(tmp_path: Path) -> None:
    header = tmp_path / "sample.h"
    header.write_text(
        "#include <stddef.h>\n#include <stdbool.h>\n#include <sys/types.h>\n"
        "enum colour { RED }; typedef enum { A = -1 } level_t; struct pair { double a, b; };\n"
        "typedef long handle_t;\n"
        "int sample(const char *path, mode_t mode, bool flag, enum colour colour, level_t level,\n"
        "           size_t array[4], handle_t late);\n"
        "void floats(float a, int b, struct pair c, int d, long double e, void (*call)(int));\n"
        "int unnamed(int, const char *, ...);\n"
        "static inline int not_there(int a) { return a; }\n"
    )
    assert headers.functions(header) == {"sample", "floats", "unnamed"}
    found = headers.signatures(header, ["sample", "floats", "unnamed", "absent"])
    assert set(found) == {"sample", "floats", "unnamed"}
    assert [
        (one.index, one.label, one.num_bytes, one.c_type) for one in found["sample"].arguments()
    ] == [
        (0, "path", 8, "const char *"),
        (1, "mode", 4, "mode_t"),
        (2, "flag", 1, "bool"),
        (3, "colour", 4, "enum colour"),
        (4, "level", 4, "enum level_t"),
        (5, "array", 8, "size_t *"),
    ]
    assert found["sample"].uncapturable() == ("late: handed over on the stack",)
    assert found["sample"].parameters[4].type.kind is Kind.SIGNED
    floats = found["floats"]
    assert [(one.index, one.label) for one in floats.arguments()] == [
        (0, "b"),
        (1, "d"),
        (2, "call"),
    ]
    assert len(floats.uncapturable()) == 3
    assert [one.label for one in found["unnamed"].arguments()] == ["arg0", "arg1"]
    assert found["unnamed"].text("unnamed") == "int unnamed(int, const char *, ...)"


def test_header_that_includes_mpi_finds_it(tmp_path: Path) -> None:
    installed("mpi.h")
    header = tmp_path / "parallel.h"
    header.write_text("#include <mpi.h>\nint parallel_open(MPI_Comm comm, const char *name);\n")
    (comm, name) = headers.signatures(header, ["parallel_open"])["parallel_open"].arguments()
    assert (comm.c_type, name.c_type) == ("MPI_Comm", "const char *")
    assert headers.functions(header) == {"parallel_open"}


def test_missing_include_does_not_lose_the_rest(tmp_path: Path) -> None:
    header = tmp_path / "broken.h"
    header.write_text("#include <nowhere/at_all.h>\nint still_there(int a);\n")
    assert headers.functions(header) == {"still_there"}


def test_result_is_kept_until_an_included_file_changes(tmp_path: Path) -> None:
    included = tmp_path / "included.h"
    included.write_text("typedef int number_t;\n")
    header = tmp_path / "header.h"
    header.write_text('#include "included.h"\nint take(number_t a);\n')
    assert headers.signatures(header, ["take"])["take"].arguments()[0].num_bytes == 4
    (stored,) = (tmp_path / "cache" / "datacrumbs" / "headers").iterdir()
    before = stored.stat().st_mtime_ns
    headers.signatures(header, ["take"])
    assert stored.stat().st_mtime_ns == before
    time.sleep(0.01)
    included.write_text("typedef long number_t;\n")
    assert headers.signatures(header, ["take"])["take"].arguments()[0].num_bytes == 8


def test_machine_without_a_compiler_has_sizes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(include_directories, "compiler_headers", lambda: None)
    header = tmp_path / "plain.h"
    header.write_text(
        "#include <stddef.h>\n#include <stdarg.h>\n#include <stdbool.h>\n"
        "int plain(size_t a, bool b, va_list c);\n"
    )
    signature, _ = header_parser.parse(header, []).functions["plain"]
    assert [one.type.num_bytes for one in signature.parameters[:2]] == [8, 1]


def test_missing_header_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=re.escape("absent.h: no such header")):
        headers.functions(tmp_path / "absent.h")
