"""Functions of the kernel: every way of attaching to them records the same calls."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from test_bpf_attach import attached
from test_engine import IDENTITY, calls_of, go, lines_of, probe_file, stopped_child

from datacrumbs_runtime.bpf import attach_kprobes, attacher, features, kernel_symbols, registry
from datacrumbs_runtime.bpf.features import Tier
from datacrumbs_runtime.bpf.layout import Loss
from datacrumbs_runtime.engine import Engine, RunSettings, RunSummary
from datacrumbs_runtime.schema.probe_file import Argument, Category, ProbeType
from datacrumbs_runtime.trace.losses import Losses

pytestmark = pytest.mark.kernel

TIERS = features.tiers_of("kprobe")
THREADS = 4
ROUNDS = 20
SLEEPERS = 60


def by_every_tier(*tiers: Tier) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("tier", tiers or TIERS, ids=lambda tier: tier.value)


def need(tier: Tier) -> None:
    if (reason := features.refusal(tier)) is not None:
        pytest.skip(f"this kernel has no {tier.value}: {reason}")


def number(index: int, label: str, c_type: str) -> Argument:
    return Argument(index, 4 if c_type.endswith("int") else 8, False, label, c_type)


RANGE = (number(2, "offset", "long long"), number(3, "length", "long long"))
SYNC = (
    number(1, "start", "long long"),
    number(2, "end", "long long"),
    number(3, "datasync", "int"),
)
SEEK = (number(1, "offset", "long long"), number(2, "whence", "int"))
# All but the first are called through pointers: no compiler inlines them.
FUNCTIONS = {
    "vfs_fallocate": ((number(1, "mode", "int"), *RANGE), "int"),
    "shmem_fallocate": ((number(1, "mode", "int"), *RANGE), "long"),
    "shmem_file_llseek": (SEEK, "long long"),
    "noop_fsync": (SYNC, "int"),
    "eventfd_write": ((number(2, "count", "size_t"),), "ssize_t"),
    "eventfd_read": ((), "ssize_t"),
}
WORK = f"""
import os, threading
def work():
    file, event = os.memfd_create("test"), os.eventfd(0, os.EFD_SEMAPHORE)
    for i in range({ROUNDS}):
        os.posix_fallocate(file, i * 4096, i + 1)
        assert os.lseek(file, (1 << 40) + i, os.SEEK_SET) == (1 << 40) + i
        try:
            os.lseek(file, -i - 1, os.SEEK_SET)
        except OSError:
            pass
        os.fdatasync(file)
        threading.Timer(0.001 * (i == 0), os.eventfd_write, (event, 1)).start()
        os.eventfd_read(event)
threads = [threading.Thread(target=work) for _ in range({THREADS})]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def category(functions: Iterable[str]) -> Category:
    names = tuple(functions)
    return Category(
        ProbeType.KPROBE,
        "KERNEL",
        names,
        arguments={name: FUNCTIONS[name][0] for name in names if name in FUNCTIONS},
        returns={name: FUNCTIONS[name][1] for name in names if name in FUNCTIONS},
    )


def record(
    path: Path, tier: Tier, program: str, functions: Iterable[str]
) -> tuple[list[dict[str, Any]], RunSummary]:
    """Record a program and return its calls."""
    settings = RunSettings(ring_buffer_bytes=1 << 20, max_tier=tier.value)
    with (
        stopped_child(program) as child,
        Engine(probe_file(category(functions)), path, IDENTITY, settings) as engine,
    ):
        report = engine.attach()
        assert report.failures == ()
        assert report.tiers["kprobe"] == tier.value
        engine.register_process(child.pid)
        engine.start()
        go(child)
        assert child.returncode == 0
        summary = engine.stop()
    return calls_of(lines_of(summary.trace_path), child.pid), summary


def kept_back(losses: Losses) -> int:
    """Return how many calls the kernel kept from the programs, at most; nothing else may be lost.

    It does not run a program that it has preempted on that CPU, and has no memory for a thread that
    is new to them while it has preempted one that asked for some there. Both are counted.
    """
    assert losses.lost_calls == losses.state
    assert losses.unaccounted == 0
    most = losses.skipped + losses.state
    assert losses.missed_begin <= most
    return most


Call = tuple[str, tuple[tuple[str, int], ...]]


def call(name: str, ret: int, **arguments: int) -> Call:
    return name, tuple(sorted({"ret": ret, **arguments}.items()))


def functions_for(tier: Tier) -> list[str]:
    """Return as many functions as a tier takes."""
    few = attach_kprobes.FENTRY_FUNCTIONS if tier is Tier.KPROBE_FENTRY else None
    return list(FUNCTIONS)[:few]


def expected_calls(functions: Iterable[str]) -> Counter[Call]:
    wanted = set(functions)
    calls: list[Call] = []
    end = (1 << 63) - 1
    for i in range(ROUNDS):
        for name in ("vfs_fallocate", "shmem_fallocate"):
            calls.append(call(name, 0, mode=0, offset=i * 4096, length=i + 1))
        place = (1 << 40) + i
        calls.append(call("shmem_file_llseek", place, offset=place, whence=0))
        calls.append(call("shmem_file_llseek", -22, offset=-i - 1, whence=0))
        calls.append(call("noop_fsync", 0, start=0, end=end, datasync=1))
        calls.append(call("eventfd_write", 8, count=8))
        calls.append(call("eventfd_read", 8))
    counts = Counter(each for each in calls if each[0] in wanted)
    return Counter({each: count * THREADS for each, count in counts.items()})


