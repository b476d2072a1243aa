"""Losses by name, their check, and when they are worth a line in the trace."""

import json
import os
import struct
import subprocess
from contextlib import ExitStack

import pytest

from datacrumbs_runtime.bpf import bpf_syscall, layout
from datacrumbs_runtime.bpf.misses import program_misses
from datacrumbs_runtime.trace.losses import (
    KERNEL_COUNTERS,
    Losses,
    LossesInTrace,
    losses_from_counters,
)

COUNTERS = list(range(1, 18))


def test_counters_are_named_as_in_the_programs() -> None:
    names = [loss.name.lower() for loss in layout.Loss if loss is not layout.Loss.SLOTS]
    assert list(KERNEL_COUNTERS) == names
    losses = losses_from_counters(COUNTERS, written=100, bad_records=2, unknown_ids=3, unwritten=4)
    for loss in layout.Loss:
        if loss is not layout.Loss.SLOTS:
            assert getattr(losses, loss.name.lower()) == COUNTERS[loss]
    assert (losses.written, losses.bad_records) == (100, 2)
    assert (losses.unknown_ids, losses.unwritten) == (3, 4)


@pytest.mark.parametrize("count", [0, 16, 18])
def test_another_number_of_counters_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} counters instead of 17"):
        losses_from_counters([0] * count)


@pytest.mark.parametrize(
    ("losses", "unaccounted"),
    [
        (Losses(offered=10, written=10), 0),
        (Losses(offered=10, written=7, ring_full=3), 0),
        (Losses(offered=10, written=6, ring_full=3, bad_records=1), 0),
        (Losses(offered=10, written=6, ring_full=3), 1),
        (Losses(offered=10, written=11), -1),
    ],
)
def test_offered_is_written_and_dropped(losses: Losses, unaccounted: int) -> None:
    assert losses.unaccounted == unaccounted
    assert not (losses.is_complete and unaccounted)


@pytest.mark.parametrize(
    ("losses", "line"),
    [
        (Losses(offered=5, written=5), "lost no calls"),
        (
            Losses(offered=1200, written=1000, ring_full=200),
            "lost 200 of 1,200 calls: 200 found the ring buffer full",
        ),
        (
            Losses(offered=5, written=5, unwritten=2, unknown_ids=1),
            "lost 2 of 5 calls: 2 did not reach the disk, 1 names missing in lines",
        ),
        (Losses(offered=5, written=4), "lost no calls: 1 not accounted for"),
    ],
)
def test_one_line_for_people(losses: Losses, line: str) -> None:
    assert losses.summary() == line


def test_complete_means_that_nothing_is_missing() -> None:
    assert Losses(offered=3, written=3, below_threshold=9, filtered=4, entered=16).is_complete
    for name in ("unwritten", "strings_full", "arguments", "missed_begin", "spans_full"):
        assert not Losses(offered=3, written=3, **{name: 1}).is_complete


def test_a_line_when_something_was_lost_and_at_the_end() -> None:
    in_trace = LossesInTrace("00ff")
    assert in_trace.line(Losses(offered=5, written=5, entered=6), 10) is None
    first = in_trace.line(Losses(offered=8, written=6, entered=9, ring_full=2), 20)
    assert first is not None
    line = json.loads(first)
    assert (line["name"], line["cat"], line["ph"]) == ("datacrumbs_losses", "dftracer", "M")
    assert line["args"] == {
        "hhash": "00ff",
        "at": 20,
        "final": False,
        "lost": 2,
        "offered": 8,
        "ring_full": 2,
        "entered": 9,
        "written": 6,
    }
    assert in_trace.line(Losses(offered=9, written=7, entered=10, ring_full=2), 30) is None
    last = in_trace.line(Losses(offered=9, written=7, ring_full=2), 40, is_last=True)
    assert last is not None
    arguments = json.loads(last)["args"]
    assert arguments["final"] is True
    assert set(KERNEL_COUNTERS) < set(arguments)


def test_summary_of_profile_mode_names_all_calls() -> None:
    losses = Losses(counted=90, below_threshold=5, profile_full=5)
    assert losses.summary() == "lost 5 of 100 calls: 5 found no room in the profile"


@pytest.mark.kernel
def test_what_the_kernel_does_not_run_is_counted() -> None:
    # Prints a line of the kernel's trace, which is an event that it is attached to as well.
    print_line = struct.pack(
        "=" + "BBhi" * 7,
        *(0x7A, 10, -8, 0x0A78),  # *(u64 *)(r10 - 8) = "x\n"
        *(0xBF, 0xA1, 0, 0),  # r1 = r10
        *(0x07, 1, 0, -8),  # r1 += -8
        *(0xB7, 2, 0, 3),  # r2 = 3
        *(0x85, 0, 0, 6),  # bpf_trace_printk(r1, r2)
        *(0xB7, 0, 0, 0),  # r0 = 0
        *(0x95, 0, 0, 0),  # exit
    )
    with ExitStack() as stack:
        program = bpf_syscall.program_load(bpf_syscall.PROG_TYPE_RAW_TRACEPOINT, print_line)
        stack.callback(os.close, program)
        for name in ("sched_process_exit", "bpf_trace_printk"):
            stack.callback(os.close, bpf_syscall.raw_tracepoint_open(program, name))
        before = program_misses(program)
        subprocess.run(["true"], check=True)
        assert program_misses(program) > before
