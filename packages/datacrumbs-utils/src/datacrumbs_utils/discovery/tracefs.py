"""What tracefs and debugfs say about the kernel, where this user may read them (root, usually)."""

import re
from dataclasses import dataclass
from pathlib import Path

DIRECTORIES = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
KPROBES_BLACKLIST = Path("/sys/kernel/debug/kprobes/blacklist")

_FIELD = re.compile(
    r"\s+field:(?P<type>.*?)(?P<name>\w+)(?P<array>(?:\[[^\]]*\])*);"
    r"\s+offset:(?P<offset>\d+);\s+size:(?P<size>\d+)"
)
# Every record begins with the same four fields, eight bytes in all.
_FIRST_FIELD_OFFSET = 8


@dataclass(frozen=True, slots=True)
class TracepointField:
    """One field of a tracepoint's record.

    Attributes:
        name: Name of the field.
        c_type: Its type.
        offset: Position in the record, in bytes.
        size: Its size in bytes.
    """

    name: str
    c_type: str
    offset: int
    size: int


def _read(relative: str) -> str | None:
    for directory in DIRECTORIES:
        try:
            return (directory / relative).read_text("ascii", "replace")
        except OSError:
            continue
    return None


def traceable_functions() -> frozenset[str] | None:
    """Return the functions that ftrace can trace, or None where that cannot be read."""
    text = _read("available_filter_functions")
    if text is None:
        return None
    # A function of a module is followed by the module's name in brackets.
    return frozenset(line.split(maxsplit=1)[0] for line in text.splitlines() if line)


def blacklisted_functions() -> frozenset[str] | None:
    """Return the functions on which no kprobe may be set, or None where that cannot be read."""
    try:
        text = KPROBES_BLACKLIST.read_text("ascii", "replace")
    except OSError:
        return None
    return frozenset(parts[1] for line in text.splitlines() if len(parts := line.split()) > 1)


def tracepoint_fields(name: str) -> tuple[TracepointField, ...] | None:
    """Return the fields of a tracepoint's record from its ``format`` file, or None without one."""
    for directory in DIRECTORIES:
        try:
            formats = sorted((directory / "events").glob(f"*/{name}/format"))
            text = formats[0].read_text("ascii", "replace") if formats else ""
        except OSError:
            continue
        if text:
            return parse_format(text)
    return None


def parse_format(text: str) -> tuple[TracepointField, ...]:
    """Return the fields that a ``format`` file lists, without those that all records share."""
    fields = []
    for line in text.splitlines():
        match = _FIELD.match(line)
        if match and int(match["offset"]) >= _FIRST_FIELD_OFFSET:
            c_type = " ".join(match["type"].split()) + match["array"]
            size = int(match["size"])
            fields.append(TracepointField(match["name"], c_type, int(match["offset"]), size))
    return tuple(fields)
