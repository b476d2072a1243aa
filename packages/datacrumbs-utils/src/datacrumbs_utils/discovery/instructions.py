"""What a uprobe costs on an x86_64 instruction, and which instructions it may be moved past.

The kernel replaces the probed instruction by a trap. Afterwards it emulates the original one if it
knows how (about 0.7 us in all, measured on Linux 6.18) or executes a copy of it elsewhere in
single-step mode (about 10 us). Some instructions it refuses, and a few it gets wrong.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import capstone  # type: ignore[import-untyped]


class Cost(Enum):
    """What a probe on an instruction costs."""

    EMULATED = "emulated"
    STEPPED = "single-stepped"
    IMPOSSIBLE = "cannot be probed"


@dataclass(frozen=True, slots=True)
class Instruction:
    """One decoded instruction.

    Attributes:
        size: Its length in bytes.
        text: What people call it, for explanations.
        cost: What a probe on it costs.
        refused: Why it cannot carry a probe, or None.
        passable: Whether a probe may be put behind it instead, as far as the stack pointer and
            memory are concerned: it runs on to the next one and changes neither.
        argument: Which argument's register it changes, from 0, or None.
    """

    size: int
    text: str
    cost: Cost
    refused: str | None
    passable: bool
    argument: int | None


_LEGACY_PREFIXES = frozenset({0x66, 0x67, 0xF2, 0xF3, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65, 0xF0})
_LOCK = 0xF0
# is_prefix_bad() in arch/x86/kernel/uprobes.c; 0x3e also begins "notrack jmp".
_BAD_PREFIXES = {
    _LOCK: "has a lock prefix",
    0x2E: "has a segment prefix",
    0x36: "has a segment prefix",
    0x3E: "has a segment prefix",
    0x26: "has a segment prefix",
}
_OPERAND_SIZE = 0x66
# Encodings of vector instructions (VEX, EVEX, XOP). The kernel looks at their opcode as if it were
# an old one: "vpor" (c5 .. eb) passes for a jump, is emulated as one and never executed, so that
# the program computes something else (seen on Linux 6.18, vpor and vpcmpeqb). Never probe them.
_VECTOR = frozenset({0x62, 0xC4, 0xC5})
# good_insns_64 in arch/x86/kernel/uprobes.c: not on its list.
_REFUSED_OPCODES = frozenset(
    {0x06, 0x07, 0x0E, 0x16, 0x17, 0x1E, 0x1F, 0x27, 0x2F, 0x37, 0x3F, 0x60, 0x61, 0x82}
    | {0x6C, 0x6D, 0x6E, 0x6F, 0x9A, 0xCC, 0xCD, 0xCE, 0xCF, 0xD4, 0xD5, 0xD6, 0xEA}
    | {0xE4, 0xE5, 0xE6, 0xE7, 0xEC, 0xED, 0xEE, 0xEF, 0xF1, 0xF4, 0xFA, 0xFB}
)
_PUSHF, _POPF = 0x9C, 0x9D
_NOP = 0x90
_CALL, _JMP, _JMP_SHORT = 0xE8, 0xE9, 0xEB
_REX_B = 0x41
_LONG_NOP = 0x1F
# Longer ones are single-stepped.
_MAX_EMULATED_NOP_BYTES = 8
# lar .. sysret; ud2, wbinvd; wrmsr .. getsec without rdtsc. "syscall" in single-step mode crashes:
# the return address in rcx is that of the copy.
_REFUSED_OPCODES_0F = frozenset(range(0x0D)) | {0x30, 0x32, 0x33, 0x34, 0x35, 0x37, 0xFF}

_ARGUMENT_REGISTERS = {
    name: index
    for index, names in enumerate(
        (
            ("rdi", "edi", "di", "dil"),
            ("rsi", "esi", "si", "sil"),
            ("rdx", "edx", "dx", "dl", "dh"),
            ("rcx", "ecx", "cx", "cl", "ch"),
            ("r8", "r8d", "r8w", "r8b"),
            ("r9", "r9d", "r9w", "r9b"),
        )
    )
    for name in names
}
_STACK_POINTER = frozenset({"rsp", "esp", "sp", "spl"})
_GENERAL_REGISTER = re.compile(r"[re]?[a-d]x|[a-d][hl]|[re]?(?:si|di|bp|sp)l?|r\d+[dwb]?")
_VECTOR_REGISTER = re.compile(r"[xyz]?mm\d+|k\d")
# Below the stack pointer nothing of the caller's lies; everywhere else a store could change what an
# argument points to before the probe reads it.
_RED_ZONE = re.compile(r".*\[rsp - \w+\]")
# They change nothing that matters.
_WITHOUT_TARGET = frozenset(
    {"endbr64", "endbr32", "nop", "test", "cmp", "bt", "pause", "vzeroupper", "vzeroall", "cdqe"}
    | {"cwde", "cbw", "lfence", "comiss", "comisd", "ucomiss", "ucomisd", "ptest", "cld"}
    | {"prefetcht0", "prefetcht1", "prefetcht2", "prefetchnta", "prefetchw"}
)
# They change their first operand and nothing else but flags.
_FIRST_OPERAND = re.compile(
    r"mov|movabs|movzx|movsx|movsxd|lea|xor|add|sub|and|or|not|neg|inc|dec|adc|sbb|bswap|movbe"
    r"|shl|shr|sar|sal|rol|ror|popcnt|lzcnt|tzcnt|bsf|bsr|cmov\w+|set\w+|movd|movq|andn|rdfsbase"
    r"|pextr[bwdq]|v?pmovmskb|v?movmskp[sd]|cvtt?s[sd]2si|bts|btr|btc|blsr|blsi|shlx|shrx|sarx|bzhi"
    r"|v?mov(?:ups|aps|upd|apd|dqu|dqa|ss|sd|hps|lps|hpd|lpd)"
)
# Three operands: only the first is changed. With one operand it would be rdx as well.
_MULTIPLY = "imul"


@lru_cache(maxsize=1)
def _decoder() -> capstone.Cs:
    return capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)


def decode(code: bytes, address: int, count: int) -> Iterator[Instruction]:
    """Yield the first instructions of some machine code.

    It ends early at bytes that are no instruction.

    Args:
        code: The bytes.
        address: Where they will run; it only matters for the text.
        count: How many instructions at most.
    """
    position = 0
    for _, size, mnemonic, operands in _decoder().disasm_lite(code, address, count):
        yield _describe(code[position : position + size], mnemonic, operands)
        position += size


@lru_cache(maxsize=1 << 16)
def _describe(code: bytes, mnemonic: str, operands: str) -> Instruction:
    cost, refused = classify(code)
    target = operands.partition(", ")[0]
    changes = mnemonic not in _WITHOUT_TARGET
    return Instruction(
        size=len(code),
        text=f"{mnemonic} {operands}".strip() if len(operands) < 40 else mnemonic,
        cost=cost,
        refused=refused,
        passable=_is_passable(mnemonic, operands),
        argument=_ARGUMENT_REGISTERS.get(target) if changes else None,
    )


def classify(code: bytes) -> tuple[Cost, str | None]:
    """Return what a probe on an instruction costs, and why it is impossible if it is.

    Args:
        code: The bytes of exactly this instruction.
    """
    position = 0
    prefixes = []
    while position < len(code) and code[position] in _LEGACY_PREFIXES:
        prefixes.append(code[position])
        position += 1
    for prefix in prefixes:
        if prefix in _BAD_PREFIXES:
            return Cost.IMPOSSIBLE, _BAD_PREFIXES[prefix]
    rex = 0
    if position < len(code) and 0x40 <= code[position] <= 0x4F:
        rex = code[position]
        position += 1
    if position >= len(code):
        return Cost.IMPOSSIBLE, "is cut short"
    opcode = code[position]
    if opcode == 0x0F and position + 1 < len(code):
        return _classify_two_bytes(code[position + 1], prefixes, len(code))
    if opcode in _VECTOR or (opcode == 0x8F and code[position + 1] & 0x38):
        return Cost.IMPOSSIBLE, "is a vector instruction that the kernel takes for another one"
    if opcode in _REFUSED_OPCODES:
        return Cost.IMPOSSIBLE, "is not on the kernel's list of instructions that can be probed"
    if opcode in (_PUSHF, _POPF):
        return Cost.IMPOSSIBLE, "moves the processor's flags, among them the single-step flag"
    if opcode == _NOP:
        # With a REX prefix it is an exchange, which the kernel would leave out.
        return (Cost.IMPOSSIBLE, "passes for a nop") if rex else (Cost.EMULATED, None)
    if opcode in (_CALL, _JMP, _JMP_SHORT) or 0x70 <= opcode <= 0x7F:
        return _branch(prefixes)
    if 0x50 <= opcode <= 0x57 and not prefixes and rex in (0, _REX_B):
        return Cost.EMULATED, None
    return Cost.STEPPED, None


def _classify_two_bytes(opcode: int, prefixes: list[int], size: int) -> tuple[Cost, str | None]:
    if 0x80 <= opcode <= 0x8F:
        return _branch(prefixes)
    if opcode == _LONG_NOP and size <= _MAX_EMULATED_NOP_BYTES:
        return Cost.EMULATED, None
    if opcode in _REFUSED_OPCODES_0F:
        return Cost.IMPOSSIBLE, "enters the kernel or needs its rights"
    return Cost.STEPPED, None


def _branch(prefixes: list[int]) -> tuple[Cost, str | None]:
    if _OPERAND_SIZE in prefixes:
        return Cost.IMPOSSIBLE, "is a branch with an operand size prefix"
    return Cost.EMULATED, None


def _is_passable(mnemonic: str, operands: str) -> bool:
    if mnemonic in _WITHOUT_TARGET:
        return True
    target, _, rest = operands.partition(", ")
    if _VECTOR_REGISTER.fullmatch(target):
        # Branches, calls and string instructions have no vector register as first operand.
        return True
    if not (_FIRST_OPERAND.fullmatch(mnemonic) or (mnemonic == _MULTIPLY and rest)):
        return False
    if "[" in target:
        return _RED_ZONE.fullmatch(target) is not None
    return _GENERAL_REGISTER.fullmatch(target) is not None and target not in _STACK_POINTER
