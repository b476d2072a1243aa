"""Signatures of functions, and which of their parameters a probe can read.

The System V calling convention (x86_64; aarch64 and ppc64le agree for everything that is captured)
hands integers and pointers over in registers, up to six of which are captured. Floating point
numbers travel in other registers and do not count; structures by value take as many as their parts.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from datacrumbs_runtime.schema.probe_file import MAX_ARGUMENTS, Argument
from datacrumbs_utils.discovery.prototypes import TYPE_BYTES

EIGHTBYTE = 8
MAX_REGISTER_STRUCTURE_BYTES = 16


class Kind(Enum):
    """How a value is handed over."""

    VOID = "void"
    SIGNED = "signed integer"
    UNSIGNED = "unsigned integer"
    POINTER = "pointer"
    FLOAT = "floating point"
    LONG_DOUBLE = "long double"
    STRUCTURE = "structure by value"
    REFERENCE = "object by value, of which a copy's address is handed over"
    UNKNOWN = "unknown type"


@dataclass(frozen=True, slots=True)
class CType:
    """A C type as far as probes care.

    Attributes:
        name: As declared, with the ``const`` of what a pointer points to.
        num_bytes: Its size.
        kind: How a value of it is handed over.
        base: The plain type behind a typedef: ``unsigned int`` for ``mode_t``, ``enum colour``.
        integer_registers: Structures: how many integer registers one takes; 0: none, it goes on
            the stack or into floating point registers.
    """

    name: str
    num_bytes: int
    kind: Kind
    base: str
    integer_registers: int = 0


_UNCAPTURABLE = frozenset(
    {Kind.FLOAT, Kind.LONG_DOUBLE, Kind.STRUCTURE, Kind.REFERENCE, Kind.UNKNOWN}
)
VOID = CType("void", 0, Kind.VOID, "void")
UNKNOWN = CType("?", EIGHTBYTE, Kind.UNKNOWN, "?")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a function: its name (empty: unnamed) and type."""

    label: str
    type: CType


@dataclass(frozen=True, slots=True)
class Signature:
    """What a function takes and returns.

    Attributes:
        returns: The type of its result.
        parameters: Its named and unnamed parameters.
        variadic: Whether more may follow.
    """

    returns: CType
    parameters: tuple[Parameter, ...]
    variadic: bool = False

    def text(self, name: str) -> str:
        """Return the declaration as C writes it."""
        parts = [_declaration(one.type.name, one.label) for one in self.parameters]
        parts += ["..."] if self.variadic else []
        return _declaration(self.returns.name, f"{name}({', '.join(parts) or 'void'})")

    def result_type(self) -> str:
        """Return the type of the result as probe files have it."""
        return captured_name(self.returns).removeprefix("const ")

    def arguments(self) -> tuple[Argument, ...]:
        """Return the parameters that a probe can read, with the register of each."""
        return self._assign()[0]

    def uncapturable(self) -> tuple[str, ...]:
        """Return one phrase for each parameter that a probe cannot read, and why."""
        return self._assign()[1]

    def _assign(self) -> tuple[tuple[Argument, ...], tuple[str, ...]]:
        found: list[Argument] = []
        missing: list[str] = []
        # A structure that is returned in memory takes the first register for its address.
        register = int(
            self.returns.kind is Kind.REFERENCE
            or (
                self.returns.kind is Kind.STRUCTURE
                and self.returns.num_bytes > MAX_REGISTER_STRUCTURE_BYTES
            )
        )
        for position, parameter in enumerate(self.parameters):
            label = parameter.label or f"arg{position}"
            c_type = parameter.type
            if c_type.kind in _UNCAPTURABLE:
                missing.append(f"{label}: {c_type.kind.value} ({c_type.name})")
                needed = 1 if c_type.kind is Kind.REFERENCE else c_type.integer_registers
                register += needed if register + needed <= MAX_ARGUMENTS else 0
            elif c_type.num_bytes > EIGHTBYTE:
                missing.append(f"{label}: larger than a register ({c_type.name})")
                register += 2 if register + 2 <= MAX_ARGUMENTS else 0
            elif register >= MAX_ARGUMENTS:
                missing.append(f"{label}: handed over on the stack")
            else:
                pointer = c_type.kind is Kind.POINTER
                name = captured_name(c_type)
                found.append(Argument(register, c_type.num_bytes, pointer, label, name))
                register += 1
        return tuple(found), tuple(missing)


def captured_name(c_type: CType) -> str:
    """Return the type name for a probe file.

    Names that every reader knows stay (``size_t``, ``mode_t``); others become the plain type behind
    them, which says whether the value has a sign.
    """
    if c_type.kind is Kind.POINTER or c_type.name in TYPE_BYTES:
        return c_type.name
    return c_type.base


