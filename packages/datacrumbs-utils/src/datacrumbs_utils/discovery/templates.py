"""``@VARIABLE@`` in host configurations: where values come from, and what is left over."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

# The signs around a variable become private-use characters of the same width before YAML is parsed,
# because YAML allows no unquoted value to begin with "@"; columns stay what they were.
_OPEN, _CLOSE = "\ue000", "\ue001"
_IN_TEXT = re.compile(r"@([A-Za-z_][A-Za-z0-9_]*)@")
_IN_TREE = re.compile(f"{_OPEN}([A-Za-z_][A-Za-z0-9_]*){_CLOSE}")


@dataclass(frozen=True, slots=True)
class Filled:
    """A value with its variables filled in.

    Attributes:
        text: The value; variables without one stay as ``@NAME@``.
        missing: Names of the variables that have no value, and their offsets in the original.
    """

    text: str
    missing: tuple[tuple[str, int], ...]


def mark(text: str) -> str:
    """Prepare a file's text for a YAML parser; :func:`fill` then works on the values."""
    return _IN_TEXT.sub(lambda match: f"{_OPEN}{match[1]}{_CLOSE}", text)


def fill(value: str, variables: Mapping[str, str]) -> Filled:
    """Put values in place of the variables of one marked value."""
    missing: list[tuple[str, int]] = []

    def replacement(match: re.Match[str]) -> str:
        if match[1] in variables:
            return variables[match[1]]
        missing.append((match[1], match.start()))
        return f"@{match[1]}@"

    return Filled(_IN_TREE.sub(replacement, value), tuple(missing))


def variables(
    defines: Mapping[str, str] | None = None,
    system_configuration: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return every variable that a template can use; later sources win.

    Args:
        defines: What ``--define`` gave: wins over the environment.
        system_configuration: The installation's settings: the environment wins over them.
    """
    return {**(system_configuration or {}), **os.environ, **(defines or {})}
