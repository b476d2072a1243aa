"""Arguments written as in C (``const char *path``), and what of them is captured as text."""

import re
from collections.abc import Iterable
from dataclasses import replace

from datacrumbs_runtime.schema.probe_file import MAX_ARGUMENTS, Argument

POINTER_BYTES = 8

# What an LP64 Linux machine has: x86_64, aarch64, ppc64le.
TYPE_BYTES = {
    **dict.fromkeys(("char", "signed char", "unsigned char", "bool", "_Bool"), 1),
    **dict.fromkeys(("int8_t", "uint8_t", "u8", "s8", "__u8", "__s8"), 1),
    **dict.fromkeys(("short", "unsigned short", "short int", "short unsigned int"), 2),
    **dict.fromkeys(("int16_t", "uint16_t", "u16", "s16", "__u16", "__s16", "umode_t"), 2),
    **dict.fromkeys(("int", "unsigned", "unsigned int", "signed int", "signed", "enum"), 4),
    **dict.fromkeys(("int32_t", "uint32_t", "u32", "s32", "__u32", "__s32"), 4),
    **dict.fromkeys(("mode_t", "pid_t", "uid_t", "gid_t", "id_t", "socklen_t", "key_t"), 4),
    **dict.fromkeys(("clockid_t", "wchar_t", "wint_t", "rwf_t", "blk_opf_t"), 4),
    **dict.fromkeys(("long", "unsigned long", "long int", "long unsigned int"), 8),
    **dict.fromkeys(("long long", "unsigned long long", "long long int"), 8),
    **dict.fromkeys(("long long unsigned int",), 8),
    **dict.fromkeys(("int64_t", "uint64_t", "u64", "s64", "__u64", "__s64"), 8),
    **dict.fromkeys(("size_t", "ssize_t", "off_t", "off64_t", "loff_t", "__off_t", "__off64_t"), 8),
    **dict.fromkeys(("intptr_t", "uintptr_t", "ptrdiff_t", "time_t", "dev_t", "ino_t"), 8),
    **dict.fromkeys(("ino64_t", "nlink_t", "blkcnt_t", "blksize_t", "sector_t", "pgoff_t"), 8),
    **dict.fromkeys(("hid_t", "hsize_t", "hssize_t", "haddr_t", "MPI_Offset", "MPI_Aint"), 8),
    **dict.fromkeys(("MPI_Count",), 8),
    **dict.fromkeys(("herr_t", "htri_t", "hbool_t"), 4),
}
# Passed in floating point registers, which are not captured: they take no integer register.
FLOATING_TYPES = frozenset({"float", "double", "long double", "_Float128", "__float128"})
SKIPPED = frozenset({"_", "-", "..."})

# Labels under which libraries pass the caller's data. It belongs to the application, is large, and
# need not end in a zero byte: never read as text.
DATA_LABELS = frozenset(
    {"buf", "buffer", "data", "ptr", "src", "dest", "dst", "bytes", "mem", "contents", "block"}
    | {"chunk", "content", "sendbuf", "recvbuf", "origin_addr", "__buf", "__ptr", "__src"}
)
# Functions that take the caller's data as "const char *" whatever the label is.
DATA_FUNCTIONS = frozenset(
    {"puts", "fputs", "fputs_unlocked", "perror", "write", "fwrite", "send", "sendto", "pwrite"}
    | {"pwrite64", "memcpy", "memmove", "strlen", "strcmp", "strncmp", "strchr", "strrchr"}
)

_DECLARATION = re.compile(r"\s*([A-Za-z_][\w\s*]*?)\s*((?:\[[^\]]*\]\s*)*)$")
_QUALIFIERS = frozenset({"const", "volatile", "restrict", "__restrict", "register", "struct"})
_DROPPED = _QUALIFIERS - {"struct"}
_TYPE_WORDS = frozenset({"unsigned", "signed", "long", "short", "int", "char", "const", "struct"})
_NO_LABELS = _TYPE_WORDS | _QUALIFIERS | {"*"}


class PrototypeError(ValueError):
    """A declaration cannot be understood, or is of a type whose size is not known."""


