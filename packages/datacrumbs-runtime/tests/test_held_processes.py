"""What keeps a daemon from hanging: a limit of time, the signals, a log that nobody waits for."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from waiting import HANG_S

from datacrumbs_runtime import sd_notify

LIMIT = """
import logging, sys, time
from datacrumbs_runtime.time_limit import TimeLimit
logging.basicConfig(level="INFO")
def expired():
    print("expired", flush=True)
    {expired}
with TimeLimit(expired) as limit:
    with limit.within({first}, "the first"):
        time.sleep({sleep})
        {work}
    with limit.within(60, "the second"):
        print("done", flush=True)
"""
CLEANING = """
import time
from datacrumbs_runtime import time_limit
time_limit._CLEANING_S = 0.2
with time_limit.TimeLimit(lambda: None) as limit:
    try:
        with limit.within(60, "the start"):
            raise ValueError
    finally:
        time.sleep(50)
"""
SIGNALS = """
import threading, time
from datacrumbs_runtime.stop_signals import StopSignals
said = threading.Event()
with StopSignals() as signals:
    signals.start()
    print("ready", flush=True)
    names = []
    while not names:
        name = signals.wait(0.3)
        print("waited" if name is None else name, flush=True)
        names += [name] if name else []
    with signals.calling(said.set):
        print("again" if said.wait(100) else "nothing", flush=True)
"""
LOG = """
import logging, sys, time
from datacrumbs_runtime import service_log
service_log.LAST_WAIT_S = {wait}
service_log.MAX_WAITING_LINES = 100
service_log.log_to_terminal("info")
for number in range({lines}):
    logging.getLogger("x").info("line %d %s", number, {name!r})
{after}
print("done", flush=True)
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )


def limited(
    *, first: float = 60, sleep: float = 0, expired: str = "pass", work: str = "pass"
) -> subprocess.CompletedProcess[str]:
    return run(LIMIT.format(first=first, sleep=sleep, expired=expired, work=work))


def test_block_that_ends_in_time_is_left_alone() -> None:
    done = limited(first=60)
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_block_that_takes_too_long_ends_the_process_with_a_word() -> None:
    done = limited(first=0.2, sleep=50)
    assert (done.returncode, done.stdout) == (1, "expired\n")
    assert "the first took longer than 0.2 s" in done.stderr


def test_end_that_hangs_itself_is_ended_by_the_kernel() -> None:
    done = limited(first=0.2, sleep=50, expired="time.sleep(50)")
    assert (done.returncode, done.stdout) == (-signal.SIGALRM, "expired\n")


def test_ignored_alarm_is_not_inherited() -> None:
    code = LIMIT.format(first=0.2, sleep=50, expired="time.sleep(50)", work="pass")
    ignoring = "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
    assert run(ignoring + code).returncode == -signal.SIGALRM


def test_cleaning_up_after_an_error_is_limited_too() -> None:
    done = run(CLEANING)
    assert done.returncode == 1
    assert "cleaning up after the start took longer than 0.2 s" in done.stderr


def test_without_room_for_a_thread_the_kernel_ends_it() -> None:
    code = LIMIT.format(first=0.2, sleep=50, expired="pass", work="pass")
    no_thread = "import threading\ndef refuse(self): raise RuntimeError\n"
    done = run(no_thread + "threading.Thread.start = refuse\n" + code)
    assert done.returncode == -signal.SIGALRM


def test_signal_after_a_long_stop_is_the_one_that_came() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SIGNALS], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        # The time is over while it cannot look.
        process.send_signal(signal.SIGSTOP)
        time.sleep(1)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.readline() == "waited\n"
        process.send_signal(signal.SIGHUP)
        line = process.stdout.readline()
        while line == "waited\n":
            line = process.stdout.readline()
        assert line == "SIGHUP\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "again\n"
        assert process.wait(HANG_S) == 0


def test_log_is_whole_and_each_record_a_line() -> None:
    done = run(LOG.format(wait=HANG_S, lines=50, name="a\nb\x1b[2J\x9b\udcff", after=""))
    assert done.stdout == "done\n"
    expected = [rf"datacrumbs: info: line {i} a\x0ab\x1b[2J\x9b\udcff" for i in range(50)]
    assert done.stderr.splitlines() == expected


def test_log_that_nobody_reads_holds_nobody() -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    try:
        done = subprocess.run(
            [sys.executable, "-c", LOG.format(wait=0.2, lines=2000, name="x" * 100, after="")],
            stdout=subprocess.PIPE,
            stderr=writer,
            check=False,
            timeout=HANG_S,
        )
    finally:
        os.close(writer)
        os.close(reader)
    assert (done.returncode, done.stdout) == (0, b"done\n")


def test_log_says_how_much_of_it_is_missing() -> None:
    after = """
print("said", flush=True)
sys.stdin.readline()
service_log.settle()
logging.getLogger("x").info("the last")
"""
    with subprocess.Popen(
        [sys.executable, "-c", LOG.format(wait=HANG_S, lines=2000, name="x" * 100, after=after)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "said\n"
        _, text = process.communicate("\n", timeout=HANG_S)
    assert text.count("line ") < 2000
    assert " lines of the log are missing here\n" in text
    assert text.endswith("the last\n")


@pytest.mark.parametrize("address", ["/nowhere", "@" + "x" * 200, "relative", "", "/" + "x" * 300])
def test_impossible_service_manager_is_no_error(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    sd_notify.sd_notify("READY=1")


def test_what_systemd_is_told_cannot_be_more_than_one_assignment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        sd_notify.sd_notify("READY=1", "STATUS=/home/x\nMAINPID=1\n: no such file")
        assert manager.recv(4096) == b"READY=1\nSTATUS=/home/x?MAINPID=1?: no such file"
