"""Arguments from debugging information, against gdb and running programs."""

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from datacrumbs_runtime.errors import DatacrumbsError
from datacrumbs_utils.discovery import debug_files, dwarf, elf
from datacrumbs_utils.discovery.elf_image import ElfImage
from datacrumbs_utils.discovery.signatures import Kind, Signature

LIBC = Path("/usr/lib/x86_64-linux-gnu/libc.so.6")

# Every parameter that is an integer or a pointer gets its position plus one, times 17.
RUNNING = """
#ifdef __clang__
#define NOT_INLINED noinline, optnone
#else
#define NOT_INLINED noipa
#endif
#include <complex.h>
#include <stdbool.h>
#include <sys/types.h>
struct two { long a; double b; };
struct floats { float a, b; };
struct big { long a[5]; };
struct mixed { float f; int i; double d; };
struct extended { long double x; };
enum colour { RED = 1 };
union either { double d; long l; };
#define FUNCTION(result, name, ...) \\
    __attribute__((NOT_INLINED)) result name(__VA_ARGS__) { result r; return r; }
FUNCTION(int, ints, int a, long b, short c, char d, unsigned e, void *f, int g)
FUNCTION(int, floating, float a, int b, double c, mode_t d, long double e, pid_t f)
FUNCTION(int, by_value, struct two a, int b, struct big c, int d, struct floats e, int f)
FUNCTION(int, mixed, struct mixed a, int b, struct extended c, int d, union either e, int f)
FUNCTION(struct big, returns_big, int a, int b)
FUNCTION(struct two, returns_two, int a, int b)
FUNCTION(int, wide, __int128 a, int b, bool c, enum colour d)
FUNCTION(int, split, long a, long b, long c, long d, long e, struct two f, long g)
FUNCTION(int, complexes, float complex a, int b, double complex c, int d)
int main(void) {
    struct two t = {0}; struct big g = {0}; struct floats f = {0}; struct mixed m = {0};
    struct extended x = {0}; union either u = {0};
    ints(17, 34, 51, 68, 85, (void *)102, 119);
    floating(1, 34, 1, 68, 1, 102);
    by_value(t, 34, g, 68, f, 102);
    mixed(m, 34, x, 68, u, 102);
    returns_big(17, 34);
    returns_two(17, 34);
    wide(1, 34, 51, 68);
    split(17, 34, 51, 68, 85, t, 119);
    complexes(1, 34, 1, 68);
    return 0;
}
"""
FUNCTIONS = re.findall(r"^FUNCTION\([^,]+, (\w+),", RUNNING, re.MULTILINE)
REGISTERS = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
COMPILERS = {
    "gcc-5": ["gcc", "-gdwarf-5"],
    "gcc-4": ["gcc", "-gdwarf-4", "-fdebug-types-section"],
    "gcc-3": ["gcc", "-gdwarf-3", "-gstrict-dwarf"],
    "gcc-64": ["gcc", "-gdwarf-5", "-gdwarf64"],
    "gcc-compressed": ["gcc", "-g", "-gz=zlib"],
    "clang-5": ["clang-16", "-gdwarf-5"],
    "clang-4": ["clang-16", "-gdwarf-4"],
}


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def compile_source(directory: Path, source: str, command: list[str], suffix: str = ".c") -> Path:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    path = directory / f"source{suffix}"
    path.write_text(source)
    program = directory / "program"
    subprocess.run([*command, "-O1", "-w", "-o", program, path], check=True)
    return program


