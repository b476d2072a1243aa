"""Entries as host configurations in the field have them: each selects what its reader expects."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_runtime.schema.probe_file import Category, ProbeType, plain_symbol
from datacrumbs_utils.discovery import btf, config, kallsyms, libraries
from datacrumbs_utils.discovery.select import Selection, select

# As include/linux/syscalls.h, pagemap.h and shmem_fs.h look: inline functions, macros, attributes,
# declarations over several lines, includes that are not there.
SYSCALLS_H = """
#ifndef _LINUX_SYSCALLS_H
#define _LINUX_SYSCALLS_H
struct iocb;
#include <linux/not_here.h>
#define __MAP0(m,...)
#define SYSCALL_DEFINE1(name, ...) SYSCALL_DEFINEx(1, _##name, __VA_ARGS__)
asmlinkage long sys_openat(int dfd, const char __user *filename, int flags, umode_t mode);
asmlinkage long sys_read(unsigned int fd, char __user *buf, size_t count);
asmlinkage long sys_newfstat(unsigned int fd, struct stat __user *statbuf);
asmlinkage long sys_copy_file_range(int fd_in, loff_t __user *off_in,
                                    int fd_out, loff_t __user *off_out,
                                    size_t len, unsigned int flags);
asmlinkage long sys_no_such_call(void);
int ksys_unshare(unsigned long unshare_flags);
static inline long ksys_close(unsigned int fd) { return fd; }
#endif
"""
PAGEMAP_H = """
#include <linux/mm.h>
struct address_space; struct folio; struct page; struct inode;
typedef unsigned long pgoff_t; typedef unsigned gfp_t;
static inline int mapping_empty(struct address_space *m) { return m == 0; }
int filemap_flush(struct address_space *);
int filemap_add_folio(struct address_space *mapping, struct folio *folio,
                      pgoff_t index, gfp_t gfp);
void folio_unlock(struct folio *folio);
int long_gone_function(struct page *page);
"""
SHMEM_FS_H = """
struct file; struct inode; struct vm_area_struct;
extern struct file *shmem_file_setup(const char *name, long long size, unsigned long flags);
extern int shmem_zero_setup(struct vm_area_struct *);
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def headers(tmp_path: Path) -> str:
    include = tmp_path / "linux" / "include" / "linux"
    include.mkdir(parents=True)
    (include / "syscalls.h").write_text(SYSCALLS_H)
    (include / "pagemap.h").write_text(PAGEMAP_H)
    (include / "shmem_fs.h").write_text(SHMEM_FS_H)
    return str(tmp_path / "linux")


def chosen(entry: str, **variables: str) -> tuple[Category, Selection]:
    parsed = config.parse(f"capture_probes:\n{entry}", "host.yaml", variables)
    selection = select(parsed)
    (category,) = selection.probe_file.categories
    return category, selection


def remarks(selection: Selection) -> str:
    return " ".join(selection.report.categories[0].remarks)


SYS = """
  - name: sys
    probe: syscalls
    type: header
    file: @DATACRUMBS_KERNEL_HEADERS_PATH@/include/linux/syscalls.h
"""
PAGE_CACHE = """
  - name: os_page_cache
    probe: kprobe
    type: header
    file: @DATACRUMBS_KERNEL_HEADERS_PATH@/include/linux/pagemap.h
"""
SHM = """
  - name: shm
    probe: kprobe
    type: header
    file: @DATACRUMBS_KERNEL_HEADERS_PATH@/include/linux/shmem_fs.h
"""


def test_system_calls_of_a_header_are_the_ones_it_declares(headers: str) -> None:
    category, _ = chosen(SYS, DATACRUMBS_KERNEL_HEADERS_PATH=headers)
    assert category.type is ProbeType.SYSCALLS
    # sys_newfstat is what the kernel calls the system call fstat.
    assert set(category.functions) == {"openat", "read", "fstat", "copy_file_range"}


