"""Member paths of kernel structures (``->bio->bi_iter.bi_sector``), checked against the kernel.

The recorder turns a path into memory accesses when it attaches; here a path is only followed to
know whether this kernel has it, and what type of value it leads to.
"""

import re

from datacrumbs_utils.discovery.btf_types import KIND_PTR, KIND_STRUCT, KIND_UNION, TypeTable
from datacrumbs_utils.discovery.signatures import CType, Kind

_STEP = re.compile(r"(->|\.|:)([A-Za-z_]\w*)")
_CAPTURABLE = frozenset({Kind.SIGNED, Kind.UNSIGNED, Kind.POINTER})


def follow(table: TypeTable, type_id: int, path: str) -> CType | None:
    """Return the type of the value at the end of a path.

    Args:
        table: The types that ``type_id`` belongs to.
        type_id: Type of the argument where the path begins.
        path: ``->member`` follows a pointer, ``.member`` enters a structure, ``:type`` takes the
            pointer as one to that structure; empty: the argument itself.

    Returns:
        The type, or None if this kernel lacks a member or the value does not fit a register.
    """
    steps = _STEP.findall(path)
    if "".join(operator + name for operator, name in steps) != path:
        return None
    current: int | None = type_id
    cast: int | None = None
    for operator, name in steps:
        if operator == ":":
            cast = table.find(KIND_STRUCT, name)
            if cast is None:
                return None
            continue
        plain = table.plain(current or 0)
        if operator == "->" and cast is None:
            if table.kind(plain) != KIND_PTR:
                return None
            plain = table.plain(table.target(plain))
        current = _member(table, plain if cast is None else cast, name)
        cast = None
        if current is None:
            return None
    found = table.c_type(current or 0)
    return found if cast is None and found.kind in _CAPTURABLE else None


def structure_name(table: TypeTable, type_id: int) -> str | None:
    """Return the name of the structure that an argument points to; None if it points to none."""
    plain = table.plain(type_id)
    if table.kind(plain) != KIND_PTR:
        return None
    target = table.plain(table.target(plain))
    return table.name(target) if table.kind(target) == KIND_STRUCT else None


def _member(table: TypeTable, type_id: int, name: str) -> int | None:
    """Return the type of a member, also of unnamed structures inside; None for bit fields."""
    if table.kind(type_id) not in (KIND_STRUCT, KIND_UNION):
        return None
    unnamed = []
    for label, member, _, width in table.members(type_id):
        if label == name:
            return None if width else member
        if not label:
            unnamed.append(member)
    for member in unnamed:
        found = _member(table, table.plain(member), name)
        if found is not None:
            return found
    return None
