"""Operands of USDT probes: which of them are in the registers that the programs read.

A probe's note describes each argument as ``SIZE@OPERAND`` in assembler syntax, such as ``-4@%edi``
(a signed 32-bit value in a register) or ``8@16(%rbp)`` (64 bits in memory).
"""

import re
from dataclasses import dataclass

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
