"""Every way of attaching records the same calls with the same values."""

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_engine import IDENTITY, calls_of, go, lines_of, probe_file, stopped_child

from datacrumbs_runtime.bpf import features, tracefs_events
from datacrumbs_runtime.bpf.elf_file import ElfFile
from datacrumbs_runtime.bpf.features import Tier
from datacrumbs_runtime.engine import Engine, RunSettings
from datacrumbs_runtime.schema.probe_file import Argument, Category, ProbeType, UsdtPoint

pytestmark = pytest.mark.kernel

THREADS = 4
ROUNDS = 25
FRAMES = 24  # DC_FRAMES
NUMBER = Argument(0, 4, False, "number", "int")
NAME = Argument(1, 8, True, "name", "char *")
SOURCE = """
#define SECTION(name) __attribute__((noinline, section(".text." #name), aligned(4096)))
#define PROBE(name, arguments) __asm__ volatile( \\
    "990: nop\\n.pushsection .note.stapsdt,\\"?\\",\\"note\\"\\n.balign 4\\n" \\
    ".4byte 992f-991f, 994f-993f, 3\\n991: .asciz \\"stapsdt\\"\\n992: .balign 4\\n" \\
    "993: .8byte 990b\\n.8byte 0\\n.8byte 0\\n" \\
    ".asciz \\"testing\\"\\n.asciz \\"" name "\\"\\n.asciz \\"" arguments "\\"\\n" \\
    "994: .balign 4\\n.popsection\\n")
/* These begin at the same place of their pages. */
SECTION(a) int first(int number, const char *name) { return number + (name[0] != 0); }
SECTION(b) int second(int number, const char *name) { return first(number * 2, name) - 1; }
SECTION(c) int third(int number, const char *name) { return -number; }
/* Memory that the program has not touched yet may be unreadable for the probes: it touches it. */
volatile char empty[] = "", text[] = "text of a probe";
int deep(int n) { return n ? deep(n - 1) + 1 : first(empty[0], (const char *)empty); }
/* Jumps: its caller is returned to by the other function. */
int jumps(int number, const char *name);
int lands(int number, const char *name) { return number + 100; }
__asm__(".globl jumps\\n.type jumps,@function\\n"
        "jumps: nop\\njmp lands@plt\\n.size jumps,.-jumps\\n");
int probes(int number) {
    number += text[sizeof(text) - 1];
    PROBE("part__entry", "-4@%edi");
    number += deep(2);
    PROBE("alone", "-4@%eax 8@%rsi");
    __asm__ volatile("mov $-7, %%edi; mov %0, %%rsi" : : "r"(text) : "rdi", "rsi");
    PROBE("texts", "-4@%edi 8@%rsi");
    PROBE("part__return", "-4@%eax");
    return number;
}
/* With 0 a part ends in it that did not begin: the calls around it are no worse for that. */
int torn(int number) {
    if (number)
        PROBE("half__entry", "-4@%edi");
    PROBE("half__return", "-4@%eax");
    return number;
}
"""
WORK = f"""
import ctypes, threading
calls = ctypes.CDLL(sys.argv[1])
def work():
    for i in range({ROUNDS}):
        assert calls.second(i, b"name %d" % i) == i * 2
        assert calls.third(i, b"x") == -i
        assert calls.jumps(i, b"jump") == i + 100
        calls.probes(i)
        assert calls.torn(i) == i
    assert calls.deep(10) == 10
threads = [threading.Thread(target=work) for _ in range({THREADS})]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A path that the kernel would split, were it written into a definition as it is.
    directory = tmp_path_factory.mktemp("a library")
    (directory / "calls.c").write_text(SOURCE)
    path = directory / "libcalls.so"
    subprocess.run(
        ["gcc", "-O1", "-shared", "-fPIC", "-o", path, directory / "calls.c"],
        check=True,
    )
    return path


def categories(library: Path) -> tuple[Category, ...]:
    functions = ("first", "second", "third", "deep", "jumps", "lands", "torn")
    arguments: dict[str, tuple[Argument, ...]] = {
        name: (NUMBER, NAME) for name in functions if name not in {"deep", "torn"}
    }
    arguments["torn"] = (NUMBER,)
    with ElfFile(library) as file:
        places = {file.file_offset(file.symbol_value(name) or 0) or 0 for name in functions[:3]}
        assert len({place % 4096 for place in places}) == 1
        points = {
            name: (UsdtPoint(file.file_offset(int(address, 16)) or 0, 0, operands),)
            for name, address, operands in re.findall(
                r"Name: (\S+)\s+Location: (0x\w+),.*\s+Arguments: ?(.*)",
                subprocess.run(
                    ["readelf", "-nW", library], capture_output=True, text=True, check=True
                ).stdout,
            )
        }
    pairs = {f"{name}__{end}" for name in ("part", "half") for end in ("entry", "return")}
    assert set(points) == {*pairs, "alone", "texts"}
    of_probe = (NUMBER, Argument(1, 8, True, "name", "char *"))
    return (
        Category(
            ProbeType.UPROBE,
            "LIB",
            functions,
            binary_path=str(library),
            arguments=arguments,
            returns=dict.fromkeys(functions, "int"),
        ),
        Category(
            ProbeType.USDT,
            "USDT",
            ("part", "half", "alone", "texts"),
            binary_path=str(library),
            provider="testing",
            usdt_points=points,
            arguments={"part": (NUMBER,), "half": (NUMBER,), "texts": of_probe},
        ),
    )


Call = tuple[str, int | None, Any, Any]


def calls_by_thread(
    path: Path, library: Path, max_tier: str, kind: str
) -> tuple[list[list[Call]], str, int]:
    """Record the work; return the calls of each thread, the tier, and how many calls lack memory.

    Where the kernel preempts programs, it has no memory for a thread that is new to them while it
    has preempted one that asked for some on that CPU.
    """
    settings = RunSettings(ring_buffer_bytes=1 << 20, max_tier=max_tier)
    with (
        stopped_child(WORK, str(library)) as child,
        Engine(probe_file(*categories(library)), path, IDENTITY, settings) as engine,
    ):
        report = engine.attach()
        assert report.failures == ()
        engine.register_process(child.pid)
        engine.start()
        go(child)
        assert child.returncode == 0
        summary = engine.stop()
    losses = summary.statistics.losses
    assert (losses.lost_calls, losses.unaccounted) == (losses.state, 0)
    assert 0 <= losses.missed_begin - THREADS <= losses.state
    threads: dict[int, list[dict[str, Any]]] = {}
    for call in calls_of(lines_of(summary.trace_path), child.pid):
        threads.setdefault(call["tid"], []).append(call)
    found = []
    for calls in threads.values():
        found.append(
            [
                (
                    call["name"],
                    call["args"].get("ret"),
                    call["args"].get("number"),
                    call["args"].get("name"),
                )
                for call in calls
            ]
        )
    return found, report.tiers[kind], losses.state


def expected_calls() -> list[Call]:
    calls: list[Call] = []
    for i in range(ROUNDS):
        name = f"name {i}"
        calls += [("first", 2 * i + 1, 2 * i, name), ("second", 2 * i, i, name)]
        calls += [("third", -i, i, "x")]
        calls += [("jumps", i + 100, i, "jump"), ("lands", i + 100, i, "jump")]
        calls += [("part", None, i, None), ("alone", None, None, None)]
        calls += [("texts", None, -7, "text of a probe")]
        calls += [("deep", n, None, None) for n in range(3)] + [("first", 0, 0, "")]
        calls += [("torn", i, i, None)]
        calls += [("half", None, i, None)] * (i > 0)
    calls += [("deep", n, None, None) for n in range(11)] + [("first", 0, 0, "")]
    return calls


@pytest.mark.parametrize("tier", features.tiers_of("uprobe"), ids=lambda tier: tier.value)
def test_every_tier_gives_the_same_trace(tmp_path: Path, library: Path, tier: Tier) -> None:
    if (reason := features.refusal(tier)) is not None:
        pytest.skip(f"this kernel has no {tier.value}: {reason}")
    threads, used, lacking = calls_by_thread(tmp_path / "t.pfw.gz", library, tier.value, "uprobe")
    assert used == tier.value
    expected = Counter(expected_calls())
    assert len(threads) == THREADS
    for calls in threads:
        missing, others = expected - Counter(calls), Counter(calls) - expected
        # A session tells of a call without memory at least that it was.
        assert all(call[2:] == (None, None) for call in others)
        assert others.total() <= missing.total() <= lacking


@pytest.mark.parametrize("tier", features.tiers_of("uprobe"), ids=lambda tier: tier.value)
def test_calls_within_too_many_others_are_lost_and_no_others(
    tmp_path: Path, library: Path, tier: Tier
) -> None:
    if (reason := features.refusal(tier)) is not None:
        pytest.skip(f"this kernel has no {tier.value}: {reason}")
    depth = 50  # the kernel has 64 returns for a thread
    program = f"import ctypes; ctypes.CDLL(sys.argv[1]).deep({depth - 1})"
    deep = Category(
        ProbeType.UPROBE, "LIB", ("deep",), binary_path=str(library), returns={"deep": "int"}
    )
    settings = RunSettings(ring_buffer_bytes=1 << 20, max_tier=tier.value)
    with (
        stopped_child(program, str(library)) as child,
        Engine(probe_file(deep), tmp_path / "t.pfw.gz", IDENTITY, settings) as engine,
    ):
        engine.attach()
        engine.register_process(child.pid)
        engine.start()
        go(child)
        summary = engine.stop()
    calls = calls_of(lines_of(summary.trace_path), child.pid)
    calls.sort(key=lambda call: int(call["args"]["ret"]), reverse=True)
    # Sessions remember the begin of a call themselves. Here the innermost ones find no room.
    kept = depth if tier is Tier.UPROBE_SESSION else FRAMES
    assert [call["args"]["ret"] for call in calls] == list(range(depth - 1, depth - 1 - kept, -1))
    losses = summary.statistics.losses
    assert (losses.lost_calls, losses.missed_begin) == (depth - kept, depth - kept)
    # Each lies within the one that made it: begins and ends are of the same call.
    durations = [call["args"]["ns"] for call in calls]
    assert durations == sorted(durations, reverse=True)
    begins = [call["ts"] for call in calls]
    assert begins == sorted(begins)


def events_of(process: int) -> list[str]:
    directory = tracefs_events.event_directory() / "events"
    return [path.name for path in directory.glob(f"datacrumbs_*_{process}/*s_*")]


def needs_shared_events() -> None:
    if (reason := features.refusal(Tier.UPROBE_TRACEFS)) is not None:
        pytest.skip(f"this kernel has no uprobe.tracefs: {reason}")


def test_no_event_stays_behind(tmp_path: Path, library: Path) -> None:
    needs_shared_events()
    settings = RunSettings(ring_buffer_bytes=1 << 20, max_tier="uprobe.tracefs")
    run = probe_file(*categories(library))
    with Engine(run, tmp_path / "t.pfw.gz", IDENTITY, settings) as engine:
        engine.attach()
        # Three functions at one place of their pages are in three events, each with its returns.
        assert len(events_of(os.getpid())) >= 6
        engine.start()
        engine.stop()
    assert events_of(os.getpid()) == []


def test_events_of_a_killed_process_are_removed_by_the_next(library: Path) -> None:
    needs_shared_events()
    code = """
import os, sys, time
from datacrumbs_runtime.bpf.tracefs_events import SharedEvent, user_place
event = SharedEvent("uprobe")
file = os.open(sys.argv[1], os.O_RDONLY)
event.add(user_place(os.fsencode(sys.argv[1]), file, int(sys.argv[2])))
print("defined", flush=True)
time.sleep(600)
"""
    with ElfFile(library) as elf:
        offset = elf.file_offset(elf.symbol_value("first") or 0)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(library), str(offset)], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"defined\n"
        tracefs_events.remove_left_behind()
        assert len(events_of(child.pid)) == 1
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert len(events_of(child.pid)) == 1
        tracefs_events.remove_left_behind()
        assert events_of(child.pid) == []
