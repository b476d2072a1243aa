"""The process that writes the trace: it outlives whoever is killed."""

import gzip
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zlib
from functools import partial
from pathlib import Path

import pytest
from waiting import HANG_S, wait_until

from datacrumbs_runtime.trace import scribe
from datacrumbs_runtime.trace import writer as writer_module
from datacrumbs_runtime.trace.scribe import OtherProcess, OwnHand, ScribeGoneError, find_scribe
from datacrumbs_runtime.trace.scribe_messages import CREATE, FINISH, WRITE, Request
from datacrumbs_runtime.trace.writer import Place, TraceWriter, WriterSettings

RECORDER = """
import os, sys
from pathlib import Path
from datacrumbs_runtime.trace.scribe_messages import CREATE, FINISH, WRITE, Request
from datacrumbs_runtime.trace.writer import Place, TraceWriter, WriterSettings

writer = TraceWriter.at(Path(sys.argv[1]), settings=WriterSettings(member_bytes=1))
print(Path(f"/proc/self/task/{os.getpid()}/children").read_text(), flush=True)
while True:
    line = os.urandom(100_000).hex().encode()
    writer.write(line + b"\\n")
"""
SETTINGS = WriterSettings(member_bytes=1, retry_s=0.0, last_wait_s=60.0)


