"""A file system in memory that fails on demand: it stops answering, or refuses writes.

It speaks the kernel's FUSE protocol itself, in a process of its own. What it does is said by a file
of orders: empty: it works; ``hang``: it takes requests and answers none, which not even SIGKILL
ends for whoever waits; a number: writes and new files fail with that error.
"""

import ctypes
import errno
import os
import select
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

IN = struct.Struct("=IIQQIIIHH")
OUT = struct.Struct("=IiQ")
ATTRIBUTES = struct.Struct("=QQQQQQIIIIIIIIII")
TIMES = struct.Struct("=QQQQII")
LOOKUP, FORGET, GETATTR, SETATTR, MKDIR, UNLINK, RMDIR = 1, 2, 3, 4, 9, 10, 11
OPEN, READ, WRITE, STATFS, RELEASE, FSYNC, FLUSH, INIT = 14, 15, 16, 17, 18, 20, 25, 26
OPENDIR, READDIR, RELEASEDIR, CREATE, INTERRUPT, DESTROY, BATCH_FORGET = 27, 28, 29, 35, 36, 38, 42
CHANGING = frozenset({MKDIR, UNLINK, RMDIR, WRITE, CREATE})
BUFFER_BYTES = 1 << 20
MAX_WRITE_BYTES = 128 << 10
ORDER_INTERVAL_S = 0.01
ORDER_LIMIT_S = 60.0
HANG = "hang"
# Beside the file of orders: the one that holds now.
FOLLOWED = ".followed"


@dataclass
class Node:
    """A file or a directory."""

    number: int
    mode: int
    uid: int
    gid: int
    data: bytearray = field(default_factory=bytearray)
    children: dict[str, "Node"] = field(default_factory=dict)
    links: int = 1

    def attributes(self) -> bytes:
        size, now = len(self.data), 1_700_000_000
        blocks = (size + 511) // 512
        head = (self.number, size, blocks, now, now, now, 0, 0, 0)
        return ATTRIBUTES.pack(*head, self.mode, self.links, self.uid, self.gid, 0, 4096, 0)

    def entry(self) -> bytes:
        # Nothing is remembered by the kernel: every look is a request.
        return TIMES.pack(self.number, 0, 0, 0, 0, 0) + self.attributes()


class FileSystem:
    """Answers the kernel's requests."""

    def __init__(self) -> None:
        self.nodes = {1: Node(1, stat.S_IFDIR | 0o755, 0, 0)}

    def answer(self, opcode: int, node: Node, uid: int, gid: int, body: bytes) -> bytes | int:
        """Return what the kernel asked for, or an error number."""
        if opcode == INIT:
            minor = min(struct.unpack_from("=II", body)[1], 38)
            flags = (7, minor, 1 << 17, 0, 12, 9, MAX_WRITE_BYTES, 1, 0, 0, 0)
            return struct.pack("=IIIIHHIIHHI28x", *flags)
        if opcode == LOOKUP:
            child = node.children.get(_name(body))
            return errno.ENOENT if child is None else child.entry()
        if opcode == GETATTR:
            return struct.pack("=QII", 0, 0, 0) + node.attributes()
        if opcode == SETATTR:
            return self._set(node, body)
        if opcode in (OPEN, OPENDIR):
            return struct.pack("=QIi", 0, 0, 0)
        if opcode == READ:
            offset, size = struct.unpack_from("=8xQI", body)
            return bytes(node.data[offset : offset + size])
        if opcode == READDIR:
            return self._list(node, struct.unpack_from("=8xQ", body)[0])
        if opcode == WRITE:
            offset, size = struct.unpack_from("=8xQI", body)
            node.data[len(node.data) :] = bytes(max(0, offset - len(node.data)))
            node.data[offset : offset + size] = body[40 : 40 + size]
            return struct.pack("=II", size, 0)
        if opcode in (MKDIR, CREATE):
            return self._make(opcode, node, uid, gid, body)
        if opcode in (UNLINK, RMDIR):
            child = node.children.pop(_name(body), None)
            if child is None:
                return errno.ENOENT
            child.links = 0
            return b""
        if opcode == STATFS:
            return struct.pack("=QQQQQIIII24x", 1000, 500, 500, 1000, 500, 4096, 255, 4096, 0)
        return b"" if opcode in (RELEASE, RELEASEDIR, FSYNC, FLUSH) else errno.ENOSYS

    def _make(self, opcode: int, above: Node, uid: int, gid: int, body: bytes) -> bytes:
        if opcode == CREATE:
            (mode,) = struct.unpack_from("=4xI", body)
            child = Node(len(self.nodes) + 1, stat.S_IFREG | stat.S_IMODE(mode), uid, gid)
            name, opened = _name(body[16:]), struct.pack("=QIi", 0, 0, 0)
        else:
            (mode,) = struct.unpack_from("=I", body)
            child = Node(len(self.nodes) + 1, stat.S_IFDIR | stat.S_IMODE(mode), uid, gid)
            name, opened = _name(body[8:]), b""
        self.nodes[child.number] = above.children[name] = child
        return child.entry() + opened

    def _set(self, node: Node, body: bytes) -> bytes:
        valid, size = struct.unpack_from("=I12xQ", body)
        mode, uid, gid = struct.unpack_from("=I4xII", body, 68)
        if valid & 1:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
        node.uid = uid if valid & 2 else node.uid
        node.gid = gid if valid & 4 else node.gid
        if valid & 8:
            node.data[size:] = bytes(max(0, size - len(node.data)))
        return struct.pack("=QII", 0, 0, 0) + node.attributes()

    def _list(self, node: Node, offset: int) -> bytes:
        listed = b""
        for position, (name, child) in enumerate(node.children.items()):
            if position >= offset:
                text = name.encode()
                kind = stat.S_IFMT(child.mode) >> 12
                entry = struct.pack("=QQII", child.number, position + 1, len(text), kind) + text
                listed += entry + bytes(-len(entry) % 8)
        return listed


