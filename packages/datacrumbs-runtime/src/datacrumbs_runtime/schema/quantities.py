"""Numbers as people write and read them: sizes, durations, counts."""

import re

from datacrumbs_runtime.errors import UsageError

_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[kmgt]?)(?:i?b)?", re.IGNORECASE)
_TIME = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>ns|us|µs|ms|s|min|m|h)?", re.IGNORECASE)
_SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_TIME_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "min": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_THOUSAND = 1000
_SHOWN_WHOLE = 99_999


def size_bytes(text: str, option: str) -> int:
    """Understand a size such as 4096, 256K, 16MiB.

    Raises:
        UsageError: It is none; the message names ``option``.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{option}: {text!r} is not a size", hint="write it as 4096, 256K or 16M")
    return int(float(match["number"]) * _SIZE_UNITS[match["unit"].lower()])


def time_ns(text: str, option: str, default_unit: str) -> int:
    """Understand a time such as 500, 2.5s, 10us.

    Args:
        text: The number and its unit.
        option: What the message names.
        default_unit: The unit where none is given.

    Raises:
        UsageError: It is none.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{option}: {text!r} is not a time", hint="write it as 500ns, 10us, 2.5s")
    return int(float(match["number"]) * _TIME_UNITS[(match["unit"] or default_unit).lower()])


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def shown_time(duration_ns: float) -> str:
    """Return a duration in at most six characters: 412ns, 9.13us, 12.3ms, 1.50s, 204s."""
    if duration_ns < _THOUSAND:
        return f"{duration_ns:.0f}ns"
    for unit in ("us", "ms"):
        duration_ns /= _THOUSAND
        if duration_ns < 999.5:
            return _three_digits(duration_ns) + unit
    seconds = duration_ns / _THOUSAND
    if seconds < 9_999.5:
        return _three_digits(seconds) + "s"
    return f"{seconds / 3600:.1f}h"


def shown_bytes(size: int) -> str:
    """Return a size in at most seven characters: 512B, 4.00KiB, 1.23GiB."""
    if size < 1024:
        return f"{size}B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 999.5:
            return _three_digits(value) + unit
    return f"{value:.0f}TiB"


def shown_count(count: int) -> str:
    """Return a count in at most six characters: 1234, 99999, 1.23M."""
    if count <= _SHOWN_WHOLE:
        return str(count)
    value = float(count)
    for unit in ("k", "M", "G", "T"):
        value /= _THOUSAND
        if value < 999.5:
            return _three_digits(value) + unit
    return f"{value:.0f}T"


def shown_rate(size: int, duration_ns: int) -> str:
    """Return MiB/s in at most six characters; "" where nothing was moved."""
    if not size or not duration_ns:
        return ""
    rate = size / (1 << 20) / (duration_ns / 1e9)
    return _three_digits(rate) if rate < 99_999 else shown_count(round(rate))
