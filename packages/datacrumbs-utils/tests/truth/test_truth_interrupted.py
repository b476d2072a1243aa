"""What is left when a recording does not end as planned: killed, signalled, no room on the disk."""

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trace_file
from growing_trace import text_so_far
from recordings import RECORD, TIMEOUT_S, require
from trace_file import Event, Trace
from waiting import wait_until

pytestmark = pytest.mark.kernel

MILLION = 1_000_000
# Whoever runs the tests in the background, or without a terminal, may have these ignored; that is
# inherited, and a recorder leaves it as it is.
OBEYING = "import signal; [signal.signal(number, signal.SIG_DFL) for number in (1, 2, 15)]; "


def start(
    output: Path, *command: str | Path, options: tuple[str, ...] = (), **environment: str
) -> subprocess.Popen[str]:
    *python, code = RECORD
    return subprocess.Popen(
        [*python, OBEYING + code, "--output", output, *options, "--", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def wait_for_size(path: Path, size: int) -> None:
    wait_until(lambda: path.exists() and path.stat().st_size >= size)


def writes(trace: Trace, target: Path) -> list[Event]:
    """Return the writes to a file in their order. In the trace, those of two CPUs may mix."""
    found = [
        event for event in trace.events if event.file == str(target) and event.name == "pwrite64"
    ]
    return sorted(found, key=lambda event: int(event.arguments["offset"]))


def numbers(trace: Trace, target: Path) -> list[int]:
    return [event.arguments["offset"] // 8 for event in writes(trace, target)]


def offsets_so_far(path: Path) -> set[int]:
    return {int(found) for found in re.findall(rb'"offset":(\d+)', text_so_far(path))}


def unowned_programs() -> set[int]:
    """Return our programs in the kernel that no process holds: what a recording left behind."""
    listed = subprocess.run(
        ["bpftool", "prog", "show"], capture_output=True, text=True, check=True
    ).stdout
    loaded = {int(found[1]) for found in re.finditer(r"^(\d+): .* name dc_\w+", listed, re.M)}
    held = set()
    for information in Path("/proc").glob("[0-9]*/fdinfo/*"):
        with contextlib.suppress(OSError):
            found = re.search(r"^prog_id:\t(\d+)", information.read_text(), re.M)
            held |= {int(found[1])} if found else set()
    return loaded - held


@pytest.fixture
def nothing_left() -> Iterator[None]:
    require("bpftool")
    before = unowned_programs()
    yield
    # other recordings of this machine come and go meanwhile: only what stays is left behind
    left = unowned_programs() - before
    wait_until(lambda: not left & unowned_programs(), lambda: left)


def commands_of(recorder: subprocess.Popen[str]) -> list[int]:
    """Return the processes that a recorder has started."""
    text = Path(f"/proc/{recorder.pid}/task/{recorder.pid}/children").read_text()
    return [int(pid) for pid in text.split()]


def end(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("attempt", range(10))
@pytest.mark.usefixtures("nothing_left")
def test_killed_recorder_leaves_all_but_the_last_second(
    attempt: int, programs: Path, tmp_path: Path
) -> None:
    target, output = tmp_path / "target", tmp_path / "t.pfw.gz"
    recorder = start(output, programs / "many_writes", target, str(MILLION), "1", "100000")
    wait_for_size(target, 8)
    random_numbers = random.Random(attempt)  # noqa: S311
    time.sleep(random_numbers.uniform(0.1, 2.2))
    # It is written while the command goes on, within a second where nothing else is to be done.
    early = target.stat().st_size // 8
    wait_until(lambda: offsets_so_far(output) >= set(range(0, 8 * early, 8)))
    time.sleep(random_numbers.uniform(0, 1))
    commands = commands_of(recorder)
    recorder.kill()
    end(commands)
    recorder.communicate(timeout=TIMEOUT_S)
    written = target.stat().st_size // 8
    found = numbers(trace_file.read(output), target)
    assert len(found) <= written
    assert found[:early] == list(range(early))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.usefixtures("nothing_left")
def test_signals_end_the_command_and_close_the_trace(
    number: signal.Signals, programs: Path, tmp_path: Path
) -> None:
    target, output = tmp_path / "target", tmp_path / "t.pfw.gz"
    recorder = start(output, programs / "many_writes", target, str(MILLION), "1", "100000")
    wait_for_size(target, 8000)
    recorder.send_signal(number)
    _, errors = recorder.communicate(timeout=TIMEOUT_S)
    assert recorder.returncode == 128 + number
    assert "nothing was lost" in errors
    written = target.stat().st_size // 8
    assert 1000 <= written < MILLION
    trace = trace_file.read(output)
    found = numbers(trace, target)
    # the call that the signal ended may or may not have been finished
    assert written - 1 <= len(found) <= written


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.usefixtures("nothing_left")
def test_second_signal_ends_the_recording_of_a_command_that_goes_on(
    number: signal.Signals, programs: Path, tmp_path: Path
) -> None:
    target, output = tmp_path / "target", tmp_path / "t.pfw.gz"
    recorder = start(
        output,
        programs / "many_writes",
        target,
        str(MILLION),
        "1",
        "100000",
        IGNORE_SIGNALS="1",
    )
    wait_for_size(target, 8000)
    commands = commands_of(recorder)
    recorder.send_signal(number)
    time.sleep(0.2)
    assert recorder.poll() is None
    recorder.send_signal(number)
    recorder.wait(timeout=TIMEOUT_S)
    end(commands)
    _, errors = recorder.communicate(timeout=TIMEOUT_S)
    assert recorder.returncode == 128 + number
    assert "nothing was lost" in errors
    found = numbers(trace_file.read(output), target)
    assert found == list(range(len(found)))
    assert len(found) > 1000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "disk"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", directory], check=True)
    yield directory
    subprocess.run(["umount", directory], check=True)


@pytest.mark.usefixtures("nothing_left")
def test_full_disk_is_said_and_leaves_a_valid_file(
    small_disk: Path, programs: Path, tmp_path: Path
) -> None:
    target, output = tmp_path / "target", small_disk / "t.pfw.gz"
    recorder = start(output, programs / "many_writes", target, "150000", "1", "200000")
    _, errors = recorder.communicate(timeout=TIMEOUT_S)
    assert recorder.returncode == 0
    assert "INCOMPLETE" in errors
    assert "did not reach the disk" in errors
    found = numbers(trace_file.read(output), target)
    assert 0 < len(found) < 150_000
    assert found == list(range(len(found)))


@pytest.mark.usefixtures("nothing_left")
def test_recording_goes_on_when_there_is_room_again(
    small_disk: Path, programs: Path, tmp_path: Path
) -> None:
    target, output = tmp_path / "target", small_disk / "t.pfw.gz"
    filler = small_disk / "filler"
    filler.write_bytes(bytes(240 << 10))
    recorder = start(output, programs / "many_writes", target, "200000", "1", "100000")
    wait_for_size(target, 8 * 100_000)
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    _, errors = recorder.communicate(timeout=TIMEOUT_S)
    assert recorder.returncode == 0
    assert "nothing was lost" in errors
    found = numbers(trace_file.read(output), target)
    assert found == list(range(200_000))