def children() -> set[int]:
    """Process ids of the children of this process."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return {int(pid) for pid in listed.split()}


def wait_for_end(pid: int) -> None:
    """What was handed over is still being written for a moment."""

    def is_over() -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2]
        except (FileNotFoundError, ProcessLookupError):
            return True
        return state.startswith("Z")

    wait_until(is_over)


def settle(writer: TraceWriter) -> None:

    def is_written() -> bool:
        writer.poll()
        return not writer.counters().waiting_bytes

    wait_until(is_written)


def is_filled(path: Path) -> bool:
    return path.stat().st_size > 0


def test_a_killed_recorder_leaves_a_whole_file(tmp_path: Path) -> None:
    numbers = random.Random(1)  # noqa: S311
    for i in range(6):
        path = tmp_path / f"{i}.pfw.gz"
        recorder = subprocess.Popen(
            [sys.executable, "-c", RECORDER, path], stdout=subprocess.PIPE, text=True
        )
        assert recorder.stdout is not None
        (scribe_pid,) = map(int, recorder.stdout.readline().split())
        wait_until(partial(is_filled, path))
        time.sleep(numbers.uniform(0.3, 0.4))
        recorder.kill()
        recorder.wait()
        recorder.stdout.close()
        wait_for_end(scribe_pid)
        data = path.read_bytes()
        assert data
        while data:
            member = zlib.decompressobj(wbits=31)
            text = member.decompress(data)
            assert member.eof
            assert text.endswith(b"\n")
            data = member.unused_data


def test_a_writer_leaves_no_process(tmp_path: Path) -> None:
    before = children()
    with TraceWriter.at(tmp_path / "t.pfw.gz", settings=SETTINGS) as writer:
        (pid,) = children() - before
        writer.write(b"line\n")
    assert children() == before
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_for_the_recorder_do_not_end_it(tmp_path: Path, number: int) -> None:
    before = children()
    with TraceWriter.at(tmp_path / "t.pfw.gz", settings=SETTINGS) as writer:
        writer.write(b"one\n")
        settle(writer)
        (pid,) = children() - before
        assert os.getsid(pid) == pid, "it has its own session: no terminal signals it"
        os.kill(pid, number)
        writer.write(b"two\n")
        settle(writer)
        assert children() - before == {pid}
    assert gzip.decompress((tmp_path / "t.pfw.gz").read_bytes()) == b"one\ntwo\n"


def test_if_it_is_killed_the_recorder_writes_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = children()
    expected = b""
    with TraceWriter.at(tmp_path / "t.pfw.gz", settings=SETTINGS) as writer:
        for i in range(200):
            expected += b"%d " % i * 5000 + b"\n"
            writer.write(b"%d " % i * 5000 + b"\n")
            if i == 100:
                (pid,) = children() - before
                os.kill(pid, signal.SIGKILL)
    assert gzip.decompress((tmp_path / "t.pfw.gz").read_bytes()) == expected
    assert writer.counters().dropped_bytes == 0
    assert "another takes over" in caplog.text


def test_without_an_interpreter_the_recorder_writes_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for executable in ("", str(tmp_path / "missing")):
        monkeypatch.setattr(sys, "executable", executable)
        assert isinstance(find_scribe(other_process=True), OwnHand)


def test_a_process_that_cannot_work_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = children()
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit(1)\n")
    monkeypatch.setattr(scribe, "PROGRAM", broken)
    with TraceWriter.at(tmp_path / "t.pfw.gz", settings=SETTINGS) as writer:
        assert children() == before
        writer.write(b"line\n")
    assert gzip.decompress((tmp_path / "t.pfw.gz").read_bytes()) == b"line\n"


def test_a_disk_that_does_not_answer_is_said_while_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer_module, "SLOW_S", 0.1)
    before = children()
    with TraceWriter.at(tmp_path / "t.pfw.gz", settings=SETTINGS) as writer:
        (pid,) = children() - before
        os.kill(pid, signal.SIGSTOP)
        writer.write(b"line\n")

        def is_said() -> bool:
            writer.poll()
            return bool(caplog.records)

        wait_until(is_said)
        # It may be slow by itself afterwards.
        monkeypatch.setattr(writer_module, "SLOW_S", HANG_S)
        os.kill(pid, signal.SIGCONT)
        settle(writer)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0] == "t.pfw.gz: the file system does not answer: the trace waits in memory"
    assert "writing again" in said[1]


def test_errors_come_back(tmp_path: Path) -> None:
    other = OtherProcess()
    try:
        for _ in range(2):
            other.send(Request(CREATE, Place(str(tmp_path / "missing"), "t")))
            answer = other.answer(HANG_S)
            assert answer is not None
            assert os.strerror(answer.error_number) == "No such file or directory"
        other.send(Request(WRITE, Place(str(tmp_path), "t")), [b"data"])
        answer = other.answer(HANG_S)
        assert answer is not None
        assert os.strerror(answer.error_number) == "Bad file descriptor"
    finally:
        other.close(HANG_S)


def test_a_handed_over_request_is_done_after_the_recorders_end(tmp_path: Path) -> None:
    other = OtherProcess()
    place = Place(str(tmp_path), "t")
    for request, pieces in (
        (Request(CREATE, place), []),
        (Request(WRITE, place), [b"one"]),
        (Request(FINISH, place), [b"two", b"three"]),
    ):
        other.send(request, pieces)
    assert other.close(HANG_S) is None
    assert (tmp_path / "t").read_bytes() == b"onetwothree"


def test_a_file_that_nobody_wrote_to_is_not_left(tmp_path: Path) -> None:
    other = OtherProcess()
    other.send(Request(CREATE, Place(str(tmp_path), "t")))
    assert other.answer(HANG_S) is not None
    assert (tmp_path / "t").exists()
    assert other.close(HANG_S) is None
    assert list(tmp_path.iterdir()) == []


def test_a_slow_disk_is_not_waited_for(tmp_path: Path) -> None:
    """A stopped process is as slow as a disk can be."""
    before = children()
    with TraceWriter.at(tmp_path / "t.pfw.gz", settings=SETTINGS) as writer:
        (pid,) = children() - before
        os.kill(pid, signal.SIGSTOP)
        began_s = time.monotonic()
        for i in range(100):
            writer.write(b"%d\n" % i)
        assert time.monotonic() - began_s < SETTINGS.last_wait_s / 2
        assert writer.counters().waiting_bytes > 0
        os.kill(pid, signal.SIGCONT)
    text = b"".join(b"%d\n" % i for i in range(100))
    assert gzip.decompress((tmp_path / "t.pfw.gz").read_bytes()) == text


def test_what_a_slow_disk_did_not_take_is_left_to_the_other_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = children()
    settings = WriterSettings(member_bytes=1, last_wait_s=0.1)
    with TraceWriter.at(tmp_path / "t.pfw.gz", settings=settings) as writer:
        (pid,) = children() - before
        os.kill(pid, signal.SIGSTOP)
        for _ in range(3):
            writer.write(b'{"ph":"X"}\n')
    assert writer.is_left_behind
    assert writer.counters().dropped_events == 3
    assert f"3 calls are left to process {pid}" in caplog.text
    os.kill(pid, signal.SIGCONT)
    os.waitpid(pid, 0)
    assert gzip.decompress((tmp_path / "t.pfw.gz").read_bytes()) == b'{"ph":"X"}\n' * 3


def test_a_second_signal_ends_the_wait_for_the_disk(tmp_path: Path) -> None:
    before = children()
    writer = TraceWriter.at(tmp_path / "t.pfw.gz", settings=SETTINGS)
    (pid,) = children() - before
    os.kill(pid, signal.SIGSTOP)
    writer.write(b"line\n")
    timer = threading.Timer(0.2, writer.hurry)
    timer.start()
    began_s = time.monotonic()
    writer.close()
    timer.join()
    assert time.monotonic() - began_s < SETTINGS.last_wait_s / 2
    os.kill(pid, signal.SIGCONT)
    os.waitpid(pid, 0)
    assert gzip.decompress((tmp_path / "t.pfw.gz").read_bytes()) == b"line\n"


def test_a_file_that_is_lost_with_the_process_is_begun_anew(tmp_path: Path) -> None:
    """Who writes was killed, and the file removed: what was in it is gone with him."""
    before = children()
    with TraceWriter.at(tmp_path / "t.pfw.gz", settings=SETTINGS) as writer:
        writer.write(b"[\nfirst\n")
        settle(writer)
        (pid,) = children() - before
        (tmp_path / "t.pfw.gz").unlink()
        (tmp_path / "t.pfw.gz").write_bytes(b"mine")
        os.kill(pid, signal.SIGKILL)
        writer.write(b"second\n")
    assert (tmp_path / "t.pfw.gz").read_bytes() == b"mine"
    assert gzip.decompress((tmp_path / "t-2.pfw.gz").read_bytes()) == b"[\nsecond\n"


def test_a_file_that_was_lost_before_anything_was_written_begins_once(tmp_path: Path) -> None:
    before = children()
    with TraceWriter.at(tmp_path / "t.pfw.gz", settings=SETTINGS) as writer:
        (pid,) = children() - before
        (tmp_path / "t.pfw.gz").unlink()
        os.kill(pid, signal.SIGKILL)
        writer.write(b"[\nfirst\n")
    assert gzip.decompress((tmp_path / "t.pfw.gz").read_bytes()) == b"[\nfirst\n"


def test_whoever_is_killed_again_and_again_is_not_replaced_for_ever(tmp_path: Path) -> None:
    before = children()
    expected = b""
    with TraceWriter.at(tmp_path / "t.pfw.gz", settings=SETTINGS) as writer:
        for i in range(10):
            expected += b"%d\n" % i
            writer.write(b"%d\n" % i)
            settle(writer)
            for pid in children() - before:
                os.kill(pid, signal.SIGKILL)
        assert children() == before
    assert gzip.decompress((tmp_path / "t.pfw.gz").read_bytes()) == expected


def write_for_ever(other: OtherProcess, place: Place) -> None:
    while True:
        other.send(Request(WRITE, place), [b"x"])
        other.answer(HANG_S)


def test_a_gone_process_is_noticed(tmp_path: Path) -> None:
    before = children()
    other = OtherProcess()
    (pid,) = children() - before
    place = Place(str(tmp_path), "t")
    other.send(Request(CREATE, place))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ScribeGoneError):
        write_for_ever(other, place)
    other.close(HANG_S)
