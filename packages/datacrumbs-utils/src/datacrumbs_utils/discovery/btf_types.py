"""Types of the kernel in its own format, BTF: a table of types over a blob, decoded on demand.

Only the positions of the types are computed up front (about 60 ms for the 130,000 types of a
kernel); names and members are read when somebody asks.
"""

import sys
from array import array
from functools import cached_property
from struct import error as StructError  # noqa: N812
from struct import unpack_from

from datacrumbs_runtime.errors import DatacrumbsError
from datacrumbs_utils.discovery.signatures import (
    EIGHTBYTE,
    UNKNOWN,
    VOID,
    CType,
    Kind,
    Parameter,
    Signature,
    function_pointer,
    integer,
    pointer_to,
    structure,
    typedef,
)

KIND_INT, KIND_PTR, KIND_ARRAY, KIND_STRUCT, KIND_UNION, KIND_ENUM = 1, 2, 3, 4, 5, 6
KIND_FWD, KIND_TYPEDEF, KIND_VOLATILE, KIND_CONST, KIND_RESTRICT = 7, 8, 9, 10, 11
KIND_FUNC, KIND_FUNC_PROTO, KIND_VAR, KIND_DATASEC, KIND_FLOAT = 12, 13, 14, 15, 16
KIND_DECL_TAG, KIND_TYPE_TAG, KIND_ENUM64 = 17, 18, 19

_MAGIC = 0xEB9F
# 32-bit words that follow the three words of a type, and those per element.
_FIXED_WORDS = {KIND_INT: 1, KIND_ARRAY: 3, KIND_VAR: 1, KIND_DECL_TAG: 1}
_ELEMENT_WORDS = {
    KIND_STRUCT: 3,
    KIND_UNION: 3,
    KIND_ENUM: 2,
    KIND_FUNC_PROTO: 2,
    KIND_DATASEC: 3,
    KIND_ENUM64: 3,
}
_QUALIFIERS = frozenset({KIND_VOLATILE, KIND_CONST, KIND_RESTRICT, KIND_TYPE_TAG})
_INT_SIGNED, _INT_CHAR, _INT_BOOL = 1, 2, 4


class BtfError(DatacrumbsError):
    """The kernel's type information is missing or damaged."""


