"""Work that is done in a thread while another one goes on."""

import subprocess
import sys
import threading

import pytest

from datacrumbs_runtime.beside import Beside

# The process table of a user who has no rights is full with this one process.
NO_ROOM = """
import os, resource, threading
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
from datacrumbs_runtime.beside import Beside
found = []
work = Beside(lambda: found.append(threading.current_thread()))
assert not found, found
work.wait()
work.wait()
assert found == [threading.main_thread()], found
"""


def test_other_thread_goes_on_meanwhile() -> None:
    may_end = threading.Event()
    ended = threading.Event()

    def work() -> None:
        assert may_end.wait(60)
        ended.set()

    beside = Beside(work)
    assert not ended.is_set()
    may_end.set()
    beside.wait()
    assert ended.is_set()


def test_waiting_raises_what_the_work_raised_once() -> None:
    def work() -> None:
        raise OSError(28, "no room")

    beside = Beside(work)
    with pytest.raises(OSError, match="no room"):
        beside.wait()
    beside.wait()


def test_work_is_done_by_whoever_waits_if_there_is_no_room_for_a_thread() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM], capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
