"""Commands that wait, what they inherit, and how a command is found."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import HANG_S, wait_until

from datacrumbs_runtime.errors import ProcessError, UsageError
from datacrumbs_utils.recording import child

# Children are forked: in a process of its own, where pytest's threads and signals are not.
START = """
import os, signal, sys
from datacrumbs_utils.recording import child
mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
waiting = child.StoppedChild(child.find_program(sys.argv[1]), sys.argv[1:], None, frozenset(mask))
"""
END = """
waiting.let_go()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(waiting.pid, 0)[1]))
"""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


def test_command_does_not_run_until_it_is_let_go(tmp_path: Path) -> None:
    made = tmp_path / "made"
    wait = "import time; time.sleep(0.3); assert not os.path.exists(sys.argv[2])\n"
    done = run(START + wait + END, "touch", str(made))
    assert done.returncode == 0, done.stderr
    assert made.exists()


def test_a_child_that_is_discarded_never_runs(tmp_path: Path) -> None:
    made = tmp_path / "made"
    done = run(START + "waiting.discard(); waiting.discard()", "touch", str(made))
    assert done.returncode == 0, done.stderr
    assert not made.exists()


def test_waiting_child_ends_with_its_parent() -> None:
    done = run(START + "print(waiting.pid, flush=True); os.kill(os.getpid(), 9)", "sleep", "60")
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: not Path(f"/proc/{int(done.stdout)}").exists())


def test_command_inherits_signals_as_if_started_by_a_shell() -> None:
    script = "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status"
    plain = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    done = run(START + END, "sh", "-c", script)
    assert done.stdout == plain.stdout


def test_command_inherits_no_descriptors() -> None:
    done = run(START + END, "sh", "-c", "ls /proc/self/fd | wc -l")
    plain = subprocess.run(
        ["sh", "-c", "ls /proc/self/fd | wc -l"], capture_output=True, text=True, check=True
    )
    assert done.stdout == plain.stdout


def test_what_the_kernel_does_not_execute_is_said(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.write_text("no program")
    nothing.chmod(0o755)
    done = run(START + END, str(nothing))
    assert done.returncode == 1
    assert f"{nothing}: Exec format error" in done.stderr


def test_program_is_found_as_a_shell_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        directory.mkdir()
        (directory / "tool").write_text("#!/bin/sh\n")
    (second / "tool").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/missing:{first}:{second}")
    assert child.find_program("tool") == str(second / "tool")
    assert child.find_program(str(second / "tool")) == str(second / "tool")
    monkeypatch.setenv("PATH", str(first))
    with pytest.raises(ProcessError, match=r"^tool: is not executable$"):
        child.find_program("tool")


def test_what_is_no_command_is_said(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match=r"^nosuchcommand: command not found$"):
        child.find_program("nosuchcommand")
    with pytest.raises(ProcessError, match="is a directory, not a command"):
        child.find_program(str(tmp_path))
    with pytest.raises(ProcessError, match="No such file or directory"):
        child.find_program("./nosuchcommand")


def test_accounts() -> None:
    root = child.account("root")
    assert (root.uid, root.gid, root.home) == (0, 0, "/root")
    assert child.account("0") == root
    assert child.own_account().uid == os.getuid()
    with pytest.raises(UsageError, match="nosuchuser: no such user"):
        child.account("nosuchuser")
