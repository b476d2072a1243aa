"""From C declarations to captured values: what is read for an argument, and how it is printed."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from datacrumbs_runtime.bpf.layout import MAX_VALUES, FunctionFlag, SourceKind
from datacrumbs_runtime.bpf.values import (
    FILE,
    FORMAT_FILE,
    FORMAT_POINTER,
    NO_ARGUMENT,
    SECOND_FILE,
    Value,
    descriptor_file,
    number,
    path_file,
    stream_file,
    text,
)
from datacrumbs_runtime.schema.probe_file import Argument

FILE_POINTER = "struct file *"
_QUALIFIERS = re.compile(r"\b(?:const|volatile|restrict|__restrict|register|_Nonnull)\b")
_SPACES = re.compile(r"\s+")
# Types without "unsigned" in their name that have no sign.
_UNSIGNED = re.compile(
    r"(?:u?_?_?(?:size|mode|uid|gid|id|dev|ino|ino64|nlink|socklen|fsblkcnt|fsfilcnt|rlim|nfds)_t"
    r"|u(?:_?int|int_least|int_fast)?\d+(?:_t)?|__u\d+|uint|ulong|ushort|u_(?:char|short|int|long)"
    r"|uintptr_t|uintmax_t|hsize_t|haddr_t|sector_t|blkcnt_t|pgoff_t|umode_t|blk_opf_t|gfp_t)"
)
_SIGNED_SIZES = frozenset({"ssize_t", "__ssize_t", "hssize_t"})
_DESCRIPTOR_LABELS = frozenset({"fd", "fildes", "filedes", "filedesc"})
_PATH_LABELS = frozenset({"path", "pathname", "filename", "file_name", "oldpath", "newpath"})
# Keys that every line of the trace may have.
_TAKEN_LABELS = frozenset({"hhash", "ret", "ns", "syscall", "symbol", FILE, SECOND_FILE})
_LONG_RESULTS = frozenset(
    {"long", "long long", "int64_t", "off_t", "loff_t", "hid_t", *_SIGNED_SIZES}
)
_INT_RESULTS = frozenset({"int", "int32_t", "herr_t", "htri_t"})
_INTEGER_SIZES = frozenset({1, 2, 4, 8})


@lru_cache(maxsize=8192)
def plain_type(c_type: str) -> str:
    """Return a type without qualifiers and superfluous spaces: ``char *``, ``unsigned long``."""
    spaced = _QUALIFIERS.sub(" ", c_type).replace("*", " * ")
    return _SPACES.sub(" ", spaced).strip().replace("* *", "**")


def is_unsigned(c_type: str) -> bool:
    """Return whether values of an integer type have no sign."""
    if c_type in _SIGNED_SIZES:
        return False
    return "unsigned" in c_type or _UNSIGNED.fullmatch(c_type) is not None


def number_format(c_type: str, num_bytes: int, *, is_pointer: bool) -> str | None:
    """Return the pump's format for a type; None for what is no integer of a register's size."""
    plain = plain_type(c_type)
    if is_pointer or plain.endswith("*"):
        return FORMAT_POINTER
    if plain in ("bool", "_Bool"):
        return "b"
    if num_bytes not in _INTEGER_SIZES:
        return None
    return f"{'u' if is_unsigned(plain) else 'i'}{8 * num_bytes}"


@lru_cache(maxsize=32768)
def function_values(
    arguments: tuple[Argument, ...],
    *,
    of_kernel: bool = False,
    known_files: tuple[Value, ...] | None = None,
) -> tuple[tuple[Value, ...], tuple[str, ...]]:
    """Decide what is captured of a function's arguments.

    Args:
        arguments: What the probe file says of them.
        of_kernel: Whether it is a function of the kernel: a ``struct file *`` is a file there.
        known_files: The files of a function that is known; None: types and names tell them. Those
            of arguments that the probe file leaves out are left out.

    Returns:
        The values, files first, and the labels of the arguments for which there is no room.
    """
    if not arguments and not known_files:
        return (), ()
    files: list[Value] = []
    others: list[Value] = []
    if known_files is not None:
        captured = {NO_ARGUMENT, *(argument.index for argument in arguments)}
        files += [file for file in known_files if file.argument in captured]
    for argument in arguments:
        file, value = _argument_values(argument, FILE if not files else SECOND_FILE, of_kernel)
        if known_files is None and file is not None and len(files) < len((FILE, SECOND_FILE)):
            files.append(file)
        if value is not None:
            others.append(value)
    return fitting([*files, *distinct(others)])


def distinct(values: Sequence[Value]) -> list[Value]:
    """Give values whose label another one or the trace itself has a label of their own."""
    taken = set(_TAKEN_LABELS)
    result = []
    for value in values:
        label = value.label
        while label in taken:
            label += "_"
        taken.add(label)
        result.append(value if label == value.label else replace(value, label=label))
    return result


def fitting(values: Sequence[Value]) -> tuple[tuple[Value, ...], tuple[str, ...]]:
    """Return the values that fit into a record, and the labels of those that do not."""
    return tuple(values[:MAX_VALUES]), tuple(value.label for value in values[MAX_VALUES:])


@lru_cache(maxsize=8192)
def _argument_values(
    argument: Argument, file_label: str, of_kernel: bool
) -> tuple[Value | None, Value | None]:
    """Return the file that an argument stands for, and the value that is shown under its label."""
    plain = plain_type(argument.c_type)
    label = argument.label.strip("_") or argument.label
    index = argument.index
    if plain == "FILE *":
        return replace(stream_file(index), label=file_label), None
    if plain == FILE_POINTER and of_kernel:
        return Value(file_label, FORMAT_FILE, SourceKind.FIELD_FILE, index, size=8), None
    if plain == "char *":
        file = path_file(index, label=file_label) if label in _PATH_LABELS else None
        return file, text(label, index)
    shown_as = number_format(argument.c_type, argument.num_bytes, is_pointer=argument.is_pointer)
    if shown_as is None:
        return None, None
    value = number(label, index, shown_as)
    if plain == "int" and label in _DESCRIPTOR_LABELS:
        return descriptor_file(index, file_label), value
    return None, value


@lru_cache(maxsize=1024)
def return_flags(c_type: str | None) -> int:
    """Return what a return type says about the result, enum dc_function_flag; None: unknown."""
    if c_type is None:
        return 0
    plain = plain_type(c_type)
    if plain == "void":
        return int(FunctionFlag.NO_RETURN)
    if plain.endswith("*") or is_unsigned(plain):
        return 0
    if plain in _LONG_RESULTS:
        return int(FunctionFlag.MINUS_ERROR)
    if plain in _INT_RESULTS or plain.startswith("enum "):
        return int(FunctionFlag.MINUS_ERROR | FunctionFlag.RET_INT)
    return 0
