"""What the kernel leaves out of a run is told, as often as it happened, in every tier."""

import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from test_engine import IDENTITY, calls_of, lines_of, probe_file, stopped_child
from test_kernel_functions import by_every_tier, need
from waiting import HANG_S

from datacrumbs_runtime.bpf import attach_kprobes, bpf_syscall, features, misses
from datacrumbs_runtime.bpf.features import Tier
from datacrumbs_runtime.bpf.libbpf import Btf, possible_cpus
from datacrumbs_runtime.bpf.tracefs_events import SharedEvent, missed_of_events, sum_misses
from datacrumbs_runtime.engine import Engine, RunSettings, WriterSettings
from datacrumbs_runtime.schema.probe_file import Category, ProbeType

PROFILE = Path("/sys/kernel/tracing/kprobe_profile")
STRUCT, UNION = 4, 5
MEMBER = struct.Struct("=III")
# More threads than any tier has room for the returns of; another number before the recording.
SLEEPERS = 20 + max(64, 4 * (os.cpu_count() or 1), 2 * possible_cpus())
EARLY_SLEEPERS = SLEEPERS + 7
# Nobody else waits for a pipe in splice(): all its calls are the test's own.
SLEEPY_FUNCTION = "pipe_wait_readable"
# For each number on its input so many threads sleep in that function at the same time, until the
# only writer of their pipe is closed. On one processor: the kernel's counters are not atomic.
SLEEP = """
import os, threading, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
def is_asleep(thread, source):
    try:
        words = open(f"/proc/self/task/{thread.native_id}/syscall").read().split()
    except OSError:
        return False
    return words[1:2] == [hex(source)]
for line in sys.stdin:
    (source, writer), (reader, target) = os.pipe(), os.pipe()
    ends = (source, target, 1)
    threads = [threading.Thread(target=os.splice, args=ends) for _ in range(int(line))]
    for thread in threads:
        thread.start()
    while not all(is_asleep(thread, source) for thread in threads):
        time.sleep(0.01)
    os.close(writer)
    for thread in threads:
        thread.join()
    for descriptor in source, reader, target:
        os.close(descriptor)
    print("awake", flush=True)
"""


class Sleepers:
    """A process whose threads sleep in a function of the kernel, as many as it is told to."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child
        self.pid = child.pid
        self._write("")

    def sleep(self, threads: int) -> None:
        self._write(str(threads))
        assert self._child.stdout is not None
        assert self._child.stdout.readline() == b"awake\n"

    def _write(self, line: str) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(line.encode() + b"\n")
        self._child.stdin.flush()


@contextmanager
def sleepers_and_run(path: Path, tier: Tier, *functions: str) -> Iterator[tuple[Sleepers, Engine]]:
    settings = RunSettings(
        ring_buffer_bytes=1 << 20,
        max_tier=tier.value,
        writer=WriterSettings(create_wait_s=HANG_S),
    )
    category = Category(ProbeType.KPROBE, "KERNEL", functions)
    with (
        stopped_child(SLEEP) as child,
        Engine(probe_file(category), path, IDENTITY, settings) as engine,
    ):
        report = engine.attach()
        assert report.failures == ()
        assert report.tiers["kprobe"] == tier.value
        engine.register_process(child.pid)
        yield Sleepers(child), engine


def offsets(types: Btf, type_id: int, name: str) -> set[int]:
    """Return where the members of a name are, also in what lies within, in bytes."""
    _, info, target = types.type_words(type_id)
    kind = info >> 24 & 0x1F
    if kind in {8, 9, 10}:  # a typedef, volatile or const
        return offsets(types, target, name)
    if kind not in {STRUCT, UNION}:
        return set()
    found: set[int] = set()
    for name_offset, member, position in types.records(type_id, MEMBER):
        at = (position & 0xFFFFFF if info >> 31 else position) // 8
        if types.name(name_offset) == name:
            found.add(at)
        elif member:
            found |= {at + inner for inner in offsets(types, member, name)}
    return found


def told_offsets(structure: str, member: str) -> set[int]:
    with closing(Btf.of_kernel()) as types:
        type_id = types.find(structure, STRUCT)
        assert type_id is not None
        return offsets(types, type_id, member)


def kernel_tells_of_links() -> bool:
    return bool(told_offsets("bpf_link_info", "missed"))


def take_room_for_returns(tier: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a link have only the returns that the kernel gives it by itself."""
    if tier in {Tier.KPROBE_SESSION, Tier.KPROBE_MULTI}:
        if not features.returns_come_from_a_pool():
            pytest.skip("this kernel has room for the returns of multi links on every stack")
        monkeypatch.setattr(attach_kprobes, "_RETURNS_OF_A_LINK", 1)