def pointer_to(target: str) -> CType:
    """Return the type of a pointer; ``target`` is the name of what it points to."""
    if "(" in target:
        return CType(target, EIGHTBYTE, Kind.POINTER, target)
    name = f"{target}*" if target.endswith("*") else f"{target} *"
    return CType(name, EIGHTBYTE, Kind.POINTER, name)


def function_pointer(returns: str, parameters: Iterable[str]) -> CType:
    """Return the type of a pointer to a function."""
    name = f"{returns} (*)({', '.join(parameters) or 'void'})"
    return CType(name, EIGHTBYTE, Kind.POINTER, name)


def integer(name: str, num_bytes: int, *, signed: bool) -> CType:
    """Return the type of a plain integer, spelled as everybody does: ``unsigned long``."""
    plain = _plain_integer(name, num_bytes, signed)
    return CType(plain, num_bytes, Kind.SIGNED if signed else Kind.UNSIGNED, plain)


_INTEGER_NAMES = {1: "char", 2: "short", 4: "int", 8: "long", 16: "__int128"}
_CANONICAL: Mapping[str, str] = {
    "long int": "long",
    "short int": "short",
    "long long int": "long long",
    "unsigned": "unsigned int",
    "long unsigned int": "unsigned long",
    "long unsigned": "unsigned long",
    "short unsigned int": "unsigned short",
    "long long unsigned int": "unsigned long long",
    "unsigned long int": "unsigned long",
    "unsigned short int": "unsigned short",
    "unsigned long long int": "unsigned long long",
    "_Bool": "bool",
    "__int128 unsigned": "unsigned __int128",
}


def _plain_integer(name: str, num_bytes: int, signed: bool) -> str:
    known = _CANONICAL.get(name, name)
    if known:
        return known
    plain = _INTEGER_NAMES.get(num_bytes, f"{num_bytes} bytes")
    return plain if signed else f"unsigned {plain}"


def typedef(name: str, target: CType) -> CType:
    """Return ``target`` under another name."""
    if target.kind is Kind.POINTER:
        # A text stays recognisable behind any name.
        plain = target.name if target.name == "const char *" else name
        return CType(plain, target.num_bytes, target.kind, target.base)
    if name == "bool":
        return CType("bool", target.num_bytes, target.kind, "bool")
    if target.name == "enum":
        return CType(name, target.num_bytes, target.kind, f"enum {name}")
    return CType(name, target.num_bytes, target.kind, target.base, target.integer_registers)


def structure(
    name: str,
    num_bytes: int,
    is_integer_part: Callable[[int], bool],
) -> CType:
    """Return the type of a structure or union by value.

    Args:
        name: Its name with ``struct`` or ``union``.
        num_bytes: Its size.
        is_integer_part: Tells of a part of eight bytes, by its position in bytes, whether it
            contains anything but floating point.
    """
    registers = 0
    if num_bytes <= MAX_REGISTER_STRUCTURE_BYTES:
        registers = sum(is_integer_part(part) for part in range(0, num_bytes, EIGHTBYTE))
    return CType(name, num_bytes, Kind.STRUCTURE, name, registers)


_FUNCTION_POINTER = re.compile(r"\(\*+(?=\))")


def _declaration(c_type: str, name: str) -> str:
    function = _FUNCTION_POINTER.search(c_type)
    if function:
        return f"{c_type[: function.end()]}{name}{c_type[function.end() :]}"
    separator = "" if c_type.endswith("*") or not name else " "
    return f"{c_type}{separator}{name}"


def to_row(signature: Signature) -> list[Any]:
    """Return a signature as JSON can hold it."""
    return [
        _type_row(signature.returns),
        [[one.label, *_type_row(one.type)] for one in signature.parameters],
        signature.variadic,
    ]


def _type_row(c_type: CType) -> list[Any]:
    return [
        c_type.name,
        c_type.num_bytes,
        c_type.kind.value,
        c_type.base,
        c_type.integer_registers,
    ]


def from_row(row: Any) -> Signature | None:
    """Return the signature that :func:`to_row` wrote, or None for anything else."""
    try:
        returns, parameters, variadic = row
        return Signature(
            _type(returns),
            tuple(Parameter(str(label), _type(rest)) for label, *rest in parameters),
            bool(variadic),
        )
    except (TypeError, ValueError):
        return None


def _type(row: list[Any]) -> CType:
    name, num_bytes, kind, base, registers = row
    return CType(str(name), int(num_bytes), Kind(kind), str(base), int(registers))
