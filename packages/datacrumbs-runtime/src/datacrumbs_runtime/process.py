"""The one door to other programs: no shell, always a time-out, errors in one sentence."""

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datacrumbs_runtime.errors import ProcessError

DEFAULT_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished program left behind.

    Attributes:
        status: Exit status; negative: killed by that signal.
        stdout: Standard output, undecodable bytes as surrogates.
        stderr: Standard error, likewise.
    """

    status: int
    stdout: str
    stderr: str


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    check: bool = True,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Result:
    """Run a program to its end and return its output.

    Args:
        argv: The program and its arguments. Code that runs as root gives an absolute path.
        timeout_s: The program is killed after this many seconds.
        check: Raise when the exit status is not 0.
        stdin: Text for its standard input; None: an empty one.
        env: The whole environment; None: the caller's.
        cwd: Working directory; None: the caller's.

    Raises:
        ProcessError: The program is missing, took too long, or failed (with ``check``).
    """
    command = [os.fspath(argument) for argument in argv]
    try:
        completed = subprocess.run(
            command,
            input="" if stdin is None else stdin,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=timeout_s,
            env=env,
            cwd=cwd,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ProcessError(f"{command[0]}: no answer within {timeout_s:g} s") from error
    except OSError as error:
        raise ProcessError(f"{command[0]}: {error.strerror}") from error
    if check and completed.returncode != 0:
        lines = completed.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"exit status {completed.returncode}"
        raise ProcessError(f"{shlex.join(command)}: {reason}")
    return Result(completed.returncode, completed.stdout, completed.stderr)


def start(
    argv: Sequence[str | os.PathLike[str]], *, pass_fds: Sequence[int] = ()
) -> "subprocess.Popen[bytes]":
    """Start a program that runs beside this one, in a session of its own, without input or output.

    Args:
        argv: The program and its arguments. Code that runs as root gives an absolute path.
        pass_fds: Descriptors that it gets, under the same numbers.

    Returns:
        The process; the caller waits for it.

    Raises:
        ProcessError: The program cannot be started.
    """
    command = [os.fspath(argument) for argument in argv]
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    except OSError as error:
        raise ProcessError(f"{command[0]}: {error.strerror}") from error
