"""Which of some addresses the jumps of a binary lead to.

All executable sections are searched for the bytes of relative jumps and calls. Most hits are bytes
of something else; a hit counts if decoding from the start of the function around it meets an
instruction there. Jumps through a register or a table are not followed: compilers let them lead to
the start of a function or behind its prologue.
"""

import re
import struct
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Mapping

import capstone  # type: ignore[import-untyped]

from datacrumbs_utils.discovery.elf_image import (
    SHF_EXECINSTR,
    SHT_NOBITS,
    STT_FUNC,
    STT_GNU_IFUNC,
    ElfImage,
)

_CALL, _JMP = 0xE8, 0xE9
_TWO_BYTES = 0x0F
# call, jmp; jmp, jcc, loop and jrcxz with a distance of one byte; jcc with four.
_JUMP = re.compile(rb"[\xe8\xe9\xeb\x70-\x7f\xe0-\xe3]|\x0f[\x80-\x8f]")
_FUNCTION_KINDS = frozenset({STT_FUNC, STT_GNU_IFUNC})
_START, _INSIDE = 1, 2


def entered(
    image: ElfImage, ends: Mapping[int, int], sizes: Mapping[int, int | None]
) -> frozenset[int]:
    """Return the addresses at the beginning of functions that jumps lead to.

    Args:
        image: The binary.
        ends: For each function the end of the area in question, by the function's address.
        sizes: The functions' sizes in bytes. To a function's very first byte only jumps from within
            it count: calls and jumps from elsewhere are calls of it.
    """
    starts = sorted({*ends, *(symbol.value for symbol in image.symbols(_FUNCTION_KINDS))})
    # What follows in the file within the area is a function of its own, entered from anywhere.
    found = {
        starts[after]
        for value, end in ends.items()
        if (after := bisect_right(starts, value)) < len(starts) and starts[after] < end
    }
    for section in image.sections:
        if section.flags & SHF_EXECINSTR and section.type != SHT_NOBITS and section.size:
            code = image.data(section)
            first, last = section.address, section.address + len(code)
            marks = bytearray(len(code))
            for value, end in ends.items():
                if first <= value < last:
                    marks[value - first] = _START
                    for address in range(value + 1, min(end, last)):
                        marks[address - first] = _INSIDE
            hits = _hits(code, marks, first, sizes)
            found |= _confirmed(code, first, hits, starts)
    return frozenset(found)


def _hits(
    code: bytes, marks: bytearray, base: int, sizes: Mapping[int, int | None]
) -> list[tuple[int, int]]:
    """Return position and target, both from the section's start, of all bytes like a jump."""
    hits = []
    end = len(code)
    wide, narrow = struct.Struct("<i").unpack_from, struct.Struct("<b").unpack_from
    for match in _JUMP.finditer(code):
        position = match.start()
        opcode = code[position]
        if opcode in (_CALL, _JMP):
            target = position + 5
            if target > end:
                break
            target += wide(code, position + 1)[0]
        elif opcode == _TWO_BYTES:
            target = position + 6
            if target > end:
                break
            target += wide(code, position + 2)[0]
        else:
            target = position + 2
            if target > end:
                break
            target += narrow(code, position + 1)[0]
        if 0 <= target < end and (mark := marks[target]):
            if mark == _START:
                size = sizes.get(base + target) or 0
                if opcode == _CALL or not target < position < target + size:
                    continue
            hits.append((position, target))
    return hits


def _confirmed(code: bytes, base: int, hits: list[tuple[int, int]], starts: list[int]) -> set[int]:
    """Return the targets of those hits that are instructions."""
    around: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for position, target in hits:
        index = bisect_right(starts, base + position) - 1
        start = max(starts[index], base) if index >= 0 else base
        around[start - base].append((position, target))
    found = set()
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    for start, inside in around.items():
        positions = sorted({position for position, _ in inside})
        real = _instructions_at(decoder, code, start, positions)
        found |= {base + target for position, target in inside if position in real}
    return found


def _instructions_at(
    decoder: capstone.Cs, code: bytes, start: int, positions: list[int]
) -> set[int]:
    """Return at which positions an instruction begins when decoding from ``start``."""
    real: set[int] = set()
    end = positions[-1] + 1
    at = start
    while at < end:
        for address, size, _, _ in decoder.disasm_lite(code[at : end + 15], at):
            if address >= end:
                break
            index = bisect_left(positions, address)
            if index < len(positions):
                # Behind a prefix (bnd, notrack) the jump is still this instruction's.
                for position in positions[index:]:
                    if position >= address + size:
                        break
                    if position - address <= _prefix_length(code, address):
                        real.add(position)
            at = address + size
        else:
            if at >= end:
                break
            # Data between functions: go on behind the byte that is no instruction.
            at += 1
            continue
        break
    return real


def _prefix_length(code: bytes, position: int) -> int:
    length = 0
    while length < 4 and code[position + length] in b"\x66\xf2\xf3\x2e\x3e\x48":
        length += 1
    return length