@by_every_tier()
def test_every_tier_gives_the_same_calls_arguments_and_results(tmp_path: Path, tier: Tier) -> None:
    need(tier)
    functions = functions_for(tier)
    calls, summary = record(tmp_path / "t.pfw.gz", tier, WORK, functions)
    shown = {"ret", "mode", "offset", "length", "whence", "start", "end", "datasync", "count"}
    found = Counter(
        call(
            each["name"],
            **{name: value for name, value in each["args"].items() if name in shown},
        )
        for each in calls
    )
    missing = kept_back(summary.statistics.losses)
    expected = expected_calls(functions)
    assert not found - expected
    assert (expected - found).total() <= missing
    errors = {each.name: each.statistics.errors for each in summary.statistics.functions}
    assert 0 <= THREADS * ROUNDS - errors["shmem_file_llseek"] <= missing
    assert errors["vfs_fallocate"] == 0
    # The inner function lies within the outer one, in time and by thread.
    outer = [each for each in calls if each["name"] == "vfs_fallocate"]
    inner = [each for each in calls if each["name"] == "shmem_fallocate"]
    spans = {(each["tid"], each["args"]["offset"]): each for each in outer}
    for each in inner:
        if missing and (each["tid"], each["args"]["offset"]) not in spans:
            continue
        around = spans[each["tid"], each["args"]["offset"]]
        assert around["ts"] <= each["ts"]
        assert each["ts"] + each["dur"] <= around["ts"] + around["dur"]
        assert each["args"]["ns"] <= around["args"]["ns"]


# Perf events have room for ten threads within a function, and no way to ask for more.
@by_every_tier(*(tier for tier in TIERS if tier is not Tier.KPROBE_PERF))
def test_many_threads_sleep_in_one_function(tmp_path: Path, tier: Tier) -> None:
    need(tier)
    program = f"""
import os, threading, time
event = os.eventfd(0, os.EFD_SEMAPHORE)
threads = [threading.Thread(target=os.eventfd_read, args=(event,)) for _ in range({SLEEPERS})]
for thread in threads:
    thread.start()
while sum("S (sleeping)" in open(f"/proc/self/task/{{t}}/status").read()
          for t in os.listdir("/proc/self/task")) < {SLEEPERS}:
    time.sleep(0.05)
os.eventfd_write(event, {SLEEPERS})
for thread in threads:
    thread.join()
"""
    calls, summary = record(tmp_path / "t.pfw.gz", tier, program, ["eventfd_read"])
    assert {each["args"]["ret"] for each in calls} == {8}
    missing = kept_back(summary.statistics.losses)
    assert 0 <= SLEEPERS - len(calls) <= missing
    assert summary.in_flight <= missing


def some_hundred_functions() -> list[str]:
    """Return functions of files and memory that this kernel can trace, each name once."""
    traceable = kernel_symbols.traceable_functions()
    assert traceable is not None
    wanted = re.compile(r"(vfs|filemap|shmem|generic_file|ext4|kernfs|seq|folio)_\w+")
    names = sorted(name for name in traceable if wanted.fullmatch(name) and name not in FUNCTIONS)
    places = kernel_symbols.function_addresses(names)
    return [name for name in names if len(places[name]) == 1][:400]


REFUSED = {
    # An entry of the kernel that must not be traced, a name of several functions, and of none.
    "exc_page_fault": "the kernel does not allow tracing it",
    "t_next": "functions of that name",
    "of_nobody": "the kernel has no function of that name",
}


@by_every_tier(Tier.KPROBE_SESSION, Tier.KPROBE_MULTI, Tier.KPROBE_TRACEFS)
def test_some_hundred_functions_with_the_refused_ones_named(
    tier: Tier,
) -> None:
    need(tier)
    names = some_hundred_functions()
    assert len(names) > 200
    names = [*names[:100], *REFUSED, "noop_fsync", *names[100:]]
    built = registry.build(probe_file(category(names)))
    with os.fdopen(os.memfd_create("test"), "wb") as stream, attached(built, tier.value) as made:
        report = made.report
        reasons = {failure.function: failure.reason for failure in report.failures}
        assert set(reasons) == set(REFUSED)
        for name, reason in REFUSED.items():
            assert reason in reasons[name] or tier is Tier.KPROBE_TRACEFS
        assert report.attached == len(names) - len(REFUSED)
        if tier is not Tier.KPROBE_TRACEFS:
            # All in one link, and the tracepoints that follow processes.
            assert len(made.links) <= 2 + 4
        made.loaded.register(os.getpid())
        made.loaded.recording = True
        for _ in range(7):
            os.fsync(stream.fileno())
        made.loaded.recording = False
        losses, skipped = made.losses(), made.loaded.skipped()
        assert losses[Loss.ENTERED] >= 7 - skipped
        assert 0 <= losses[Loss.ENTERED] - losses[Loss.OFFERED] <= skipped


def test_many_functions_share_events_instead_of_loading_a_program_each() -> None:
    if features.refusal(Tier.KPROBE_FENTRY) or features.refusal(Tier.KPROBE_TRACEFS):
        pytest.skip("this kernel lacks kprobe.fentry or kprobe.tracefs")
    most = attach_kprobes.FENTRY_FUNCTIONS
    names = tuple(f"function_{i}" for i in range(most + 1))
    for count, best in ((most, Tier.KPROBE_FENTRY), (most + 1, Tier.KPROBE_TRACEFS)):
        built = registry.build(probe_file(Category(ProbeType.KPROBE, "KERNEL", names[:count])))
        chosen = attacher.plan(built, max_tier="kprobe.fentry")
        assert chosen.kprobe_tiers[0] is best
