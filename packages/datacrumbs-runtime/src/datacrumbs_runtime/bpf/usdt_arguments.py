"""Operands of USDT probes: which of them are in the registers that the programs read.

A probe's note describes each argument as ``SIZE@OPERAND`` in assembler syntax, such as ``-4@%edi``
(a signed 32-bit value in a register) or ``8@16(%rbp)`` (64 bits in memory).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from datacrumbs_runtime.bpf.argument_formats import distinct, fitting, number_format, plain_type
from datacrumbs_runtime.bpf.values import Value, number, text
from datacrumbs_runtime.schema.probe_file import Argument

# Registers by position among the arguments of a function call, in all their widths.
_ARGUMENT_REGISTERS = {
    name: position
    for position, names in enumerate(
        (
            "rdi edi di dil x0 w0",
            "rsi esi si sil x1 w1",
            "rdx edx dx dl x2 w2",
            "rcx ecx cx cl x3 w3",
            "r8 r8d r8w r8b x4 w4",
            "r9 r9d r9w r9b x5 w5",
        )
    )
    for name in names.split()
}
_OPERAND = re.compile(r"(?P<size>-?[1248])f?@(?P<operand>\S+(?:, ?[^@\s]+(?=\s|$))?)")
_REGISTER = re.compile(r"%?(?P<name>[a-z]\w*)")


@dataclass(frozen=True, slots=True)
class UsdtOperand:
    """One argument of a USDT probe.

    Attributes:
        num_bytes: Its size.
        is_signed: Whether it has a sign.
        position: Position among the argument registers, or None where it is somewhere else.
        text: The operand as the note has it.
    """

    num_bytes: int
    is_signed: bool
    position: int | None
    text: str


def parse(specification: str) -> tuple[UsdtOperand, ...]:
    """Understand the arguments of a probe's note, such as ``-4@%edi 8@%rsi``."""
    operands = []
    for match in _OPERAND.finditer(specification):
        size = int(match["size"])
        register = _REGISTER.fullmatch(match["operand"])
        position = _ARGUMENT_REGISTERS.get(register["name"]) if register else None
        operands.append(UsdtOperand(abs(size), size < 0, position, match["operand"]))
    return tuple(operands)


def usdt_values(
    arguments: tuple[Argument, ...], specification: str
) -> tuple[tuple[Value, ...], tuple[str, ...]]:
    """Return the values of a USDT probe, and the labels of those that are out of reach.

    Args:
        arguments: What the probe file says of them; empty: all are numbers without a name.
        specification: What the probe's note says of them.
    """
    operands = parse(specification)
    values = []
    missing = []
    for argument in arguments or _unnamed(operands):
        operand = operands[argument.index] if argument.index < len(operands) else None
        if operand is None or operand.position is None:
            missing.append(argument.label)
        elif plain_type(argument.c_type) == "char *":
            values.append(text(argument.label, operand.position))
        else:
            shown_as = number_format(
                argument.c_type, operand.num_bytes, is_pointer=argument.is_pointer
            )
            values.append(number(argument.label, operand.position, shown_as or "u64"))
    fits, cut = fitting(distinct(values))
    return fits, (*missing, *cut)


def _unnamed(operands: tuple[UsdtOperand, ...]) -> Iterator[Argument]:
    for index, operand in enumerate(operands):
        sign = "" if operand.is_signed else "unsigned "
        yield Argument(index, operand.num_bytes, False, f"arg{index}", f"{sign}int")
