"""Debugging information entries (DWARF 2 to 5) of a file, decoded one at a time.

Discovery needs a few thousand entries out of a million. Everything else is stepped over with as
little work as possible: libc's 2,000 compilation units take half a second this way.
"""

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from datacrumbs_utils.discovery import dwarf_forms as forms
from datacrumbs_utils.discovery.dwarf_forms import Abbreviation, DwarfError, sleb128, uleb128
from datacrumbs_utils.discovery.elf_image import ElfImage

TAG_ARRAY, TAG_CLASS, TAG_ENUMERATION, TAG_PARAMETER = 0x01, 0x02, 0x04, 0x05
TAG_MEMBER, TAG_POINTER, TAG_REFERENCE = 0x0D, 0x0F, 0x10
TAG_STRUCTURE, TAG_SUBROUTINE_TYPE, TAG_TYPEDEF, TAG_UNION = 0x13, 0x15, 0x16, 0x17
TAG_UNSPECIFIED_PARAMETERS, TAG_INHERITANCE, TAG_PTR_TO_MEMBER = 0x18, 0x1C, 0x1F
TAG_SUBRANGE, TAG_BASE_TYPE, TAG_CONST, TAG_SUBPROGRAM = 0x21, 0x24, 0x26, 0x2E
TAG_VOLATILE, TAG_RESTRICT, TAG_NAMESPACE, TAG_UNSPECIFIED_TYPE = 0x35, 0x37, 0x39, 0x3B
TAG_RVALUE_REFERENCE, TAG_ATOMIC = 0x42, 0x47

AT_NAME, AT_BYTE_SIZE, AT_LOW_PC, AT_LANGUAGE = 0x03, 0x0B, 0x11, 0x13
AT_UPPER_BOUND, AT_ABSTRACT_ORIGIN, AT_ARTIFICIAL, AT_COUNT = 0x2F, 0x31, 0x34, 0x37
AT_CALLING_CONVENTION, AT_DATA_MEMBER_LOCATION, AT_DECLARATION = 0x36, 0x38, 0x3C
AT_ENCODING, AT_EXTERNAL, AT_SPECIFICATION, AT_TYPE, AT_RANGES = 0x3E, 0x3F, 0x47, 0x49, 0x55
AT_DATA_BIT_OFFSET, AT_SIGNATURE, AT_LINKAGE_NAME = 0x6B, 0x69, 0x6E
AT_STR_OFFSETS_BASE, AT_ADDR_BASE, AT_GNU_VECTOR, AT_MIPS_LINKAGE_NAME = 0x72, 0x73, 0x2107, 0x2007
AT_VIRTUALITY, AT_DEFAULTED = 0x4C, 0x8B

_UNIT_TYPE, _UNIT_SKELETON, _UNIT_SPLIT_COMPILE, _UNIT_SPLIT_TYPE = 0x02, 0x04, 0x05, 0x06


@dataclass(slots=True)
class Unit:
    """A compilation, partial or type unit.

    Attributes:
        info: Where it lies.
        start: Position of its header in the section, in bytes.
        first: Position of its first entry.
        end: Position behind it.
        version: DWARF version, 2 to 5.
        offset_size: 4 or 8.
        signature: Of a type unit, else None.
        type_offset: Of a type unit: position of the type's entry.
    """

    info: "DebugInfo"
    start: int
    first: int
    end: int
    version: int
    offset_size: int
    abbreviation_offset: int
    signature: int | None = None
    type_offset: int = 0
    bases: dict[int, int] = field(default_factory=dict)

    @property
    def abbreviations(self) -> dict[int, Abbreviation]:
        """The shapes of its entries by code."""
        return self.info.abbreviations(self.abbreviation_offset, self.offset_size, self.version)


@dataclass(frozen=True, slots=True)
class Entry:
    """One decoded entry.

    Attributes:
        unit: The unit that it is part of.
        position: Its position in the section, in bytes.
        tag: What it describes.
        values: Its attributes: numbers, texts, and references as (section, position).
        children: Position of the first entry in it, or None.
    """

    unit: Unit
    position: int
    tag: int
    values: dict[int, object]
    children: int | None

    def number(self, attribute: int, default: int = 0) -> int:
        """Return a number, or the default if there is none of that name."""
        value = self.values.get(attribute)
        return value if isinstance(value, int) else default

    def text(self, attribute: int) -> str:
        """Return a text, empty if there is none of that name."""
        value = self.values.get(attribute)
        return value if isinstance(value, str) else ""

    def reference(self, attribute: int) -> "Entry | None":
        """Return the entry that an attribute refers to, or None."""
        value = self.values.get(attribute)
        if isinstance(value, tuple):
            info, position = value
            found: Entry = info.entry(position)
            return found
        return None


