"""The signing service: accepts connections, knows who they are, gives each a process of its own.

This process never reads a byte that a user sent. Per connection a child reads the request with a
time-out (many at once, a bounded number per user), waits for its turn, decides and answers, within
limits of memory and time. So a slow, huge or malicious request costs nobody else his answer.
"""

import contextlib
import logging
import os
import resource
import selectors
import signal
import socket
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from datacrumbs_runtime.errors import DatacrumbsError, SigningError
from datacrumbs_runtime.schema.signing_rpc import FrameKind, failure_frame
from datacrumbs_runtime.sd_notify import sd_notify
from datacrumbs_runtime.signing.accounts import HANDLED_SIGNALS, Account
from datacrumbs_runtime.signing.conversation import Conversation
from datacrumbs_runtime.signing.peer import Peer, check_relay, peer_of
from datacrumbs_runtime.signing.request import Signer, audit

logger = logging.getLogger(__name__)

# For what this process itself and each decision needs.
RESERVED_DESCRIPTORS = 32
GO = b"g"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the service takes on at a time.

    Attributes:
        readers: Requests that are being read or decided.
        readers_per_user: The same of one user.
        workers: Requests that are being decided; each user can have one in any case.
        waiting: Connections that are accepted and wait.
        waiting_per_user: The same of one user.
        request_timeout_s: For a request to arrive whole, and for an answer to be taken.
        total_timeout_s: For everything about one request.
    """

    readers: int = 64
    readers_per_user: int = 16
    workers: int = max(2, os.cpu_count() or 2)
    waiting: int = 2048
    waiting_per_user: int = 512
    request_timeout_s: float = 10.0
    total_timeout_s: float = 60.0


@dataclass(slots=True)
class _Child:
    peer: Peer
    deadline: float
    gate: socket.socket
    working: bool = False
    ready: bool = False


class SigningService:
    """Serves one socket until it is told to stop."""

    def __init__(
        self,
        listener: socket.socket,
        relay: Path,
        current_signer: Callable[[], Signer],
        limits: Limits | None = None,
    ) -> None:
        """Take over a listening socket.

        Args:
            listener: See :func:`datacrumbs_runtime.signing.listener.listen`.
            relay: The one program that is served.
            current_signer: Returns what signs, as policy and keys are now; it may raise.
            limits: How much is taken on at a time.
        """
        self._listener = listener
        self._relay = relay
        self._current_signer = current_signer
        self._limits = limits or Limits()
        self._children: dict[int, _Child] = {}
        # Connections by user: the user at the front has waited longest for his turn.
        self._waiting: OrderedDict[int, deque[tuple[socket.socket, Peer]]] = OrderedDict()
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._listening = False
        self._connection_limit = 1

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; what is being decided then is finished first."""
        with _signals_as_bytes() as signals:
            self._listener.setblocking(False)
            self._connection_limit = max(
                1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_DESCRIPTORS
            )
            self._selector.register(signals, selectors.EVENT_READ, lambda: self._heed(signals))
            sd_notify("READY=1", "STATUS=signing probe files")
            while not self._stopping or self._children:
                self._watch_listener()
                for key, _ in self._selector.select(self._time_to_next_deadline()):
                    key.data()
                self._end_overdue()
                self._start_waiting()
                self._let_workers_go()
            self._selector.close()

    def _heed(self, signals: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in signals.recv(4096):
                if number in (signal.SIGTERM, signal.SIGINT) and not self._stopping:
                    self._stop()
                elif number == signal.SIGHUP:
                    # Policy and keys are looked at for every request; this checks them now.
                    sd_notify("RELOADING=1")
                    try:
                        self._current_signer()
                        logger.info("policy and keys are in order")
                    except DatacrumbsError as error:
                        logger.error("%s", error)  # noqa: TRY400  a sentence, not a traceback
                    sd_notify("READY=1")
        self._reap()

    def _stop(self) -> None:
        sd_notify("STOPPING=1")
        self._stopping = True
        self._watch_listener()
        self._listener.close()
        for connections in self._waiting.values():
            for connection, _ in connections:
                _send_failure(connection, FrameKind.FAILED, "the signer is being stopped")
        self._waiting.clear()
        for pid, child in self._children.items():
            if not child.ready:
                os.kill(pid, signal.SIGKILL)

    def _has_room(self) -> bool:
        waiting = sum(len(connections) for connections in self._waiting.values())
        return waiting + len(self._children) < self._connection_limit

    def _watch_listener(self) -> None:
        """Listen while there are descriptors left; until then callers wait in the kernel."""
        wanted = not self._stopping and self._has_room()
        if wanted and not self._listening:
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        elif self._listening and not wanted:
            self._selector.unregister(self._listener)
        self._listening = wanted

    def _accept(self) -> None:
        while self._has_room():
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                logger.warning("accept: %s", error.strerror)
                return
            self._receive_caller(connection)

    def _receive_caller(self, connection: socket.socket) -> None:
        try:
            peer = peer_of(connection)
        except (DatacrumbsError, OSError) as error:
            logger.warning("a caller without credentials: %s", error)
            connection.close()
            return
        try:
            check_relay(connection, peer, self._relay)
        except DatacrumbsError as error:
            _audit_unread("refused", peer, str(error))
            _send_failure(connection, FrameKind.REFUSED, str(error), error.hint)
            return
        queue = self._waiting.setdefault(peer.uid, deque())
        total = sum(len(others) for others in self._waiting.values())
        if total >= self._limits.waiting or len(queue) >= self._limits.waiting_per_user:
            _audit_unread("failed", peer, "too many requests at once")
            _send_failure(
                connection, FrameKind.FAILED, "too many requests at once", "try again later"
            )
            return
        queue.append((connection, peer))

    def _start_waiting(self) -> None:
        active = Counter(child.peer.uid for child in self._children.values())
        for uid in list(self._waiting):
            # One per user and round, so that nobody starts behind all requests of another.
            if len(self._children) >= self._limits.readers:
                return
            queue = self._waiting[uid]
            if queue and active[uid] < self._limits.readers_per_user:
                self._start(*queue.popleft())
                self._waiting.move_to_end(uid)
            if not queue:
                del self._waiting[uid]

    def _start(self, connection: socket.socket, peer: Peer) -> None:
        try:
            signer = self._current_signer()
        except DatacrumbsError as error:
            logger.error("%s", error)  # noqa: TRY400  a sentence, not a traceback
            _audit_unread("failed", peer, str(error))
            _send_failure(
                connection,
                FrameKind.FAILED,
                "the signer is not set up correctly",
                "the administrator finds the reason in its log",
            )
            return
        try:
            gate, childs_gate = socket.socketpair()
            pid = os.fork()
        except OSError as error:
            _audit_unread("failed", peer, error.strerror or "no process")
            _send_failure(connection, FrameKind.FAILED, "the node is too busy", "try again later")
            return
        if pid == 0:
            self._forget_in_child(gate)
            Conversation(
                connection,
                peer,
                signer,
                self._limits.request_timeout_s,
                lambda: _ask_for_turn(childs_gate, self._limits.total_timeout_s),
            ).serve_and_exit()
        connection.close()
        childs_gate.close()
        gate.setblocking(False)
        self._children[pid] = _Child(peer, time.monotonic() + self._limits.total_timeout_s, gate)
        self._selector.register(gate, selectors.EVENT_READ, lambda: self._hear_child(pid))

    def _forget_in_child(self, gate: socket.socket) -> None:
        signal.set_wakeup_fd(-1)
        for key in list(self._selector.get_map().values()):
            os.close(key.fd)
        self._selector.close()
        gate.close()
        for connections in self._waiting.values():
            for connection, _ in connections:
                connection.close()

    def _hear_child(self, pid: int) -> None:
        child = self._children.get(pid)
        if child is None:
            return
        try:
            child.ready = bool(child.gate.recv(1))
        except BlockingIOError:
            return
        except OSError:
            child.ready = False
        if not child.ready:
            # It closed its end, or died: SIGCHLD tells the rest.
            self._selector.unregister(child.gate)
            self._reap()

    def _let_workers_go(self) -> None:
        working = Counter(c.peer.uid for c in self._children.values() if c.working)
        free = self._limits.workers - sum(working.values())
        ready = [c for c in self._children.values() if c.ready and not c.working]
        while ready:
            child = min(ready, key=lambda c: working[c.peer.uid])
            # A user can hold up what is decided for him, with a signal for instance: whoever has
            # nothing under way does not wait for others.
            if free <= 0 and working[child.peer.uid]:
                return
            ready.remove(child)
            child.working = True
            working[child.peer.uid] += 1
            free -= 1
            with contextlib.suppress(OSError):
                child.gate.send(GO)

    def _reap(self) -> None:
        for pid, child in list(self._children.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                del self._children[pid]
                with contextlib.suppress(KeyError):
                    self._selector.unregister(child.gate)
                child.gate.close()
                if status:
                    code = os.waitstatus_to_exitcode(status)
                    _audit_unread("failed", child.peer, f"its process ended with {code}")

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for pid, child in self._children.items():
            if now > child.deadline:
                os.kill(pid, signal.SIGKILL)
                child.deadline = now + 1.0

    def _time_to_next_deadline(self) -> float | None:
        if any(self._waiting.values()) and len(self._children) < self._limits.readers:
            active = Counter(child.peer.uid for child in self._children.values())
            if any(active[uid] < self._limits.readers_per_user for uid in self._waiting):
                return 0.0
        if not self._children:
            return None
        first = min(child.deadline for child in self._children.values())
        return max(0.0, first - time.monotonic()) + 0.001


def raise_descriptor_limit() -> None:
    """Allow as many open connections as the hard limit does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _ask_for_turn(gate: socket.socket, timeout_s: float) -> None:
    gate.settimeout(timeout_s)
    try:
        gate.send(b"r")
        if gate.recv(1) != GO:
            raise SigningError("the signer is being stopped")
    except OSError as error:
        raise SigningError("the signer is being stopped") from error


def _audit_unread(verdict: str, peer: Peer, reason: str) -> None:
    # The name is left out: looking it up may take long, and this process must not wait.
    account = Account(peer.uid, peer.gid, peer.groups, str(peer.uid))
    audit(verdict, account, peer.pid, None, reason)


def _send_failure(
    connection: socket.socket, kind: FrameKind, message: str, hint: str | None = None
) -> None:
    with connection, contextlib.suppress(OSError):
        connection.setblocking(False)
        connection.send(failure_frame(kind, message, hint))


@contextlib.contextmanager
def _signals_as_bytes() -> Iterator[socket.socket]:
    """Turn SIGTERM, SIGINT, SIGHUP and SIGCHLD into bytes that can be waited for."""
    readable, writable = socket.socketpair()
    readable.setblocking(False)
    writable.setblocking(False)
    previous_fd = signal.set_wakeup_fd(writable.fileno(), warn_on_full_buffer=False)
    previous = [signal.signal(number, lambda *_: None) for number in HANDLED_SIGNALS]
    try:
        yield readable
    finally:
        for number, handler in zip(HANDLED_SIGNALS, previous, strict=True):
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous_fd)
        readable.close()
        writable.close()
