"""The program that compiles and runs a custom probe with bcc, for the system's own Python.

It is run as ``/usr/bin/python3 -I host_program.py SOCKET`` by `datacrumbs_runtime.custom.host` and
imports the standard library and bcc only. Over the socket it gets one JSON line: what to compile
and to attach. It answers with frames: kind, length of what follows.
"""

import ctypes
import json
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

FRAME = struct.Struct("=cI")
READY, FAILED, EVENT, LOST = b"R", b"F", b"E", b"L"
POLL_MS = 100
PERF_PAGES = 64
MAX_SAID_BYTES = 65536
# How each kind of attachment is told to bcc.
ATTACHMENTS: dict[str, Callable[[Any, str, bytes], None]] = {
    "kprobe": lambda bpf, target, name: bpf.attach_kprobe(event=target, fn_name=name),
    "kretprobe": lambda bpf, target, name: bpf.attach_kretprobe(event=target, fn_name=name),
    "tracepoint": lambda bpf, target, name: bpf.attach_tracepoint(tp=target, fn_name=name),
    "raw_tracepoint": lambda bpf, target, name: bpf.attach_raw_tracepoint(tp=target, fn_name=name),
    "uprobe": lambda bpf, target, name: bpf.attach_uprobe(
        name=target.partition(":")[0], sym=target.partition(":")[2], fn_name=name
    ),
    "uretprobe": lambda bpf, target, name: bpf.attach_uretprobe(
        name=target.partition(":")[0], sym=target.partition(":")[2], fn_name=name
    ),
}


def send(connection: socket.socket, kind: bytes, payload: bytes = b"") -> None:
    """Send one frame."""
    connection.sendall(FRAME.pack(kind, len(payload)) + payload)


def receive_line(connection: socket.socket) -> Any:
    """Return the JSON line that says what to do."""
    text = b""
    while not text.endswith(b"\n"):
        part = connection.recv(65536)
        if not part:
            raise EOFError
        text += part
    return json.loads(text)


def attach_all(bpf: Any, attachments: list[dict[str, str]]) -> list[str]:
    """Attach the probe's programs; return what could not be attached, in words."""
    failures = []
    for attachment in attachments:
        kind, target = attachment["kind"], attachment["target"]
        try:
            ATTACHMENTS[kind](bpf, target, attachment["program"].encode())
        except Exception as error:  # noqa: BLE001  bcc raises nothing more precise
            failures.append(f"{kind} {target}: {error}")
    return failures


def reasons(said: str) -> list[str]:
    """Return the lines that say why, of what the compiler and bcc said."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line or "Unable" in line]
    # Without headers bcc does not even begin: it cannot enter a directory, and says just that.
    return errors[:3] or lines[-2:]


def main() -> None:
    """Compile, attach, and hand events over until the other side is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    # The compiler writes what is wrong to standard error.
    said = os.memfd_create("datacrumbs-custom")
    os.dup2(said, 2)
    request = receive_line(connection)
    try:
        from bcc import BPF  # type: ignore[import-not-found,unused-ignore]

        bpf = BPF(text=request["source"])
        output = bpf[request["output"]]
    except Exception as error:  # noqa: BLE001  bcc raises nothing more precise
        text = os.pread(said, MAX_SAID_BYTES, 0).decode(errors="replace")
        send(connection, FAILED, "; ".join([str(error), *reasons(text)]).encode())
        return

    def on_event(cpu: int, data: int, size: int) -> None:
        del cpu
        send(connection, EVENT, ctypes.string_at(data, size))

    def on_lost(count: int) -> None:
        send(connection, LOST, struct.pack("=Q", count))

    output.open_perf_buffer(on_event, page_cnt=PERF_PAGES, lost_cb=on_lost)
    failures = attach_all(bpf, request["attach"])
    if len(failures) == len(request["attach"]):
        send(connection, FAILED, failures[0].encode())
        return
    send(connection, READY, json.dumps(failures).encode())
    while not select.select([connection], [], [], 0)[0]:
        bpf.perf_buffer_poll(timeout=POLL_MS)
    # The other side writes nothing more: it wants what is left, and the end.
    bpf.perf_buffer_poll(timeout=0)


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, ConnectionResetError, EOFError):
        sys.exit(1)
