"""The summary: what it shows, in the width it has, without colour where nobody sees any."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from datacrumbs_runtime.engine import (
    AttachFailure,
    AttachReport,
    BusiestFiles,
    FileStatistics,
    FunctionStatistics,
    FunctionSummary,
    Losses,
    RunSummary,
    Statistics,
)
from datacrumbs_utils.recording import report, summary
from datacrumbs_utils.recording.session import Outcome

TITLES = "calls errors total mean p50 p99 max bytes MiB/s"
READ = "read 1000 100 5.00ms 5.00us 4.50us 80.0us 90.0us 5.00MiB 1000"
LONG_NAME = "a_function_with_quite_a_long_time_name_of_its_own"
NOTHING_LOST = Losses(offered=1200, written=1200, entered=1200)


def function(category: str, name: str, probe_name: str, calls: int, size: int) -> FunctionSummary:
    times = (calls * 5000, 400, 90_000, size, 4500, 80_000)
    sums = FunctionStatistics(0, calls, calls // 10, *times, (0,) * 32)
    return FunctionSummary(category, name, probe_name, sums)


def outcome(losses: Losses = NOTHING_LOST, failures: tuple[AttachFailure, ...] = ()) -> Outcome:
    long_path = "/scratch/projects/" + "deep/" * 40 + "checkpoint.0001.h5"
    files = tuple(
        FileStatistics(path, f"{index:016x}", 100, 10_000_000 - index, size)
        for index, (path, size) in enumerate(
            [("/data/in.bin", 5 << 20), (long_path, 3 << 30), ("/tmp/a\x1b[31mb", 0)]
        )
    )
    statistics = Statistics(
        functions=(
            function("POSIX", "read", "read", 1000, 5 << 20),
            function("POSIX", "open", "openat", 150, 0),
            function("POSIX", "open", "creat", 50, 0),
            function("STDIO", LONG_NAME, "x:0x1", 7, 0),
        ),
        files=BusiestFiles(files, tuple(sorted(files, key=lambda file: -file.bytes))),
        losses=losses,
        file_bytes=12_345,
        text_bytes=200_000,
    )
    run = RunSummary(Path("/w/trace-u-1-h-posix.pfw.gz"), 1_500_000_000, statistics, 1000)
    attached = AttachReport(100 + len(failures), 100, failures)
    return Outcome(run, attached, 0, None)


def printed(width: int, what: Outcome) -> str:
    text = io.StringIO()
    summary.print_summary(Console(file=text, width=width, highlight=False), "cp a b", what)
    return text.getvalue()


@pytest.mark.parametrize("width", [80, 120, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = printed(width, outcome()).splitlines()
    assert max(len(line) for line in lines) <= width
    head = next(line for line in lines if line.startswith("POSIX"))
    assert head.split()[1:] == TITLES.split()
    assert not any("…" in line for line in lines)
    assert (LONG_NAME in "".join(lines)) == (width >= 120)


def test_what_takes_no_time_and_moves_no_bytes_has_no_such_columns() -> None:
    what = outcome()
    sums = FunctionStatistics(0, 400, 0, *(0,) * 6, (0,) * 32)
    name = "mm_filemap_add_to_page_cache"
    instant = FunctionSummary("page_cache", name, name, sums)
    functions = (*what.summary.statistics.functions, instant)
    statistics = replace(what.summary.statistics, functions=functions)
    text = printed(80, replace(what, summary=replace(what.summary, statistics=statistics)))
    lines = text.splitlines()
    assert [line.split() for line in lines if line.startswith("page_cache")] == [
        ["page_cache", "calls"]
    ]
    assert [name, "400"] in [line.split() for line in lines]
    assert "0ns" not in text


def test_numbers_of_a_function() -> None:
    lines = printed(120, outcome()).splitlines()
    read = next(line for line in lines if line.startswith("read"))
    assert read.split() == READ.split()


def test_system_calls_that_share_a_name_are_told_apart() -> None:
    text = printed(120, outcome())
    assert "\nopenat " in text
    assert "\ncreat " in text
    assert "\nopen " not in text


def test_files_by_time_and_by_bytes() -> None:
    text = printed(80, outcome())
    by_time, by_bytes = text.split("files by time")[1].split("files by bytes")
    assert by_time.index("in.bin") < by_time.index("checkpoint.0001.h5")
    assert by_bytes.index("checkpoint.0001.h5") < by_bytes.index("in.bin")
    assert "\x1b" not in text
    assert "\\x1b[31m" in by_time
    assert "[31m" not in by_bytes


def test_what_was_lost_is_said_loudly() -> None:
    assert "nothing was lost" in printed(80, outcome())
    lossy = Losses(offered=1000, written=900, ring_full=100, entered=1000)
    text = printed(80, outcome(lossy))
    assert "INCOMPLETE: lost 100 of 1,000 calls" in text
    assert "--ring-buffer-size" in text


def test_functions_that_could_not_be_recorded_are_named() -> None:
    failures = tuple(AttachFailure("libc", f"f{index}", "no reason") for index in range(8))
    text = printed(80, outcome(failures=failures))
    assert "8 of 108 functions are not recorded" in text
    assert "libc f0: no reason" in text
    assert "libc f7" not in text
    assert "--verbose names all" in text


def test_the_trace_is_named_last() -> None:
    assert "trace: /w/trace-u-1-h-posix.pfw.gz (12.1KiB, 10.3 bytes an event)" in printed(
        120, outcome()
    )


def test_json_says_the_same() -> None:
    document = report.document("cp a b", outcome())
    assert document["events"] == 1200
    assert document["complete"] is True
    assert document["functions"][0]["mean_ns"] == 5000
    assert document["functions"][2]["function"] == "creat"
    assert [file["bytes"] for file in document["files_by_bytes"]] == [3 << 30, 5 << 20]
    assert document["losses"]["offered"] == 1200


def test_calls_that_were_under_way_are_no_loss() -> None:
    losses = Losses(offered=1200, written=1200, entered=1202, missed_begin=1)
    text = printed(80, outcome(losses))
    assert "nothing was lost" in text
    assert "1 call was under way when the recording began" in text
    assert "2 calls were under way when the recording ended" in text
