"""Doing things as another user: root never opens a path that a user chose with root's rights."""

import ctypes
import errno
import json
import os
import pwd
import resource
import select
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from datacrumbs_runtime.errors import DatacrumbsError, SigningError

# What the signer and the daemon have handlers for.
HANDLED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_PR_SET_DUMPABLE = 4
_CPU_LIMIT_S = 20
_ANSWER_LIMIT_BYTES = 16 << 20
_DONE, _REFUSED = b"\0", b"\1"


class TooSlowError(SigningError):
    """A file system did not answer in time."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user with the rights that a process of his has.

    Attributes:
        uid: Numeric user id.
        gid: Numeric id of the group.
        groups: Numeric ids of all supplementary groups.
        user: Name of the user; the decimal uid where it has no name.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    user: str

    @property
    def all_groups(self) -> frozenset[int]:
        """The group and the supplementary groups."""
        return frozenset((self.gid, *self.groups))


def account_of_uid(uid: int) -> Account:
    """Look up a user with the groups that a login of his would have.

    Raises:
        SigningError: The uid has no entry in the user database.
    """
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        hint = f"this machine must know the user: see getent passwd {uid}"
        raise SigningError(f"uid {uid}: no such user", hint=hint) from None
    return Account(
        uid, entry.pw_gid, tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)), entry.pw_name
    )


def user_name(uid: int) -> str:
    """Return the name of a user, or the decimal uid if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def become(account: Account) -> None:
    """Take on a user's rights for good, all threads that will be included.

    Afterwards nobody but root can look into this process, not even the user himself.
    """
    if os.geteuid() == 0:
        os.setgroups(account.groups)
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    if os.geteuid() != account.uid:
        raise SigningError(f"only root can act as {account.user}")
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


class TaskAsUser:
    """A function that runs in a child process with a user's rights; see :func:`run_as_user`.

    Use it in a ``with``: leaving that ends the child, whether or not it is done.
    """

    def __init__(self, account: Account, task: Callable[[], bytes], *, timeout_s: float) -> None:
        self._user = account.user
        self._deadline = time.monotonic() + timeout_s
        self._answer_fd, child_fd = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._answer_fd)
            _child(account, task, child_fd)
        os.close(child_fd)

    def __enter__(self) -> "TaskAsUser":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._answer_fd)
        _end(self._pid)

    def result(self) -> bytes:
        """Wait for the function and return what it returned; once only.

        Raises:
            SigningError: See :func:`run_as_user`.
        """
        answer = _read_until_closed(self._answer_fd, self._deadline)
        if answer[:1] == _DONE:
            return answer[1:]
        if answer[:1] == _REFUSED:
            message, hint = json.loads(answer[1:])
            raise SigningError(message, hint=hint)
        raise SigningError(f"a check as {self._user} was cut off")


def run_as_user(account: Account, task: Callable[[], bytes], *, timeout_s: float) -> bytes:
    """Run a function in a child process with a user's rights and return what it returned.

    Args:
        account: Whose rights.
        task: The function; it runs in a copy of this process and changes nothing here.
        timeout_s: After this time the child is killed: a path may hang in a dead file system.

    Raises:
        SigningError: What the function raised as a DatacrumbsError, with message and hint; or it
            took too long or was killed.
    """
    with TaskAsUser(account, task, timeout_s=timeout_s) as running:
        return running.result()


def open_as_user(
    account: Account,
    path: str,
    *,
    timeout_s: float = 10.0,
    opener: Callable[[str], int] | None = None,
) -> int:
    """Open a regular file for reading with a user's rights.

    Args:
        account: Whose rights.
        path: The file.
        timeout_s: How long its file system may take.
        opener: Opens it in another way, and raises what :func:`open_regular_file` raises.

    Returns:
        The descriptor, which belongs to the caller. That file is what was checked: use it, and
        not the path again.

    Raises:
        SigningError: The user may not read it, or it is not a regular file.
    """
    ours, childs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    def task() -> bytes:
        fd = (opener or open_regular_file)(path)
        socket.send_fds(childs, [b"f"], [fd])
        return b""

    with ours, childs:
        with _naming(path):
            run_as_user(account, task, timeout_s=timeout_s)
        ours.setblocking(False)
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        os.set_inheritable(fds[0], False)
        return fds[0]


