"""Reads a trace that somebody still writes."""

import json
import zlib
from pathlib import Path
from typing import Any


def text_so_far(path: Path) -> bytes:
    """Return the members that are whole; what is being written just now is none."""
    data, texts = path.read_bytes(), []
    while data:
        member = zlib.decompressobj(wbits=31)
        text = member.decompress(data)
        if not member.eof:
            break
        texts.append(text)
        data = member.unused_data
    return b"".join(texts)


def lines_so_far(path: Path) -> list[dict[str, Any]]:
    """Return the lines of the members that are whole."""
    return [json.loads(line) for line in text_so_far(path).splitlines()[1:] if line != b"]"]