def _name(body: bytes) -> str:
    return os.fsdecode(body.partition(b"\0")[0])


def serve(device: int, orders: Path) -> None:
    """Answer until the file system is unmounted."""
    files, waiting = FileSystem(), list[bytes]()
    poll = select.poll()
    poll.register(device, select.POLLIN)
    followed = None
    while True:
        order = orders.read_text()
        if order != HANG:
            for request in waiting:
                respond(device, files, request, order)
            waiting.clear()
        if order != followed:
            orders.with_suffix(FOLLOWED).write_text(order)
            followed = order
        if poll.poll(ORDER_INTERVAL_S * 1000):
            try:
                waiting.append(os.read(device, BUFFER_BYTES))
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno not in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    raise


def respond(device: int, files: FileSystem, request: bytes, order: str) -> None:
    """Answer one request."""
    length, opcode, unique, number, uid, gid, _, _, _ = IN.unpack_from(request)
    if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
        return
    if order.isdecimal() and opcode in CHANGING:
        answer: bytes | int = int(order)
    else:
        body = request[IN.size : length]
        node = files.nodes.get(number, files.nodes[1])
        answer = files.answer(opcode, node, uid, gid, body)
    error, data = (-answer, b"") if isinstance(answer, int) else (0, answer)
    try:
        os.write(device, OUT.pack(OUT.size + len(data), error, unique) + data)
    except OSError as failure:
        # Whoever asked is gone.
        if failure.errno != errno.ENOENT:
            raise


def main() -> None:
    """Mount, say so, and answer: TARGET ORDERS UID."""
    target, orders, uid = sys.argv[1:]
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id={uid},group_id=0"
    options += ",allow_other,default_permissions"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"faulty", os.fsencode(target), b"fuse", 6, options.encode()) != 0:
        number = ctypes.get_errno()
        sys.exit(os.strerror(number))
    Path(orders).with_suffix(FOLLOWED).write_text("")
    sys.stdout.write("mounted\n")
    sys.stdout.flush()
    serve(device, Path(orders))


class Mounted:
    """The file system while it is mounted."""

    def __init__(self, path: Path, orders: Path) -> None:
        self.path = path
        self._orders = orders

    def order(self, text: str) -> None:
        """Say what it does from now on; see the module."""
        temporary = self._orders.with_suffix(".new")
        temporary.write_text(text)
        temporary.replace(self._orders)
        end_s = time.monotonic() + ORDER_LIMIT_S
        while self._orders.with_suffix(FOLLOWED).read_text() != text:
            assert time.monotonic() < end_s, f"the file system does not follow {text!r}"
            time.sleep(ORDER_INTERVAL_S)


@contextmanager
def mounted(path: Path, uid: int = 0) -> Iterator[Mounted]:
    """Have it mounted for a user in a block; whoever still waits afterwards gets an error."""
    orders = path.with_name(f"{path.name}.orders")
    orders.write_text("")
    server = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, path, orders, str(uid)], stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    try:
        assert server.stdout.readline() == b"mounted\n"
        yield Mounted(path, orders)
    finally:
        # Its end is that of all requests.
        server.send_signal(signal.SIGKILL)
        server.wait()
        server.stdout.close()
        subprocess.run(["umount", "-l", path], check=True)


if __name__ == "__main__":
    main()
