"""The kernel's functions for sessions, of which there are two kinds.

First they took nothing, now they take the context of the program; libbpf refuses an object whose
declaration differs from the kernel's, even if nothing calls it. The programs hand over the context
in any case, which the older ones ignore. The object has both declarations, and before it is opened
on an older kernel the functions get the older one.
"""

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from datacrumbs_runtime.bpf.libbpf import BTF_KIND_FUNC, Btf

# The function, and what has its older declaration: see bpf/sessions.bpf.h.
_FUNCTIONS = {
    "bpf_session_cookie": "dc_older_session_cookie",
    "bpf_session_is_return": "dc_older_session_is_return",
}

_ELF_SECTIONS = struct.Struct("<40xQ10xHHH")
_ELF_SECTION = struct.Struct("<I20xQQ24x")
_BTF_HEADER = struct.Struct("<4xIIIII")
_BTF_TYPE = struct.Struct("<III")
_TYPE_OFFSET = 8
# What follows a type: once, or once for each member, by enum BTF_KIND_*.
_EXTRA_BYTES = {1: 4, 3: 12, 14: 4, 17: 4}
_MEMBER_BYTES = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}


def object_for_this_kernel(path: Path) -> bytes | None:
    """Return a compiled object with the declarations of the running kernel.

    Returns:
        None: the file is as it should be.

    Raises:
        KernelError: The kernel has no type information.
    """
    if not are_older():
        return None
    try:
        data = bytearray(path.read_bytes())
        functions = {each.name: each for each in _functions_of(data)}
    except (OSError, ValueError, IndexError, struct.error):
        # libbpf says what is wrong with it.
        return None
    for name, older in _FUNCTIONS.items():
        if name in functions and older in functions:
            struct.pack_into("<I", data, functions[name].position, functions[older].prototype)
    return bytes(data)


@cache
def are_older() -> bool:
    """Return whether the functions of the running kernel take nothing.

    Takes some 10 ms the first time, in the library.

    Raises:
        KernelError: The kernel has no type information.
    """
    types = Btf.of_kernel()
    try:
        function = types.find(next(iter(_FUNCTIONS)), BTF_KIND_FUNC)
        if function is None:
            return False
        prototype = types.type_words(function)[2]
        parameters = types.type_words(prototype)[1] & 0xFFFF
        return parameters == 0
    finally:
        types.close()


class _Function(NamedTuple):
    name: str
    prototype: int
    position: int


def _functions_of(data: bytearray) -> Iterator[_Function]:
    """Yield the functions in an object's types, and where the number of their prototype is."""
    start = _section(data, b".BTF")
    header, types, types_bytes, strings, _ = _BTF_HEADER.unpack_from(data, start)
    position = start + header + types
    end, names = position + types_bytes, start + header + strings
    while position < end:
        name, info, referred = _BTF_TYPE.unpack_from(data, position)
        kind, count = info >> 24 & 0x1F, info & 0xFFFF
        if kind == BTF_KIND_FUNC:
            text = data[names + name : data.index(0, names + name)].decode()
            yield _Function(text, referred, position + _TYPE_OFFSET)
        position += _BTF_TYPE.size + _EXTRA_BYTES.get(kind, 0) + count * _MEMBER_BYTES.get(kind, 0)


def _section(data: bytearray, wanted: bytes) -> int:
    table, size, count, names = _ELF_SECTIONS.unpack_from(data)
    sections = [_ELF_SECTION.unpack_from(data, table + at * size) for at in range(count)]
    for name, offset, _ in sections:
        place = sections[names][1] + name
        if data[place : data.index(0, place)] == wanted:
            return int(offset)
    raise ValueError(f"no section {wanted.decode()}")
