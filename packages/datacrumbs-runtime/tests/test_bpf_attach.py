"""Loading the programs and attaching them to functions of a library made for the test."""

import ctypes
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kernel_objects import open_ids, still_there

from datacrumbs_runtime.bpf import attacher, features, layout, registry
from datacrumbs_runtime.bpf.attach_report import AttachReport
from datacrumbs_runtime.bpf.elf_file import ElfFile
from datacrumbs_runtime.bpf.features import Tier
from datacrumbs_runtime.bpf.layout import Loss
from datacrumbs_runtime.bpf.links import Links, in_threads
from datacrumbs_runtime.bpf.loader import Loaded, LoadSettings
from datacrumbs_runtime.bpf.rings import online_cpus, ring_size
from datacrumbs_runtime.errors import KernelError
from datacrumbs_runtime.schema.probe_file import (
    Category,
    ProbeFile,
    ProbeType,
    Summary,
    UsdtPoint,
)

pytestmark = pytest.mark.kernel

FUNCTIONS = 9000
# What the kernel does not probe: a lock prefix, and a segment override.
REFUSED = {"f17": "lock addl $1, (%rsp)", "f5000": ".byte 0x2e, 0x90"}
GONE_WITHIN_S = 60.0


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("library")
    lines = []
    for i in range(FUNCTIONS):
        if f"f{i}" in REFUSED:
            lines.append(
                f'__attribute__((naked)) int f{i}(int a) {{ __asm__("{REFUSED[f"f{i}"]}; ret"); }}'
            )
        else:
            lines.append(f"int f{i}(int a) {{ volatile int b = a * {i}; return b; }}")
    lines.append("int deep(int n) { return n ? deep(n - 1) + 1 : 0; }")
    lines += [
        '__attribute__((section(".probes"))) volatile unsigned short semaphore = 0;',
        "int work(int a) {",
        '    __asm__ volatile("work_begins: nop");',
        "    a += semaphore;",
        '    __asm__ volatile("work_ends: nop");',
        "    return a;",
        "}",
    ]
    lines += ["void datacrumbs_start(void) {}", "void datacrumbs_stop(void) {}"]
    (directory / "many.c").write_text("\n".join(lines))
    path = directory / "libmany.so"
    subprocess.run(["gcc", "-O0", "-shared", "-fPIC", "-o", path, directory / "many.c"], check=True)
    return path


def build(library: Path, functions: tuple[str, ...]) -> registry.Registry:
    category = Category(ProbeType.UPROBE, "MANY", functions, binary_path=str(library))
    return registry.build(ProbeFile(Summary("", "", "", "", ""), (category,)))


class Attached:
    """What a test attached, and the kernel's ids of all of it."""

    def __init__(
        self, built: registry.Registry, max_tier: str | None, libraries: tuple[str, ...] = ()
    ) -> None:
        chosen = attacher.plan(built, libraries, max_tier)
        self.loaded = Loaded(
            LoadSettings(
                functions=[row.row for row in built.functions],
                programs=chosen.programs,
                places=chosen.places,
                syscalls=built.syscalls,
                tracepoints=[target.row for target in built.tracepoints],
                ring_buffer_bytes=64 << 10,
            )
        )
        self.links = Links()
        try:
            self.report: AttachReport = attacher.attach(self.loaded, self.links, chosen)
        except BaseException:
            self.close()
            raise

    def losses(self) -> dict[Loss, int]:
        counters = self.loaded.losses()
        return {loss: counters[loss] for loss in Loss if loss < len(counters)}

    def close(self) -> None:
        self.links.close()
        self.loaded.close()


@contextmanager
def attached(
    built: registry.Registry, max_tier: str | None = None, libraries: tuple[str, ...] = ()
) -> Iterator[Attached]:
    made = Attached(built, max_tier, libraries)
    try:
        yield made
    finally:
        made.close()


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + GONE_WITHIN_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def many_functions(max_tier: str | None = None) -> tuple[str, ...]:
    """Return all functions of the library, or as many as a tier attaches and removes at once."""
    fast = features.best_tier("uprobe", max_tier) in {Tier.UPROBE_SESSION, Tier.UPROBE_MULTI}
    others = (f"f{i}" for i in range(FUNCTIONS if fast else 300) if f"f{i}" not in REFUSED)
    return (*REFUSED, *others)


