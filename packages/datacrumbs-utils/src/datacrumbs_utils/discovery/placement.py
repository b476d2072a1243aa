"""Where in a function its probe is cheapest, without changing what the probe sees.

A probe may stand behind the first instructions of a function if these change neither the stack
pointer (the return address must be on top of the stack) nor a register that carries a captured
argument, and if nothing jumps in between: then it fires exactly once per call and sees the same
arguments.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass

from datacrumbs_runtime.schema.probe_file import MAX_ARGUMENTS
from datacrumbs_utils.discovery import cache, jumps
from datacrumbs_utils.discovery.candidates import Candidate, Placement
from datacrumbs_utils.discovery.elf_image import EM_X86_64, ET_REL, ElfImage
from datacrumbs_utils.discovery.instructions import Cost, Instruction, decode

_CACHE_KIND = "placement"
_CACHE_VERSION = 1
_MAX_INSTRUCTIONS = 12
_HEAD_BYTES = 80


_ALL = (1 << MAX_ARGUMENTS) - 1


@dataclass(frozen=True, slots=True)
class _Request:
    """A function and the argument registers (bit 0: the first) that its probe reads."""

    value: int
    offset: int
    size: int | None
    needed: int

    @property
    def key(self) -> str:
        """What its placement is called in the cache."""
        return f"{self.value:x}/{self.needed:x}"


def place(
    path: str | os.PathLike[str],
    candidates: Iterable[Candidate],
    captured: Mapping[str, Collection[int]] | None = None,
) -> dict[str, Placement]:
    """Find the cheapest safe place for a probe on each function.

    Results are kept by build id. On a machine that is not x86_64 every function is probed at its
    first instruction.

    Args:
        path: The binary.
        candidates: Its functions that are to be probed.
        captured: Which argument registers (from 0) the probe on each function reads, by symbol; a
            function that is missing reads none. None: all six count for every function.

    Returns:
        Placements by symbol. Functions without a place in the file are missing; of several with
        one name the first counts.

    Raises:
        DatacrumbsError: The file cannot be read as ELF.
    """
    functions: dict[str, _Request] = {}
    for one in candidates:
        if one.file_offset is not None and one.value is not None and one.symbol not in functions:
            needed = _ALL if captured is None else _bits(captured.get(one.symbol, ()))
            functions[one.symbol] = _Request(one.value, one.file_offset, one.size, needed)
    with ElfImage(path) as image:
        key = cache.file_key(path, image.build_id())
        known = cache.load(_CACHE_KIND, _CACHE_VERSION, key)
        missing = [one for one in functions.values() if _from_row(known.get(one.key)) is None]
        if missing:
            known = {**known, **_compute(image, missing)}
            cache.store(_CACHE_KIND, _CACHE_VERSION, key, known)
    placements = {symbol: _from_row(known[one.key]) for symbol, one in functions.items()}
    return {symbol: one for symbol, one in placements.items() if one is not None}


def _bits(registers: Collection[int]) -> int:
    return sum(1 << register for register in set(registers))


def _from_row(row: object) -> Placement | None:
    match row:
        case [int(offset), bool(cheap), (str() | None) as refused, str(reason)]:
            return Placement(offset, cheap, refused, reason)
        case _:
            return None


def _compute(image: ElfImage, requests: list[_Request]) -> dict[str, list[object]]:
    if image.machine != EM_X86_64 or image.type == ET_REL:
        reason = "first instruction; this machine's instructions are not looked at"
        return {one.key: [one.offset, False, None, reason] for one in requests}
    heads = {one.key: _head(image, one) for one in requests}
    ends: dict[int, int] = {}
    for one in requests:
        moved = _choose(one, heads[one.key], frozenset()).file_offset - one.offset
        ends[one.value] = max(ends.get(one.value, 0), one.value + moved + 1)
    entered = jumps.entered(image, ends, {one.value: one.size for one in requests})
    rows: dict[str, list[object]] = {}
    for one in requests:
        placement = _choose(one, heads[one.key], entered)
        rows[one.key] = [
            placement.file_offset,
            placement.cheap,
            placement.refused,
            placement.reason,
        ]
    return rows


def _head(image: ElfImage, request: _Request) -> list[Instruction]:
    """Decode a function up to the first instruction that no probe can be moved past."""
    length = min(request.size, _HEAD_BYTES) if request.size else _HEAD_BYTES
    head = []
    code = image.read(request.offset, length)
    for instruction in decode(code, request.value, _MAX_INSTRUCTIONS):
        head.append(instruction)
        if instruction.cost is Cost.EMULATED or not _passable(instruction, request):
            break
    return head


def _passable(instruction: Instruction, request: _Request) -> bool:
    argument = instruction.argument
    return instruction.passable and (argument is None or not request.needed >> argument & 1)


def _choose(request: _Request, head: list[Instruction], entered: Set[int]) -> Placement:
    value, offset = request.value, request.offset
    if not head:
        return Placement(offset, False, "its first bytes are no instruction", "not placed")
    first = head[0]
    if value in entered and not _moves_stack(head[-1]):
        # Probed there, every turn of the loop would count as a call. Behind a prologue the jump is
        # a tail call of the function to itself, which is a call like others.
        why = f"its first instruction ({first.text}) is the head of a loop"
        return Placement(offset, False, why, "not placed")
    reachable: list[tuple[int, Instruction]] = []
    distance = 0
    for instruction in head:
        if distance and not entered.isdisjoint(
            range(value + distance - reachable[-1][1].size + 1, value + distance + 1)
        ):
            break
        reachable.append((distance, instruction))
        distance += instruction.size
    for distance, instruction in reachable:
        if instruction.cost is Cost.EMULATED:
            return Placement(offset + distance, True, None, _reason(first, distance, instruction))
    for distance, instruction in reachable:
        if instruction.cost is Cost.STEPPED:
            reason = _reason(first, distance, instruction)
            if len(reachable) < len(head):
                reason += "; not moved: something jumps in between"
            elif not _passable(head[-1], request):
                reason += f"; not moved past {head[-1].text}"
            return Placement(offset + distance, False, None, reason)
    why = f"its first instruction ({first.text}) {first.refused}"
    return Placement(offset, False, why, "not placed")


def _moves_stack(instruction: Instruction) -> bool:
    return instruction.text.startswith(("push ", "sub rsp,"))


def _reason(first: Instruction, distance: int, instruction: Instruction) -> str:
    how = "emulated by the kernel" if instruction.cost is Cost.EMULATED else "single-stepped"
    if distance == 0:
        return f"first instruction ({instruction.text}), {how}"
    return f"{distance} bytes behind the start ({first.text}), at {instruction.text}, {how}"