def read_as_user(account: Account, path: str, max_bytes: int, *, timeout_s: float = 10.0) -> bytes:
    """Read a regular file with a user's rights, without ever touching its file system ourselves.

    Raises:
        SigningError: The user may not read it, it is not a regular file, or larger than
            ``max_bytes``, or its file system did not answer in time.
    """
    with open(os.memfd_create("datacrumbs-file"), "r+b", buffering=0) as memory:  # noqa: PTH123

        def task() -> bytes:
            with open(open_regular_file(path), "rb", buffering=0) as file:
                view = memoryview(read_bounded(file.fileno(), path, max_bytes))
            while view:
                view = view[memory.write(view) :]
            return b""

        with _naming(path):
            run_as_user(account, task, timeout_s=timeout_s)
        memory.seek(0)
        return memory.read()


@contextmanager
def _naming(path: str) -> Iterator[None]:
    try:
        yield
    except TooSlowError as error:
        raise TooSlowError(f"{_shown(path)}: the file system does not answer") from error


def forget_signal_handlers() -> None:
    """Let signals do to a child what they do to any program, whatever its parent does with them."""
    for number in HANDLED_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def open_regular_file(path: str) -> int:
    """Open a file for reading without ever waiting for it, as a FIFO would make us.

    Returns:
        The descriptor, which belongs to the caller.

    Raises:
        SigningError: It cannot be read, or is not a regular file.
    """
    try:
        # To open a device may be to begin something, a watchdog for instance: first only a look.
        seen = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(seen).st_mode):
                raise SigningError(f"{_shown(path)}: not a regular file")
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{seen}", flags)
        finally:
            os.close(seen)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SigningError(f"{_shown(path)}: {reason}") from error


def read_bounded(fd: int, where: str, max_bytes: int) -> bytes:
    """Read a descriptor to its end.

    Raises:
        SigningError: There are more than ``max_bytes``, or reading failed.
    """
    parts = []
    left = max_bytes + 1
    try:
        while left > 0 and (part := os.read(fd, min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
    except OSError as error:
        raise SigningError(f"{where}: {error.strerror}") from error
    if left <= 0:
        raise SigningError(f"{where}: larger than {max_bytes} bytes")
    return b"".join(parts)


def _shown(path: str) -> str:
    return path if path.isprintable() else ascii(path)


def _child(account: Account, task: Callable[[], bytes], fd: int) -> NoReturn:
    status = 1
    try:
        forget_signal_handlers()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_LIMIT_S, _CPU_LIMIT_S))
        try:
            become(account)
            os.chdir("/")
            answer = _DONE + task()
        except DatacrumbsError as error:
            answer = _REFUSED + json.dumps([str(error), error.hint]).encode()
        view = memoryview(answer)
        while view:
            view = view[os.write(fd, view) :]
        status = 0
    finally:
        # Nothing of the parent's may run here: no cleanup, no second copy of buffered output.
        os._exit(status)


def _read_until_closed(fd: int, deadline: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLHUP)
    while size <= _ANSWER_LIMIT_BYTES:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            raise TooSlowError("a file took too long to open", hint=os.strerror(errno.ETIMEDOUT))
        part = os.read(fd, 1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
    return b""


def _end(pid: int) -> None:
    """Kill and reap a child; one that hangs in the kernel is left to whoever inherits it."""
    deadline = time.monotonic() + 0.2
    while True:
        done, _ = os.waitpid(pid, os.WNOHANG)
        if done:
            return
        if time.monotonic() > deadline:
            break
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        except PermissionError:
            # A service without CAP_KILL: what does not hang ends by itself.
            pass
        time.sleep(0.0005)
