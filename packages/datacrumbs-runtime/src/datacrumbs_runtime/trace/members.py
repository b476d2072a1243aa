"""What is in the gzip members of a trace: calls, and metadata that is kept longer than them."""

import errno
import os
import zlib

from datacrumbs_runtime.trace.trace_lines import json_line

# Readers do not care about metadata's place but need it: what hashes stand for.
_METADATA = b'"ph":"M"'
_CALL = b'"ph":"X"'
_GZIP = zlib.MAX_WBITS | 16
FIRST_LINE = b"[\n"
# What the kernel says when there is no room left.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def calls_in(text: bytes) -> int:
    """Return how many lines of calls there are."""
    return text.count(_CALL)


def metadata_of(text: bytes) -> bytes:
    """Return the lines that are no calls and no counters."""
    lines = [FIRST_LINE] if text.startswith(FIRST_LINE) else []
    end = 0
    # Line by line would take seconds where much waits.
    while (found := text.find(_METADATA, end)) >= 0:
        begin = text.rfind(b"\n", 0, found) + 1
        end = text.index(b"\n", found) + 1
        lines.append(text[begin:end])
    return b"".join(lines)


def unwritten_line(calls: int) -> bytes:
    """Return the line that says how many calls are missing at the end of a trace."""
    process = os.getpid()
    return json_line(
        {
            "name": "datacrumbs_unwritten",
            "cat": "dftracer",
            "ph": "M",
            "pid": process,
            "tid": process,
            "args": {"unwritten": calls},
        }
    )


def compress(text: bytes) -> bytes:
    """Return a gzip member, with the standard library alone."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
    return compressor.compress(text) + compressor.flush()


def decompress(member: bytes) -> bytes:
    """Return the text of one gzip member, with the standard library alone."""
    return zlib.decompress(member, wbits=_GZIP)