def test_system_calls_without_headers_are_the_kernel_s(tmp_path: Path) -> None:
    category, selection = chosen(SYS, DATACRUMBS_KERNEL_HEADERS_PATH=str(tmp_path))
    assert set(category.functions) == set(btf.syscall_signatures())
    assert "is not on this machine: system calls taken from the kernel's BTF" in remarks(selection)


@pytest.mark.parametrize("present", [True, False])
def test_system_calls_are_written_with_sys(headers: str, present: bool) -> None:
    category, _ = chosen(
        SYS + "    regex: ^sys_(openat|read)$\n",
        DATACRUMBS_KERNEL_HEADERS_PATH=headers if present else "/nowhere",
    )
    assert set(category.functions) == {"openat", "read"}


def test_kernel_functions_of_a_header_are_those_that_the_kernel_has(headers: str) -> None:
    category, selection = chosen(PAGE_CACHE, DATACRUMBS_KERNEL_HEADERS_PATH=headers)
    assert set(category.functions) == {"filemap_flush", "filemap_add_folio", "folio_unlock"}
    refused = selection.choices[0].refused
    assert refused == {"long_gone_function": "declared, but inlined or not in this kernel"}
    arguments = category.arguments["filemap_add_folio"]
    assert [one.label for one in arguments] == ["mapping", "folio", "index", "gfp"]


def test_kernel_functions_without_headers_are_those_that_the_header_is_known_for() -> None:
    category, selection = chosen(PAGE_CACHE, DATACRUMBS_KERNEL_HEADERS_PATH="/nowhere")
    assert {"filemap_flush", "filemap_add_folio", "folio_unlock"} <= set(category.functions)
    assert len(category.functions) < 200
    assert not any(name.startswith(("ext4_", "tcp_", "shmem_")) for name in category.functions)
    assert "pagemap.h is known to declare" in remarks(selection)


@pytest.mark.parametrize("present", [True, False])
def test_shared_memory_functions_with_and_without_headers(headers: str, present: bool) -> None:
    path = headers if present else "/nowhere"
    category, _ = chosen(SHM, DATACRUMBS_KERNEL_HEADERS_PATH=path)
    assert {"shmem_file_setup", "shmem_zero_setup"} <= set(category.functions)
    assert all("shmem" in name for name in category.functions)
    name = category.arguments["shmem_file_setup"][0]
    # A string of the kernel is not in the program's memory.
    assert (name.label, name.c_type) == ("name", "void *")


def test_an_unknown_header_that_is_absent_goes_by_its_name() -> None:
    text = "  - {name: j, probe: kprobe, type: header, file: /nowhere/include/linux/jbd2.h}\n"
    category, selection = chosen(text)
    assert "jbd2_journal_start" in category.functions
    assert all(name.lstrip("_").startswith("jbd2_") for name in category.functions)
    assert "those named like _*jbd2_.*" in remarks(selection)


@pytest.mark.parametrize(
    ("name", "regex", "wanted"),
    [
        ("iomap", "^iomap(?!.*cold).*", "iomap_dio_rw"),
        ("xfs", "xfs_(?!.*cold).*", "xfs_file_open"),
        ("ext4", "ext4_(?!.*cold).*", "ext4_file_write_iter"),
        ("bio", "bio.*", "bio_endio"),
    ],
)
def test_kernel_symbols_equal_kallsyms_under_the_expression(
    name: str, regex: str, wanted: str
) -> None:
    listed = Path("/proc/kallsyms").read_text().split("\n")
    names = [line.split() for line in listed if line]
    python = re.compile(regex, re.IGNORECASE)
    expected = {
        row[2] for row in names if row[1] in "TtWw" and len(row) == 3 and python.fullmatch(row[2])
    }
    if wanted not in expected:
        pytest.skip(f"this kernel has no {name}")
    category, selection = chosen(
        f"  - {{name: {name}, probe: kprobe, type: ksym, regex: '{regex}'}}\n"
    )
    refused = set(selection.choices[0].refused)
    assert set(category.functions) | refused == expected
    assert wanted in category.functions
    assert not any("cold" in function for function in category.functions if name != "bio")


