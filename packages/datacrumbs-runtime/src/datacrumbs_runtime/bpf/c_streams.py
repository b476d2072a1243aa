"""The C library's stream functions: what they return, which of it is an error, which is bytes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from datacrumbs_runtime.bpf.layout import FunctionFlag

_NULL_ERROR = FunctionFlag.NULL_ERROR
_MINUS_ERROR = FunctionFlag.MINUS_ERROR | FunctionFlag.RET_INT
_BYTES = FunctionFlag.BYTES


@dataclass(frozen=True, slots=True)
class StreamFunction:
    """What is known of a stream function.

    Attributes:
        flags: How its calls are judged and counted.
        unit: Label of the argument that the return value counts in (``size`` of ``fread``), or
            None where it counts bytes or nothing.
    """

    flags: FunctionFlag
    unit: str | None = None


_FUNCTIONS: Mapping[str, StreamFunction] = {
    **dict.fromkeys(("fopen", "fdopen", "freopen", "tmpfile"), StreamFunction(_NULL_ERROR)),
    **dict.fromkeys(
        ("fclose", "fcloseall", "fflush", "fgetpos", "fsetpos", "setvbuf", "fseek", "fseeko"),
        StreamFunction(_MINUS_ERROR),
    ),
    **dict.fromkeys(("fputs", "puts", "fscanf", "vfscanf"), StreamFunction(_MINUS_ERROR)),
    **dict.fromkeys(
        ("fprintf", "vfprintf", "printf", "vprintf"), StreamFunction(_MINUS_ERROR | _BYTES)
    ),
    **dict.fromkeys(("ftell", "ftello"), StreamFunction(FunctionFlag.MINUS_ERROR)),
    **dict.fromkeys(("fread", "fwrite"), StreamFunction(_BYTES, "size")),
    **dict.fromkeys(("getline", "getdelim"), StreamFunction(FunctionFlag.MINUS_ERROR | _BYTES)),
    "fgets": StreamFunction(FunctionFlag(0)),
    **dict.fromkeys(("rewind", "setbuf"), StreamFunction(FunctionFlag.NO_RETURN)),
}

# Fortified, unlocked and standard-specific variants do what the plain function does.
_VARIANT = re.compile(
    rf"(?:__)?(?:isoc\d\d_)?(?P<plain>{'|'.join(_FUNCTIONS)})(?:64)?(?:_unlocked)?(?:_chk)?"
)


def plain_name(symbol: str) -> str | None:
    """Return ``fread`` for ``__fread_unlocked_chk``; None for what is no stream function."""
    match = _VARIANT.fullmatch(symbol)
    return match["plain"] if match else None


def stream_function(symbol: str) -> StreamFunction | None:
    """Return what is known of a stream function or a variant of one; None for other functions."""
    plain = plain_name(symbol)
    return None if plain is None else _FUNCTIONS[plain]
