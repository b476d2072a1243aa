"""Where the running kernel keeps what a tracepoint hands over.

A tracepoint's prototype is in the kernel's own type information (BTF) as the typedef
``btf_trace_<name>``. A member path such as ``->bio->bi_iter.bi_sector`` of one of its arguments
becomes the memory accesses that a BPF program has to make, on this kernel.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datacrumbs_runtime.bpf.layout import MAX_DEREFERENCES
from datacrumbs_runtime.bpf.libbpf import BTF_KIND_FUNC, Btf
from datacrumbs_runtime.errors import KernelError

MODULE_TYPES = Path("/sys/kernel/btf")
MAX_OFFSET_BYTES = 0xFFFF

_KIND_INT = 1
_KIND_POINTER = 2
_KIND_STRUCT = 4
_KIND_UNION = 5
_KIND_ENUM = 6
_KIND_TYPEDEF = 8
_KIND_FUNC_PROTO = 13
_KIND_ENUM64 = 19
# typedef, volatile, const, restrict, type tag: they only refer to another type.
_TRANSPARENT_KINDS = frozenset({_KIND_TYPEDEF, 9, 10, 11, 18})
_SIGNED = 1
_POINTER_BYTES = 8

_MEMBER = struct.Struct("=III")
_PARAMETER = struct.Struct("=II")
_STEP = re.compile(r"(->|\.|:)([A-Za-z_]\w*)")


@dataclass(frozen=True, slots=True)
class Field:
    """How to get from a tracepoint's argument to a value.

    Attributes:
        offsets: Bytes to add before each memory access; the accesses but the last read a pointer.
            Empty: the argument itself is the value.
        size: Bytes of the value: 1, 2, 4 or 8.
        is_signed: Whether it is a signed integer.
        is_pointer: Whether it is an address.
        structure: Name of the structure that it points to; empty: to none, or it is no address.
    """

    offsets: tuple[int, ...]
    size: int
    is_signed: bool
    is_pointer: bool
    structure: str = ""


class KernelTypes:
    """The types of the kernel and, where a tracepoint is not the kernel's own, of its modules."""

    def __init__(self, module_types: Path = MODULE_TYPES) -> None:
        """Read the kernel's types.

        Raises:
            KernelError: The kernel was built without type information.
        """
        self._kernel = Btf.of_kernel()
        self._directory = module_types
        self._modules: dict[str, Btf | None] = {}
        self._prototypes: dict[str, tuple[Btf, tuple[int, ...]] | None] = {}

    def __enter__(self) -> "KernelTypes":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the memory; nothing can be asked afterwards."""
        for types in self._modules.values():
            if types is not None:
                types.close()
        self._modules.clear()
        self._prototypes.clear()
        self._kernel.close()

    def has_tracepoint(self, name: str) -> bool:
        """Return whether this kernel, or a module that is loaded now, has a tracepoint."""
        return self._prototype(name) is not None

    def resolve(self, tracepoint: str, argument: int, path: str) -> Field:
        """Find a value that a tracepoint's argument leads to.

        Args:
            tracepoint: Name without its group, such as ``block_rq_issue``.
            argument: Position among the tracepoint's arguments, from 0.
            path: ``->member`` follows a pointer, ``.member`` enters a structure, ``:type`` takes
                the pointer as one to that structure. Empty: the argument itself.

        Raises:
            KernelError: There is no such tracepoint, argument or member on this kernel, or it is
                nothing that fits into one integer, or it is too far away.
        """
        types, arguments = self._known(tracepoint)
        if argument >= len(arguments):
            raise KernelError(
                f"tracepoint {tracepoint}: no argument {argument}, it has {len(arguments)}"
            )
        try:
            return _follow(types, arguments[argument], path)
        except KernelError as error:
            raise KernelError(f"tracepoint {tracepoint}: {argument}{path}: {error}") from None

    def points_to(self, function: str, argument: int) -> str:
        """Return the name of the structure that an argument of a kernel function points to.

        Empty: to none, or the kernel's types do not say.
        """
        for types in self._candidates(function):
            type_id = types.find(function, BTF_KIND_FUNC)
            if type_id is not None:
                _, _, prototype = types.type_words(type_id)
                arguments = [one for _, one in types.records(prototype, _PARAMETER)]
                return _pointed_to(types, arguments[argument]) if argument < len(arguments) else ""
        return ""

    def _known(self, tracepoint: str) -> tuple[Btf, tuple[int, ...]]:
        prototype = self._prototype(tracepoint)
        if prototype is None:
            raise KernelError(f"tracepoint {tracepoint}: this kernel has none of that name")
        return prototype

    def _prototype(self, name: str) -> tuple[Btf, tuple[int, ...]] | None:
        if name not in self._prototypes:
            self._prototypes[name] = next(
                (
                    (types, _arguments(types, type_id))
                    for types in self._candidates(name)
                    if (type_id := types.find(f"btf_trace_{name}", _KIND_TYPEDEF)) is not None
                ),
                None,
            )
        return self._prototypes[name]

    def _candidates(self, name: str) -> Iterator[Btf]:
        yield self._kernel
        try:
            modules = sorted(each.name for each in self._directory.iterdir())
        except OSError:
            return
        # What is a module's usually begins with its name.
        modules.sort(key=lambda module: not name.startswith(module))
        for module in modules:
            if module == "vmlinux":
                continue
            if module not in self._modules:
                try:
                    self._modules[module] = self._kernel.split(self._directory / module)
                except OSError:
                    self._modules[module] = None
            types = self._modules[module]
            if types is not None:
                yield types


def _kind(info: int) -> int:
    return info >> 24 & 0x1F


def _strip(types: Btf, type_id: int) -> int:
    """Return the type behind typedefs and qualifiers; 0 is void."""
    while type_id:
        _, info, target = types.type_words(type_id)
        if _kind(info) not in _TRANSPARENT_KINDS:
            break
        type_id = target
    return type_id


def _arguments(types: Btf, type_id: int) -> tuple[int, ...]:
    """Return the types of a tracepoint's arguments, without the leading ``void *__data``."""
    pointer = types.type_words(_strip(types, type_id))
    prototype = _strip(types, pointer[2])
    if _kind(pointer[1]) != _KIND_POINTER or not prototype:
        return ()
    if _kind(types.type_words(prototype)[1]) != _KIND_FUNC_PROTO:
        return ()
    return tuple(argument for _, argument in types.records(prototype, _PARAMETER))[1:]


