"""Functions of ELF files, against nm and small libraries compiled here."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_utils.discovery import debug_files, elf
from datacrumbs_utils.discovery.candidates import Candidate
from datacrumbs_utils.discovery.elf_image import ElfError, ElfImage

LIBRARY_DIRECTORY = Path("/usr/lib/x86_64-linux-gnu")
LIBRARIES = {
    "libc": LIBRARY_DIRECTORY / "libc.so.6",
    "libstdc++": LIBRARY_DIRECTORY / "libstdc++.so.6",
    "libmpi": LIBRARY_DIRECTORY / "libmpi.so.40",
    "libhdf5": LIBRARY_DIRECTORY / "libhdf5_serial.so.103",
    "python3.11": Path("/usr/bin/python3.11"),
}
SOURCE = """
int plain(int a) { return a + 1; }
int same(int) __attribute__((alias("plain")));
static int __attribute__((noinline, used)) hidden(int a) { return a * 3; }
int uses(int a) { return hidden(a); }
int data = 5;
static int one(void) { return 1; }
static void *choose(void) { return one; }
int indirect(void) __attribute__((ifunc("choose")));
"""


def named(found: list[Candidate], name: str) -> Candidate:
    return next(one for one in found if name == one.symbol or name in one.aliases)


def all_names(found: list[Candidate]) -> set[str]:
    return {name for one in found for name in (one.symbol, *one.aliases)}


def build(directory: Path, source: str = SOURCE, *options: str) -> Path:
    (directory / "lib.c").write_text(source)
    library = directory / "libtest.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-g", *options, "-o", library, directory / "lib.c"],
        check=True,
    )
    return library


def nm(path: Path, *options: str) -> dict[str, int]:
    """Return the functions that nm lists with their addresses: text, weak and indirect symbols."""
    output = subprocess.run(
        ["nm", "--defined-only", *options, path], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split() for line in output.splitlines()]
    return {row[2].partition("@")[0]: int(row[0], 16) for row in rows if row[1] in "TtWwi"}


@pytest.mark.parametrize("library", LIBRARIES)
def test_exported_functions_are_those_of_nm(library: str) -> None:
    path = LIBRARIES[library]
    if not path.exists():
        pytest.skip(f"{path} is not installed")
    found = elf.functions(path)
    exported = set(nm(path, "-D")) - {"_init", "_fini", "_start"}
    # Labels without a type are no functions: data_start, edata.
    typed = subprocess.run(
        ["readelf", "--dyn-syms", "-W", path], capture_output=True, text=True, check=True
    ).stdout
    untyped = set(re.findall(r" (?:NOTYPE|OBJECT|TLS) .* (\S+?)(?:@.*)?$", typed, re.MULTILINE))
    assert len(exported) > 1000
    assert exported - untyped <= all_names(found)
    with ElfImage(path) as image:
        stripped = image.section(".symtab") is None and debug_files.find(image) is None
    if stripped:
        assert all_names(found) == exported - untyped


def test_symbols_of_the_separate_debug_file_are_those_of_nm() -> None:
    path = LIBRARIES["libc"]
    with ElfImage(path) as image:
        separate = debug_files.find(image)
    if separate is None:
        pytest.skip("libc6-dbg is not installed")
    expected = set(nm(separate)) - {"_init", "_fini", "_start"}
    table = subprocess.run(
        ["readelf", "-sW", separate], capture_output=True, text=True, check=True
    ).stdout
    functions = set(re.findall(r" (?:FUNC|IFUNC) .* (\S+?)(?:@\S*)?$", table, re.MULTILINE))
    assert len(expected & functions) > 5000
    assert expected & functions <= all_names(elf.functions(path))


def test_names_of_one_address_are_one_candidate(tmp_path: Path) -> None:
    found = elf.functions(build(tmp_path))
    plain = named(found, "plain")
    assert {plain.symbol, *plain.aliases} == {"plain", "same"}


def test_value_and_file_offset_are_those_of_nm(tmp_path: Path) -> None:
    library = build(tmp_path)
    addresses = nm(library)
    with library.open("rb") as stream:
        image = stream.read()
    for one in elf.functions(library):
        assert one.value == addresses[one.symbol]
    hidden = named(elf.functions(library), "hidden")
    assert hidden.file_offset is not None
    # lea (%rdi,%rdi,2),%eax ; ret: what a * 3 compiles to, behind an optional endbr64.
    code = image[hidden.file_offset : hidden.file_offset + 8].removeprefix(b"\xf3\x0f\x1e\xfa")
    assert code.startswith(b"\x8d\x04\x7f\xc3")


def test_indirect_function_is_refused_with_a_reason(tmp_path: Path) -> None:
    assert "IFUNC" in (named(elf.functions(build(tmp_path)), "indirect").refused or "")


def test_indirect_function_of_libc_names_what_this_machine_uses() -> None:
    refused = named(elf.functions(LIBRARIES["libc"]), "strlen").refused or ""
    assert re.search(r"here it is (__strlen_\w+|unnamed code)", refused)


def test_start_up_code_is_left_out(tmp_path: Path) -> None:
    assert not all_names(elf.functions(build(tmp_path))) & {"_init", "_fini", "_start", "data"}


def test_functions_that_a_return_probe_would_break_are_refused() -> None:
    found = elf.functions(LIBRARIES["libc"])
    for name in ("setjmp", "getcontext", "dlsym", "pthread_exit"):
        assert named(found, name).refused, name


def test_debug_file_is_found_by_debuglink_and_must_be_of_the_same_build(tmp_path: Path) -> None:
    library = build(tmp_path, SOURCE, "-Wl,--build-id=none")
    separate = tmp_path / "libtest.debug"
    subprocess.run(["objcopy", "--only-keep-debug", library, separate], check=True)
    subprocess.run(["strip", library], check=True)
    subprocess.run(["objcopy", f"--add-gnu-debuglink={separate}", library], check=True)
    assert "hidden" in all_names(elf.functions(library))
    separate.write_bytes(separate.read_bytes() + b"other build")
    assert "hidden" not in all_names(elf.functions(library))


def test_debug_file_is_found_by_build_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = build(tmp_path)
    build_id = elf.build_id(library)
    assert build_id is not None
    folder = tmp_path / "debug" / ".build-id" / build_id[:2]
    folder.mkdir(parents=True)
    separate = folder / f"{build_id[2:]}.debug"
    subprocess.run(["objcopy", "--only-keep-debug", library, separate], check=True)
    subprocess.run(["strip", library], check=True)
    assert "hidden" not in all_names(elf.functions(library))
    monkeypatch.setenv("DATACRUMBS_DEBUG_PATH", str(tmp_path / "debug"))
    assert "hidden" in all_names(elf.functions(library))


def test_symbols_in_the_mini_debug_section_are_found(tmp_path: Path) -> None:
    library = build(tmp_path)
    mini = tmp_path / "mini"
    subprocess.run(["objcopy", "--strip-debug", library, mini], check=True)
    subprocess.run(["xz", mini], check=True)
    subprocess.run(["strip", library], check=True)
    assert "hidden" not in all_names(elf.functions(library))
    subprocess.run(["objcopy", f"--add-section=.gnu_debugdata={mini}.xz", library], check=True)
    assert "hidden" in all_names(elf.functions(library))


def test_build_id_is_that_of_readelf(tmp_path: Path) -> None:
    library = build(tmp_path)
    output = subprocess.run(
        ["readelf", "-n", library], capture_output=True, text=True, check=True
    ).stdout
    assert f"Build ID: {elf.build_id(library)}" in output
    without = build(tmp_path, SOURCE, "-Wl,--build-id=none")
    assert elf.build_id(without) is None


def test_functions_of_a_compressed_kernel_module(tmp_path: Path) -> None:
    (tmp_path / "module.c").write_text("int module_read(int a) { return a; }\n")
    module = tmp_path / "module.ko"
    subprocess.run(["gcc", "-c", "-o", module, tmp_path / "module.c"], check=True)
    subprocess.run(["xz", "-k", module], check=True)
    (found,) = elf.functions(tmp_path / "module.ko.xz")
    assert (found.symbol, found.file_offset, found.refused) == ("module_read", None, None)


@pytest.mark.parametrize("size", [0, 3, 40, 64, 900, 4000])
def test_damaged_file_is_an_error_in_one_sentence(tmp_path: Path, size: int) -> None:
    library = build(tmp_path)
    library.write_bytes(library.read_bytes()[:size])
    with pytest.raises(ElfError, match=r"libtest\.so: "):
        elf.functions(library)


def test_missing_file_and_directory_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        elf.functions(tmp_path / "absent.so")
    with pytest.raises(ElfError, match="not a regular file"):
        elf.functions(tmp_path)
    assert shutil.which("nm")