class DebugInfo:
    """One section of entries: ``.debug_info``, or ``.debug_types`` of DWARF 4."""

    def __init__(
        self, image: ElfImage, section: str = ".debug_info", alternate: "DebugInfo | None" = None
    ) -> None:
        """Read the sections of an image that stays open only for this call.

        Args:
            image: The file with the debugging information.
            section: Which entries.
            alternate: Entries of the supplementary file that several files share, if there is one.
        """

        def data(name: str) -> bytes:
            found = image.section(name)
            return image.data(found) if found else b""

        self.data = data(section)
        self.aranges = data(".debug_aranges")
        self._abbreviation_data = data(".debug_abbrev")
        self._strings = data(".debug_str")
        self._line_strings = data(".debug_line_str")
        self._string_offsets = data(".debug_str_offsets")
        self._addresses = data(".debug_addr")
        self._alternate = alternate
        self._tables: dict[tuple[int, int, int], dict[int, Abbreviation]] = {}
        self._entries: dict[int, Entry] = {}
        self._is_types = section == ".debug_types"
        self._type_sections: list[DebugInfo] = [self]
        if section == ".debug_info" and image.section(".debug_types"):
            self._type_sections.append(DebugInfo(image, ".debug_types", alternate))

    @cached_property
    def units(self) -> list[Unit]:
        """All units in the order of the section; it ends where the section is damaged."""
        units = []
        position = 0
        while position + 11 < len(self.data):
            unit = self._unit(position)
            if unit is None or unit.end <= position:
                break
            units.append(unit)
            position = unit.end
        return units

    @cached_property
    def _starts(self) -> list[int]:
        return [unit.start for unit in self.units]

    def _unit(self, start: int) -> Unit | None:
        data, position, offset_size = self.data, start + 4, 4
        (length,) = struct.unpack_from("<I", data, start)
        if length == 0xFFFFFFFF:
            (length,) = struct.unpack_from("<Q", data, start + 4)
            position, offset_size = start + 12, 8
        end = position + length
        if end > len(data) or length < 7:
            return None
        offset = "<Q" if offset_size == 8 else "<I"
        (version,) = struct.unpack_from("<H", data, position)
        position += 2
        kind = 0
        if version == 5:
            kind = data[position]
            (abbreviations,) = struct.unpack_from(offset, data, position + 2)
            position += 2 + offset_size
        elif 2 <= version <= 4:
            (abbreviations,) = struct.unpack_from(offset, data, position)
            position += offset_size + 1
        else:
            return Unit(self, start, end, end, version, offset_size, 0)
        unit = Unit(self, start, position, end, version, offset_size, abbreviations)
        if kind in (_UNIT_TYPE, _UNIT_SPLIT_TYPE) or self._is_types:
            (unit.signature,) = struct.unpack_from("<Q", data, position)
            (within,) = struct.unpack_from(offset, data, position + 8)
            unit.type_offset = start + within
            unit.first = position + 8 + offset_size
        elif kind in (_UNIT_SKELETON, _UNIT_SPLIT_COMPILE):
            unit.first = position + 8
        return unit

    def unit_at(self, position: int) -> Unit:
        """Return the unit that a position of the section belongs to."""
        index = bisect_right(self._starts, position) - 1
        if index < 0 or position >= self.units[index].end:
            raise DwarfError(f"debugging information has no unit at {position:#x}")
        return self.units[index]

    def abbreviations(self, offset: int, offset_size: int, version: int) -> dict[int, Abbreviation]:
        """Return the table of shapes at an offset of ``.debug_abbrev``."""
        key = offset, offset_size, version
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = self._read_abbreviations(offset, offset_size, version)
        return table

    def _read_abbreviations(
        self, position: int, offset_size: int, version: int
    ) -> dict[int, Abbreviation]:
        data = self._abbreviation_data
        table: dict[int, Abbreviation] = {}
        while True:
            code, position = uleb128(data, position)
            if not code:
                return table
            tag, position = uleb128(data, position)
            has_children = bool(data[position])
            position += 1
            attributes = []
            while True:
                name, position = uleb128(data, position)
                form, position = uleb128(data, position)
                implicit = 0
                if form == forms.IMPLICIT_CONST:
                    implicit, position = sleb128(data, position)
                if not name and not form:
                    break
                attributes.append((name, form, implicit))
            table[code] = forms.abbreviation(tag, has_children, attributes, offset_size, version)

    def entry(self, position: int) -> Entry:
        """Return the entry at a position of the section."""
        found = self._entries.get(position)
        if found is None:
            found = self._decode(self.unit_at(position), position)
            self._entries[position] = found
        return found

    def root(self, unit: Unit) -> Entry:
        """Return a unit's own entry; it also tells where the unit's indexed texts begin."""
        entry = self.entry(unit.first)
        if not unit.bases:
            header = 16 if unit.offset_size == 8 else 8
            unit.bases = {
                AT_STR_OFFSETS_BASE: entry.number(AT_STR_OFFSETS_BASE, header),
                AT_ADDR_BASE: entry.number(AT_ADDR_BASE, 8),
            }
            # Its own texts could not be looked up before.
            entry = self._entries[unit.first] = self._decode(unit, unit.first)
        return entry

    def _decode(self, unit: Unit, position: int) -> Entry:
        start = position
        code, position = uleb128(self.data, position)
        shape = unit.abbreviations.get(code)
        if shape is None:
            raise DwarfError(f"debugging information is damaged at {start:#x}")
        values: dict[int, object] = {}
        for name, form, implicit in shape.attributes:
            if form == forms.INDIRECT:
                form, position = uleb128(self.data, position)
            values[name], position = self._value(unit, form, implicit, position)
        return Entry(unit, start, shape.tag, values, position if shape.has_children else None)

    def _value(self, unit: Unit, form: int, implicit: int, position: int) -> tuple[object, int]:
        data = self.data
        if form == forms.IMPLICIT_CONST:
            return implicit, position
        if form == forms.STRING:
            end = data.index(b"\0", position)
            return data[position:end].decode("utf-8", "replace"), end + 1
        if form == forms.SDATA:
            return sleb128(data, position)
        size = unit.offset_size if form in forms.OFFSETS else forms.SIZES.get(form)
        if form == forms.REF_ADDR and unit.version == 2:
            size = 8
        if size is not None:
            end = position + size
            number = int.from_bytes(data[position:end], "little") if size else 1
        elif form in forms.LEB128:
            number, end = uleb128(data, position)
        else:
            end = forms.block_end(data, form, position)
            return data[position:end], end
        return self._meaning(unit, form, number), end

    def _meaning(self, unit: Unit, form: int, number: int) -> object:
        if form == forms.STRP:
            return _text(self._strings, number)
        if form == forms.LINE_STRP:
            return _text(self._line_strings, number)
        if form in forms.STRP_ALT:
            return _text(self._alternate._strings, number) if self._alternate else ""
        if form in forms.UNIT_REFERENCES:
            return self, unit.start + number
        if form == forms.REF_ADDR:
            return self, number
        if form in forms.REF_ALT:
            return (self._alternate, number) if self._alternate else None
        if form == forms.REF_SIGNATURE:
            return self._by_signature.get(number)
        if form in forms.STRX and AT_STR_OFFSETS_BASE in unit.bases:
            size = unit.offset_size
            at = unit.bases[AT_STR_OFFSETS_BASE] + number * size
            return _text(
                self._strings, int.from_bytes(self._string_offsets[at : at + size], "little")
            )
        if form in forms.ADDRX and AT_ADDR_BASE in unit.bases:
            at = unit.bases[AT_ADDR_BASE] + number * 8
            return int.from_bytes(self._addresses[at : at + 8], "little")
        return number

    @cached_property
    def _by_signature(self) -> dict[int, tuple["DebugInfo", int]]:
        return {
            unit.signature: (section, unit.type_offset)
            for section in self._type_sections
            for unit in section.units
            if unit.signature is not None
        }

    def children(self, parent: Entry) -> Iterator[Entry]:
        """Yield the entries directly within another one."""
        for position, _ in self.child_positions(parent, lambda tag: True):
            yield self.entry(position)

    def child_positions(
        self, parent: Entry, wanted: Callable[[int], bool]
    ) -> Iterator[tuple[int, int]]:
        """Yield position and tag of the wanted entries directly within another one, by tag."""
        position = parent.children
        if position is None:
            return
        data, end, table = self.data, parent.unit.end, parent.unit.abbreviations
        depth = 0
        keep = {code: wanted(shape.tag) for code, shape in table.items()}
        while position < end:
            start = position
            code = data[position]
            position += 1
            if code >= 0x80:
                code, position = uleb128(data, start)
            if not code:
                if depth == 0:
                    return
                depth -= 1
                continue
            shape = table.get(code)
            if shape is None:
                raise DwarfError(f"debugging information is damaged at {start:#x}")
            if depth == 0 and keep[code]:
                yield start, shape.tag
            if shape.has_children and shape.sibling is not None:
                position = self._sibling(parent.unit, shape, position)
                continue
            position = self._step(shape, position)
            depth += shape.has_children

    def _step(self, shape: Abbreviation, position: int) -> int:
        if shape.size is not None:
            return position + shape.size
        data = self.data
        for size, form in shape.steps:
            position += size
            if form:
                position = forms.form_end(data, form, position)
        return position

    def _sibling(self, unit: Unit, shape: Abbreviation, position: int) -> int:
        for name, form, implicit in shape.attributes:
            if name == forms.AT_SIBLING:
                value, _ = self._value(unit, form, implicit, position)
                if isinstance(value, tuple):
                    return int(value[1])
                break
            if form in forms.OFFSETS or form not in forms.SIZES:
                _, position = self._value(unit, form, implicit, position)
            else:
                position += forms.SIZES[form]
        raise DwarfError("debugging information has a sibling that is no reference")


def _text(strings: bytes, position: int) -> str:
    end = strings.find(b"\0", position)
    return strings[position:end].decode("utf-8", "replace")
