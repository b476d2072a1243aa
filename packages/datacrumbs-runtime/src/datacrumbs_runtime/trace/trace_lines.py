"""Lines of a trace that are made in Python: metadata and counters."""

import json
import os
from collections.abc import Mapping

from datacrumbs_runtime.trace.path_text import text_from_bytes

Scalar = str | int | float | bool | None


def metadata_line(
    name: str, arguments: Mapping[str, Scalar], *, host_hash: str, process: int | None = None
) -> bytes:
    """Return a metadata line of this program, ready for a trace.

    Args:
        name: What the line is about, such as ``datacrumbs``.
        arguments: Its ``args``; text may hold surrogate escapes, as file names from the system do.
        host_hash: Hash of the node's name, see ``Pump.host_hash``.
        process: The process that the line is about; None: the recorder.
    """
    process = os.getpid() if process is None else process
    printable = {
        key: _printable(value) if isinstance(value, str) else value
        for key, value in arguments.items()
    }
    line = {
        "name": name,
        "cat": "dftracer",
        "ph": "M",
        "pid": process,
        "tid": process,
        "args": {"hhash": host_hash, **printable},
    }
    return json_line(line)


def json_line(line: Mapping[str, object]) -> bytes:
    """Return an object as one line of UTF-8 JSON without spaces."""
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _printable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text_from_bytes(text.encode("utf-8", errors="surrogateescape"))
    return text
