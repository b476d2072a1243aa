import fcntl
import io
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from waiting import HANG_S

from datacrumbs_runtime.known_runs import KnownRun, known_runs
from datacrumbs_runtime.status_rates import Rates
from datacrumbs_runtime.status_view import LiveView, still_view

# Whoever runs the tests in the background may ignore the signal of Ctrl-C, which is inherited.
IN_FOREGROUND = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
COMMAND = "from datacrumbs_runtime.commands.datacrumbs_status import main; main()"
FUNCTIONS = ("openat", "read", "write", "close", "H5Dwrite_with_a_rather_long_name_of_its_own")
LEAVES_OWN_SCREEN = "\x1b[?1049l"


def status(
    run_id: str, *, factor: int = 1, updated: float = 1000.0, **others: Any
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "format_version": 1,
        "run_id": run_id,
        "state": "recording",
        "user": "alice",
        "uid": 1000,
        "cgroup": None,
        "hostname": "node1",
        "pid": os.getpid(),
        "since": 900.0,
        "updated": updated,
        "probe_file": "/home/alice/probes.json.gz",
        "mode": "trace",
        "requested": 8723,
        "attached": 8721,
        "failed": 2,
        "failures": [["libc", "setjmp", "returns twice"], ["kernel", "do_x", "no such function"]],
        "tiers": {"syscalls": "tp_btf"},
        "events": 123_456_789 * factor,
        "counted": 0,
        "events_per_s": 98_765.4,
        "lost": 0,
        "losses": {"offered": 1, "ring_full": 17},
        "memory_bytes": 123 << 20,
        "trace": "/p/traces/26/11/20/trace-alice-" + run_id + "-node1-probes.json.pfw.gz",
        "trace_bytes": 5 << 30,
        "text_bytes": 0,
        "functions": [
            {
                "category": "POSIX",
                "name": name,
                "function": name,
                "calls": 1_000 * factor,
                "errors": 3,
                "time_ns": 12_345_678 * factor,
                "p50_ns": 1234,
                "p99_ns": 567_890,
                "max_ns": 9_999_999,
                "bytes": (1 << 20) * factor,
            }
            for name in FUNCTIONS
        ],
        "files": [
            {
                "path": f"/p/scratch/a/long/way/down/to/the/files/of/this/run/output.{number:05}",
                "calls": 10 * factor,
                "time_ns": 5_000_000 * factor,
                "bytes": (1 << 20) * factor,
            }
            for number in range(10)
        ],
    }
    return {**document, **others}


def run(run_id: str = "4711", **others: Any) -> KnownRun:
    return KnownRun(run_id, os.getpid(), True, True, status(run_id, **others))


def rendered(view: Any, columns: int, lines: int = 200) -> list[str]:
    console = Console(file=io.StringIO(), width=columns, height=lines, legacy_windows=False)
    options = console.options.update(width=columns, height=lines)
    return [
        "".join(segment.text for segment in line).rstrip()
        for line in console.render_lines(view, options, pad=False)
    ]


@pytest.mark.parametrize("columns", [80, 100, 120, 200])
def test_nothing_is_cut_off(columns: int) -> None:
    lines = rendered(still_view([run()], columns, in_detail=True), columns)
    assert max(map(len, lines)) <= columns
    assert not [line for line in lines if "…" in line]
    (head,) = [line for line in lines if line.startswith("busiest functions")]
    assert head.split()[-1] == "MiB/s"
    (row,) = [line for line in lines if line.startswith("POSIX openat")]
    assert row.split()[2:] == ["1000", "3", "12.3ms", "1.23us", "568us", "1.00MiB", "81.0"]


@pytest.mark.parametrize("size", [(80, 24), (120, 50), (80, 15)])
def test_live_view_fits_and_has_functions_and_files(size: tuple[int, int]) -> None:
    view = LiveView("node1")
    view.update([run("4711"), run("a-run-with-a-name-of-its-own-that-is-long-enough-to-be-cut")])
    lines = rendered(view, *size)
    assert len(lines) <= size[1]
    assert max(map(len, lines)) <= size[0]
    assert any(line.startswith("busiest functions") for line in lines)
    assert any("run/output.0000" in line for line in lines)


def test_what_failed_and_what_is_not_in_the_trace_is_named() -> None:
    text = "\n".join(rendered(still_view([run()], 120, in_detail=True), 120))
    assert "8721/8723" in text
    assert "libc setjmp" in text
    assert "returns twice" in text
    assert "ring full 17" in text
    assert "offered" not in text


def test_rates_are_differences_of_two_statuses() -> None:
    rates = Rates()
    rates.update(status("1", updated=1000.0))
    item = status("1", factor=3, updated=1002.0)["functions"][0]
    assert rates.of(item) is None
    rates.update(status("1", factor=3, updated=1002.0))
    rate = rates.of(item)
    assert rate is not None
    assert (rate.calls, rate.bytes) == (1000.0, float(1 << 20))
    # The same status again: what it told still holds.
    rates.update(status("1", factor=3, updated=1002.0))
    assert rates.of(item) == rate


def test_rates_last_over_an_interval_in_which_nothing_was_counted() -> None:
    rates = Rates()
    for factor, updated in ((1, 1000.0), (3, 1001.0), (3, 1002.0)):
        rates.update(status("1", factor=factor, updated=updated))
    rate = rates.of(status("1")["functions"][0])
    assert rate is not None
    assert rate.calls == 1000.0


