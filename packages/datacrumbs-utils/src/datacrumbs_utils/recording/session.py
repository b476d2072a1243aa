"""One recording: a command or running processes, from the first instruction to the closed trace."""

import logging
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from datacrumbs_runtime.engine import AttachReport, Engine, Identity, RunSettings, RunSummary
from datacrumbs_runtime.errors import ProcessError
from datacrumbs_utils.recording import child, output
from datacrumbs_utils.recording.probes import Probes
from datacrumbs_utils.recording.signals import SIGNALLED_STATUS, Signals, children

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be recorded.

    Attributes:
        probes: The functions.
        settings: How it is recorded.
        run_id: Name of the run.
        command: A command and its arguments, or empty.
        pids: Running processes, or empty.
        user: Whom the command runs as; None: the caller.
        output: File or directory of the trace; None: the working directory.
        duration_s: Longest time that is recorded, in seconds; None: until the end.
        wait_for_all: Whether to record until all descendants of the command have ended.
    """

    probes: Probes
    settings: RunSettings
    run_id: str
    command: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    user: child.Account | None = None
    output: Path | None = None
    duration_s: float | None = None
    wait_for_all: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a recording came to.

    Attributes:
        summary: What was recorded.
        attached: Which functions could be.
        status: Exit status of the command; 0 where there was none.
        failure: Why the recording ended before its time, or None.
    """

    summary: RunSummary
    attached: AttachReport
    status: int
    failure: BaseException | None

    @property
    def is_complete(self) -> bool:
        """Whether nothing was lost.

        A process that was running already is often within a call: that is no loss.
        """
        return replace(self.summary.statistics.losses, missed_begin=0).is_complete


def check_processes(pids: tuple[int, ...]) -> None:
    """Look whether processes exist.

    Raises:
        ProcessError: One does not.
    """
    for pid in pids:
        try:
            os.close(os.pidfd_open(pid))
        except OSError as error:
            raise ProcessError(f"process {pid}: {error.strerror}") from error


def record(
    request: Request, signals: Signals, on_ready: Callable[[Path], None] | None = None
) -> Outcome:
    """Record a command until it ends, or processes until they end.

    Args:
        request: What to record, and how.
        signals: Blocked by the caller.
        on_ready: Called with the trace's path when the recording begins, if it is given.

    Raises:
        DatacrumbsError: It could not begin. Nothing is left: no process, no trace, no probe.
    """
    owner = request.user or child.own_account()
    hostname = socket.gethostname()
    path = output.trace_path(
        request.output, owner.name, request.run_id, hostname, request.probes.name
    )
    identity = Identity(owner.name, owner.uid, owner.gid, request.run_id, hostname)
    with ExitStack() as undo:
        command = None
        if request.command:
            program = child.find_program(request.command[0])
            if request.wait_for_all:
                child.adopt_orphans()
            command = child.StoppedChild(program, request.command, request.user, signals.mask)
            undo.callback(command.discard)
        traces: list[Path] = []
        # When the engine has closed it: a trace of nothing is not worth keeping.
        undo.callback(_remove, traces)
        engine = undo.enter_context(
            Engine(request.probes.probe_file, path, identity, request.settings)
        )
        traces.append(engine.trace_path)
        attached = engine.attach()
        interrupted = signals.stop_requested()
        if interrupted is not None:
            error = ProcessError("interrupted before the recording began")
            error.exit_status = SIGNALLED_STATUS + interrupted
            raise error
        for pid in (command.pid,) if command else request.pids:
            engine.register_process(pid, descendants_too=command is None)
        engine.start()
        if on_ready is not None:
            on_ready(engine.trace_path)
        helpers: frozenset[int] | None = None
        if command is not None:
            if request.wait_for_all:
                # Of the recorder itself: what the command starts may be adopted from now on.
                helpers = children() - {command.pid}
            command.let_go()
        undo.pop_all()
    with engine:
        status = 0
        if command is not None:
            status = signals.wait_for_child(
                command.pid,
                request.duration_s,
                engine.stop,
                all_but=helpers,
            )
        else:
            signals.wait_for_processes(request.pids, request.duration_s)
        failure = engine.failure
        return Outcome(engine.stop(), attached, status, failure)


def _remove(traces: list[Path]) -> None:
    for trace in traces:
        trace.unlink(missing_ok=True)
