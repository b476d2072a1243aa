"""Fields of JSON objects that came from outside: typed, bounded, named when they are wrong.

Every function takes ``where``, the place that an error names in front of the key.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from datacrumbs_runtime.errors import ProbeFileError

MAX_TEXT_CHARS = 4096
MAX_OFFSET = (1 << 63) - 1


def fail(where: str, key: str, what: str, hint: str | None = None) -> NoReturn:
    """Raise the error about one key, which may come from the file."""
    raise ProbeFileError(f"{where}: {shown(key)}: {what}", hint=hint)


def check_keys(entry: object, known: Collection[str], where: str) -> None:
    """Raise unless ``entry`` is an object with known keys only; name the nearest known one."""
    if not isinstance(entry, Mapping):
        raise ProbeFileError(f"{where}: is not an object")
    for key in entry:
        if key not in known:
            import difflib

            nearest = difflib.get_close_matches(str(key)[:64], known, 1)
            hint = f"did you mean {nearest[0]}?" if nearest else None
            fail(where, str(key), "is not a key of probe files", hint)


def shown(name: str) -> str:
    """Return a name that is safe and short enough to be part of a message."""
    return name if len(name) <= 80 and name.isprintable() else ascii(name[:80])


def optional_text(
    entry: Mapping[str, Any], key: str, where: str, pattern: re.Pattern[str] | None = None
) -> str | None:
    """Return a string, or None if it is missing or null."""
    value = entry.get(key)
    if value is None:
        return None
    check_text(value, where, key)
    if pattern is not None and not pattern.fullmatch(value):
        fail(where, key, "has a form that it cannot have")
    return str(value)


def check_text(value: object, where: str, key: str, max_chars: int = MAX_TEXT_CHARS) -> None:
    """Raise unless ``value`` is a printable string of bounded length."""
    if type(value) is not str:
        fail(where, key, "is not a string")
    if len(value) > max_chars:
        fail(where, key, f"is longer than {max_chars} characters")
    if not value.isprintable():
        fail(where, key, "has characters that cannot be printed")


def number(value: object, where: str, key: str, largest: int = MAX_OFFSET) -> int:
    """Return ``value`` if it is an integer from 0 to ``largest``."""
    # Not isinstance: True is an int, and would sign differently from 1.
    if type(value) is not int:
        fail(where, key, "is not an integer")
    if not 0 <= value <= largest:
        fail(where, key, f"is not between 0 and {largest}")
    return value


def optional_number(entry: Mapping[str, Any], key: str, where: str) -> int | None:
    """Return an integer, or None if it is missing or null."""
    return None if entry.get(key) is None else number(entry[key], where, key)


def flag(entry: Mapping[str, Any], key: str, where: str) -> bool:
    """Return a boolean, False if it is missing."""
    value = entry.get(key, False)
    if type(value) is not bool:
        fail(where, key, "is neither true nor false")
    return value