def registers_at(program: Path, functions: list[str]) -> dict[str, dict[str, int]]:
    """Run a program under gdb and return the argument registers at each function's start."""
    commands = ["set confirm off", "set debuginfod enabled off"]
    for function in functions:
        show = " ".join(f"{register}=%ld" for register in REGISTERS)
        values = ", ".join(f"${register}" for register in REGISTERS)
        commands += [f"break *{function}", "commands", "silent"]
        commands += [f'printf "AT {function} {show}\\n", {values}', "continue", "end"]
    commands.append("run")
    script = program.with_suffix(".gdb")
    script.write_text("\n".join(commands) + "\n")
    output = subprocess.run(
        ["gdb", "-batch", "-nx", "-x", script, program],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    found = {}
    for line in re.findall(r"^AT (.*)$", output, re.MULTILINE):
        function, *pairs = line.split()
        found[function] = {name: int(value) for name, value in (one.split("=") for one in pairs)}
    return found


@pytest.mark.parametrize("compiler", COMPILERS)
def test_every_argument_is_in_the_register_that_gdb_shows(tmp_path: Path, compiler: str) -> None:
    program = compile_source(tmp_path, RUNNING, COMPILERS[compiler])
    signatures = dwarf.signatures(program, FUNCTIONS)
    assert set(signatures) == set(FUNCTIONS)
    actual = registers_at(program, FUNCTIONS)
    assert set(actual) == set(FUNCTIONS)
    for name, signature in signatures.items():
        arguments = signature.arguments()
        assert arguments, name
        assert len(arguments) + len(signature.uncapturable()) == len(signature.parameters)
        for argument in arguments:
            position = [one.label for one in signature.parameters].index(argument.label)
            mask = (1 << 8 * argument.num_bytes) - 1
            expected = 1 if argument.c_type == "bool" else 17 * (position + 1)
            value = actual[name][REGISTERS[argument.index]] & mask
            assert value == expected, (name, argument)


def test_sizes_and_signs(tmp_path: Path) -> None:
    program = compile_source(tmp_path, RUNNING, ["gcc", "-g"])
    found = dwarf.signatures(program, FUNCTIONS)
    types = {one.label: one.type for one in found["floating"].parameters}
    assert (types["d"].name, types["d"].num_bytes, types["d"].kind) == ("mode_t", 4, Kind.UNSIGNED)
    assert (types["f"].name, types["f"].num_bytes, types["f"].kind) == ("pid_t", 4, Kind.SIGNED)
    assert types["e"].kind is Kind.LONG_DOUBLE
    types = {one.label: one.type for one in found["wide"].parameters}
    assert (types["c"].name, types["c"].num_bytes) == ("bool", 1)
    assert (types["d"].name, types["d"].num_bytes) == ("enum colour", 4)
    assert "larger than a register" in found["wide"].uncapturable()[0]
    assert "structure by value" in found["by_value"].uncapturable()[0]


def gdb_types(path: Path, functions: list[str]) -> dict[str, str]:
    script = [
        item for name in functions for item in ("-ex", f"echo {name}@", "-ex", f"whatis {name}")
    ]
    output = subprocess.run(
        ["gdb", "-batch", "-nx", "-ex", "set debuginfod enabled off", *script, path],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    ).stdout
    return dict(re.findall(r"^(\w+)@type = (.*)$", output, re.MULTILINE))


SPELLINGS = {
    "long unsigned int": "unsigned long",
    "long long unsigned int": "unsigned long long",
    "long long int": "long long",
    "short unsigned int": "unsigned short",
    "long int": "long",
    "short int": "short",
    "_Bool": "bool",
}


def normal(text: str) -> str:
    """Bring gdb's and our spelling of a function's type together; neither changes its meaning."""
    for long, short in SPELLINGS.items():
        text = re.sub(rf"\b{long}\b", short, text)
    text = re.sub(r"\b(?:restrict|volatile|const|__restrict)\b", "", text)
    text = re.sub(r"\b(?:struct|union|enum) \{\.\.\.\}", "anonymous", text)
    return re.sub(r"\s+", "", text)


def our_type(signature: Signature) -> str:
    return Signature(
        signature.returns,
        tuple(type(one)("", one.type) for one in signature.parameters),
        signature.variadic,
    ).text("")


def test_signatures_of_libc_are_those_of_gdb() -> None:
    with ElfImage(LIBC) as image:
        if debug_files.find(image) is None:
            pytest.skip("libc6-dbg is not installed")
    functions = elf.functions(LIBC)
    # Of a name with several versions gdb takes any.
    counts = Counter(name for one in functions for name in (one.symbol, *one.aliases))
    exported = [
        one.symbol
        for one in functions
        if not one.refused and not one.symbol.startswith("_") and counts[one.symbol] == 1
    ]
    found = dwarf.signatures(LIBC, exported)
    sample = sorted(found)[:: max(1, len(found) // 300)]
    expected = gdb_types(LIBC, sample)
    # gdb asks by name and sometimes finds another function of that name, or none with types.
    typed = {name: text for name, text in expected.items() if "text variable" not in text}
    assert len(typed) >= 200
    differing = {
        name: (text, our_type(found[name]))
        for name, text in typed.items()
        if normal(text) != normal(our_type(found[name]))
    }
    assert differing == {}


CPLUSPLUS = """
struct Trivial { int x; };
struct Owner { ~Owner(); int x; };
struct Member { Owner o; };
struct Virtual { virtual void f(); int x; };
namespace inner { struct Thing { int method(int a, const Trivial &t) const; }; }
int inner::Thing::method(int a, const Trivial &t) const { return a + t.x; }
template <class T> T twice(T value, const T *more) { return value + *more; }
template long twice<long>(long, const long *);
extern "C" {
int trivial(Trivial t, int x) { return x + t.x; }
int owner(Owner o, int x) { return x; }
int member(Member m, int x) { return x; }
int virtual_one(Virtual v, int x) { return x; }
}
Owner::~Owner() {}
void Virtual::f() {}
int main() { return 0; }
"""


@pytest.mark.parametrize("compiler", ["g++", "clang++-16"])
def test_objects_that_copy_themselves_are_handed_over_by_reference(
    tmp_path: Path, compiler: str
) -> None:
    program = compile_source(tmp_path, CPLUSPLUS, [compiler, "-g"], ".cc")
    found = dwarf.signatures(program, [one.symbol for one in elf.functions(program)])
    kinds = {
        name: found[name].parameters[0].type.kind
        for name in ("trivial", "owner", "member", "virtual_one")
    }
    assert kinds == {
        "trivial": Kind.STRUCTURE,
        "owner": Kind.REFERENCE,
        "member": Kind.REFERENCE,
        "virtual_one": Kind.REFERENCE,
    }
    method = found["_ZNK5inner5Thing6methodEiRK7Trivial"].arguments()
    assert [(one.index, one.label) for one in method] == [(0, "this"), (1, "a"), (2, "t")]
    template = found["_Z5twiceIlET_S0_PKS0_"].arguments()
    assert [(one.label, one.c_type) for one in template] == [
        ("value", "long"),
        ("more", "const long *"),
    ]


def test_separate_debug_file_is_used_and_results_are_kept(tmp_path: Path, cache_home: Path) -> None:
    program = compile_source(tmp_path, RUNNING, ["gcc", "-g", "-Wl,--build-id"])
    expected = dwarf.signatures(program, FUNCTIONS)
    shutil.rmtree(cache_home)
    separate = tmp_path / "program.debug"
    subprocess.run(["objcopy", "--only-keep-debug", program, separate], check=True)
    subprocess.run(["strip", "-g", program], check=True)
    assert dwarf.signatures(program, FUNCTIONS) == {}
    subprocess.run(["objcopy", f"--add-gnu-debuglink={separate}", program], check=True)
    assert dwarf.signatures(program, FUNCTIONS) == expected
    (stored,) = (cache_home / "datacrumbs" / "signatures").iterdir()
    document = json.loads(stored.read_text())
    assert len(document["results"]) == len(FUNCTIONS)
    separate.write_bytes(b"")
    separate.unlink()
    shutil.copy(program, separate)
    assert set(dwarf.signatures(program, ["main"])) <= {"main"}


def test_types_in_a_supplementary_file_are_followed(tmp_path: Path, cache_home: Path) -> None:
    if shutil.which("dwz") is None:
        pytest.skip("dwz is not installed")
    program = compile_source(tmp_path, RUNNING, ["gcc", "-g"])
    other = tmp_path / "other"
    subprocess.run(["gcc", "-g", "-O2", "-w", "-o", other, tmp_path / "source.c"], check=True)
    expected = dwarf.signatures(program, FUNCTIONS)
    shutil.rmtree(cache_home)
    subprocess.run(["dwz", "-m", tmp_path / "common.debug", program, other], check=True)
    with ElfImage(program) as image:
        assert image.section(".gnu_debugaltlink") is not None
    assert dwarf.signatures(program, FUNCTIONS) == expected


def test_damaged_debugging_information_is_one_error_or_none(tmp_path: Path) -> None:
    program = compile_source(tmp_path, RUNNING, ["gcc", "-g"])
    with ElfImage(program) as image:
        section = image.section(".debug_info")
        abbreviations = image.section(".debug_abbrev")
    assert section is not None
    assert abbreviations is not None
    intact = program.read_bytes()
    failures = 0
    for area in (section, abbreviations):
        for at in range(area.offset, area.offset + min(area.size, 600), 7):
            damaged = bytearray(intact)
            damaged[at] ^= 0xFF
            damaged[-1] = at & 0xFF
            program.write_bytes(damaged)
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
            try:
                dwarf.signatures(program, FUNCTIONS)
            except DatacrumbsError:
                failures += 1
    assert failures > 0


def test_file_without_debugging_information_has_no_arguments(tmp_path: Path) -> None:
    program = compile_source(tmp_path, RUNNING, ["gcc", "-g0"])
    assert dwarf.signatures(program, FUNCTIONS) == {}
