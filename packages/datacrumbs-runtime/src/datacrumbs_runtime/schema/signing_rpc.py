"""What crosses the signer's socket: one frame each way.

A frame is a header of 12 bytes and a payload::

    offset  bytes  what
    0       6      b"DCSIGN"
    6       1      version of the framing, 1
    7       1      kind, see FrameKind
    8       4      length of the payload in bytes, big endian
    12      ...    payload

``datacrumbs_probe_configurator_exec`` (signer_socket.h) is the other end.
"""

import struct
from enum import IntEnum

from datacrumbs_runtime.errors import SigningError

MAGIC = b"DCSIGN"
VERSION = 1
MAX_PAYLOAD_BYTES = 64 << 20
_HEADER = struct.Struct(">6sBBI")
HEADER_BYTES = _HEADER.size


class FrameKind(IntEnum):
    """What the payload of a frame is.

    The payload of a request and of SIGNED is a probe file document, JSON, gzipped or not. That of
    the others is UTF-8 text: what is wrong and, after a newline, what the user can do about it.
    """

    REQUEST = 1
    SIGNED = 2
    REFUSED = 3
    """By the rules: asking again changes nothing."""
    FAILED = 4
    """The signer could not do it now."""


def frame(kind: FrameKind, payload: bytes) -> bytes:
    """Return a whole frame."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise SigningError(f"larger than {MAX_PAYLOAD_BYTES >> 20} MiB")
    return _HEADER.pack(MAGIC, VERSION, kind, len(payload)) + payload


def failure_frame(kind: FrameKind, message: str, hint: str | None = None) -> bytes:
    """Return a frame that tells why nothing was signed."""
    lines = [" ".join(text.split()) for text in (message, hint or "") if text]
    return frame(kind, "\n".join(lines).encode(errors="replace"))


def read_header(header: bytes) -> tuple[FrameKind, int]:
    """Return the kind of a frame and the length of its payload in bytes.

    Raises:
        SigningError: It is not the header of a frame of this version.
    """
    magic, version, kind, length = _HEADER.unpack(header)
    if magic != MAGIC:
        raise SigningError("this is not a signing request")
    if version != VERSION:
        raise SigningError(
            f"version {version} of the signing protocol is unknown here",
            hint="install the same version of DataCrumbs on both sides",
        )
    if length > MAX_PAYLOAD_BYTES:
        raise SigningError(f"the payload is larger than {MAX_PAYLOAD_BYTES >> 20} MiB")
    try:
        return FrameKind(kind), length
    except ValueError:
        raise SigningError(f"frames of kind {kind} are unknown here") from None
