"""Which arguments of the C library's functions are files."""

import subprocess
from pathlib import Path

import pytest

from datacrumbs_runtime.bpf import layout, registry
from datacrumbs_runtime.bpf.elf_file import ElfFile
from datacrumbs_runtime.bpf.layout import SourceKind
from datacrumbs_runtime.schema.probe_file import Argument, Category, ProbeFile, ProbeType, Summary

LIBC = Path("/lib/x86_64-linux-gnu/libc.so.6")


def row(name: str, library: Path = LIBC) -> layout.Function:
    """Return what is captured of a function all of whose arguments could be texts."""
    arguments = tuple(Argument(i, 8, True, "file", "const char *") for i in range(4))
    category = Category(
        ProbeType.UPROBE,
        "libc",
        (name,),
        binary_path=str(library),
        placed_offsets={name: 0x1000},
        arguments={name: arguments},
    )
    built = registry.build(ProbeFile(Summary("", "", "", "", ""), (category,)))
    return layout.Function.from_buffer_copy(built.functions[0].row)


C_FILES = {
    "open": [(SourceKind.RETURNED_FD, 0, 0xFF)],
    "__open64_2": [(SourceKind.RETURNED_FD, 0, 0xFF)],
    "openat64": [(SourceKind.RETURNED_FD, 1, 0)],
    "fstatat64": [(SourceKind.PATH, 1, 0)],
    "__xstat64": [(SourceKind.PATH, 1, 0xFF)],
    "__pread64_chk": [(SourceKind.FD, 0, 0xFF)],
    "rename": [(SourceKind.PATH, 0, 0xFF), (SourceKind.PATH, 1, 0xFF)],
    "symlinkat": [(SourceKind.PATH, 2, 1)],
    "opendir": [(SourceKind.PATH, 0, 0xFF)],
    "getpid": [],
}


@pytest.mark.parametrize("name", C_FILES)
@pytest.mark.skipif(not LIBC.exists(), reason="the C library is somewhere else")
def test_files_of_the_c_library_are_those_of_its_prototypes(name: str) -> None:
    function = row(name)
    found = [
        (source.kind, source.argument, source.directory)
        for source in function.sources[: function.nr_sources]
        if source.kind in (SourceKind.RETURNED_FD, SourceKind.PATH, SourceKind.FD)
    ]
    assert found == C_FILES[name]


def test_other_libraries_may_have_functions_of_these_names(tmp_path: Path) -> None:
    subprocess.run(
        ["cc", "-shared", "-o", tmp_path / "libopen.so", "-Wl,-soname,libopen.so.1", "-xc", "-"],
        input=b"void open(void) {}",
        check=True,
    )
    with ElfFile(tmp_path / "libopen.so") as elf:
        assert elf.soname() == "libopen.so.1"
    function = row("open", tmp_path / "libopen.so")
    kinds = {source.kind for source in function.sources[: function.nr_sources]}
    assert SourceKind.RETURNED_FD not in kinds
