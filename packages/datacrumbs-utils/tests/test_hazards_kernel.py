"""Programs behave as ever with a probe on every function that is not refused."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from waiting import wait_until

from datacrumbs_runtime.engine import Engine, Identity, RunSettings
from datacrumbs_runtime.schema.probe_file import Category, ProbeFile, ProbeType, Summary
from datacrumbs_utils.discovery import elf, placement

pytestmark = pytest.mark.kernel

LIBRARIES = [
    Path("/usr/lib/x86_64-linux-gnu") / name
    for name in ("libc.so.6", "libstdc++.so.6", "libgcc_s.so.1", "libm.so.6")
] + [Path("/lib64/ld-linux-x86-64.so.2")]
IDENTITY = Identity("tester", os.getuid(), os.getgid(), "run1", "node1")
SETTINGS = RunSettings(ring_buffer_bytes=8 << 20, strings_buffer_bytes=8 << 20)
PROGRAM = r"""
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdexcept>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>
static jmp_buf buffer;
static volatile int signals;
__attribute__((noinline)) static void deep() { longjmp(buffer, 1); }
struct Guard { ~Guard() { printf("cleanup "); } };
static void *leaves(void *) { Guard guard; pthread_exit((void *)3); }
static void *returns(void *) { return (void *)4; }
static void entered() { printf("in "); }
static void handler(int) { signals++; }
int main(int, char **words) {
    getchar();
    const char *what = words[1];
    if (!strcmp(what, "setjmp")) {
        for (int i = 0; i < 3; i++) if (!setjmp(buffer)) deep();
    } else if (!strcmp(what, "getcontext")) {
        static ucontext_t context; volatile int n = 0;
        getcontext(&context);
        if (n++ < 3) setcontext(&context);
    } else if (!strcmp(what, "swapcontext")) {
        static ucontext_t here, there; static char stack[65536];
        getcontext(&there);
        there.uc_stack.ss_sp = stack; there.uc_stack.ss_size = sizeof stack; there.uc_link = &here;
        makecontext(&there, entered, 0);
        swapcontext(&here, &there);
    } else if (!strcmp(what, "throw")) {
        try { throw std::runtime_error("x"); } catch (std::exception &) { printf("caught "); }
    } else if (!strcmp(what, "out_of_range")) {
        std::vector<int> empty;
        try { empty.at(3); } catch (std::exception &) { printf("caught "); }
    } else if (!strcmp(what, "dlsym")) {
        printf(dlsym(RTLD_NEXT, "puts") ? "found " : "missing ");
    } else if (!strcmp(what, "vfork")) {
        pid_t child = vfork();
        if (!child) { execl("/bin/true", "true", (char *)0); _exit(1); }
        int status; waitpid(child, &status, 0); printf("%d ", status);
    } else if (!strcmp(what, "threads")) {
        pthread_t thread; void *result;
        pthread_create(&thread, 0, returns, 0); pthread_join(thread, &result);
        printf("%ld ", (long)result);
        pthread_create(&thread, 0, leaves, 0); pthread_join(thread, &result);
        printf("%ld ", (long)result);
    } else if (!strcmp(what, "signals")) {
        signal(SIGUSR1, handler);
        for (int i = 0; i < 5; i++) raise(SIGUSR1);
        printf("%d ", signals);
    }
    puts("done");
    return 0;
}
"""
EXPECTED = {
    "setjmp": "done",
    "getcontext": "done",
    "swapcontext": "in done",
    "throw": "caught done",
    "out_of_range": "caught done",
    "dlsym": "found done",
    "vfork": "0 done",
    "threads": "4 cleanup 3 done",
    "signals": "5 done",
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("hazards")
    (directory / "program.cc").write_text(PROGRAM)
    path = directory / "program"
    subprocess.run(
        ["g++", "-O1", "-w", "-o", path, directory / "program.cc", "-ldl", "-lpthread"], check=True
    )
    return path


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> ProbeFile:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        categories = tuple(all_functions(path.resolve()) for path in LIBRARIES if path.exists())
    return ProbeFile(Summary("", "p.json", "node1", "tester", "root"), categories)


def all_functions(library: Path) -> Category:
    named = [
        replace(one, symbol=f"{one.symbol}:{one.value:#x}")
        for one in elf.functions(library)
        if one.refused is None
    ]
    places = {
        name: place
        for name, place in placement.place(library, named, {}).items()
        if place.refused is None
    }
    return Category(
        ProbeType.UPROBE,
        library.name,
        tuple(places),
        binary_path=str(library),
        include_offsets=True,
        build_id=elf.build_id(library),
        placed_offsets={name: place.file_offset for name, place in places.items()},
    )


@pytest.fixture(scope="module")
def engine(probes: ProbeFile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Every function has its probe, for all programs at once."""
    trace = tmp_path_factory.mktemp("trace") / "trace.pfw.gz"
    assert probes.function_count > 5000
    with Engine(probes, trace, IDENTITY, SETTINGS) as engine:
        assert engine.attach().failures == ()
        engine.start()
        yield engine


def calls(engine: Engine) -> int:
    return sum(function.statistics.calls for function in engine.statistics().functions)


@pytest.mark.parametrize("what", EXPECTED)
def test_program_behaves_as_ever(program: Path, engine: Engine, what: str) -> None:
    before = calls(engine)
    with subprocess.Popen(
        [program, what], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        engine.register_process(child.pid)
        output, errors = child.communicate(b"\n", timeout=60)
    assert (output.decode().strip(), errors.decode(), child.returncode) == (EXPECTED[what], "", 0)
    wait_until(lambda: calls(engine) > before)
