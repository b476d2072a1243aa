"""How the text of a setting becomes a value. Each function raises ValueError with the reason."""

import re
from collections.abc import Callable
from enum import Enum
from pathlib import Path

_SIZE = re.compile(r"([0-9]{1,15})\s*(|[kmg]i?b?)", re.IGNORECASE)
_SIZE_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
# Ways of attaching, best first within a kind of probe.
TIERS = (
    "uprobe.session",
    "uprobe.multi",
    "uprobe.tracefs",
    "uprobe.perf",
    "kprobe.session",
    "kprobe.multi",
    "kprobe.fentry",
    "kprobe.tracefs",
    "kprobe.perf",
    "tracepoint.cookie",
    "tracepoint.single",
)
_TRUE_WORDS = {"1", "true", "yes", "on"}
_FALSE_WORDS = {"0", "false", "no", "off", ""}


class Scheduler(Enum):
    """The job schedulers that can start and stop runs."""

    FLUX = "FLUX"
    SLURM = "SLURM"
    NONE = "NONE"


def text(value: str) -> str:
    """Any text without control characters."""
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        raise ValueError("has a control character")
    return value


def absolute_path(value: str) -> Path:
    """An absolute path without detours."""
    if not text(value).startswith("/"):
        raise ValueError("not an absolute path")
    if any(part in (".", "..") for part in value.split("/")):
        raise ValueError("goes through . or ..")
    return Path(value)


def path_pattern(value: str) -> str:
    """An absolute path with %YY% and the like."""
    absolute_path(value)
    for name in re.findall(r"%([^%/]*)%", value):
        if name not in ("YY", "MM", "DD", "USER", "RUN_ID", "HOST"):
            raise ValueError(f"%{name}% is none of %YY% %MM% %DD% %USER% %RUN_ID% %HOST%")
    if value.count("%") % 2:
        raise ValueError("a % without its partner")
    return value


def paths(value: str) -> tuple[Path, ...]:
    """Absolute paths separated by colons."""
    return tuple(absolute_path(part) for part in value.split(":") if part)


def variable_name(value: str) -> str:
    """The name of an environment variable, or nothing."""
    if value and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("not the name of an environment variable")
    return value


def tiers(value: str) -> str:
    """Names of ways of attaching, separated by commas, or nothing."""
    for part in filter(None, value.replace(" ", "").split(",")):
        if part not in TIERS:
            raise ValueError(f"no tier {part}: known are {', '.join(TIERS)}")
    return value


def name(value: str) -> str:
    """A name of a user or host."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*", value):
        raise ValueError("not a name")
    return value


def optional_name(value: str) -> str:
    """A name, or nothing."""
    return name(value) if value else value


def flag(value: str) -> bool:
    """0 or 1."""
    word = value.strip().lower()
    if word not in _TRUE_WORDS | _FALSE_WORDS:
        raise ValueError("neither 0 nor 1")
    return word in _TRUE_WORDS


def one_of(*words: str) -> Callable[[str], str]:
    """Return a parser for one of some words, whatever their case."""

    def parse(value: str) -> str:
        if value.lower() not in words:
            raise ValueError(f"none of {', '.join(word or '(empty)' for word in words)}")
        return value.lower()

    return parse


def scheduler(value: str) -> Scheduler:
    """The name of a scheduler."""
    try:
        return Scheduler(value.upper())
    except ValueError:
        raise ValueError("none of FLUX, SLURM, NONE") from None


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return a parser for a whole number in a range."""

    def parse(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", value.strip()):
            raise ValueError("not a whole number")
        number = int(value)
        if not least <= number <= most:
            raise ValueError(f"not from {least} to {most}")
        return number

    return parse


def size(least: int, most: int) -> Callable[[str], int]:
    """Return a parser for a number of bytes with a suffix such as k or M."""

    def parse(value: str) -> int:
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise ValueError("not a size such as 65536, 64k or 16M")
        size = int(match[1]) * _SIZE_FACTORS[match[2][:1].lower()]
        if not least <= size <= most:
            raise ValueError(f"not from {least} to {most} bytes")
        return size

    return parse


def seconds(least: float, most: float) -> Callable[[str], float]:
    """Return a parser for a number of seconds in a range."""

    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            raise ValueError("not a number of seconds") from None
        if not least <= number <= most:
            raise ValueError(f"not from {least:g} to {most:g} seconds")
        return number

    return parse