def file_offsets(library: Path) -> dict[str, int]:
    """Return where symbols of all kinds lie in a library's file."""
    listed = subprocess.run(["nm", library], capture_output=True, text=True, check=True).stdout
    with ElfFile(library) as file:
        return {
            name: file.file_offset(int(value, 16)) or 0
            for value, _, name in (line.split() for line in listed.splitlines() if line[0] != " ")
        }


TIERS = features.tiers_of("uprobe")


@pytest.mark.parametrize("tier", TIERS, ids=lambda tier: tier.value)
def test_every_tier_sees_every_call(library: Path, tier: Tier) -> None:
    if features.refusal(tier) is not None:
        pytest.skip(f"this kernel has no {tier.value}")
    names = tuple(f"f{i}" for i in range(20, 30))
    with attached(build(library, (*names, "deep")), tier.value) as made:
        assert made.report.failures == ()
        assert made.report.tiers == {"uprobe": tier.value}
        made.loaded.register(os.getpid())
        calls = ctypes.CDLL(str(library))
        calls.f20(1)
        assert made.losses()[Loss.ENTERED] == 0
        made.loaded.recording = True
        for name in names:
            assert getattr(calls, name)(2) == 2 * int(name[1:])
        assert calls.deep(15) == 15
        made.loaded.recording = False
        assert made.losses()[Loss.ENTERED] == len(names) + 16
        assert made.losses()[Loss.OFFERED] == len(names) + 16
        assert made.losses()[Loss.RING_FULL] == 0


@pytest.mark.parametrize("tier", TIERS, ids=lambda tier: tier.value)
def test_usdt_probes_are_calls_in_pairs_and_moments_alone_and_raise_their_semaphore(
    library: Path, tier: Tier
) -> None:
    if features.refusal(tier) is not None:
        pytest.skip(f"this kernel has no {tier.value}")
    at = file_offsets(library)
    begin = UsdtPoint(at["work_begins"], at["semaphore"], "")
    end = UsdtPoint(at["work_ends"], at["semaphore"], "")
    category = Category(
        ProbeType.USDT,
        "USDT",
        ("work", "lonely"),
        binary_path=str(library),
        provider="test",
        usdt_points={"work__entry": (begin,), "work__return": (end,), "lonely": (begin,)},
    )
    built = registry.build(ProbeFile(Summary("", "", "", "", ""), (category,)))
    calls = ctypes.CDLL(str(library))
    assert calls.work(1) == 1
    with attached(built, tier.value) as made:
        assert made.report.failures == ()
        made.loaded.register(os.getpid())
        made.loaded.recording = True
        # Both places raised it.
        assert calls.work(1) == 3
        assert calls.work(1) == 3
        made.loaded.recording = False
        assert made.losses()[Loss.ENTERED] == 4
        assert made.losses()[Loss.OFFERED] == 4
    assert calls.work(1) == 1


def test_only_registered_processes_are_seen(library: Path) -> None:
    with attached(build(library, ("f30",))) as made:
        made.loaded.recording = True
        calls = ctypes.CDLL(str(library))
        calls.f30(1)
        assert made.losses()[Loss.ENTERED] == 0
        assert not made.loaded.is_registered(os.getpid())
        assert made.loaded.register(os.getpid())
        assert not made.loaded.register(os.getpid())
        calls.f30(1)
        assert made.losses()[Loss.ENTERED] == 1


def test_a_process_registers_itself_through_the_client_library(library: Path) -> None:
    with attached(build(library, ("f31",)), libraries=(str(library),)) as made:
        assert made.report.failures == ()
        made.loaded.recording = True
        calls = ctypes.CDLL(str(library))
        calls.datacrumbs_start()
        calls.f31(1)
        calls.datacrumbs_stop()
        calls.f31(1)
        calls.datacrumbs_start()
        calls.f31(1)
        calls.datacrumbs_stop()
        assert made.losses()[Loss.ENTERED] == 2