@pytest.mark.parametrize("kind", ["btf", "ksym"])
def test_kernel_functions_come_with_their_arguments_and_results(kind: str) -> None:
    category, _ = chosen(
        f"  - {{name: vfs, probe: kprobe, type: {kind}, regex: vfs_(read|write), "
        "function_returns: {vfs_read: int}}\n"
    )
    assert category.returns == {"vfs_read": "int", "vfs_write": "ssize_t"}
    assert set(category.functions) == {"vfs_read", "vfs_write"}
    arguments = category.arguments["vfs_write"]
    assert [one.label for one in arguments] == ["file", "buf", "count", "pos"]
    assert [one.c_type for one in arguments][:3] == ["struct file *", "void *", "size_t"]


@pytest.mark.parametrize("kind", ["btf", "ksym"])
def test_system_calls_need_no_header(kind: str) -> None:
    category, _ = chosen(
        f"  - {{name: s, probe: syscalls, type: {kind}, regex: p(read|write)64}}\n"
    )
    assert set(category.functions) == {"pread64", "pwrite64"}


def test_refused_kernel_functions_are_those_of_the_symbol_list() -> None:
    _, selection = chosen("  - {name: all, probe: kprobe, type: ksym, regex: 'vfs_.*'}\n")
    known = {one.symbol: one.refused for one in kallsyms.functions()}
    assert all(known[name] == why for name, why in selection.choices[0].refused.items())


LIBC = """
  - name: libc
    probe: uprobe
    type: binary
    file: @DATACRUMBS_LIBC_SO@
    regex: ^(fopen|fclose|read|write|__nonsense__)(@@?|$).*
"""


def test_libc_is_written_with_versions() -> None:
    category, _ = chosen(LIBC, DATACRUMBS_LIBC_SO="soname:libc.so.6")
    assert {plain_symbol(name) for name in category.functions} == {
        "fopen",
        "fclose",
        "read",
        "write",
    }
    assert category.binary_path is not None
    assert all(":0x" in name for name in category.functions)


def library(soname: str) -> Path:
    try:
        return libraries.locate(soname)
    except ConfigurationError:
        pytest.skip(f"{soname} is not on this machine")


def exported(path: Path, matches: Callable[[str], object]) -> dict[int, set[str]]:
    """Return the exported functions by address: an address is one function with all its names."""
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", path], check=True, capture_output=True, text=True
    ).stdout
    found: dict[int, set[str]] = {}
    for line in listing.splitlines():
        value, kind, name = line.split()
        plain = name.partition("@")[0]
        if kind in "TtWwi" and matches(plain):
            found.setdefault(int(value, 16), set()).add(plain)
    return found


def addresses(selection: Selection) -> dict[int, str]:
    found = {}
    for choice in selection.choices:
        for names in (choice.chosen, choice.refused):
            for name in names:
                plain, _, value = name.partition(":0x")
                found[int(value, 16)] = plain
    return found


@pytest.mark.parametrize("regex", ["PMPI.*", "", ".*"])
def test_an_mpi_library_gives_the_standard_s_functions(regex: str) -> None:
    path = library("soname:libmpi.so.40")
    _, selection = chosen(
        f"  - {{name: mpi-api, probe: uprobe, type: binary, file: {path}, regex: '{regex}'}}\n"
    )
    pattern = re.compile(r"PMPI.*" if regex == "PMPI.*" else r"(MPI_|PMPI_|MPIX_).*", re.IGNORECASE)
    expected = exported(path, pattern.fullmatch)
    found = addresses(selection)
    # The library has more functions of such names than it exports.
    assert {value for value in expected if value not in found} == set()
    assert all(found[value] in names for value, names in expected.items() if value in found)
    assert all(pattern.fullmatch(name) for name in found.values())


