"""Signatures of functions from their debugging information."""

from collections.abc import Iterator

from datacrumbs_utils.discovery import dwarf_entries as dw
from datacrumbs_utils.discovery.dwarf_entries import Entry, Unit
from datacrumbs_utils.discovery.signatures import (
    EIGHTBYTE,
    MAX_REGISTER_STRUCTURE_BYTES,
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

_QUALIFIERS = frozenset({dw.TAG_CONST, dw.TAG_VOLATILE, dw.TAG_RESTRICT, dw.TAG_ATOMIC})
_POINTERS = frozenset({dw.TAG_POINTER, dw.TAG_REFERENCE, dw.TAG_RVALUE_REFERENCE})
_RECORDS = {
    dw.TAG_STRUCTURE: "struct",
    dw.TAG_CLASS: "class",
    dw.TAG_UNION: "union",
}
_ASSEMBLER = 0x8001
_CPLUSPLUS = frozenset({0x04, 0x1A, 0x21, 0x2B, 0x34, 0x3A})
_ENCODING_BOOLEAN, _ENCODING_COMPLEX, _ENCODING_FLOAT = 0x02, 0x03, 0x04
_ENCODING_SIGNED = frozenset({0x05, 0x06})
_ENCODING_DECIMAL_FLOAT = 0x0F
# DW_CC_pass_by_reference: the caller makes a copy and hands over its address.
_PASS_BY_REFERENCE = 0x04
_MAX_DEPTH = 32


def signature(function: Entry) -> Signature:
    """Return what a function takes and returns.

    Args:
        function: A subprogram; for a copy of an inline function or a method its declaration, which
            has the types, is followed.
    """
    chain = [function]
    while len(chain) < _MAX_DEPTH:
        origin = chain[-1].reference(dw.AT_ABSTRACT_ORIGIN) or chain[-1].reference(
            dw.AT_SPECIFICATION
        )
        if origin is None:
            break
        chain.append(origin)
    result = next((one for one in chain if dw.AT_TYPE in one.values), None)
    returns = c_type(result.reference(dw.AT_TYPE)) if result is not None else VOID
    # The copy may lack parameters that the compiler dropped; the original has them all. A method's
    # declaration may lack the names.
    found = [_parameters(one) for one in reversed(chain)]
    parameters, variadic = next((one for one in found if one[0] or one[1]), ((), False))
    for others, _ in found:
        if len(others) == len(parameters):
            parameters = tuple(
                one if one.label else Parameter(other.label, one.type)
                for one, other in zip(parameters, others, strict=True)
            )
    return Signature(returns, parameters, variadic)


def _parameters(function: Entry, depth: int = 0) -> tuple[tuple[Parameter, ...], bool]:
    found = []
    variadic = False
    wanted = frozenset({dw.TAG_PARAMETER, dw.TAG_UNSPECIFIED_PARAMETERS})
    info = function.unit.info
    for position, tag in info.child_positions(function, wanted.__contains__):
        if tag == dw.TAG_UNSPECIFIED_PARAMETERS:
            variadic = True
            continue
        entry = info.entry(position)
        origin = entry
        while dw.AT_TYPE not in origin.values or not origin.text(dw.AT_NAME):
            following = origin.reference(dw.AT_ABSTRACT_ORIGIN)
            if following is None:
                break
            origin = following
        found.append(
            Parameter(
                origin.text(dw.AT_NAME) or entry.text(dw.AT_NAME),
                c_type(origin.reference(dw.AT_TYPE), depth),
            )
        )
    return tuple(found), variadic


def names(function: Entry) -> Iterator[str]:
    """Yield the names of a function, of its declaration and of what it is a copy of."""
    one: Entry | None = function
    for _ in range(_MAX_DEPTH):
        if one is None:
            return
        for attribute in (dw.AT_LINKAGE_NAME, dw.AT_MIPS_LINKAGE_NAME, dw.AT_NAME):
            if name := one.text(attribute):
                yield name
        one = one.reference(dw.AT_ABSTRACT_ORIGIN) or one.reference(dw.AT_SPECIFICATION)


def is_assembler(unit: Unit) -> bool:
    """Return whether a unit was written in assembler, about whose functions nothing is known."""
    return unit.info.root(unit).number(dw.AT_LANGUAGE) == _ASSEMBLER


def c_type(entry: Entry | None, depth: int = 0) -> CType:
    """Return a type as C spells it, with its size and how it is handed over; None is void."""
    if entry is None:
        return VOID
    if depth > _MAX_DEPTH:
        return UNKNOWN
    tag = entry.tag
    if tag in _QUALIFIERS:
        return c_type(entry.reference(dw.AT_TYPE), depth + 1)
    if tag in _POINTERS:
        return _pointer(entry, depth)
    if tag == dw.TAG_TYPEDEF:
        return typedef(entry.text(dw.AT_NAME), c_type(entry.reference(dw.AT_TYPE), depth + 1))
    if tag == dw.TAG_BASE_TYPE:
        return _base_type(entry)
    if tag == dw.TAG_ENUMERATION:
        return _enumeration(entry, depth)
    if tag in _RECORDS:
        return _record(entry)
    if tag == dw.TAG_ARRAY:
        if dw.AT_GNU_VECTOR in entry.values:
            return CType("vector", entry.number(dw.AT_BYTE_SIZE, 16), Kind.FLOAT, "vector")
        return _pointer(entry, depth)
    if tag == dw.TAG_UNSPECIFIED_TYPE:
        return CType(entry.text(dw.AT_NAME), EIGHTBYTE, Kind.POINTER, "void *")
    if tag == dw.TAG_PTR_TO_MEMBER:
        return _pointer_to_member(entry)
    return UNKNOWN


def _pointer(entry: Entry, depth: int) -> CType:
    constant = False
    target = entry.reference(dw.AT_TYPE)
    while target is not None and target.tag in _QUALIFIERS:
        constant |= target.tag == dw.TAG_CONST
        target = target.reference(dw.AT_TYPE)
    if target is not None and target.tag == dw.TAG_SUBROUTINE_TYPE:
        return _function_pointer(target, depth)
    name = _name(target, depth + 1)
    constant &= not name.endswith("*")
    shown = pointer_to(f"const {name}" if constant else name)
    if entry.tag in (dw.TAG_REFERENCE, dw.TAG_RVALUE_REFERENCE):
        ampersand = "&" if entry.tag == dw.TAG_REFERENCE else "&&"
        text = f"{'const ' if constant else ''}{name} {ampersand}"
        return CType(text, shown.num_bytes, shown.kind, shown.base)
    return shown


def _function_pointer(target: Entry, depth: int) -> CType:
    if depth > _MAX_DEPTH // 4:
        return pointer_to("void")
    inner, variadic = _parameters(target, depth + 1)
    returns = c_type(target.reference(dw.AT_TYPE), depth + 1)
    names = [one.type.name for one in inner]
    return function_pointer(returns.name, [*names, *(["..."] * variadic)])


def _name(entry: Entry | None, depth: int) -> str:
    """Return what a type is called, without looking at what it consists of."""
    if entry is not None and entry.tag in _RECORDS:
        word = "" if _is_cplusplus(entry) else f"{_RECORDS[entry.tag]} "
        return f"{word}{entry.text(dw.AT_NAME)}".strip() or _RECORDS[entry.tag]
    if entry is not None and entry.tag == dw.TAG_TYPEDEF:
        return entry.text(dw.AT_NAME)
    return c_type(entry, depth).name


def _is_cplusplus(entry: Entry) -> bool:
    return entry.unit.info.root(entry.unit).number(dw.AT_LANGUAGE) in _CPLUSPLUS


def _base_type(entry: Entry) -> CType:
    name, size = entry.text(dw.AT_NAME), entry.number(dw.AT_BYTE_SIZE)
    encoding = entry.number(dw.AT_ENCODING)
    if encoding == _ENCODING_BOOLEAN:
        return CType("bool", size, Kind.UNSIGNED, "bool")
    if encoding in (_ENCODING_FLOAT, _ENCODING_COMPLEX, _ENCODING_DECIMAL_FLOAT):
        extended = "long double" in name
        return CType(name, size, Kind.LONG_DOUBLE if extended else Kind.FLOAT, name)
    return integer(name, size, signed=encoding in _ENCODING_SIGNED)


def _enumeration(entry: Entry, depth: int) -> CType:
    size = entry.number(dw.AT_BYTE_SIZE, 4)
    underlying = entry.reference(dw.AT_TYPE)
    if underlying is not None:
        base = c_type(underlying, depth + 1)
    else:
        base = integer("", size, signed=False)
    name = f"enum {entry.text(dw.AT_NAME)}".strip()
    return CType(name, size, base.kind, name)


def _record(entry: Entry) -> CType:
    full = _definition(entry)
    size = full.number(dw.AT_BYTE_SIZE)
    name = _name(entry, 0)
    if full.number(dw.AT_CALLING_CONVENTION) == _PASS_BY_REFERENCE or _copies_itself(full, 0):
        return CType(name, EIGHTBYTE, Kind.REFERENCE, "void *")
    parts: set[int] = set()
    extended = False
    if size <= MAX_REGISTER_STRUCTURE_BYTES:
        extended = _integer_parts(full, 0, parts, 0)
    if extended:
        # Long doubles never travel in registers, and take the whole structure with them.
        return CType(name, size, Kind.STRUCTURE, name, 0)
    return structure(name, size, lambda part: part // EIGHTBYTE in parts)


def _copies_itself(record: Entry, depth: int) -> bool:
    """Return whether C++ hands over a class by reference because copying it runs code.

    That is so if it, a base or a member has a destructor or copy constructor of its own, or virtual
    functions. clang writes it down (DW_AT_calling_convention), gcc does not.
    """
    if depth > _MAX_DEPTH or not _is_cplusplus(record):
        return False
    if record.number(dw.AT_CALLING_CONVENTION):
        return record.number(dw.AT_CALLING_CONVENTION) == _PASS_BY_REFERENCE
    info = record.unit.info
    wanted = frozenset({dw.TAG_SUBPROGRAM, dw.TAG_MEMBER, dw.TAG_INHERITANCE})
    for position, tag in info.child_positions(record, wanted.__contains__):
        member = info.entry(position)
        if tag == dw.TAG_SUBPROGRAM:
            if member.number(dw.AT_VIRTUALITY) or _is_copying(record, member):
                return True
        elif not member.number(dw.AT_EXTERNAL):
            inner = _unqualified(member.reference(dw.AT_TYPE))
            if member.number(dw.AT_VIRTUALITY):
                return True
            if inner is None or inner.tag not in _RECORDS:
                continue
            if _copies_itself(_definition(inner), depth + 1):
                return True
    return False


def _is_copying(record: Entry, method: Entry) -> bool:
    name = method.text(dw.AT_NAME)
    if method.number(dw.AT_ARTIFICIAL) or method.number(dw.AT_DEFAULTED):
        return False
    if name.startswith("~"):
        return True
    if name != record.text(dw.AT_NAME).partition("<")[0]:
        return False
    parameters, _ = _parameters(method)
    return len(parameters) == 2 and parameters[1].type.name.removeprefix("const ").rstrip(
        " &"
    ) == record.text(dw.AT_NAME)


def _unqualified(entry: Entry | None) -> Entry | None:
    while entry is not None and (entry.tag in _QUALIFIERS or entry.tag == dw.TAG_TYPEDEF):
        entry = entry.reference(dw.AT_TYPE)
    return entry


def _definition(entry: Entry) -> Entry:
    """Return the entry with the members; a declaration may only name it by signature."""
    signed = entry.reference(dw.AT_SIGNATURE)
    return signed if signed is not None and signed.tag == entry.tag else entry


def _integer_parts(entry: Entry, offset: int, parts: set[int], depth: int) -> bool:
    """Collect which eight-byte parts of a record hold integers; tell if it has a long double."""
    extended = False
    wanted = frozenset({dw.TAG_MEMBER, dw.TAG_INHERITANCE})
    info = entry.unit.info
    for position, _ in info.child_positions(entry, wanted.__contains__):
        member = info.entry(position)
        if member.number(dw.AT_EXTERNAL) or member.number(dw.AT_DECLARATION):
            continue
        place = member.number(dw.AT_DATA_MEMBER_LOCATION)
        place += member.number(dw.AT_DATA_BIT_OFFSET) // 8
        extended |= _value_parts(member.reference(dw.AT_TYPE), offset + place, parts, depth + 1)
    return extended


def _value_parts(entry: Entry | None, offset: int, parts: set[int], depth: int) -> bool:
    entry = _unqualified(entry)
    if entry is None or depth > _MAX_DEPTH:
        return False
    if entry.tag in _RECORDS:
        return _integer_parts(_definition(entry), offset, parts, depth)
    if entry.tag == dw.TAG_ARRAY and dw.AT_GNU_VECTOR not in entry.values:
        element = entry.reference(dw.AT_TYPE)
        size = max(_size(element), 1)
        extended = False
        for index in range(min(_elements(entry), MAX_REGISTER_STRUCTURE_BYTES // size)):
            extended |= _value_parts(element, offset + index * size, parts, depth + 1)
        return extended
    kind = c_type(entry)
    if kind.kind is Kind.LONG_DOUBLE:
        return True
    if kind.kind is not Kind.FLOAT:
        last = offset + max(kind.num_bytes, 1) - 1
        parts.update(range(offset // EIGHTBYTE, last // EIGHTBYTE + 1))
    return False


def _size(entry: Entry | None) -> int:
    entry = _unqualified(entry)
    if entry is None:
        return 0
    if entry.tag in _RECORDS:
        return _definition(entry).number(dw.AT_BYTE_SIZE)
    if entry.tag == dw.TAG_ARRAY:
        return _elements(entry) * _size(entry.reference(dw.AT_TYPE))
    return c_type(entry).num_bytes


def _elements(array: Entry) -> int:
    count = 1
    info = array.unit.info
    for position, _ in info.child_positions(array, dw.TAG_SUBRANGE.__eq__):
        entry = info.entry(position)
        if dw.AT_COUNT in entry.values:
            count *= entry.number(dw.AT_COUNT)
        elif dw.AT_UPPER_BOUND in entry.values:
            count *= entry.number(dw.AT_UPPER_BOUND) + 1
    return count


def _pointer_to_member(entry: Entry) -> CType:
    target = entry.reference(dw.AT_TYPE)
    name = "pointer to member"
    if target is not None and target.tag == dw.TAG_SUBROUTINE_TYPE:
        # Address and adjustment of this, in two registers.
        return CType(name, 2 * EIGHTBYTE, Kind.STRUCTURE, name, 2)
    return CType(name, EIGHTBYTE, Kind.SIGNED, "long")