def test_counted_calls_have_no_files() -> None:
    document = status("1", counted=7, files=[])
    one = KnownRun("1", 1, True, True, document)
    text = "\n".join(rendered(still_view([one], 120, in_detail=True), 120))
    assert "counted calls name no files" in text


def test_another_run_of_the_same_id_has_no_rate_yet() -> None:
    rates = Rates()
    rates.update(status("1", updated=1000.0))
    rates.update(status("1", factor=3, updated=1002.0, since=1001.0))
    assert rates.of(status("1")["functions"][0]) is None


def test_live_view_shows_first_what_is_busy_now() -> None:
    before, now = status("1", updated=1000.0), status("1", updated=1001.0)
    now["functions"][3]["calls"] += 100
    now["functions"][3]["time_ns"] += 100
    view = LiveView("node1")
    for document in (before, now):
        view.update([KnownRun("1", 1, True, True, document)])
    lines = rendered(view, 100, 40)
    (head,) = [number for number, line in enumerate(lines) if line.startswith("busiest functions")]
    assert lines[head + 1].split()[:4] == ["POSIX", "close", "100", "100ns"]


def test_nothing_in_a_name_steers_the_terminal() -> None:
    document = status("1", trace="/tmp/\x1b]0;x\x07[bold]t")
    document["files"][0]["path"] = "/tmp/\x1b[2J[red]x"
    one = KnownRun("1", 1, True, True, document)
    text = "\n".join(rendered(still_view([one], 120, in_detail=True), 120))
    assert "\x1b" not in text
    assert "\\x1b[2J[red]x" in text
    assert "[bold]t" in text


@contextmanager
def known(run_dir: Path, run_id: str) -> Iterator[None]:
    """Make the files of a run, as its daemon does."""
    (run_dir / f"datacrumbs-{run_id}.pid").write_text(f"{os.getpid()}\n")
    (run_dir / f"datacrumbs-{run_id}.json").write_text(json.dumps(status(run_id)))
    with (run_dir / f"datacrumbs-{run_id}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Terminal:
    """The command on a terminal of 80 columns and 24 lines."""

    def __init__(self, run_dir: Path, *arguments: str) -> None:
        self._terminal, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environment = {key: value for key, value in os.environ.items() if key not in _SIZES}
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_FOREGROUND + COMMAND, "--run-dir", str(run_dir), *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**environment, "TERM": "xterm"},
            start_new_session=True,
        )
        os.close(theirs)
        self.text = ""

    def wait_for(self, wanted: str) -> None:
        deadline = time.monotonic() + HANG_S
        while wanted not in self.text:
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"no {wanted!r} in {self.text!r}"
            if select.select([self._terminal], [], [], left_s)[0]:
                try:
                    self.text += os.read(self._terminal, 65536).decode(errors="replace")
                except OSError:
                    # EIO: the other side has closed it.
                    break
        assert wanted in self.text

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._terminal)


_SIZES = frozenset({"COLUMNS", "LINES"})


def test_watch_ends_with_the_terminal_as_it_was(tmp_path: Path) -> None:
    with known(tmp_path, "run1"), Terminal(tmp_path, "--watch") as terminal:
        terminal.wait_for("busiest files")
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for(LEAVES_OWN_SCREEN)
        assert terminal.process.wait(HANG_S) == 0


def test_watch_that_is_terminated_gives_the_terminal_back(tmp_path: Path) -> None:
    with known(tmp_path, "run1"), Terminal(tmp_path, "--watch") as terminal:
        terminal.wait_for("busiest files")
        terminal.process.terminate()
        terminal.wait_for(LEAVES_OWN_SCREEN)
        assert terminal.process.wait(HANG_S) == 128 + signal.SIGTERM


def test_watch_of_one_run_ends_with_it(tmp_path: Path) -> None:
    with known(tmp_path, "run1"), Terminal(tmp_path, "run1", "--watch") as terminal:
        terminal.wait_for("busiest files")
        (tmp_path / "datacrumbs-run1.pid").unlink()
        terminal.wait_for("run run1 has ended")
        assert terminal.process.wait(HANG_S) == 0


def command(run_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMAND, "--run-dir", str(run_dir), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_watch_without_a_terminal_says_what_programs_use(tmp_path: Path) -> None:
    done = command(tmp_path, "--watch")
    assert done.returncode == 2
    assert "not a terminal" in done.stderr
    assert "--watch --json" in done.stderr


def test_watch_for_programs_is_a_line_a_second_until_the_run_ends(tmp_path: Path) -> None:
    with (
        known(tmp_path, "run1"),
        subprocess.Popen(
            [sys.executable, "-c", COMMAND, "--run-dir", tmp_path, "run1", "--watch", "--json"],
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        for _ in range(2):
            (document,) = json.loads(process.stdout.readline())
            assert document["run_id"] == "run1"
        (tmp_path / "datacrumbs-run1.pid").unlink()
        assert process.wait(HANG_S) == 0


def test_unknown_run_is_one_error_and_a_hint(tmp_path: Path) -> None:
    for options in ([], ["--watch"], ["--json"], ["--watch", "--json"]):
        done = command(tmp_path, "run1", *options)
        assert done.returncode == 1
        assert done.stderr.splitlines()[0] == "datacrumbs_status: error: run run1: not on this node"


def test_status_of_a_daemon_that_is_dead_is_seen(tmp_path: Path) -> None:
    with known(tmp_path, "run1"):
        (found,) = known_runs(tmp_path)
        assert found.state == "recording"
    (found,) = known_runs(tmp_path)
    assert found.state == "dead"