H5_ENTRIES = {
    "h5ac": "H5AC.*",
    "h5a": "H5A(?!C).*",
    "h5b": "H5B.*",
    "h5d": "H5D.*",
    "h5f": "H5F.*",
    "h5t": "H5T.*",
    "h5s": "H5S.*",
    "vol": "H5VL.*",
}


def test_hdf5_has_one_entry_per_prefix_and_each_function_once() -> None:
    path = library("soname:libhdf5_serial.so.103")
    text = "capture_probes:\n" + "".join(
        f"  - {{name: {name}, probe: uprobe, type: binary, file: {path}, regex: {regex}, "
        # Older versions of the library have no virtual object layer.
        f"optional: {name == 'vol'}}}\n"
        for name, regex in H5_ENTRIES.items()
    )
    selection = select(config.parse(text, "host.yaml", {}))
    seen: set[str] = set()
    for category in selection.probe_file.categories:
        python = re.compile(H5_ENTRIES[category.name], re.IGNORECASE)
        names = {plain_symbol(name) for name in category.functions}
        assert all(python.fullmatch(name) for name in names)
        assert not seen & set(category.functions)
        seen |= set(category.functions)
        listed = exported(path, python.fullmatch)
        found = addresses(selection)
        assert set(listed) <= set(found)


@pytest.fixture
def kernel_module(tmp_path: Path) -> Path:
    """A kernel module as far as its symbols go: relocatable, with sections of its own."""
    source = tmp_path / "llite.c"
    source.write_text(
        "int ll_file_open(void *inode, void *file) { return inode == file; }\n"
        "static __attribute__((used)) long ll_readahead(void *a, unsigned long b)"
        " { return (long)a + b; }\n"
        '__attribute__((section(".init.text"))) int init_module(void) { return 0; }\n'
    )
    path = tmp_path / "llite.ko"
    subprocess.run(["gcc", "-g", "-O1", "-c", "-o", path, source], check=True)
    return path


def test_lustre_is_probed_by_the_symbols_of_its_modules(kernel_module: Path) -> None:
    text = """
  - name: llite
    probe: kprobe
    type: binary
    file: @DATACRUMBS_LUSTRE_LLITE_KO@
    regex: ll_.*
"""
    category, selection = chosen(text, DATACRUMBS_LUSTRE_LLITE_KO=str(kernel_module))
    assert (category.type, category.binary_path) == (ProbeType.KPROBE, None)
    assert set(category.functions) == {"ll_file_open", "ll_readahead"}
    assert "llite.ko is not loaded here" in remarks(selection)


PYTHON = Path("/usr/bin/python3.11")


@pytest.mark.skipif(not PYTHON.exists(), reason="this machine has no Python with USDT probes")
def test_python_s_usdt_probes_become_calls() -> None:
    text = """
  - name: python
    probe: usdt
    type: usdt
    binary_path: @DATACRUMBS_PYTHON_LIB@
    provider: python
"""
    category, _ = chosen(text, DATACRUMBS_PYTHON_LIB=str(PYTHON))
    listing = subprocess.run(["readelf", "-n", PYTHON], capture_output=True, text=True, check=True)
    names = set(re.findall(r"Provider: python\s+Name: (\S+)", listing.stdout))
    assert set(category.usdt_points) == names
    assert "function" in category.functions
    assert not {"function__entry", "function__return"} & set(category.functions)
    assert category.provider == "python"
    arguments = [(one.label, one.c_type) for one in category.arguments["function"]]
    assert arguments == [("filename", "char *"), ("function", "char *"), ("line", "int")]


@pytest.mark.skipif(not PYTHON.exists(), reason="this machine has no Python with USDT probes")
def test_an_unknown_provider_names_those_of_the_binary() -> None:
    with pytest.raises(ConfigurationError, match="no probes of provider 'ruby'; it has python"):
        chosen(f"  - {{name: p, probe: usdt, binary_path: {PYTHON}, provider: ruby}}\n")


