"""A command that is started, but does not run yet: recording begins before its first instruction.

The child is a copy of this process that waits for a signal, so that everything between the signal
and the command's first instruction is one execve(2). It waits without any system call that could
end up in the trace.
"""

import ctypes
import errno
import os
import pwd
import signal
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from datacrumbs_runtime.cli import user_entry
from datacrumbs_runtime.errors import ProcessError

_GO = signal.SIGUSR1
_PARENT_CHECK_S = 1.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# Python ignores these from its start; a command must not inherit that.
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


@dataclass(frozen=True, slots=True)
class Account:
    """A user whom a command runs as.

    Attributes:
        name: Login name, or the number where there is none.
        uid: User id.
        gid: Primary group.
        groups: All groups.
        home: Home directory.
    """

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def account(name: str) -> Account:
    """Find a user by name or number.

    Raises:
        UsageError: There is none.
    """
    entry = user_entry(name)
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir)


def own_account() -> Account:
    """Return the user who runs this process."""
    uid, gid = os.getuid(), os.getgid()
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Account(str(uid), uid, gid, tuple(os.getgroups()), "/")
    return Account(entry.pw_name, uid, gid, tuple(os.getgroups()), entry.pw_dir)


def find_program(name: str) -> str:
    """Return the path of a command, as a shell would find it.

    Raises:
        ProcessError: There is none, or it is no program.
    """
    if "/" in name:
        return _checked(name, name)
    denied = None
    for directory in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(directory or ".", name)  # noqa: PTH118 - "./x" must keep its "./"
        try:
            return _checked(path, name)
        except ProcessError as error:
            if not isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                denied = denied or error
    if denied is not None:
        raise denied
    raise ProcessError(
        f"{name}: command not found",
        hint="give its path if it is not in a directory of PATH",
    )


def _checked(path: str, name: str) -> str:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise ProcessError(f"{name}: {error.strerror}") from error
    if stat.S_ISDIR(status.st_mode):
        raise ProcessError(f"{name}: is a directory, not a command")
    if not os.access(path, os.X_OK):
        raise ProcessError(f"{name}: is not executable") from PermissionError(errno.EACCES, path)
    return path


class StoppedChild:
    """A command that waits to be let go.

    Attributes:
        pid: Its process.
    """

    def __init__(
        self,
        program: str,
        arguments: Sequence[str],
        user: Account | None,
        signal_mask: frozenset[int],
    ) -> None:
        """Start the child.

        Args:
            program: Path of the command, from :func:`find_program`.
            arguments: Its arguments, with its name as the first.
            user: Whom it runs as; None: the caller.
            signal_mask: The signals that are blocked while it runs.

        Raises:
            ProcessError: It could not be started, or not as that user.
        """
        self._result, outcome = os.pipe()
        parent = os.getpid()
        try:
            self.pid = os.fork()
        except OSError as error:
            raise ProcessError(f"{arguments[0]}: {error.strerror}") from error
        if not self.pid:
            os.close(self._result)
            _be_the_command(program, arguments, user, signal_mask, outcome, parent)
        os.close(outcome)
        if os.read(self._result, 1) != b"+":
            message = os.read(self._result, 4096).decode(errors="replace")
            os.waitpid(self.pid, 0)
            raise ProcessError(f"{arguments[0]}: {message or 'it ended before it began'}")
        self._name = arguments[0]
        self._is_waiting = True

    def let_go(self) -> None:
        """Let the command run.

        Raises:
            ProcessError: It is nothing that the kernel executes; the child is gone then.
        """
        self._is_waiting = False
        os.kill(self.pid, _GO)
        with os.fdopen(self._result, "rb", buffering=0) as result:
            message = result.read().decode(errors="replace")
        if message:
            os.waitpid(self.pid, 0)
            raise ProcessError(f"{self._name}: {message}")

    def discard(self) -> None:
        """End the child if it was not let go."""
        if not self._is_waiting:
            return
        self._is_waiting = False
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._result)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, so that they can be waited for."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _be_the_command(
    program: str,
    arguments: Sequence[str],
    user: Account | None,
    signal_mask: frozenset[int],
    outcome: int,
    parent: int,
) -> NoReturn:
    # Everything after the wait is prepared here: no import, no allocation of note, no file.
    refused = b"-"
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {_GO})
        set_process_option = ctypes.CDLL(None).prctl
        environment = dict(os.environ)
        if user is not None:
            os.setgroups(user.groups)
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
            environment.update(HOME=user.home, USER=user.name, LOGNAME=user.name)
            if not os.access(program, os.X_OK):
                raise PermissionError(errno.EACCES, f"user {user.name} may not execute it")
        # Last, because a change of user clears it.
        set_process_option(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        for number in _IGNORED_BY_PYTHON:
            signal.signal(number, signal.SIG_DFL)
        if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.write(outcome, b"+")
        refused = b""
        while signal.sigtimedwait({_GO}, _PARENT_CHECK_S) is None:
            if os.getppid() != parent:
                os._exit(1)
        set_process_option(_PR_SET_PDEATHSIG, 0, 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, signal_mask)
        os.execve(program, list(arguments), environment)  # noqa: S606 - the user's command
    except OSError as error:
        os.write(outcome, refused + (error.strerror or str(error)).encode())
    finally:
        os._exit(1)
