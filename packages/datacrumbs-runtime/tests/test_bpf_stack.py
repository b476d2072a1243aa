"""The stack of the BPF programs, as kernels without private stacks (before 6.13) count it."""

import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from datacrumbs_runtime.bpf.libbpf import Object
from datacrumbs_runtime.bpf.loader import OBJECT_PATH
from datacrumbs_runtime.errors import ProgramRefusedError

# What a program and all that it calls may use together.
STACK_BYTES = 512
# The kernel counts each frame in steps of this.
FRAME_STEP_BYTES = 32

_INSTRUCTION = struct.Struct("<BBhi")
_FRAME_POINTER = 10
_LOADS_AND_STORES = frozenset({1, 2, 3})
_STORES = frozenset({2, 3})
_MOVE, _ADD, _CALL, _LOAD_ADDRESS = 0xBF, 0x07, 0x85, 0x18
_PSEUDO_CALL = 1
_TAIL_CALL = 12
_SYMBOLS, _RELOCATIONS = 2, 9
_FUNCTION, _SECTION = 2, 3

# Section and offset.
Place = tuple[int, int]


@dataclass
class Function:
    """A function of the object: what it needs of the stack, and what it calls."""

    name: str
    stack_bytes: int = 0
    calls: set[Place] = field(default_factory=set)


class Symbol(NamedTuple):
    """A symbol: ``kind`` 2 is a function, 3 a section."""

    name: str
    kind: int
    section: int
    value: int
    size: int


class Section(NamedTuple):
    """A section: ``kind`` 2 is the symbols, 9 relocations of the section ``info``."""

    kind: int
    data: bytes
    link: int
    info: int


def sections_of(path: Path) -> list[Section]:
    """Return the sections of a 64-bit object."""
    data = path.read_bytes()
    table, size, count = struct.unpack_from("<Q10xHH", data, 0x28)
    found = []
    for at in range(table, table + size * count, size):
        kind, start, length, link, info = struct.unpack_from("<4xI16xQQII", data, at)
        found.append(Section(kind, data[start : start + length], link, info))
    return found


def symbols_of(sections: Sequence[Section]) -> list[Symbol]:
    """Return the symbols of an object, in their order."""
    table = next(section for section in sections if section.kind == _SYMBOLS)
    names = sections[table.link].data
    return [
        Symbol(names[name : names.index(0, name)].decode(), info & 15, section, value, size)
        for name, info, section, value, size in struct.iter_unpack("<IBxHQQ", table.data)
    ]


def functions_of(path: Path) -> dict[Place, Function]:
    """Return the functions of an object."""
    sections = sections_of(path)
    symbols = symbols_of(sections)
    moved = {
        section.info: {
            offset: symbols[info >> 32] for offset, info in struct.iter_unpack("<QQ", section.data)
        }
        for section in sections
        if section.kind == _RELOCATIONS
    }
    return {
        (symbol.section, symbol.value): _function(
            symbol, sections[symbol.section].data, moved.get(symbol.section, {})
        )
        for symbol in symbols
        if symbol.kind == _FUNCTION
    }


def _function(symbol: Symbol, code: bytes, moved: dict[int, Symbol]) -> Function:
    function = Function(symbol.name)
    copies: set[int] = set()
    for offset in range(symbol.value, symbol.value + symbol.size, 8):
        operation, registers, displacement, number = _INSTRUCTION.unpack_from(code, offset)
        target, source = registers & 15, registers >> 4
        kind = operation & 7
        if kind in _LOADS_AND_STORES:
            base = target if kind in _STORES else source
            if base == _FRAME_POINTER:
                function.stack_bytes = max(function.stack_bytes, -displacement)
        elif operation == _MOVE and source == _FRAME_POINTER:
            copies.add(target)
            continue
        elif operation == _ADD and target in copies:
            function.stack_bytes = max(function.stack_bytes, -number)
        elif operation == _CALL and source == _PSEUDO_CALL:
            function.calls.add(_called(moved.get(offset), symbol.section, offset, number))
        elif operation == _LOAD_ADDRESS and offset in moved:
            # A function whose address is taken is called by a helper, as bpf_loop() does.
            place = moved[offset]
            if place.kind in {_FUNCTION, _SECTION}:
                function.calls.add((place.section, place.value + number))
        copies.discard(target)
    return function