class TypeTable:
    """The types of one BTF blob; those of a module continue the kernel's own."""

    def __init__(self, blob: bytes, where: str, base: "TypeTable | None" = None) -> None:
        """Find the types in a blob.

        Args:
            blob: Raw BTF, such as the bytes of ``/sys/kernel/btf/vmlinux``.
            where: What errors call it.
            base: The kernel's table, for the BTF of a module.

        Raises:
            BtfError: It is no BTF, or cut short.
        """
        self._base = base
        self.first_id: int = base.end_id if base else 1
        self._string_base: int = base.string_end if base else 0
        try:
            magic, _, _, header = unpack_from("<HBBI", blob, 0)
            if magic != _MAGIC or sys.byteorder != "little":
                raise BtfError(f"{where}: not BTF of this machine")
            type_start, type_size, string_start, string_size = unpack_from("<IIII", blob, 8)
            end = header + max(type_start + type_size, string_start + string_size)
            if end > len(blob) or type_size % 4:
                raise BtfError(f"{where}: damaged BTF: cut short")
            self._strings = blob[header + string_start : header + string_start + string_size]
            types = blob[header + type_start : header + type_start + type_size]
            self._words = array("I", types)
            self._positions = self._index()
        except (IndexError, StructError) as error:
            raise BtfError(f"{where}: damaged BTF") from error
        self.end_id: int = self.first_id + len(self._positions)
        self.string_end: int = self._string_base + len(self._strings)

    def _index(self) -> "array[int]":
        words, positions = self._words, array("I")
        fixed = [_FIXED_WORDS.get(kind, 0) + 3 for kind in range(32)]
        element = [_ELEMENT_WORDS.get(kind, 0) for kind in range(32)]
        position, end = 0, len(words)
        append = positions.append
        while position < end:
            append(position)
            info = words[position + 1]
            kind = info >> 24 & 31
            position += fixed[kind] + element[kind] * (info & 0xFFFF)
        return positions

    def _row(self, type_id: int) -> "tuple[array[int], int]":
        """Return the words and the position in them of a type."""
        if type_id < self.first_id:
            if self._base is None:
                raise BtfError(f"BTF type {type_id} does not exist")
            return self._base._row(type_id)
        if type_id >= self.end_id:
            raise BtfError(f"BTF type {type_id} does not exist")
        return self._words, self._positions[type_id - self.first_id]

    def text(self, position: int) -> str:
        """Return the string at a position of the string table."""
        if position < self._string_base:
            return self._base.text(position) if self._base else ""
        start = position - self._string_base
        return self._strings[start : self._strings.index(b"\0", start)].decode("latin-1")

    def kind(self, type_id: int) -> int:
        """Return the kind of a type, 0 for void."""
        if type_id == 0:
            return 0
        words, position = self._row(type_id)
        return words[position + 1] >> 24 & 31

    def name(self, type_id: int) -> str:
        """Return the name of a type, empty if it has none."""
        if type_id == 0:
            return "void"
        words, position = self._row(type_id)
        return self.text(words[position])

    def target(self, type_id: int) -> int:
        """Return the id of the type that a pointer, typedef, qualifier or function refers to."""
        words, position = self._row(type_id)
        return words[position + 2]

    @cached_property
    def _by_kind(self) -> dict[int, dict[str, int]]:
        """Ids of this blob's own functions, typedefs, structures and enums by name."""
        wanted = (KIND_FUNC, KIND_TYPEDEF, KIND_STRUCT, KIND_INT, KIND_ENUM, KIND_FLOAT)
        found: dict[int, dict[str, int]] = {kind: {} for kind in wanted}
        words, strings, base = self._words, self._strings, self._string_base
        find = strings.index
        for type_id, position in enumerate(self._positions, self.first_id):
            names = found.get(words[position + 1] >> 24 & 31)
            if names is None:
                continue
            start = words[position] - base
            if start < 0:
                names.setdefault(self.text(words[position]), type_id)
            elif start > 0 or base:
                names.setdefault(strings[start : find(b"\0", start)].decode("latin-1"), type_id)
        return found

    def names(self, kind: int) -> dict[str, int]:
        """Return the ids of this blob's own types of a kind (KIND_FUNC, ...) by name."""
        return self._by_kind[kind]

    def find(self, kind: int, name: str) -> int | None:
        """Return the id of a type by kind and name, in this blob or its base, or None."""
        found = self._by_kind[kind].get(name)
        if found is None and self._base is not None:
            return self._base.find(kind, name)
        return found

    def prototype(self, type_id: int) -> tuple[int, tuple[tuple[str, int], ...]]:
        """Return a function prototype: id of the result, and name and type id per parameter.

        A last parameter of type 0 without name stands for ``...``.
        """
        words, position = self._row(type_id)
        count = words[position + 1] & 0xFFFF
        parameters = tuple(
            (self.text(words[at]), words[at + 1])
            for at in range(position + 3, position + 3 + 2 * count, 2)
        )
        return words[position + 2], parameters

    def members(self, type_id: int) -> tuple[tuple[str, int, int, int], ...]:
        """Return name, type id, offset in bits and width in bits (0: whole) of each member."""
        words, position = self._row(type_id)
        info = words[position + 1]
        fields = info >> 31
        result = []
        for at in range(position + 3, position + 3 + 3 * (info & 0xFFFF), 3):
            offset = words[at + 2]
            width = offset >> 24 if fields else 0
            place = offset & 0xFFFFFF if fields else offset
            result.append((self.text(words[at]), words[at + 1], place, width))
        return tuple(result)

    def element(self, type_id: int) -> tuple[int, int]:
        """Return the element type id and the number of elements of an array."""
        words, position = self._row(type_id)
        return words[position + 3], words[position + 5]

    def plain(self, type_id: int) -> int:
        """Return a type id without typedefs and qualifiers."""
        while type_id and (self.kind(type_id) in _QUALIFIERS or self.kind(type_id) == KIND_TYPEDEF):
            type_id = self.target(type_id)
        return type_id

    def size(self, type_id: int) -> int:
        """Return the size of a type in bytes, 0 for void and functions."""
        plain = self.plain(type_id)
        kind = self.kind(plain)
        if kind == KIND_PTR:
            return EIGHTBYTE
        if kind == KIND_ARRAY:
            element, count = self.element(plain)
            return count * self.size(element)
        if kind in (KIND_INT, KIND_STRUCT, KIND_UNION, KIND_ENUM, KIND_ENUM64, KIND_FLOAT):
            return self.target(plain)
        return 0

    def signature(self, prototype_id: int) -> Signature:
        """Return a function prototype with its types spelled out."""
        result, parameters = self.prototype(prototype_id)
        variadic = bool(parameters) and parameters[-1] == ("", 0)
        return Signature(
            self.c_type(result),
            tuple(
                Parameter(name, self.c_type(type_id))
                for name, type_id in parameters[: len(parameters) - variadic]
            ),
            variadic,
        )

    def c_type(self, type_id: int) -> CType:
        """Return a type as C spells it, with its size and how it is handed over."""
        kind = self.kind(type_id)
        if kind == 0:
            return VOID
        if kind in _QUALIFIERS:
            return self.c_type(self.target(type_id))
        if kind == KIND_PTR:
            return self._pointer(self.target(type_id))
        if kind == KIND_TYPEDEF:
            return typedef(self.name(type_id), self.c_type(self.target(type_id)))
        if kind == KIND_INT:
            return self._integer(type_id)
        size = self.target(type_id)
        if kind in (KIND_ENUM, KIND_ENUM64):
            words, position = self._row(type_id)
            signed = bool(words[position + 1] >> 31)
            name = f"enum {self.name(type_id)}".strip()
            return CType(name, size, Kind.SIGNED if signed else Kind.UNSIGNED, name)
        if kind in (KIND_STRUCT, KIND_UNION):
            word = "struct" if kind == KIND_STRUCT else "union"
            return structure(f"{word} {self.name(type_id)}".strip(), size, lambda part: True)
        if kind == KIND_FLOAT:
            return CType(self.name(type_id), size, Kind.FLOAT, self.name(type_id))
        if kind == KIND_ARRAY:
            # A parameter declared as an array is a pointer.
            return self._pointer(self.element(type_id)[0])
        return UNKNOWN

    def _integer(self, type_id: int) -> CType:
        words, position = self._row(type_id)
        encoding = words[position + 3] >> 24 & 15
        size, name = words[position + 2], self.name(type_id)
        return integer(name, size, signed=bool(encoding & _INT_SIGNED))

    def _pointer(self, type_id: int) -> CType:
        constant = False
        while self.kind(type_id) in _QUALIFIERS:
            constant |= self.kind(type_id) == KIND_CONST
            type_id = self.target(type_id)
        kind = self.kind(type_id)
        if kind == KIND_FUNC_PROTO:
            inner = self.signature(type_id)
            names = [one.type.name for one in inner.parameters]
            return function_pointer(inner.returns.name, [*names, *(["..."] * inner.variadic)])
        if kind == KIND_FWD:
            words, position = self._row(type_id)
            name = f"{'union' if words[position + 1] >> 31 else 'struct'} {self.name(type_id)}"
        elif kind == KIND_TYPEDEF:
            name = self.name(type_id)
        else:
            name = self.c_type(type_id).name
        return pointer_to(f"const {name}" if constant and not name.endswith("*") else name)
