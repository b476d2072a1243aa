"""The program that writes a trace file on behalf of a recorder that may be killed at any moment.

The kernel ends a write in the middle when the writing process is killed, and a file whose last gzip
member is cut is refused by some readers. So another process writes, which nobody kills: what was
handed to it completely is written completely, and it ends when the recorder is gone.

It is run as ``python -I -S scribe_program.py SOCKET`` by `datacrumbs_runtime.trace.scribe` and
imports the standard library only.
"""

import errno
import os
import signal
import socket
import struct
import sys

# Kind, offset in the file, length of what follows.
REQUEST = struct.Struct("=cQQ")
# Error number or 0.
ANSWER = struct.Struct("=i")
USE_FILE = b"F"
WRITE = b"W"


def receive(connection: socket.socket, length: int) -> bytearray | None:
    """Return so many bytes, or None if the recorder is gone."""
    data = bytearray(length)
    view = memoryview(data)
    while view:
        count = connection.recv_into(view)
        if count == 0:
            return None
        view = view[count:]
    return data


def receive_request(connection: socket.socket) -> tuple[bytes, int, int, list[int]] | None:
    """Return kind, offset, length and descriptors, or None if the recorder is gone."""
    head, descriptors, _, _ = socket.recv_fds(connection, REQUEST.size, 1)
    rest = receive(connection, REQUEST.size - len(head)) if head else None
    if rest is None:
        return None
    kind, offset, length = REQUEST.unpack(head + rest)
    return kind, offset, length, descriptors


def write_whole(fd: int, data: bytes | bytearray, offset: int) -> int:
    """Write data or nothing of it; return an error number or 0."""
    try:
        if os.pwrite(fd, data, offset) == len(data):
            return 0
        os.ftruncate(fd, offset)
    except OSError as error:
        return error.errno or errno.EIO
    return errno.ENOSPC


def main() -> None:
    """Write what the recorder hands over until it is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    fd = -1
    while (request := receive_request(connection)) is not None:
        kind, offset, length, descriptors = request
        if kind == USE_FILE:
            if fd >= 0:
                os.close(fd)
            (fd,) = descriptors
            continue
        data = receive(connection, length)
        if data is None:
            return
        connection.sendall(ANSWER.pack(write_whole(fd, data, offset)))


if __name__ == "__main__":
    main()
