"""The view of runs on terminals of any size, with names of any kind, for users of any kind."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from test_status_view import COMMAND, known, rendered, run, status

from datacrumbs_runtime.cli import shortened
from datacrumbs_runtime.known_runs import KnownRun, known_runs
from datacrumbs_runtime.status_view import LiveView, still_view

WIDE = "/p/scratch/ein langer Name mit Ümläuten und 日本語日本語日本語日本語/daten.h5"


def live(document: dict[str, Any], columns: int, lines: int) -> list[str]:
    view = LiveView("node1")
    view.update([KnownRun("4711", os.getpid(), True, True, document)])
    return rendered(view, columns, lines)


@pytest.mark.parametrize("columns", range(4, 90))
def test_shortened_text_fits_whatever_its_characters(columns: int) -> None:
    for text in (WIDE, WIDE[::-1], "日" * 80, "a" * 80):
        assert cell_len(shortened(text, columns)) <= columns
    assert shortened(WIDE, cell_len(WIDE)) == WIDE


def test_wide_characters_push_no_column_out() -> None:
    document = status("4711")
    document["files"][0]["path"] = WIDE
    for view in (rendered(still_view([run()], 80, in_detail=True), 80), live(document, 80, 40)):
        (head,) = [line for line in view if line.startswith("busiest files")]
        assert head.split()[-1] == "bytes"
        assert max(map(cell_len, view)) <= 80


@pytest.mark.parametrize("size", [(60, 12), (40, 10), (20, 5), (10, 3)])
def test_narrow_terminal_has_fewer_columns_and_the_run(size: tuple[int, int]) -> None:
    lines = live(status("4711"), *size)
    assert max(map(cell_len, lines)) <= size[0]
    assert lines[0].startswith("runs on"), lines
    assert lines[1].startswith("run"), lines
    assert lines[2].startswith("4711"), lines
    assert not [line for line in lines if "…" in line]


def test_functions_of_one_name_are_told_apart() -> None:
    document = status("4711")
    for item, function in zip(document["functions"], ("openat", "creat"), strict=False):
        item.update(name="open", function=function)
    lines = rendered(still_view([KnownRun("1", 1, True, True, document)], 120, in_detail=True), 120)
    shown = {line.partition("  ")[0] for line in lines if line.startswith("POSIX")}
    assert {"POSIX open (openat)", "POSIX open (creat)", "POSIX write"} <= shown


def test_reason_of_many_functions_is_told_once() -> None:
    failures = [["vfs", f"vfs_{number}", "no kprobes here"] for number in range(8)]
    failures += [["ext4", "ext4_sync", "no kprobes here"]]
    document = status("4711", failed=9, failures=failures)
    lines = rendered(still_view([KnownRun("1", 1, True, True, document)], 120, in_detail=True), 120)
    told = [line for line in lines if "no kprobes here" in line]
    assert [line.split("  ")[0] for line in told] == [
        "vfs vfs_0, vfs_1, vfs_2, vfs_3, vfs_4 and 3 more",
        "ext4 ext4_sync",
    ]
    assert "--json and the log tell" not in "\n".join(lines)


def test_trace_that_waits_for_its_disk_is_told() -> None:
    document = status("4711", trouble="No space left on device", waiting_bytes=3 << 20)
    one = KnownRun("4711", 1, True, True, document)
    still = "\n".join(rendered(still_view([one], 100, in_detail=True), 100))
    assert "3.00MiB in memory: No space left on device" in still
    assert "the trace waits: 3.00MiB in memory: No space left on device, not in" in "\n".join(
        live(document, 100, 30)
    )
    assert "waiting" not in "\n".join(rendered(still_view([run()], 100, in_detail=True), 100))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_owner_of_a_run_is_known_to_all_and_who_may_see_more_is_said(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    with known(directory, "run1"):
        (directory / "datacrumbs-run1.ready").write_text("ready\n")
        own = directory / "datacrumbs-run1.json"
        own.chmod(0o400)
        os.chown(own, 54321, -1)
        script = (
            f"import os; os.chdir({str(directory)!r}); os.setgroups([]); os.setuid(65534); "
            f"import sys; sys.argv[1:] = ['--run-dir', '.', *sys.argv[1:]]; {COMMAND}"
        )
        shown, as_json = (
            subprocess.run(
                [sys.executable, "-c", script, *options], capture_output=True, text=True, check=True
            ).stdout
            for options in ([], ["--json"])
        )
        (found,) = known_runs(directory)
    assert shown.splitlines()[1].split()[:3] == ["run1", "recording", "54321"]
    assert "what other users' runs record, only root and they see" in shown
    assert '"user": "54321"' in as_json
    # Root sees all.
    assert found.status is not None
    assert found.status["user"] == "alice"
