"""Custom probes of a run: each in a process of its own, its events as lines of the trace."""

import json
import logging
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from datacrumbs_runtime import process
from datacrumbs_runtime.custom.events import CountedEvents, Events, TracedEvents
from datacrumbs_runtime.custom.host_program import EVENT, FAILED, FRAME, LOST, READY
from datacrumbs_runtime.custom.plugin import PRELUDE, Plugin
from datacrumbs_runtime.errors import AttachError, DatacrumbsError
from datacrumbs_runtime.run import FunctionSummary

logger = logging.getLogger(__name__)

# bcc belongs to the distribution, and so does the Python that it is made for.
PYTHON = Path("/usr/bin/python3")
PROGRAM = Path(__file__).with_name("host_program.py")
END_LIMIT_S = 1.5
_HEADERS = Path(f"/lib/modules/{os.uname().release}/build")
_MAX_FRAME_BYTES = 1 << 20


class CustomProbe:
    """A custom probe that is attached.

    Args:
        plugin: The probe.
        category: Category of its events in the trace.
        chosen: The functions whose events are kept.
        processes: The map of recorded processes in the BPF file system.
        counted_every_s: Its events are counted in intervals of this length, in seconds; None: each
            is a line of the trace.
        timeout_s: Longest time for compiling and attaching.

    Raises:
        AttachError: It does not compile, or nothing could be attached.
    """

    def __init__(
        self,
        plugin: Plugin,
        category: str,
        chosen: frozenset[str],
        processes: Path,
        *,
        counted_every_s: float | None = None,
        timeout_s: float,
    ) -> None:
        self._plugin = plugin
        self._kept = Events(plugin, category, chosen)
        self._counted_every_s = counted_every_s
        self._reader: threading.Thread | None = None
        self._events: TracedEvents | CountedEvents | None = None
        self.lost = 0
        ours, theirs = socket.socketpair()
        self._socket = ours
        try:
            self._process = process.start(
                [PYTHON, "-I", PROGRAM, str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )
        except DatacrumbsError as error:
            ours.close()
            raise AttachError(f"custom probe {plugin.name}: {error}") from error
        finally:
            theirs.close()
        try:
            self._begin(processes, time.monotonic() + timeout_s)
        except BaseException:
            self.close()
            raise

    def _begin(self, processes: Path, deadline: float) -> None:
        plugin = self._plugin
        request = {
            "source": PRELUDE.replace("@PROCESSES@", str(processes)) + plugin.source,
            "output": plugin.output,
            "attach": [
                {"kind": item.kind, "target": item.target, "program": item.program}
                for item in plugin.attachments
            ],
        }
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        left_s = max(0.0, deadline - time.monotonic())
        if not select.select([self._socket], [], [], left_s)[0]:
            raise AttachError(f"custom probe {plugin.name}: not ready within {left_s:.0f} s")
        kind, payload = self._receive()
        text = payload.decode(errors="replace")
        if kind != READY:
            reason = text if kind == FAILED else "the compiler ended"
            if not _HEADERS.exists() and not os.environ.get("BCC_KERNEL_SOURCE"):
                reason += f"; bcc needs the kernel's headers, and {_HEADERS} is missing"
            raise AttachError(f"custom probe {plugin.name}: {reason}")
        for failure in json.loads(text):
            logger.warning("custom probe %s: %s", plugin.name, failure)

    def _receive(self) -> tuple[bytes, bytes]:
        """Return the next frame; an empty kind: there will be no more."""
        head = self._receive_whole(FRAME.size)
        if not head:
            return b"", b""
        kind, length = FRAME.unpack(head)
        if length > _MAX_FRAME_BYTES:
            return b"", b""
        return kind, self._receive_whole(length)

    def _receive_whole(self, length: int) -> bytes:
        parts = b""
        while len(parts) < length:
            part = self._socket.recv(length - len(parts))
            if not part:
                return b""
            parts += part
        return parts

    def start(self, append: Callable[[bytes], None], host_hash: str, clock_offset_ns: int) -> None:
        """Write events into the trace from now on.

        Args:
            append: Takes lines.
            host_hash: Hash of the node's name.
            clock_offset_ns: From CLOCK_MONOTONIC to the epoch.
        """
        events: TracedEvents | CountedEvents
        if self._counted_every_s is None:
            events = TracedEvents(self._kept, host_hash, clock_offset_ns)
        else:
            events = CountedEvents(self._kept, host_hash, clock_offset_ns, self._counted_every_s)
        self._events = events

        def say(lines: bytes) -> None:
            if lines:
                append(lines)

        def read() -> None:
            due_s = time.monotonic() + (events.interval_s or 0.0)
            while True:
                if events.interval_s is not None:
                    left_s = due_s - time.monotonic()
                    if left_s <= 0 or not select.select([self._socket], [], [], left_s)[0]:
                        say(events.take_lines())
                        due_s = time.monotonic() + events.interval_s
                        continue
                kind, payload = self._receive()
                if kind == EVENT and self._kept.is_whole(payload):
                    say(events.add(payload))
                elif kind == EVENT:
                    self.lost += 1
                elif kind == LOST:
                    self.lost += struct.unpack("=Q", payload)[0]
                else:
                    say(events.take_lines())
                    return

        self._reader = threading.Thread(target=read, name="datacrumbs-custom", daemon=True)
        self._reader.start()

    @property
    def is_counted(self) -> bool:
        """Whether its events are counted, not written."""
        return self._counted_every_s is not None

    def functions(self) -> list[FunctionSummary]:
        """Return the sums of the events so far."""
        if self._events is None:
            return []
        names = self._plugin.functions
        return [
            FunctionSummary(self._kept.category, names[each.index], names[each.index], each)
            for each in self._events.function_statistics()
        ]

    def stop(self) -> None:
        """Take what is left and detach."""
        self._socket.shutdown(socket.SHUT_WR)
        if self._reader is not None:
            self._reader.join(END_LIMIT_S)
        self.close()
        count = sum(function.statistics.calls for function in self.functions())
        logger.info("custom probe %s: %d events", self._plugin.name, count)
        if self.lost:
            logger.warning("custom probe %s: %d events lost", self._plugin.name, self.lost)

    def close(self) -> None:
        """End the process; the kernel detaches what it attached."""
        self._socket.close()
        try:
            self._process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