def _called(place: Symbol | None, section: int, offset: int, number: int) -> Place:
    if place is None:
        return section, offset + 8 * (number + 1)
    if place.kind == _SECTION:
        return place.section, 8 * (number + 1)
    return place.section, place.value


def deepest_chains(path: Path) -> dict[str, tuple[int, str]]:
    """Return the stack that each program needs, and the chain of calls that needs it."""
    functions = functions_of(path)

    @cache
    def deepest(place: Place) -> tuple[int, str]:
        function = functions[place]
        step = FRAME_STEP_BYTES
        own = max(step, -(-function.stack_bytes // step) * step)
        below = max(
            (deepest(each) for each in function.calls if each in functions), default=(0, "")
        )
        text = f"{function.name} {function.stack_bytes}"
        return own + below[0], f"{text}, {below[1]}" if below[1] else text

    called = {each for function in functions.values() for each in function.calls}
    return {functions[place].name: deepest(place) for place in functions if place not in called}


def programs_with_tail_call(path: Path) -> set[str]:
    """Return the programs in which a tail call is written, whether or not it is ever made."""
    sections = sections_of(path)
    found = set()
    for symbol in symbols_of(sections):
        if symbol.kind != _FUNCTION:
            continue
        code = sections[symbol.section].data[symbol.value : symbol.value + symbol.size]
        if any(
            operation == _CALL and registers >> 4 == 0 and number == _TAIL_CALL
            for operation, registers, _, number in _INSTRUCTION.iter_unpack(code)
        ):
            found.add(symbol.name)
    return found


# Two frames that fit a stack each, but not one together.
LARGE_FRAMES = """
static int (*random_number)(void) = (void *)7;
const volatile int never = 0;
__attribute__((noinline)) int deep(int first)
{
    volatile char memory[300];
    for (int i = 0; i < 300; i++)
        memory[i] = first;
    return memory[random_number() & 0xff];
}
__attribute__((section("uprobe"), used)) int program(void *ctx)
{
    volatile char memory[300];
    TAIL_CALL
    for (int i = 0; i < 300; i++)
        memory[i] = i;
    return deep(3) + memory[7];
}
__attribute__((section("license"), used)) char terms[] = "GPL";
"""
TAIL_CALL = 'if (never) asm volatile("call 12" ::: "r0", "r1", "r2", "r3", "r4", "r5");'

CHAINS = deepest_chains(OBJECT_PATH)


def is_loaded(directory: Path, name: str, tail_call: str) -> bool:
    """Compile the program with the large frames and return whether the kernel takes it."""
    source = directory / f"{name}.c"
    source.write_text(LARGE_FRAMES.replace("TAIL_CALL", tail_call))
    compiled = source.with_suffix(".o")
    subprocess.run(
        ["clang", "-g", "-O2", "-target", "bpf", "-c", source, "-o", compiled], check=True
    )
    opened = Object(compiled)
    try:
        opened.load()
    except ProgramRefusedError as error:
        if "combined stack size of 2 calls is" not in str(error):
            raise
        return False
    finally:
        opened.close()
    return True


@pytest.mark.kernel
def test_a_tail_call_keeps_a_program_on_its_own_stack(tmp_path: Path) -> None:
    if not is_loaded(tmp_path, "plain", ""):
        pytest.skip("this kernel gives programs no stack of the CPU")
    assert not is_loaded(tmp_path, "with_tail_call", TAIL_CALL)


def test_programs_on_functions_of_user_space_stay_on_their_own_stack() -> None:
    # These can be preempted by another thread that runs the same program on their CPU.
    of_user_space = {name for name in CHAINS if name.startswith(("dc_uprobe_", "dc_register_"))}
    assert len(of_user_space) == 6
    assert programs_with_tail_call(OBJECT_PATH) == of_user_space


@pytest.mark.parametrize("program", sorted(CHAINS))
def test_programs_fit_the_stack_of_older_kernels(program: str) -> None:
    stack_bytes, chain = CHAINS[program]
    assert stack_bytes <= STACK_BYTES, chain
