"""The signer's side of one connection, in a process of its own: read, decide, answer, end."""

import contextlib
import gc
import grp
import logging
import os
import resource
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from datacrumbs_runtime.errors import DatacrumbsError, SigningError
from datacrumbs_runtime.schema.signing_rpc import (
    HEADER_BYTES,
    FrameKind,
    failure_frame,
    frame,
    read_header,
)
from datacrumbs_runtime.signing.accounts import Account, forget_signal_handlers
from datacrumbs_runtime.signing.peer import Peer
from datacrumbs_runtime.signing.request import Signer, audit, sign_request

logger = logging.getLogger(__name__)

MEMORY_LIMIT_BYTES = 1 << 30
CPU_LIMIT_S = 30
MAX_NAMED_GROUPS = 256


@dataclass(frozen=True, slots=True)
class Conversation:
    """One connection and what serves it.

    Attributes:
        connection: The accepted socket.
        peer: Who connected.
        signer: What signs.
        request_timeout_s: How long the whole request may take to arrive, and the answer to leave.
        wait_for_turn: Returns when it is this connection's turn to use the processor.
    """

    connection: socket.socket
    peer: Peer
    signer: Signer
    request_timeout_s: float
    wait_for_turn: Callable[[], None]

    def serve_and_exit(self) -> NoReturn:
        """Hold the conversation, then end the process, whatever happens."""
        status = 1
        try:
            forget_signal_handlers()
            _limit_resources()
            # This process lives for one request: looking for cycles would cost a fifth of its time.
            gc.disable()
            self._serve()
            status = 0
        except BaseException:
            logger.exception("request of uid %d", self.peer.uid)
        finally:
            logging.shutdown()
            os._exit(status)

    def _serve(self) -> None:
        account = self.peer.account()
        data: bytes | None = None
        started = time.monotonic()
        try:
            data = self._receive_request()
            self.wait_for_turn()
            signed = sign_request(data, self.signer, account, _group_names(self.signer, account))
            answer = frame(FrameKind.SIGNED, signed)
        except DatacrumbsError as error:
            answer = failure_frame(FrameKind.REFUSED, str(error), error.hint)
            verdict, reason = "refused", str(error)
        except (MemoryError, RecursionError) as error:
            answer = failure_frame(FrameKind.REFUSED, "the request takes too much memory")
            verdict, reason = "refused", type(error).__name__
        except Exception as error:
            # A bug: the details are for the log alone, and the client is not left waiting.
            logger.exception("request of uid %d", self.peer.uid)
            answer = failure_frame(FrameKind.FAILED, "the signer failed", "its log says why")
            verdict, reason = "failed", type(error).__name__
        else:
            verdict, reason = "signed", "allowed"
        duration_ms = round((time.monotonic() - started) * 1000, 1)
        audit(verdict, account, self.peer.pid, data, reason, duration_ms=duration_ms)
        with contextlib.suppress(OSError):  # the client went away: its loss
            self.connection.settimeout(self.request_timeout_s)
            self.connection.sendall(answer)

    def _receive_request(self) -> bytes:
        deadline = time.monotonic() + self.request_timeout_s
        kind, length = read_header(self._receive(HEADER_BYTES, deadline))
        if kind is not FrameKind.REQUEST:
            raise SigningError("this is not a signing request")
        if length > self.signer.policy.max_request_bytes:
            raise SigningError(
                f"the request has {length} bytes, more than the "
                f"{self.signer.policy.max_request_bytes} that this site allows",
                hint="select fewer functions",
            )
        return self._receive(length, deadline)

    def _receive(self, count: int, deadline: float) -> bytes:
        received = bytearray()
        try:
            while len(received) < count:
                # A time-out of 0 would mean not to wait at all; 1 ms over is as good as an error.
                self.connection.settimeout(max(deadline - time.monotonic(), 0.001))
                part = self.connection.recv(min(count - len(received), 1 << 18))
                if not part:
                    raise SigningError("the request was cut off")
                received += part
        except TimeoutError:
            raise SigningError(
                f"the request did not arrive within {self.request_timeout_s:g} s"
            ) from None
        except OSError as error:
            raise SigningError(f"the request was cut off: {error.strerror}") from error
        return bytes(received)


def _limit_resources() -> None:
    """Bound what a malicious document can make of us: it is parsed in this process only."""
    with open("/proc/self/statm") as statm:  # noqa: PTH123
        present_bytes = int(statm.read().split()[0]) * resource.getpagesize()
    for name, limit in (
        (resource.RLIMIT_AS, present_bytes + MEMORY_LIMIT_BYTES),
        (resource.RLIMIT_CPU, CPU_LIMIT_S),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(name)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(name, (limit, hard))


def _group_names(signer: Signer, account: Account) -> dict[int, str]:
    names: dict[int, str] = {}
    if any(special.groups for special in signer.policy.special):
        for gid in sorted(account.all_groups)[:MAX_NAMED_GROUPS]:
            with contextlib.suppress(KeyError):
                names[gid] = grp.getgrgid(gid).gr_name
    return names
