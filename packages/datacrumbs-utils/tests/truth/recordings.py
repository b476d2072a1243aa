"""Recording a command, with strace or without."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
        report: What ``--json`` printed.
        status: Exit status.
        stdout: What the command itself printed.
        calls: What strace wrote of the same run; empty without it.
    """

    trace: trace_file.Trace
    report: dict[str, Any]
    status: int
    stdout: str
    calls: list[strace_log.Call]


class Recorder:
    """Records commands into a directory of its own."""

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
        path = self.directory / f"run{self._runs}.pfw.gz"
        log = self.directory / f"run{self._runs}.strace"
        command = [os.fspath(each) for each in argv]
        if with_strace:
            command = ["strace", *strace_log.OPTIONS, "-o", str(log), *command]
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
        where = str(cwd or Path.cwd())
        return Recording(
            trace_file.read(path),
            json.loads(lines[-1]),
            completed.returncode,
            "\n".join(lines[:-1]),
            strace_log.read(log, where) if with_strace else [],
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
