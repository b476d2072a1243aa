"""Rows of the map ``functions`` and what the pump must know to print the calls of each."""

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from datacrumbs_runtime.bpf.layout import (
    MAX_DEREFERENCES,
    MAX_VALUES,
    FunctionFlag,
    SourceKind,
)
from datacrumbs_runtime.bpf.values import Value

# struct dc_function and struct dc_source of event.h: packing them is five times faster than filling
# in ctypes structures, and there may be 16,384 of them.
_HEADER = struct.Struct("=IBBBBQ")
_SOURCE = struct.Struct(f"=8B{MAX_DEREFERENCES}H")
_NO_SOURCE = bytes(_SOURCE.size)
# A record has room for 0, 4 or 8 values.
_STRIDES = (0, 4, 4, 4, 4, 8, 8, 8, 8)

_ONLY_AT_END = frozenset({SourceKind.PATH, SourceKind.RETURNED_FD})
_ALSO_AT_END = frozenset({SourceKind.USER_STRING, SourceKind.POSITION})
_EXIT_VALUES = int(FunctionFlag.EXIT_VALUES)
_ENTRY_VALUES = int(FunctionFlag.ENTRY_VALUES)
_OF_TRACEPOINTS = frozenset({SourceKind.FIELD, SourceKind.THREAD_FILE})


class PumpFunction(NamedTuple):
    """How the pump prints the calls of a function; its own constructor takes this as it is.

    Attributes:
        category: ``cat`` in the trace.
        name: ``name`` in the trace.
        extra: JSON members for ``args`` that are the same in every call, or "".
        flags: enum dc_function_flag.
        lanes: Whether its calls overlap in a thread, so that each needs a lane of its own.
        bytes_argument: Value index + 1 of what the return value counts in; 0: bytes.
        values: Label and format of each value.
    """

    category: str
    name: str
    extra: str
    flags: int
    lanes: bool
    bytes_argument: int
    values: tuple[tuple[str, str], ...]


class FunctionRow(NamedTuple):
    """A recorded function.

    Attributes:
        category: Trace category.
        name: Name as in the probe file.
        row: struct dc_function.
        pump: How its calls are printed.
    """

    category: str
    name: str
    row: bytes
    pump: PumpFunction


@lru_cache(maxsize=8192)
def source_bytes(value: Value) -> bytes:
    """Return struct dc_source of a value."""
    return _SOURCE.pack(
        value.kind,
        value.argument,
        value.directory,
        value.size,
        value.at_end,
        len(value.offsets),
        value.is_signed,
        0,
        *value.offsets,
        *(0,) * (MAX_DEREFERENCES - len(value.offsets)),
    )


@lru_cache(maxsize=32768)
def _sources(values: tuple[Value, ...]) -> tuple[bytes, int, tuple[tuple[str, str], ...]]:
    flags = 0
    for value in values:
        if value.kind in _OF_TRACEPOINTS:
            continue
        only_at_end = value.kind in _ONLY_AT_END or (
            value.kind == SourceKind.USER_VALUE and value.at_end
        )
        if only_at_end or value.kind in _ALSO_AT_END:
            flags |= _EXIT_VALUES
        if not only_at_end:
            flags |= _ENTRY_VALUES
    packed = b"".join(map(source_bytes, values)) + _NO_SOURCE * (MAX_VALUES - len(values))
    return packed, flags, tuple((value.label, value.format) for value in values)


def unit_index(values: Sequence[Value], label: str | None) -> int:
    """Return index + 1 of the value with a label; 0 if there is none."""
    if label is None:
        return 0
    return next((index + 1 for index, value in enumerate(values) if value.label == label), 0)


def function_row(
    category: str,
    name: str,
    values: tuple[Value, ...],
    *,
    shown_as: str,
    flags: int,
    mode: int,
    threshold_ns: int,
    extra: str = "",
    lanes: bool = False,
    bytes_argument: int = 0,
) -> FunctionRow:
    """Make the row of a function."""
    packed, value_flags, printed = _sources(values)
    all_flags = flags | value_flags
    row = (
        _HEADER.pack(
            all_flags, mode, len(values), _STRIDES[len(values)], bytes_argument, threshold_ns
        )
        + packed
    )
    pump = PumpFunction(category, shown_as, extra, all_flags, lanes, bytes_argument, printed)
    return FunctionRow(category, name, row, pump)
