"""Rings in memory, laid out as the kernel does, and the records of the BPF programs."""

import mmap
import os
import struct
from collections.abc import Sequence
from types import TracebackType

PAGE = mmap.PAGESIZE
BUSY = 1 << 31
DISCARD = 1 << 30

# struct dc_call and struct dc_string of event.h, without their flexible arrays.
CALL = struct.Struct("=QQqIIIBBH")
STRING = struct.Struct("=QQQQIIIHHII")

NO_RETURN = 1
TEXT, FILE, PATH, PIPE, SOCKET, ANONYMOUS, PROCESS_NAME, THREAD_NAME, PROCESS_EXIT = range(1, 10)
CUT, DIRECTORY = 1, 2


class MemoryRing:
    """A ring buffer map in a memory file: position pages, data, records with headers."""

    def __init__(self, size_bytes: int = 1 << 16) -> None:
        self.size_bytes = size_bytes
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * PAGE + size_bytes)
        self._memory = mmap.mmap(self.fd, 2 * PAGE + size_bytes)

    @property
    def pair(self) -> tuple[int, int]:
        return self.fd, self.size_bytes

    @property
    def consumer(self) -> int:
        return int(struct.unpack_from("=Q", self._memory, 0)[0])

    @property
    def producer(self) -> int:
        return int(struct.unpack_from("=Q", self._memory, PAGE)[0])

    def set_positions(self, position: int) -> None:
        struct.pack_into("=Q", self._memory, 0, position)
        struct.pack_into("=Q", self._memory, PAGE, position)

    def _write(self, position: int, data: bytes) -> None:
        for i in range(0, len(data), 4096):
            part = data[i : i + 4096]
            offset = (position + i) % self.size_bytes
            first = part[: self.size_bytes - offset]
            self._memory[2 * PAGE + offset : 2 * PAGE + offset + len(first)] = first
            rest = part[len(first) :]
            self._memory[2 * PAGE : 2 * PAGE + len(rest)] = rest

    def put(self, record: bytes, bits: int = 0) -> int:
        """Reserve room, write the record, and return where its header is."""
        position = self.producer
        stride = (len(record) + 8 + 7) // 8 * 8
        if position + stride - self.consumer > self.size_bytes:
            raise BufferError("the ring is full")
        self._write(position, struct.pack("=II", len(record) | bits, 0) + record)
        struct.pack_into("=Q", self._memory, PAGE, position + stride)
        return position

    def set_header(self, position: int, word: int) -> None:
        self._write(position, struct.pack("=I", word))

    def close(self) -> None:
        self._memory.close()
        os.close(self.fd)

    def __enter__(self) -> "MemoryRing":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def call(
    function: int = 0,
    *,
    start_ns: int = 1_000_000,
    duration_ns: int = 1500,
    ret: int = 0,
    process: int = 100,
    thread: int = 101,
    values: Sequence[int | None] = (),
    flags: int = 0,
) -> bytes:
    """A call record; a value that is None is not present."""
    count = 0 if not values else 4 if len(values) <= 4 else 8
    present = sum(1 << i for i, value in enumerate(values) if value is not None)
    numbers = [(value or 0) & (1 << 64) - 1 for value in values]
    numbers += [0] * (count - len(numbers))
    head = CALL.pack(start_ns, duration_ns, ret, process, thread, function, count, present, flags)
    return head + struct.pack(f"={count}Q", *numbers)


def string(
    kind: int,
    text: bytes = b"",
    *,
    number: int = 0,
    directory: int = 0,
    identifier: int = 0,
    time_ns: int = 0,
    process: int = 100,
    thread: int = 101,
    uid: int = 1000,
    flags: int = 0,
) -> bytes:
    """A string record."""
    head = STRING.pack(
        identifier, directory, number, time_ns, process, thread, uid, kind, flags, len(text), 0
    )
    return head + text


def components(path: bytes) -> bytes:
    """A path as DC_STRING_FILE tells it: components from the last to the first, each with a NUL."""
    return b"".join(part + b"\0" for part in reversed(path.split(b"/")) if part)
