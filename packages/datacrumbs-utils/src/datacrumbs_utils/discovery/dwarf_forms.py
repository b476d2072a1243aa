"""How values are encoded in debugging information (DWARF 2 to 5): forms and abbreviations."""

from dataclasses import dataclass

from datacrumbs_runtime.errors import DatacrumbsError

AT_SIBLING = 0x01

INDIRECT, IMPLICIT_CONST = 0x16, 0x21

# Sizes in bytes of the forms that have one, in 32-bit DWARF of a 64-bit machine.
SIZES = {
    **{0x01: 8, 0x05: 2, 0x06: 4, 0x07: 8, 0x0B: 1, 0x0C: 1, 0x0E: 4, 0x10: 4, 0x11: 1, 0x12: 2},
    **{0x13: 4, 0x14: 8, 0x17: 4, 0x19: 0, 0x1C: 4, 0x1D: 4, 0x1E: 16, 0x1F: 4, 0x20: 8, 0x21: 0},
    **{0x24: 8, 0x25: 1, 0x26: 2, 0x27: 3, 0x28: 4, 0x29: 1, 0x2A: 2, 0x2B: 3, 0x2C: 4},
    **{0x1F20: 4, 0x1F21: 4},
}
OFFSETS = frozenset({0x0E, 0x10, 0x17, 0x1D, 0x1F, 0x1F20, 0x1F21})
LEB128 = frozenset({0x0D, 0x0F, 0x15, 0x1A, 0x1B, 0x22, 0x23, 0x1F01, 0x1F02})
BLOCKS = {0x0A: 1, 0x03: 2, 0x04: 4}
STRING, SDATA = 0x08, 0x0D
STRP, LINE_STRP, STRP_ALT = 0x0E, 0x1F, frozenset({0x1D, 0x1F21})
STRX = frozenset({0x1A, 0x25, 0x26, 0x27, 0x28, 0x1F02})
ADDRX = frozenset({0x1B, 0x29, 0x2A, 0x2B, 0x2C, 0x1F01})
UNIT_REFERENCES = frozenset({0x11, 0x12, 0x13, 0x14, 0x15})
REF_ADDR, REF_ALT, REF_SIGNATURE = 0x10, frozenset({0x1C, 0x24, 0x1F20}), 0x20


class DwarfError(DatacrumbsError):
    """Debugging information cannot be read."""


@dataclass(frozen=True, slots=True)
class Abbreviation:
    """The shape of entries with one code.

    Attributes:
        tag: What they describe (TAG_SUBPROGRAM, ...).
        has_children: Whether entries within them follow.
        attributes: Attribute, form and, for implicit constants, value.
        size: Size of such an entry in bytes without its code; None if it varies.
        steps: What to step over, one after the other: a number of bytes, or a form.
        sibling: Index in ``attributes`` of the reference to the next entry beside it, or None.
    """

    tag: int
    has_children: bool
    attributes: tuple[tuple[int, int, int], ...]
    size: int | None
    steps: tuple[tuple[int, int], ...]
    sibling: int | None


def uleb128(data: bytes, position: int) -> tuple[int, int]:
    """Decode a number of varying size; return it and the position behind it."""
    byte = data[position]
    position += 1
    if byte < 0x80:
        return byte, position
    result, shift = byte & 0x7F, 7
    while True:
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7


def sleb128(data: bytes, position: int) -> tuple[int, int]:
    """Decode a signed number of varying size; return it and the position behind it."""
    result = shift = 0
    while True:
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (result - (1 << shift) if byte & 0x40 else result), position


def abbreviation(
    tag: int,
    has_children: bool,
    attributes: list[tuple[int, int, int]],
    offset_size: int,
    version: int,
) -> Abbreviation:
    """Return the shape of entries with these attributes (attribute, form, implicit value)."""
    steps: list[tuple[int, int]] = []
    fixed = 0
    for _, form, _ in attributes:
        size = offset_size if form in OFFSETS else SIZES.get(form)
        if form == REF_ADDR and version == 2:
            size = 8
        if size is None:
            steps.append((fixed, form))
            fixed = 0
        else:
            fixed += size
    total = fixed if not steps else None
    if fixed and steps:
        steps.append((fixed, 0))
    sibling = next((i for i, one in enumerate(attributes) if one[0] == AT_SIBLING), None)
    return Abbreviation(tag, has_children, tuple(attributes), total, tuple(steps), sibling)


def form_end(data: bytes, form: int, position: int) -> int:
    """Return the position behind a value whose size varies."""
    if form in LEB128:
        while data[position] >= 0x80:
            position += 1
        return position + 1
    if form == STRING:
        return data.index(b"\0", position) + 1
    if form == INDIRECT:
        form, position = uleb128(data, position)
        return position + SIZES[form] if form in SIZES else form_end(data, form, position)
    return block_end(data, form, position)


def block_end(data: bytes, form: int, position: int) -> int:
    """Return the position behind a block of bytes or an expression."""
    if form in (0x09, 0x18):
        length, position = uleb128(data, position)
        return position + length
    size = BLOCKS.get(form)
    if size is None:
        raise DwarfError(f"debugging information uses an unknown form {form:#x}")
    return position + size + int.from_bytes(data[position : position + size], "little")