def test_a_library_without_the_functions_is_named(tmp_path: Path, library: Path) -> None:
    libc = "/lib/x86_64-linux-gnu/libc.so.6"
    missing = str(tmp_path / "nothing.so")
    with attached(build(library, ("f1",)), libraries=(libc, missing)) as made:
        reasons = {failure.function: failure.reason for failure in made.report.failures}
    assert reasons[libc] == "no function datacrumbs_stop"
    assert "No such file" in reasons[missing]


@pytest.mark.parametrize("max_tier", ["uprobe.session", "uprobe.multi", "uprobe.tracefs"])
def test_refused_functions_are_named_and_stop_no_other(library: Path, max_tier: str) -> None:
    names = many_functions(max_tier)
    with attached(build(library, names), max_tier) as made:
        report = made.report
        assert {failure.function for failure in report.failures} == set(REFUSED)
        assert {failure.category for failure in report.failures} == {"MANY"}
        assert all("cannot probe" in failure.reason for failure in report.failures)
        assert (report.requested, report.attached) == (len(names), len(names) - len(REFUSED))
        made.loaded.recording = True
        made.loaded.register(os.getpid())
        calls = ctypes.CDLL(str(library))
        assert getattr(calls, names[-1])(1) == int(names[-1][1:])
        assert made.losses()[Loss.ENTERED] == 1


