"""Tracepoints of a probe file: fields found in the kernel's types, rows of the map ``tracepoints``.

An argument of a tracepoint function is a member path from one of the tracepoint's arguments. The
programs get offsets instead, those of the running kernel.
"""

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from datacrumbs_runtime.bpf.argument_formats import FILE_POINTER, distinct, fitting, plain_type
from datacrumbs_runtime.bpf.function_rows import source_bytes
from datacrumbs_runtime.bpf.kernel_btf import Field, KernelTypes
from datacrumbs_runtime.bpf.layout import (
    MAX_TRACEPOINT_ARGUMENTS,
    KeyKind,
    SourceKind,
    TracepointRole,
)
from datacrumbs_runtime.bpf.values import FILE, FORMAT_FILE, FORMAT_POINTER, SECOND_FILE, Value
from datacrumbs_runtime.errors import KernelError, ProbeFileError
from datacrumbs_runtime.schema.probe_file import Argument, Span

# struct dc_tracepoint of event.h without its three sources.
_HEADER = struct.Struct("=IBBBB")
_NOTHING = Value("", "", SourceKind.NONE, 0, 0)

THREAD_KEY = "thread"
END = "end"
RESULT = "ret"
_KEY = re.compile(r"(\d+)(.*)", re.DOTALL)

# Work that leaves the thread that asked for it: the tracepoint that still runs in that thread
# publishes the object, later ones look up whose it is. Paths from the argument of that structure,
# which is told by the member paths of its fields.
_PUBLISHES = {"block_bio_queue": ("->bi_iter", "")}
_LOOKS_UP = {"block_rq_issue": ("->__sector", "->bio"), "block_rq_insert": ("->__sector", "->bio")}


class TracepointTarget(NamedTuple):
    """A tracepoint that a program is attached to.

    Attributes:
        name: Its name without its group.
        row_index: Number in the map ``tracepoints``, the attach cookie.
        row: struct dc_tracepoint.
        function: Number in the map ``functions``.
        arguments: How many of its arguments are read, from the first; at least 1.
    """

    name: str
    row_index: int
    row: bytes
    function: int
    arguments: int


@dataclass(frozen=True, slots=True)
class TracepointFunction:
    """What becomes of a tracepoint function.

    Attributes:
        values: What is captured.
        has_result: Whether its calls have a return value.
        overlaps: Whether several of its calls may be under way in one thread.
        missing: Labels of values that this kernel does not have or that found no room.
    """

    values: tuple[Value, ...]
    has_result: bool
    overlaps: bool
    missing: tuple[str, ...]


def tracepoint_values(
    types: KernelTypes, name: str, arguments: Sequence[Argument], span: Span | None
) -> TracepointFunction:
    """Find the values of a tracepoint function on this kernel."""
    files: list[Value] = []
    others: list[Value] = []
    missing: list[str] = []
    has_result = False
    for argument in arguments:
        if _is_result(argument, span):
            has_result = True
            continue
        try:
            value = _value(types, name, argument, span)
        except KernelError:
            missing.append(argument.label)
            continue
        if value.format == FORMAT_FILE and len(files) < len((FILE, SECOND_FILE)):
            files.append(replace(value, label=SECOND_FILE if files else FILE))
        elif value.format != FORMAT_FILE:
            others.append(value)
    values, cut = fitting([*files, *distinct(others)])
    overlaps = span is not None and (span.begin_key, span.end_key) != (THREAD_KEY, THREAD_KEY)
    return TracepointFunction(values, has_result, overlaps, (*missing, *cut))


def tracepoint_targets(
    types: KernelTypes,
    name: str,
    function: int,
    first_row: int,
    arguments: Sequence[Argument],
    span: Span | None,
    values: Sequence[Value],
) -> list[TracepointTarget]:
    """Return the tracepoints of a function: one, or begin and end of a span.

    Raises:
        KernelError: This kernel lacks one of them, or what a span is recognised by.
        ProbeFileError: A key of the span has a form that it cannot have.
    """
    if span is None:
        owner = _owner(types, name, arguments)
        return [
            _target(
                name, first_row, function, TracepointRole.INSTANT, _NOTHING, owner, _NOTHING, values
            )
        ]
    begin_key = _key(types, span.begin, span.begin_key)
    end_key = _key(types, span.end, span.end_key)
    result = _NOTHING
    for argument in arguments:
        if _is_result(argument, span):
            result = _field(types, span.end, argument.index, argument.path.removeprefix(END))
    at_begin = [value for value in values if not value.at_end]
    at_end = [value for value in values if value.at_end]
    return [
        _target(
            span.begin,
            first_row,
            function,
            TracepointRole.BEGIN,
            begin_key,
            _owner(types, span.begin, arguments),
            _NOTHING,
            at_begin,
        ),
        _target(
            span.end,
            first_row + 1,
            function,
            TracepointRole.END,
            end_key,
            (_NOTHING, False),
            result,
            at_end,
        ),
    ]