def test_a_custom_probe_reports_the_functions_of_its_list(tmp_path: Path) -> None:
    (tmp_path / "sysio.bpf.c").write_text("int x;\n")
    (tmp_path / "probes.json").write_text('[{"type": 0, "functions": ["openat", "read"]}]')
    text = """
  - name: custom1
    start_event_id: 100000
    probe: custom
    type: custom
    file: @DATACRUMBS_CUSTOM_PROBE_BPF@
    probes: @DATACRUMBS_CUSTOM_PROBE_DEFINITION@
    process_header: @DATACRUMBS_CUSTOM_PROBE_PROCESS_HEADER@
    event_type: 2
"""
    category, selection = chosen(
        text,
        DATACRUMBS_CUSTOM_PROBE_BPF=str(tmp_path / "sysio.bpf.c"),
        DATACRUMBS_CUSTOM_PROBE_DEFINITION=str(tmp_path / "probes.json"),
        DATACRUMBS_CUSTOM_PROBE_PROCESS_HEADER=str(tmp_path / "sysio_process.h"),
    )
    assert (category.type, category.plugin) == (ProbeType.CUSTOM, "sysio")
    assert category.functions == ("openat", "read")
    assert selection.report.warnings == ()


@pytest.mark.parametrize(
    "document", ["{}", "[]", "[{}]", '[{"functions": [1]}]', '{"functions": []}', "x", "[" * 99999]
)
def test_a_broken_list_of_a_custom_probe_is_an_error(document: str, tmp_path: Path) -> None:
    (tmp_path / "a.bpf.c").write_text("int x;\n")
    (tmp_path / "p.json").write_text(document)
    text = f"  - {{name: c, probe: custom, file: {tmp_path}/a.bpf.c, probes: {tmp_path}/p.json}}\n"
    with pytest.raises(ConfigurationError, match=r"p\.json"):
        chosen(text)


def test_functions_of_a_program_are_found_as_in_a_library(tmp_path: Path) -> None:
    source = tmp_path / "ior.c"
    source.write_text("int WriteOrRead(int a) { return a; }\nint main(void) { return 0; }\n")
    program = tmp_path / "ior"
    subprocess.run(["gcc", "-g", "-o", program, source], check=True)
    text = """
  - name: ior
    probe: uprobe
    type: binary
    file: @DATACRUMBS_IOR_BINARY@
    include_offsets: false
    regex: (WriteOrRead|main)
"""
    category, _ = chosen(text, DATACRUMBS_IOR_BINARY=str(program))
    assert set(category.functions) == {"WriteOrRead", "main"}


def test_a_uprobe_header_selects_what_the_header_declares(tmp_path: Path) -> None:
    header = tmp_path / "dct.h"
    header.write_text("int dct_put(const char *name, long count);\nint dct_missing(void);\n")
    source = tmp_path / "dct.c"
    source.write_text(
        "int dct_put(const char *n, long c) { return n[c]; }\nint dct_own(void) { return 1; }\n"
    )
    path = tmp_path / "libdct.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", path, source], check=True)
    text = f"  - {{name: d, probe: uprobe, type: header, file: {header}, binary_path: {path}}}\n"
    category, _ = chosen(text)
    assert [plain_symbol(name) for name in category.functions] == ["dct_put"]
    (arguments,) = category.arguments.values()
    assert [(one.label, one.c_type) for one in arguments] == [("name", "char *"), ("count", "long")]


def test_prototypes_come_from_headers_where_there_is_no_debugging_information() -> None:
    path = library("soname:libmpi.so.40")
    category, selection = chosen(
        f"  - {{name: m, probe: uprobe, file: {path}, functions: [MPI_File_open, MPI_Send]}}\n"
    )
    if "mpi.h" not in selection.report.categories[0].arguments_from:
        pytest.skip("mpi.h is not on this machine")
    arguments = {plain_symbol(name): found for name, found in category.arguments.items()}
    assert [(one.label, one.c_type) for one in arguments["MPI_File_open"]][1:3] == [
        ("filename", "char *"),
        ("amode", "int"),
    ]
    # What is sent belongs to the application.
    assert arguments["MPI_Send"][0].c_type == "void *"
