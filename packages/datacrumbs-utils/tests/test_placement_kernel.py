"""Moved probes see what unmoved ones see: the same calls, arguments and results."""

import gzip
import json
import os
import re
import subprocess
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from datacrumbs_runtime.engine import Engine, Identity, RunSettings
from datacrumbs_runtime.schema.probe_file import (
    Argument,
    Category,
    ProbeFile,
    ProbeType,
    Summary,
)
from datacrumbs_utils.discovery import dwarf, elf, placement
from datacrumbs_utils.discovery.instructions import Cost, decode

pytestmark = pytest.mark.kernel

LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
IDENTITY = Identity("tester", os.getuid(), os.getgid(), "run1", "node1")
SETTINGS = RunSettings(ring_buffer_bytes=8 << 20, strings_buffer_bytes=8 << 20)
ALL_REGISTERS = tuple(Argument(i, 8, False, f"a{i}", "unsigned long") for i in range(6))
WAIT_S = 300.0
ATTEMPTS = 4
UNCOMPARED = frozenset({"ns", "hhash"})
# They start threads, which may or may not get far before the process ends, or end it themselves.
RACING = re.compile(r"H5TS_create_thread|\w*_M_start_thread\w*")

# Calls every function at the addresses in a list, each in a process of its own, with the addresses
# of zeroed pages. Many fail and some crash: what happens in them is the same every time, since
# neither addresses nor contents differ between two runs. Prints which ones came to an end in time.
CALLER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
typedef long (*function)(void *, void *, void *, void *, void *, void *);
int main(int count, char **words) {
    if (!(personality(0xffffffff) & ADDR_NO_RANDOMIZE)) {
        personality(ADDR_NO_RANDOMIZE);
        execv("/proc/self/exe", words);
    }
    struct link_map *map = dlopen(words[1], RTLD_NOW | RTLD_GLOBAL);
    if (!map) { fprintf(stderr, "%s\n", dlerror()); return 1; }
    FILE *list = fopen(words[2], "r");
    char *page = mmap(NULL, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int seconds = atoi(words[3]);
    /* What every process would do first is done once. */
    function prepare = count > 4 ? (function)dlsym(RTLD_DEFAULT, words[4]) : NULL;
    if (prepare) prepare(0, 0, 0, 0, 0, 0);
    getchar();
    unsigned long value;
    while (fscanf(list, "%lx", &value) == 1) {
        pid_t child = fork();
        if (!child) {
            int null = open("/dev/null", O_RDWR);
            dup2(null, 0); dup2(null, 1); dup2(null, 2);
            setitimer(ITIMER_REAL, &(struct itimerval){{0, 0}, {seconds, 5000}}, NULL);
            ((function)(map->l_addr + value))(page + 65536, page + (1 << 20), page + (2 << 20),
                                              page + (3 << 20), page + (4 << 20), page + (5 << 20));
            _exit(0);
        }
        int status;
        waitpid(child, &status, 0);
        if (!(WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)) printf("%lx\n", value);
    }
    return 0;
}
"""

CET_LIBRARY = r"""
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
extern int shared_counter;
int shared_counter;
int empty(void) { return 0; }
int leaf(int a, int b) { return a * 31 + b; }
long many(long a, long b, long c, long d, long e, long f) { return a ^ b ^ c ^ d ^ e ^ f; }
int first_loads(const int *p) { return p ? *p + 1 : -1; }
int counts_down(int n) { while (n > 0) { n -= 3; shared_counter++; } return n; }
int recursive(int n) { return n <= 0 ? 1 : recursive(n - 1) + recursive(n - 2) + shared_counter; }
int tail(int n, int sum) { return n == 0 ? sum : tail(n - 1, sum + n); }
size_t scans(const char *text) { size_t n = 0; while (*text++) n++; return n; }
int switches(int a, int b) {
    switch (a) {
    case 0: return b; case 1: return b * 3; case 2: return b - 7; case 3: return b ^ 5;
    case 4: return b / 3; case 5: return b + 11; case 6: return -b; default: return 99; }
}
int sums(int count, ...) {
    va_list list; int sum = 0; va_start(list, count);
    while (count-- > 0) sum += va_arg(list, int);
    va_end(list); return sum;
}
double floats(double a, int b, float c) { return a * b + c; }
int calls_back(int (*call)(int, int), int n) {
    int sum = 0; for (int i = 0; i < n; i++) sum += call(i, n); return sum;
}
char *copies(char *to, const char *from, size_t n) { char b[200]; memset(b, 0, sizeof b);
    strncpy(b, from, n < 199 ? n : 199); return strcpy(to, b); }
struct pair { long a, b; };
struct big { long a[9]; };
struct pair pairs(long a, long b) { struct pair p = {a, b}; return p; }
struct big bigs(int a) { struct big b = {{a}}; return b; }
int is_even(unsigned n); int is_odd(unsigned n);
int is_even(unsigned n) { return n ? is_odd(n - 1) : 1; }
int is_odd(unsigned n) { return n ? is_even(n - 1) : 0; }
__attribute__((cold, noinline)) static int rare(int a) { return a * 7 + shared_counter; }
int sometimes(int a) { if (__builtin_expect(a > 1000, 0)) return rare(a); return a; }
"""
CET_PROGRAM = r"""
#include <stddef.h>
#include <stdio.h>
int empty(void); int leaf(int, int); long many(long, long, long, long, long, long);
int first_loads(const int *); int counts_down(int); int recursive(int); int tail(int, int);
size_t scans(const char *); int switches(int, int); int sums(int, ...);
double floats(double, int, float); int calls_back(int (*)(int, int), int);
char *copies(char *, const char *, size_t); struct pair { long a, b; }; struct big { long a[9]; };
struct pair pairs(long, long); struct big bigs(int); int is_even(unsigned); int sometimes(int);
int main(void) {
    getchar();
    char text[300];
    for (int i = 0; i < 50; i++) {
        empty(); leaf(i, 7); many(i, 2, 3, 4, 5, 6); first_loads(i % 2 ? &i : NULL);
        counts_down(i); recursive(i % 6); tail(i, 0); scans("some text"); switches(i % 9, i);
        sums(3, i, 2, 3); floats(1.5, i, 2.5f); calls_back(leaf, i % 5); copies(text, "abc", i);
        pairs(i, 9); bigs(i); is_even(i); sometimes(i * 40);
    }
    return 0;
}
"""
FLAGS = {
    "gcc -O2": ["gcc", "-O2"],
    "gcc -O0": ["gcc", "-O0"],
    "gcc -O3 without frame": ["gcc", "-O3", "-march=native"],
    "clang -O2": ["clang-16", "-O2"],
}


class Call(NamedTuple):
    """What must not differ: a function, and the names and texts of its arguments and result."""

    name: str
    values: tuple[tuple[str, str], ...]


def run_recorded(category: Category, command: list[str], trace: Path) -> Counter[Call]:
    """Record a program that waits for a line before it begins; return how often it made a call."""
    probe_file = ProbeFile(Summary("", "p.json", "node1", "tester", "root"), (category,))
    with (
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=trace.parent
        ) as child,
        Engine(probe_file, trace, IDENTITY, SETTINGS) as engine,
    ):
        report = engine.attach()
        assert report.failures == ()
        engine.register_process(child.pid)
        engine.start()
        child.communicate(b"\n", timeout=WAIT_S)
        assert child.returncode == 0
        summary = engine.stop()
        path = engine.trace_path
    assert summary is not None
    text = gzip.decompress(path.read_bytes()).decode()
    calls = [json.loads(line) for line in text.splitlines() if '"ph":"X"' in line]
    return Counter(
        Call(
            call["name"],
            tuple(
                (key, str(call["args"][key])) for key in sorted(call["args"].keys() - UNCOMPARED)
            ),
        )
        for call in calls
    )


def without(calls: Counter[Call], unstable: frozenset[tuple[str, str]]) -> Counter[Call]:
    """Return calls without the values that differ by themselves."""
    found: Counter[Call] = Counter()
    for (name, values), count in calls.items():
        kept = tuple((key, value) for key, value in values if (name, key) not in unstable)
        found[Call(name, kept)] += count
    return found


def categories(library: Path, arguments: dict[str, tuple[Argument, ...]]) -> tuple[Category, ...]:
    """Return the same functions with probes at their starts and where placement puts them."""
    candidates = [one for one in elf.functions(library) if one.refused is None]
    named = [replace(one, symbol=f"{one.symbol}:{one.value:#x}") for one in candidates]
    captured = {name: {one.index for one in found} for name, found in arguments.items()}
    places = placement.place(library, named, captured)
    code = library.read_bytes()
    usable = tuple(
        one.symbol
        for one in named
        if places[one.symbol].refused is None and can_begin(code, one.file_offset)
    )
    plain = Category(
        ProbeType.UPROBE,
        "library",
        usable,
        arguments={name: arguments[name] for name in usable if name in arguments},
        binary_path=str(library),
        include_offsets=True,
        build_id=elf.build_id(library),
    )
    moved = {name: places[name].file_offset for name in usable}
    return plain, replace(plain, placed_offsets=moved)


def can_begin(code: bytes, offset: int | None) -> bool:
    """Return whether a probe can be put on the instruction at an offset."""
    assert offset is not None
    first = next(decode(code[offset : offset + 16], 0, 1), None)
    return first is not None and first.cost is not Cost.IMPOSSIBLE


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("captured", ["by_type", "all_registers"])
def test_moved_probes_record_the_same_calls_of_a_cet_library(
    tmp_path: Path, flags: str, captured: str
) -> None:
    compiler = [*FLAGS[flags], "-w", "-g", "-fcf-protection=full"]
    (tmp_path / "library.c").write_text(CET_LIBRARY)
    (tmp_path / "program.c").write_text(CET_PROGRAM)
    library, program = tmp_path / "libcet.so", tmp_path / "program"
    subprocess.run(
        [*compiler, "-shared", "-fPIC", "-Wl,--build-id", "-o", library, tmp_path / "library.c"],
        check=True,
    )
    subprocess.run(
        [*compiler, "-o", program, tmp_path / "program.c", library, f"-Wl,-rpath,{tmp_path}"],
        check=True,
    )
    functions = [f"{one.symbol}:{one.value:#x}" for one in elf.functions(library)]
    if captured == "by_type":
        found = dwarf.signatures(library, functions)
        arguments = {name: signature.arguments() for name, signature in found.items()}
    else:
        arguments = dict.fromkeys(functions, ALL_REGISTERS)
    plain, moved = categories(library, arguments)
    places = zip(starts(library, moved), moved.placed_offsets.values(), strict=True)
    assert sum(start != placed for start, placed in places) > 5
    command = ["setarch", "-R", str(program)]
    before = run_recorded(plain, command, tmp_path / "plain.pfw.gz")
    after = run_recorded(moved, command, tmp_path / "moved.pfw.gz")
    assert before.total() > 1000
    assert before == after


def starts(library: Path, category: Category) -> list[int]:
    offsets = {f"{one.symbol}:{one.value:#x}": one.file_offset for one in elf.functions(library)}
    found = [offsets[name] for name in category.functions]
    return [one for one in found if one is not None]


@pytest.mark.parametrize(
    "name", ["libstdc++.so.6", "libhdf5_serial.so.103", "libmpi.so.40", "libm.so.6"]
)
def test_moved_probes_record_the_same_calls_of_every_function(tmp_path: Path, name: str) -> None:
    library = LIBRARIES / name
    if not library.exists():
        pytest.skip(f"{library} is not installed")
    library = library.resolve()
    (tmp_path / "caller.c").write_text(CALLER)
    caller = tmp_path / "caller"
    subprocess.run(["gcc", "-w", "-o", caller, tmp_path / "caller.c", "-ldl"], check=True)
    functions = {f"{one.symbol}:{one.value:#x}" for one in elf.functions(library)}
    plain, moved = categories(library, dict.fromkeys(functions, ALL_REGISTERS))
    assert starts(library, moved) != list(moved.placed_offsets.values())
    # Without a probe first: what does not end by itself within a moment is left out.
    addresses = tmp_path / "functions"
    addresses.write_text(
        "\n".join(
            address
            for name, _, address in (function.partition(":0x") for function in plain.functions)
            if not RACING.fullmatch(name)
        )
    )
    command = [str(caller), str(library), str(addresses)]
    # Some functions write files where they are called.
    ending = subprocess.run(
        [*command, "0", "H5open"],
        input="\n",
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    addresses.write_text(ending.stdout)
    command += ["20", "H5open"]
    before = run_recorded(plain, command, tmp_path / "plain.pfw.gz")
    after = run_recorded(moved, command, tmp_path / "moved.pfw.gz")
    assert len({call.name for call in before}) > len(plain.functions) // 4
    # Left-over registers may hold the time or a process id; such values differ by themselves, some
    # of them seldom. What moving does wrong differs every time. A run in which a process ended
    # otherwise, with all that is called at its end, tells nothing of values: there is another one.
    unstable: frozenset[tuple[str, str]] = frozenset()
    few = len(plain.functions) // 20
    for _ in range(ATTEMPTS):
        if without(before, unstable) == without(after, unstable):
            break
        earlier, before = before, run_recorded(plain, command, tmp_path / "plain.pfw.gz")
        changed = differing(earlier, before)
        unstable |= changed if len(changed) < few else frozenset()
        earlier, after = after, run_recorded(moved, command, tmp_path / "moved.pfw.gz")
        changed = differing(earlier, after)
        unstable |= changed if len(changed) < few else frozenset()
    assert len(unstable) < few
    assert without(before, unstable) == without(after, unstable)


def differing(one: Counter[Call], other: Counter[Call]) -> frozenset[tuple[str, str]]:
    """Return function and argument of the values that differ between two equal runs."""

    def values(calls: Counter[Call]) -> dict[tuple[str, str], Counter[str]]:
        found: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for call, count in calls.items():
            for key, value in call.values:
                found[call.name, key][value] += count
        return found

    first, second = values(one), values(other)
    return frozenset(
        key for key in first.keys() | second.keys() if first.get(key) != second.get(key)
    )