def _is_result(argument: Argument, span: Span | None) -> bool:
    return span is not None and argument.label == RESULT and _is_at_end(argument)


def _is_at_end(argument: Argument) -> bool:
    path = argument.path
    return path == END or path.startswith((f"{END}-", f"{END}.", f"{END}:"))


def _value(types: KernelTypes, name: str, argument: Argument, span: Span | None) -> Value:
    at_end = span is not None and _is_at_end(argument)
    path = argument.path.removeprefix(END) if at_end else argument.path
    tracepoint = name if span is None else span.end if at_end else span.begin
    field = _resolve(types, tracepoint, argument.index, path)
    plain = plain_type(argument.c_type)
    kind = SourceKind.FIELD
    number_format = _format(field)
    if f"struct {field.structure} *" == plain in (FILE_POINTER, "struct inode *"):
        # Only what the kernel says is one: the names behind any other number could be anything.
        is_file = plain == FILE_POINTER
        kind = SourceKind.FIELD_FILE if is_file else SourceKind.THREAD_FILE
        number_format = FORMAT_FILE
    elif plain in ("bool", "_Bool"):
        number_format = "b"
    return Value(
        argument.label,
        number_format,
        kind,
        argument.index,
        size=field.size,
        at_end=at_end,
        is_signed=field.is_signed,
        offsets=field.offsets,
    )


def _resolve(types: KernelTypes, tracepoint: str, argument: int, path: str) -> Field:
    if argument >= MAX_TRACEPOINT_ARGUMENTS:
        raise KernelError(f"tracepoint {tracepoint}: argument {argument} is beyond reach")
    return types.resolve(tracepoint, argument, path)


def _format(field: Field) -> str:
    if field.is_pointer:
        return FORMAT_POINTER
    return f"{'i' if field.is_signed else 'u'}{8 * field.size}"


def _field(types: KernelTypes, tracepoint: str, argument: int, path: str) -> Value:
    field = _resolve(types, tracepoint, argument, path)
    return Value(
        "",
        "",
        SourceKind.FIELD,
        argument,
        size=field.size,
        is_signed=field.is_signed,
        offsets=field.offsets,
    )


def _key(types: KernelTypes, tracepoint: str, key: str) -> Value:
    if not types.has_tracepoint(tracepoint):
        raise KernelError(f"tracepoint {tracepoint}: this kernel has none of that name")
    if key == THREAD_KEY:
        return _NOTHING
    match = _KEY.fullmatch(key)
    if match is None:
        raise ProbeFileError(f"tracepoint {tracepoint}: {key!r} is no key of a span")
    return _field(types, tracepoint, int(match[1]), match[2])


def _owner(
    types: KernelTypes, tracepoint: str, arguments: Sequence[Argument]
) -> tuple[Value, bool]:
    """Return the object that tells whose work it is, and whether this tracepoint publishes it."""
    if not types.has_tracepoint(tracepoint):
        raise KernelError(f"tracepoint {tracepoint}: this kernel has none of that name")
    publishes = tracepoint in _PUBLISHES
    member, path = (_PUBLISHES if publishes else _LOOKS_UP).get(tracepoint, ("", ""))
    for argument in arguments:
        if member and argument.path.startswith(member):
            try:
                return _field(types, tracepoint, argument.index, path), publishes
            except KernelError:
                break
    return _NOTHING, False


def _target(
    name: str,
    row_index: int,
    function: int,
    role: TracepointRole,
    key: Value,
    owner: tuple[Value, bool],
    result: Value,
    values: Sequence[Value],
) -> TracepointTarget:
    of, publishes = owner
    read = [value for value in (key, of, result, *values) if value.kind != SourceKind.NONE]
    key_kind = KeyKind.THREAD if key.kind == SourceKind.NONE else KeyKind.FIELD
    looks_up = of.kind != SourceKind.NONE and not publishes
    row = _HEADER.pack(function, role, key_kind, publishes, looks_up) + b"".join(
        source_bytes(value) for value in (key, of, result)
    )
    arguments = 1 + max((value.argument for value in read), default=0)
    return TracepointTarget(name, row_index, row, function, arguments)