def test_a_missing_binary_fails_all_its_functions(library: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.so"
    copy.write_bytes(library.read_bytes())
    built = build(copy, ("f1", "f2"))
    copy.unlink()
    with attached(built) as made:
        assert made.report.attached == 0
        assert [failure.function for failure in made.report.failures] == ["f1", "f2"]
        assert all("No such file" in failure.reason for failure in made.report.failures)


def test_a_place_beyond_the_file_is_refused(library: Path) -> None:
    size = library.stat().st_size
    category = Category(
        ProbeType.UPROBE,
        "MANY",
        ("f1", "f2"),
        binary_path=str(library),
        placed_offsets={"f2": size + 4096},
    )
    built = registry.build(ProbeFile(Summary("", "", "", "", ""), (category,)))
    with attached(built) as made:
        assert made.report.failures == (("MANY", "f2", "beyond the end of the file"),)


def test_nothing_is_left_in_the_kernel(library: Path) -> None:
    before = open_ids()
    with attached(build(library, many_functions()), libraries=(str(library),)):
        ids = open_ids() - before
        assert {kind for kind, _ in ids} == {"prog", "map", "link"}
        assert still_there(ids) == ids
    assert open_ids() == before
    assert wait_until(lambda: not still_there(ids)), still_there(ids)


@pytest.mark.parametrize("tier", [Tier.TRACEPOINT_COOKIE, Tier.TRACEPOINT_SINGLE])
def test_tracepoints_by_both_tiers(tier: Tier) -> None:
    if features.refusal(tier) is not None:
        pytest.skip(f"this kernel has no {tier.value}")
    category = Category(
        ProbeType.TRACEPOINT, "TASK", ("task_rename", "sched_process_fork", "of_nobody")
    )
    built = registry.build(ProbeFile(Summary("", "", "", "", ""), (category,)))
    with attached(built, tier.value) as made:
        assert made.report.tiers == {"tracepoint": tier.value}
        assert [failure.function for failure in made.report.failures] == ["of_nobody"]
        made.loaded.register(os.getpid())
        made.loaded.recording = True
        subprocess.run(["true"], check=True)
        made.loaded.recording = False
        # One fork, and the rename that belongs to the exec.
        assert made.losses()[Loss.OFFERED] == 2


@pytest.mark.parametrize("tier", features.tiers_of("kprobe"), ids=lambda tier: tier.value)
def test_kernel_functions_by_every_tier(tier: Tier) -> None:
    if features.refusal(tier) is not None:
        pytest.skip(f"this kernel has no {tier.value}")
    # Called through a pointer: no compiler inlines it.
    names = ("noop_fsync", "of_nobody")
    category = Category(ProbeType.KPROBE, "KERNEL", names)
    built = registry.build(ProbeFile(Summary("", "", "", "", ""), (category,)))
    # In memory: a file system on top of another calls the function once more.
    with os.fdopen(os.memfd_create("test"), "wb") as stream, attached(built, tier.value) as made:
        assert made.report.tiers == {"kprobe": tier.value}
        assert [failure.function for failure in made.report.failures] == ["of_nobody"]
        os.fsync(stream.fileno())
        made.loaded.register(os.getpid())
        made.loaded.recording = True
        for _ in range(7):
            os.fsync(stream.fileno())
        made.loaded.recording = False
        losses, skipped = made.losses(), made.loaded.skipped()
        assert 7 - skipped <= losses[Loss.OFFERED] <= losses[Loss.ENTERED] <= 7


def test_kernel_functions_are_refused_with_a_reason_where_there_are_no_kprobes() -> None:
    if any(features.refusal(tier) is None for tier in features.tiers_of("kprobe")):
        pytest.skip("this kernel has kprobes")
    category = Category(ProbeType.KPROBE, "KERNEL", ("vfs_read",))
    built = registry.build(ProbeFile(Summary("", "", "", "", ""), (category,)))
    with attached(built) as made:
        (failure,) = made.report.failures
    assert failure[:2] == ("KERNEL", "vfs_read")
    assert failure.reason.startswith("this kernel cannot attach any kprobe (kprobe.session: ")


def test_functions_can_be_switched_off_and_on(library: Path) -> None:
    with attached(build(library, ("f40", "f41"))) as made:
        made.loaded.recording = True
        made.loaded.register(os.getpid())
        calls = ctypes.CDLL(str(library))
        made.loaded.set_mode(0, layout.Mode.OFF)
        calls.f40(1)
        calls.f41(1)
        assert made.losses()[Loss.OFFERED] == 1
        made.loaded.set_mode(0, layout.Mode.TRACE)
        calls.f40(1)
        assert made.losses()[Loss.OFFERED] == 2


def test_counted_calls_are_taken_from_the_kernel_once(library: Path) -> None:
    with attached(build(library, ("f50", "f51"))) as made:
        made.loaded.recording = True
        made.loaded.register(os.getpid())
        calls = ctypes.CDLL(str(library))
        made.loaded.set_mode(1, layout.Mode.PROFILE)
        for _ in range(100):
            calls.f51(1)
        calls.f50(1)
        entries = made.loaded.take_profile()
        calls.f51(1)
        later = made.loaded.take_profile()
        assert made.losses()[Loss.COUNTED] == 101
        assert made.losses()[Loss.OFFERED] == 1
    assert {(entry.key.function, entry.key.process) for entry in entries} == {(1, os.getpid())}
    assert sum(entry.sums.count for entry in entries) == 100
    assert sum(sum(entry.sums.histogram) for entry in entries) == 100
    assert [entry.sums.count for entry in later] == [1]


def test_rings_are_powers_of_two_and_small_for_absent_cpus(library: Path) -> None:
    with attached(build(library, ("f1",))) as made:
        sizes = [ring.size_bytes for ring in made.loaded.events]
    assert [sizes[cpu] for cpu in sorted(online_cpus())] == [64 << 10] * len(online_cpus())
    assert set(sizes) <= {4096, 64 << 10}
    assert [ring_size(size) for size in (1, 4096, 5000, 1 << 20)] == [4096, 4096, 4096, 1 << 20]


def test_an_unknown_tier_names_the_known_ones(library: Path) -> None:
    with pytest.raises(KernelError, match=r"no tier uprobe\.best") as caught:
        attacher.plan(build(library, ("f1",)), max_tier="uprobe.best")
    assert "uprobe.session" in (caught.value.hint or "")


def test_a_missing_object_is_said(tmp_path: Path) -> None:
    settings = LoadSettings(functions=[], programs={})
    with pytest.raises(KernelError, match=r"none\.o: not there"):
        Loaded(settings, tmp_path / "none.o")
    (tmp_path / "text.o").write_text("int main;")
    with pytest.raises(KernelError, match=r"text\.o: "):
        Loaded(settings, tmp_path / "text.o")


def test_one_failing_item_does_not_keep_others_from_being_done() -> None:
    done = []

    def work(item: int) -> None:
        if item == 3:
            raise OSError(5, "third")
        done.append(item)

    with pytest.raises(OSError, match="third"):
        in_threads(range(10), work, threads=4)
    assert sorted(done) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
