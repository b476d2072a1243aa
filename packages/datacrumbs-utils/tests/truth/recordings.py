"""Recording a command, with strace or without, whatever it is that records."""

import json
import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import strace_log
import trace_file

HERE = Path(__file__).parent
RECORD = (
    sys.executable,
    "-c",
    "from datacrumbs_utils.commands.datacrumbs_record import main; main()",
)
TIMEOUT_S = 300.0
# One run with many threads in twenty is misread by strace.
ATTEMPTS = 5


Recorded = TypeVar("Recorded")


@dataclass(frozen=True, slots=True)
class Recording:
    """A command that was recorded.

    Attributes:
        trace: The trace.
        report: What ``--json`` printed, or as much of it as the trace tells.
        status: Exit status.
        stdout: What the command itself printed.
        calls: What strace wrote of the same run; empty without it.
        others: Traces of the same run by other recorders, by their names.
    """

    trace: trace_file.Trace
    report: dict[str, Any]
    status: int
    stdout: str
    calls: list[strace_log.Call]
    others: Mapping[str, trace_file.Trace] = field(default_factory=dict)


class Recorder(ABC):
    """Records commands into a directory of its own.

    Args:
        directory: Where whoever runs the commands may write.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._runs = 0

    def __call__(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        options: Sequence[str] = (),
        with_strace: bool = False,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Recording:
        """Record a command to its end."""
        self._runs += 1
        log = self.directory / f"run{self._runs}.strace"
        command = [os.fspath(each) for each in argv]
        if with_strace:
            command = ["strace", *strace_log.OPTIONS, "-o", str(log), *command]
        recording = self.record(f"run{self._runs}", command, options, cwd, env)
        if not with_strace:
            return recording
        calls = strace_log.read(log, str(cwd or Path.cwd()))
        return replace(recording, calls=self.as_in_trace(calls, recording.trace))

    @abstractmethod
    def record(
        self,
        name: str,
        command: Sequence[str],
        options: Sequence[str],
        cwd: Path | None,
        env: Mapping[str, str] | None,
    ) -> Recording:
        """Record a command under a name that no other recording has."""

    def as_in_trace(
        self, calls: list[strace_log.Call], _trace: trace_file.Trace
    ) -> list[strace_log.Call]:
        """Return strace's calls with the thread ids that the trace has."""
        return calls


class CommandRecorder(Recorder):
    """Records with ``datacrumbs_record``."""

    def record(
        self,
        name: str,
        command: Sequence[str],
        options: Sequence[str],
        cwd: Path | None,
        env: Mapping[str, str] | None,
    ) -> Recording:
        path = self.directory / f"{name}.pfw.gz"
        completed = subprocess.run(
            [*RECORD, "--json", "--output", str(path), *options, "--", *command],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            cwd=cwd,
            env=None if env is None else dict(env),
            check=False,
        )
        lines = completed.stdout.splitlines()
        assert lines, completed.stderr
        assert lines[-1].startswith("{"), completed.stdout + completed.stderr
        return Recording(
            trace_file.read(path),
            json.loads(lines[-1]),
            completed.returncode,
            "\n".join(lines[:-1]),
            [],
        )


def with_witness(record: Callable[[int], Recorded]) -> Recorded:
    """Return what a function records, which is called again when strace misread the run.

    Args:
        record: Gets the number of the attempt, from 0, to work where no earlier one has.
    """
    for attempt in range(ATTEMPTS - 1):
        try:
            return record(attempt)
        except strace_log.MisreadError:
            continue
    return record(ATTEMPTS - 1)


def require(*names: str) -> None:
    """Skip unless programs are installed."""
    for name in names:
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
