"""What a recorder and the process that writes its trace say to each other.

A request is a file in memory: JSON, and pieces of data behind it. Only its descriptor goes through
the socket, so that handing it over never waits, and what was handed over outlives the recorder.
The frequent request, to write a piece, has one such file for all pieces, one after the other.
"""

import json
import os
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from datacrumbs_runtime.trace.trace_file import FileId, Place

CREATE, REOPEN, WRITE, FINISH, LAST_WORDS, DISCARD = (
    "create",
    "reopen",
    "write",
    "finish",
    "last words",
    "discard",
)
# What goes through the socket: a kind and a length. A file in memory comes with the first two.
PACKET = struct.Struct("=cQ")
REQUEST, MEMORY, PIECE = b"R", b"M", b"P"
MAX_ANSWER_BYTES = 16 << 10
_LENGTH = struct.Struct("=Q")
_MAX_MESSAGE = 2000


@dataclass(frozen=True, slots=True)
class Request:
    """What the writing process shall do.

    Attributes:
        do: ``create`` or ``reopen`` a file; ``write`` a piece; ``finish``: write all pieces and
            close; ``last words``: say what is missing and close; ``discard`` the file.
        place: Where the file goes.
        file: Which one (reopen).
        size_bytes: How much of it is whole (reopen).
        failed_too: Whether a piece that could not be written comes first (finish).
        unwritten: Calls that are missing (last words).
    """

    do: str
    place: Place
    file: FileId | None = None
    size_bytes: int = 0
    failed_too: bool = False
    unwritten: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it.

    Attributes:
        error_number: Of the system; 0: done; -1: see the message.
        message: What went wrong, besides.
        file: The file, if it is another one now.
        size_bytes: Its size.
        pieces: How many pieces were written.
        sacrificed: Members that were taken back for the last words.
        unwritten: Calls that are missing (last words).
        lost_bytes: Text of members that were taken back.
        kept_bytes: Text of the last words.
    """

    error_number: int = 0
    message: str = ""
    file: FileId | None = None
    size_bytes: int = 0
    pieces: int = 0
    sacrificed: int = 0
    unwritten: int = 0
    lost_bytes: int = 0
    kept_bytes: int = 0

    def to_bytes(self) -> bytes:
        """Return it for the socket."""
        values = asdict(self)
        values["message"] = self.message[:_MAX_MESSAGE]
        return json.dumps(values).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Answer":
        """Return what `to_bytes` was called for."""
        values: dict[str, Any] = json.loads(data)
        file = values.pop("file")
        return cls(file=None if file is None else FileId(**file), **values)


def request_in_memory(request: Request, pieces: Sequence[bytes]) -> int:
    """Return the descriptor of a new file in memory, which belongs to the caller.

    Raises:
        OSError: There is no room for it.
    """
    head = json.dumps({**asdict(request), "lengths": [len(piece) for piece in pieces]}).encode()
    fd = os.memfd_create("datacrumbs-trace", os.MFD_CLOEXEC)
    try:
        for part in (_LENGTH.pack(len(head)), head, *pieces):
            view = memoryview(part)
            while view:
                view = view[os.write(fd, view) :]
    except BaseException:
        os.close(fd)
        raise
    return fd


def request_from_memory(fd: int) -> tuple[Request, list[bytes]]:
    """Return what `request_in_memory` was given, and close the descriptor."""
    try:
        (length,) = _LENGTH.unpack(os.pread(fd, _LENGTH.size, 0))
        values: dict[str, Any] = json.loads(os.pread(fd, length, _LENGTH.size))
        offset = _LENGTH.size + length
        pieces = []
        for piece_length in values.pop("lengths"):
            pieces.append(os.pread(fd, piece_length, offset))
            offset += piece_length
    finally:
        os.close(fd)
    place, file = values.pop("place"), values.pop("file")
    return Request(
        place=Place.from_dict(place),
        file=None if file is None else FileId(**file),
        **values,
    ), pieces
