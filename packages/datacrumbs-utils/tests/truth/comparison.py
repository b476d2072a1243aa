"""Compares a trace with a log that strace wrote of the very same processes, value by value."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from strace_log import Call, absolute
from trace_file import Event, Trace

from datacrumbs_runtime.bpf import aio_table
from datacrumbs_runtime.bpf.layout import FunctionFlag, SourceKind
from datacrumbs_runtime.bpf.syscall_table import SYSTEM_CALLS, SystemCall
from datacrumbs_runtime.bpf.values import NO_ARGUMENT, Value

# Where strace writes fewer arguments than the kernel has: the upper half of an offset is folded in.
_STRACE_POSITIONS = {("preadv2", 5): 4, ("pwritev2", 5): 4}
# Newer than the oldest strace in use.
UNDECODED = frozenset({"fchmodat2", "setxattrat", "getxattrat", "listxattrat", "removexattrat"})
CUT = "(a path longer than the kernel takes)"
CUT_CHARACTERS = 4000
_FILE_KINDS = (SourceKind.FD, SourceKind.PATH, SourceKind.RETURNED_FD, SourceKind.MAPPING)
_REQUESTS = {request.shown_as: request.flags for request in aio_table.REQUESTS}
_WIDTHS = {"i32": 32, "u32": 32, "u16": 16, "i64": 64, "u64": 64}


@dataclass
class Report:
    """What was compared, and what differs.

    Attributes:
        calls: Calls compared.
        values: Values compared.
        files: Paths compared.
        differences: One line for each.
        before: Calls of strace's child before strace began to watch it.
    """

    calls: int = 0
    values: int = 0
    files: int = 0
    differences: list[str] = field(default_factory=list)
    before: list[Event] = field(default_factory=list)


def recorded(calls: Iterable[Call]) -> list[Call]:
    """Return the calls of a log that a trace of all I/O system calls must have."""
    return [call for call in calls if call.name in SYSTEM_CALLS and _is_about_a_file(call)]


def _is_about_a_file(call: Call) -> bool:
    if call.result is None:
        return False  # it never returned: counted, not written
    if not SYSTEM_CALLS[call.name].flags & FunctionFlag.FILE_ONLY:
        return True
    # of munmap, mremap and msync strace does not say what is mapped there
    return call.name == "mmap" and call.descriptor_file(4) is not None


def require_equal(trace: Trace, calls: list[Call], at_least: int) -> Report:
    """Fail unless a trace and a log are equal, and as long as they must be.

    Args:
        trace: The trace.
        calls: The log.
        at_least: Calls that must be in both.
    """
    report = compare(trace, calls)
    assert report.differences == []
    assert report.calls >= at_least
    assert report.values >= report.calls
    assert report.files > 0.8 * report.calls
    return report


def compare(trace: Trace, calls: list[Call]) -> Report:
    """Compare every call of every thread, in order, with all its values.

    Args:
        trace: The trace; threads that are not in the log (strace's own) are left aside.
        calls: The log.
    """
    report = Report()
    threads = {call.thread for call in calls}
    logged: dict[int, list[Call]] = defaultdict(list)
    seen: dict[int, list[Event]] = defaultdict(list)
    for call in recorded(calls):
        logged[call.thread].append(call)
    for event in sorted(trace.events, key=lambda event: event.start_us):
        if event.thread in threads and not is_mapping_call(event.system_call):
            seen[event.thread].append(event)
    for thread in sorted(threads):
        mine, theirs = seen[thread], logged[thread]
        # strace's child does a few things of its own before it becomes the command
        extra = len(mine) - len(theirs)
        if extra > 0 and [each.system_call for each in mine[extra:]] == [c.name for c in theirs]:
            report.before += mine[:extra]
            mine = mine[extra:]
        if [each.system_call for each in mine] != [call.name for call in theirs]:
            ours = Counter(each.system_call for each in mine)
            strace = Counter(call.name for call in theirs)
            report.differences.append(
                f"thread {thread}: only in the trace {dict(ours - strace)}, "
                f"only in the log {dict(strace - ours)}"
                + ("" if ours != strace else ": another order")
            )
            continue
        for event, call in zip(mine, theirs, strict=True):
            _compare_call(event, call, report)
    return report


def is_left_aside(event: Event) -> bool:
    """Return whether strace's log cannot tell if an event belongs into the trace."""
    described = SYSTEM_CALLS.get(event.system_call)
    if described is None or event.system_call == "mmap":
        return described is None
    return bool(described.flags & FunctionFlag.FILE_ONLY) or event.system_call in UNDECODED


def is_mapping_call(name: str) -> bool:
    """Return whether a system call is about mapped memory of which strace knows no file."""
    return name != "mmap" and bool(SYSTEM_CALLS[name].flags & FunctionFlag.FILE_ONLY)


def moves_bytes(name: str) -> bool:
    """Return whether a system call, or a request of one, returns how many bytes it moved."""
    flags = _REQUESTS[name] if name in _REQUESTS else SYSTEM_CALLS[name].flags
    return bool(flags & FunctionFlag.BYTES)


def file_of_call(call: Call) -> str | None:
    """Return the first file of a call in a log, comparable between two runs."""
    for value in SYSTEM_CALLS[call.name].values:
        if value.kind in _FILE_KINDS:
            text = call.arguments[value.argument] if value.argument != NO_ARGUMENT else ""
            return CUT if text.endswith("...") else anonymous(_file_of(call, value))
    return None


def anonymous(file: str | None) -> str | None:
    """Return a path without what differs between two runs."""
    if file is None:
        return None
    file = re.sub(r"^(pipe|socket):\[\d+\]$", r"\1", file)
    file = re.sub(r"^/proc/\d+/", "/proc/PID/", file)
    file = file.removeprefix("/") if file.startswith("/memfd:") else file
    return CUT if len(file) > CUT_CHARACTERS or file.endswith("/...") else file


def _compare_call(event: Event, call: Call, report: Report) -> None:
    report.calls += 1
    described = SYSTEM_CALLS[call.name]

    def differ(what: str, ours: object, theirs: object) -> None:
        report.differences.append(
            f"{call.thread} {call.name}{call.arguments} = {call.result}: "
            f"{what}: trace {ours!r}, strace {theirs!r}"
        )

    if event.result != call.result:
        differ("ret", event.result, call.result)
    files = [event.file, event.second_file]
    for value in described.values:
        if call.is_undecoded and value.kind != SourceKind.ARGUMENT:
            continue
        if value.kind in _FILE_KINDS:
            ours = files.pop(0)
            if value.argument != NO_ARGUMENT and call.arguments[value.argument].endswith("..."):
                continue
            theirs = _file_of(call, value)
            report.files += theirs is not None
            if ours != theirs and not _same_file(ours, theirs):
                differ(value.label, ours, theirs)
            continue
        theirs_value = _value_of(call, described, value)
        if theirs_value is None:
            continue
        report.values += 1
        ours_value = event.arguments.get(value.label)
        if isinstance(ours_value, str) and value.format == "x":
            ours_value = int(ours_value, 16)
        if ours_value != theirs_value:
            differ(value.label, ours_value, theirs_value)


def _same_file(ours: str | None, theirs: str | None) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    # /proc/PID/fd shows files in memory below the root, where they are not
    return ours == theirs.removesuffix(" (deleted)") or f"/{ours}" == theirs


def _file_of(call: Call, value: Value) -> str | None:
    if value.kind == SourceKind.FD:
        return call.descriptor_file(value.argument)
    if value.kind == SourceKind.RETURNED_FD and call.result_file is not None:
        return call.result_file
    if value.argument == NO_ARGUMENT:
        return None
    text = call.text(value.argument)
    directory = call.cwd
    if value.directory != NO_ARGUMENT:
        directory = call.descriptor_file(value.directory)
    if text is None:
        return directory if call.arguments[value.argument] == "NULL" else None
    if not text.startswith("/") and directory is None:
        return None
    return absolute(text, directory)


def _value_of(call: Call, described: SystemCall, value: Value) -> object:
    index = _STRACE_POSITIONS.get((call.name, value.argument), value.argument)
    if index >= len(call.arguments):
        return None
    if value.kind == SourceKind.ARGUMENT:
        number = call.number(index)
        return None if number is None else _as(value.format, number)
    if value.kind == SourceKind.USER_STRING:
        return call.text(index)
    if value.kind == SourceKind.USER_VALUE and not (value.at_end and call.result):
        position = (value.offsets[0] if value.offsets else 0) // value.size
        number = call.number_behind(index, value.label, position)
        return None if number is None else _as(value.format, number)
    return None


def _as(number_format: str, number: int) -> int:
    width = _WIDTHS.get(number_format)
    if width is None:
        return number
    number &= (1 << width) - 1
    if number_format[0] == "i" and number >> (width - 1):
        number -= 1 << width
    return number