def parse_arguments(declarations: Iterable[str]) -> tuple[Argument, ...]:
    """Turn a parameter list into captured arguments.

    Args:
        declarations: One declaration per parameter, in order; ``_`` leaves one out. Floating point
            parameters are left out too: they do not travel in the registers that are captured.

    Raises:
        PrototypeError: A declaration is no declaration, or its type's size is not known.
    """
    arguments: list[Argument] = []
    index = 0
    for declaration in declarations:
        text = declaration.strip()
        if text == "..." or text == "void":
            continue
        if text in SKIPPED:
            index += 1
            continue
        argument = parse_argument(text, index)
        if argument is None:
            continue
        if index < MAX_ARGUMENTS:
            arguments.append(argument)
        index += 1
    return tuple(arguments)


def parse_argument(declaration: str, index: int) -> Argument | None:
    """Turn one declaration into an argument; None for floating point, which is not captured.

    Raises:
        PrototypeError: It is no declaration, or its type's size is not known.
    """
    match = _DECLARATION.match(declaration)
    if match is None:
        raise PrototypeError(f"{declaration!r} is not a declaration such as 'const char *path'")
    words = re.findall(r"\w+|\*", match[1])
    label = f"arg{index}"
    named = len(words) > 1 and words[-1] not in _NO_LABELS
    if named and words[-2] not in ("enum", "struct", "union"):
        label = words.pop()
    stars = "*" * (words.count("*") + bool(match[2]))
    c_type = " ".join([*(word for word in words if word != "*"), *([stars] if stars else [])])
    base = _base_type(c_type)
    is_pointer = "*" in c_type
    if not is_pointer and base in FLOATING_TYPES:
        return None
    num_bytes = POINTER_BYTES if is_pointer else type_bytes(base)
    if num_bytes is None:
        raise PrototypeError(
            f"the size of type {base!r} is not known; "
            f"write {{index: {index}, label: {label}, c_type: {base}, num_bytes: ...}}"
        )
    return Argument(index, num_bytes, is_pointer, label, c_type)


def type_bytes(c_type: str) -> int | None:
    """Return the size of a scalar type in bytes, or None if it is not known."""
    if c_type.startswith("enum "):
        return TYPE_BYTES["enum"]
    return TYPE_BYTES.get(c_type)


def _base_type(c_type: str) -> str:
    words = [word for word in c_type.replace("*", " ").split() if word not in _QUALIFIERS]
    return " ".join(words)


def addresses_only(arguments: Iterable[Argument]) -> tuple[Argument, ...]:
    """Drop ``const``, and make texts addresses."""
    return _with_character_pointers(arguments, "void *")


def overridden(arguments: Iterable[Argument]) -> tuple[Argument, ...]:
    """Drop ``const`` from arguments that a configuration declares; its ``char *`` are texts."""
    return _with_character_pointers(arguments, "char *")


def _with_character_pointers(arguments: Iterable[Argument], c_type: str) -> tuple[Argument, ...]:
    return tuple(
        replace(
            argument,
            c_type=c_type
            if _is_character_pointer(argument.c_type)
            else without_qualifiers(argument.c_type),
        )
        for argument in arguments
    )


def captured(function: str, arguments: Iterable[Argument]) -> tuple[Argument, ...]:
    """Decide which of a function's arguments are read as text, and drop ``const``.

    ``const char *`` is a text unless its name or its function says that it is the caller's data;
    a plain ``char *`` is a buffer to be filled. What is no text is recorded as an address.
    """
    result = []
    for argument in arguments:
        c_type = argument.c_type
        plain = without_qualifiers(c_type)
        if _is_character_pointer(c_type):
            is_text = (
                "const" in c_type.split("*")[0].split()
                and argument.label.lower() not in DATA_LABELS
                and function.lstrip("_") not in DATA_FUNCTIONS
            )
            plain = "char *" if is_text else "void *"
        result.append(replace(argument, c_type=plain))
    return tuple(result[:MAX_ARGUMENTS])


def without_qualifiers(c_type: str) -> str:
    """Return a type as probe files have it: without ``const`` and the like."""
    return " ".join(word for word in c_type.split() if word not in _DROPPED) or c_type


def _is_character_pointer(c_type: str) -> bool:
    return (
        re.fullmatch(r"(const\s+)?(char|__s8)(\s+const)?\s*\*\s*(const|restrict|\s)*", c_type)
        is not None
    )
