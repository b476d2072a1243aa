r"""How file names, which may be any bytes, are written into JSON.

A name that is valid UTF-8 is written as it is. A byte that is not part of valid UTF-8 becomes the
four characters ``\xNN`` with two lower-case digits. So that this can be turned back, a backslash
that stands before ``x`` and two lower-case digits in the name itself becomes ``\x5c``.
The native pump does the same (native/text.c).
"""

import re

_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")
_AMBIGUOUS = re.compile(rb"\\(?=x[0-9a-f]{2})")


def text_from_bytes(name: bytes) -> str:
    """Return a name as the trace shows it."""
    return _AMBIGUOUS.sub(rb"\\x5c", name).decode("utf-8", errors="backslashreplace")


def bytes_from_text(text: str) -> bytes:
    """Return the name that a trace shows as ``text``."""
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), text.encode())