@pytest.mark.kernel
# The programs of fentry need no room.
@by_every_tier(*(tier for tier in features.tiers_of("kprobe") if tier is not Tier.KPROBE_FENTRY))
def test_calls_without_room_for_their_return_are_told(
    tmp_path: Path, tier: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(tier)
    take_room_for_returns(tier, monkeypatch)
    with sleepers_and_run(tmp_path / "t.pfw.gz", tier, SLEEPY_FUNCTION) as (sleepers, engine):
        # Before the recording begins the same is nobody's business.
        sleepers.sleep(EARLY_SLEEPERS)
        before = engine._links.missed(of_events=True)
        engine.start()
        assert engine.statistics().losses.skipped < max(before, 1)
        sleepers.sleep(SLEEPERS)
        meanwhile = engine.statistics().losses.skipped
        summary = engine.stop()
    losses = summary.statistics.losses
    calls = calls_of(lines_of(summary.trace_path), sleepers.pid)
    assert {each["name"] for each in calls} == {SLEEPY_FUNCTION}
    assert (losses.lost_calls, losses.unaccounted) == (0, 0)
    missing = SLEEPERS - len(calls)
    assert missing > 0
    # What is not seen at all is not in flight either.
    assert summary.in_flight == (0 if tier is Tier.KPROBE_SESSION else missing)
    is_told = tier is Tier.KPROBE_TRACEFS or kernel_tells_of_links()
    missed = engine._links.missed() - before
    assert missed == (missing if is_told else 0)
    # A session gives the room back at once for calls that are not recorded.
    assert bool(before) == (is_told and tier is not Tier.KPROBE_SESSION)
    # Programs that follow processes may have been left out as well: a preemptible kernel, anybody.
    assert losses.skipped >= missed
    # Events of tracefs are asked at the end only.
    assert (losses.skipped - meanwhile if tier is Tier.KPROBE_TRACEFS else meanwhile) >= missed
    lines = lines_of(summary.trace_path)
    *_, told = (line["args"] for line in lines if line["name"] == "datacrumbs_losses")
    assert (told["final"], told["skipped"]) == (True, losses.skipped)


@pytest.mark.kernel
@by_every_tier(Tier.KPROBE_TRACEFS, Tier.KPROBE_PERF)
def test_a_probe_within_a_probe_is_told(tmp_path: Path, tier: Tier) -> None:
    need(tier)
    if tier is Tier.KPROBE_PERF and not kernel_tells_of_links():
        pytest.skip("this kernel does not tell what perf events missed")
    # The second is what the programs on the first call when they write a call.
    functions = (SLEEPY_FUNCTION, "bpf_get_current_pid_tgid")
    with sleepers_and_run(tmp_path / "t.pfw.gz", tier, *functions) as (sleepers, engine):
        engine.start()
        sleepers.sleep(2)
        summary = engine.stop()
    calls = calls_of(lines_of(summary.trace_path), sleepers.pid)
    assert sum(each["name"] == SLEEPY_FUNCTION for each in calls) == 2
    # At its entry and at its return.
    assert summary.statistics.losses.skipped >= 2 * 2


def test_the_members_are_where_the_kernel_has_them() -> None:
    assert told_offsets("bpf_prog_info", "recursion_misses") <= {misses._RECURSION_MISSES_OFFSET}
    of_links = {misses._MULTI_MISSED_OFFSET, misses._PERF_EVENT_MISSED_OFFSET}
    assert told_offsets("bpf_link_info", "missed") <= of_links


LINES = """\
  kprobes_0_4026531836_17                                    12               3
  kprobes_0_4026531836_17                                     0               4
  kprobes_1_4026531836_17                                     5               0
  kprobes_0_4026531836_1                                   1000            2000
  kprobes_1_4026531836_17_of_another_name_that_is_long                1              50
"""


@pytest.mark.parametrize(
    ("names", "missed"),
    [
        ({"kprobes_0_4026531836_17"}, 7),
        ({"kprobes_0_4026531836_17", "kprobes_1_4026531836_17"}, 7),
        ({"kprobes_0_4026531836_1"}, 2000),
        ({"kprobes_2_4026531836_17"}, 0),
        (set(), 0),
    ],
)
def test_misses_of_all_places_of_an_event_and_of_no_other(names: set[str], missed: int) -> None:
    assert sum_misses(LINES, names) == missed


@pytest.mark.kernel
@by_every_tier(Tier.KPROBE_TRACEFS)
def test_the_kernel_names_our_events_where_it_counts(tier: Tier) -> None:
    need(tier)
    event = SharedEvent("kprobe")
    try:
        event.add(b"vfs_truncate")
        lines = PROFILE.read_text().splitlines()
        assert sum(line.split()[0] == event.name for line in lines) == 1
        assert missed_of_events([event]) == 0
    finally:
        event.remove()
    assert event.name not in PROFILE.read_text()


@pytest.mark.kernel
def test_a_link_of_which_the_kernel_tells_nothing() -> None:
    code = struct.pack("=BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)
    program = bpf_syscall.program_load(bpf_syscall.PROG_TYPE_RAW_TRACEPOINT, code)
    try:
        link = bpf_syscall.raw_tracepoint_open(program, "sched_process_exit")
        try:
            assert misses.link_misses(link) is None
            assert misses.program_misses(program) == 0
        finally:
            os.close(link)
    finally:
        os.close(program)
    assert misses.link_misses(link) is None
