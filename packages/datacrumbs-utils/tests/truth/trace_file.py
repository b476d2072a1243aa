"""Reads a trace: events with their files' paths, metadata, what was lost."""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One finished call.

    Attributes:
        name: Name in the trace.
        category: Category.
        process: Process id.
        thread: Thread id.
        start_us: Microseconds since the epoch.
        duration_us: Microseconds.
        arguments: ``args`` without hashes.
        file: Path of its file, or None.
        second_file: Path of its second file, or None.
    """

    name: str
    category: str
    process: int
    thread: int
    start_us: int
    duration_us: int
    arguments: dict[str, Any]
    file: str | None
    second_file: str | None

    @property
    def system_call(self) -> str:
        """The kernel's name of a system call."""
        return str(self.arguments.get("syscall", self.name))

    @property
    def result(self) -> int | None:
        """The return value."""
        value: int | None = self.arguments.get("ret")
        return value


@dataclass(frozen=True, slots=True)
class Trace:
    """A whole trace.

    Attributes:
        events: Finished calls in the order of the file.
        counters: Lines of profile mode.
        metadata: The other lines, by name: their ``args`` with ``pid`` and ``tid``.
        files: Path by hash.
    """

    events: list[Event]
    counters: list[dict[str, Any]]
    metadata: dict[str, list[dict[str, Any]]]
    files: dict[str, str]

    def total(self, loss: str) -> int:
        """Return the last value of a counter of losses."""
        values = [each[loss] for each in self.metadata.get("datacrumbs_losses", ()) if loss in each]
        return int(values[-1]) if values else 0


def lines(path: Path) -> Iterator[bytes]:
    """Return the lines of a trace, checking that it consists of whole members of whole lines."""
    data = path.read_bytes()
    while data:
        member = zlib.decompressobj(wbits=31)
        text = member.decompress(data)
        assert member.eof, "the last member is cut"
        assert not text or text.endswith(b"\n"), "a member ends within a line"
        data = member.unused_data
        yield from text.split(b"\n")[:-1]


def read(path: Path) -> Trace:
    """Read a trace; every line must be what the format says."""
    events: list[Event] = []
    counters: list[dict[str, Any]] = []
    metadata: dict[str, list[dict[str, Any]]] = {}
    files: dict[str, str] = {}
    for number, line in enumerate(lines(path)):
        if number == 0:
            assert line == b"["
            continue
        if line == b"]":
            continue
        record = json.loads(line.decode("utf-8", "strict"))
        arguments = dict(record["args"])
        if record["ph"] == "M":
            if record["name"] == "FH":
                files[arguments["value"]] = arguments["name"]
            entry = {**arguments, "pid": record["pid"], "tid": record["tid"]}
            metadata.setdefault(record["name"], []).append(entry)
        elif record["ph"] == "C":
            counters.append(record)
        else:
            events.append(_event(record, arguments, files))
    return Trace(events, counters, metadata, files)


def _event(record: dict[str, Any], arguments: dict[str, Any], files: dict[str, str]) -> Event:
    assert record["ph"] == "X"
    assert type(record["ts"]) is int
    assert type(record["dur"]) is int
    arguments.pop("hhash")
    file, second = arguments.pop("fhash", None), arguments.pop("fhash2", None)
    return Event(
        record["name"],
        record["cat"],
        record["pid"],
        record["tid"],
        record["ts"],
        record["dur"],
        arguments,
        # a hash must be declared before it is used
        None if file is None else files[file],
        None if second is None else files[second],
    )


def text_of(path: Path) -> bytes:
    """Return the uncompressed trace."""
    with gzip.open(path) as stream:
        return stream.read()