def _follow(types: Btf, type_id: int, path: str) -> Field:
    steps = list(_STEP.finditer(path))
    if "".join(step[0] for step in steps) != path:
        raise KernelError("not a member path")
    offsets: list[int] = []
    offset: int | None = None
    current = _strip(types, type_id)
    cast: int | None = None
    for operator, name in (step.groups() for step in steps):
        if operator == ":":
            # A number may be any that a program chose, and then any memory would be read.
            if _kind_and_target(types, current)[0] != _KIND_POINTER:
                raise KernelError(f":{name}: not a pointer")
            cast = types.find(name, _KIND_STRUCT)
            if cast is None:
                cast = types.find(name, _KIND_UNION)
            if cast is None:
                raise KernelError(f"this kernel has no struct {name}")
            continue
        if operator == "->":
            kind, target = _kind_and_target(types, current)
            if kind != _KIND_POINTER and cast is None:
                raise KernelError(f"->{name}: not a pointer")
            if offset is not None:
                offsets.append(offset)
            offset, current, cast = 0, _strip(types, target) if cast is None else cast, None
        elif offset is None or cast is not None:
            raise KernelError(f".{name}: not a structure")
        found = _member(types, current, name)
        if found is None:
            raise KernelError(f"{_describe(types, current)} has no member {name} on this kernel")
        bits, member = found
        if bits % 8:
            raise KernelError(f"{name} is a bit field")
        offset = (offset or 0) + bits // 8
        current = _strip(types, member)
    if cast is not None:
        raise KernelError("nothing follows the type")
    if offset is not None:
        offsets.append(offset)
    if len(offsets) > MAX_DEREFERENCES:
        raise KernelError(f"more than {MAX_DEREFERENCES} memory accesses")
    if any(each > MAX_OFFSET_BYTES for each in offsets):
        raise KernelError(f"further than {MAX_OFFSET_BYTES} bytes into a structure")
    return _scalar(types, current, tuple(offsets))


def _kind_and_target(types: Btf, type_id: int) -> tuple[int, int]:
    if not type_id:
        return 0, 0
    _, info, target = types.type_words(type_id)
    return _kind(info), target


def _member(types: Btf, type_id: int, name: str) -> tuple[int, int] | None:
    """Return a member's offset in bits and its type, also of unnamed structures inside."""
    if not type_id:
        return None
    _, info, _ = types.type_words(type_id)
    if _kind(info) not in {_KIND_STRUCT, _KIND_UNION}:
        return None
    unnamed = []
    for name_offset, member, position in types.records(type_id, _MEMBER):
        # With the kind flag the upper byte of a position is the width of a bit field.
        width, bits = (position >> 24, position & 0xFFFFFF) if info >> 31 else (0, position)
        if name_offset == 0:
            unnamed.append((bits, member))
        elif types.name(name_offset) == name:
            if width:
                raise KernelError(f"{name} is a bit field")
            return bits, member
    for bits, member in unnamed:
        inner = _member(types, _strip(types, member), name)
        if inner is not None:
            return bits + inner[0], inner[1]
    return None


def _scalar(types: Btf, type_id: int, offsets: tuple[int, ...]) -> Field:
    if type_id:
        _, info, size = types.type_words(type_id)
        kind = _kind(info)
        if kind == _KIND_POINTER:
            return Field(offsets, _POINTER_BYTES, False, True, _pointed_to(types, type_id))
        if kind in {_KIND_ENUM, _KIND_ENUM64}:
            return Field(offsets, size, is_signed=bool(info >> 31), is_pointer=False)
        if kind == _KIND_INT and size in {1, 2, 4, 8}:
            encoding = types.integer_encoding(type_id)
            return Field(offsets, size, is_signed=bool(encoding & _SIGNED), is_pointer=False)
    raise KernelError(f"{_describe(types, type_id)} does not fit into one integer")


def _pointed_to(types: Btf, type_id: int) -> str:
    """Return the name of the structure that a type points to; empty: to none."""
    kind, target = _kind_and_target(types, _strip(types, type_id))
    structure = _strip(types, target) if kind == _KIND_POINTER else 0
    if not structure:
        return ""
    name_offset, info, _ = types.type_words(structure)
    return types.name(name_offset) if _kind(info) == _KIND_STRUCT else ""


def _describe(types: Btf, type_id: int) -> str:
    if not type_id:
        return "void"
    name_offset, info, _ = types.type_words(type_id)
    words = {
        _KIND_POINTER: "a pointer",
        3: "an array",
        _KIND_STRUCT: "struct ",
        _KIND_UNION: "union ",
    }
    word = words.get(_kind(info), "")
    return word + (types.name(name_offset) or ("(unnamed)" if word.endswith(" ") else ""))
