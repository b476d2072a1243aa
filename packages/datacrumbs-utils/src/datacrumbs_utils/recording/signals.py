"""Waiting for a command or for processes while signals are passed on.

All signals that matter are blocked and taken one by one, so that nothing happens in between: no
handler, no interrupted system call, no exception at a bad moment.
"""

import os
import select
import signal
import time
from collections.abc import Callable, Sequence, Set
from contextlib import ExitStack
from pathlib import Path

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PASSED_ON = (*_STOPPING, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_TAKEN = frozenset((*_PASSED_ON, signal.SIGCHLD))
# How often the end of processes that are no children is looked for.
_PROCESS_CHECK_S = 0.05
# A shell's exit status of a program that a signal ended: this and the signal's number.
SIGNALLED_STATUS = 128
# siginfo_t.si_code of signals that a process sent, kill(2) and its like; the terminal's come from
# the kernel and reach the command by themselves.
_SENT_BY_PROCESS = 0


class Signals:
    """Blocks the signals that end a recording, from now until :meth:`restore`.

    Attributes:
        mask: The signals that were blocked before.
    """

    def __init__(self) -> None:
        self.mask = frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, _TAKEN))
        self._stops = 0

    def restore(self) -> None:
        """Block what was blocked before."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)

    def stop_requested(self) -> signal.Signals | None:
        """Return a signal that asks to stop and has not been taken yet."""
        return next((number for number in _STOPPING if number in signal.sigpending()), None)

    def wait_for_child(
        self,
        pid: int,
        duration_s: float | None,
        on_duration: Callable[[], object],
        *,
        all_but: Set[int] | None = None,
    ) -> int:
        """Wait until a command ends; signals are passed on to it, a second one ends the wait.

        Args:
            pid: The command, a child.
            duration_s: ``on_duration`` is called after this many seconds; None: never.
            on_duration: Called once; the wait goes on.
            all_but: Wait for what the command started as well, which are all children of this
                process but these; None: for the command alone.

        Returns:
            The command's exit status, as a shell would have it.
        """
        deadline = None if duration_s is None else time.monotonic() + duration_s
        status: int | None = None
        while True:
            if status is None:
                status = _reap(pid)
            if status is not None and (all_but is None or not _reap_all(all_but)):
                return status
            info = self._next(deadline)
            if info is None:
                deadline = None
                on_duration()
                continue
            number = signal.Signals(info.si_signo)
            if number in _STOPPING:
                self._stops += 1
                if self._stops > 1:
                    return SIGNALLED_STATUS + number if status is None else status
            if number != signal.SIGCHLD and info.si_code <= _SENT_BY_PROCESS and status is None:
                os.kill(pid, number)

    def wait_for_processes(self, pids: Sequence[int], duration_s: float | None) -> None:
        """Wait until processes have ended, the time is over, or a signal asks to stop.

        Raises:
            ProcessLookupError: One of them does not exist.
        """
        deadline = None if duration_s is None else time.monotonic() + duration_s
        with ExitStack() as stack:
            alive = select.poll()
            descriptors = set()
            for pid in pids:
                descriptor = os.pidfd_open(pid)
                stack.callback(os.close, descriptor)
                descriptors.add(descriptor)
                alive.register(descriptor, select.POLLIN)
            while descriptors:
                for descriptor, _ in alive.poll(0):
                    alive.unregister(descriptor)
                    descriptors.discard(descriptor)
                check = time.monotonic() + _PROCESS_CHECK_S
                info = self._next(check if deadline is None else min(check, deadline))
                if info is not None and info.si_signo in _STOPPING:
                    return
                if deadline is not None and time.monotonic() >= deadline:
                    return

    def _next(self, deadline: float | None) -> signal.struct_siginfo | None:
        """Take the next signal; None: the deadline has come."""
        if deadline is None:
            return signal.sigwaitinfo(_TAKEN)
        return signal.sigtimedwait(_TAKEN, max(0.0, deadline - time.monotonic()))


def _reap(pid: int) -> int | None:
    """Return the exit status of a child, as a shell would have it; None: it has not ended."""
    ended, raw = os.waitpid(pid, os.WNOHANG)
    if not ended:
        return None
    code = os.waitstatus_to_exitcode(raw)
    return code if code >= 0 else SIGNALLED_STATUS - code


def _reap_all(all_but: Set[int]) -> bool:
    """Forget the children that have ended; return whether some have not."""
    statuses = [_reap(child) for child in children() - all_but]
    return None in statuses


def children() -> frozenset[int]:
    """Return the processes whose parent, by birth or by adoption, is this one."""
    tasks = Path(f"/proc/{os.getpid()}/task")
    while True:
        # A child belongs to the thread that started it; adopted ones go to any.
        lists = [task / "children" for task in tasks.iterdir()]
        try:
            return frozenset(int(pid) for each in lists for pid in each.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            # A thread ended meanwhile, and another one has its children.
            continue
