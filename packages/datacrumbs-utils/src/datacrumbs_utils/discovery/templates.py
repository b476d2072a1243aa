"""``@VARIABLE@`` in host configurations: where values come from, and what is left over."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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

    What this machine says of itself comes first, so that configurations work where nothing is
    installed.

    Args:
        defines: What ``--define`` gave: wins over the environment.
        system_configuration: The installation's settings: the environment wins over them.
    """
    return {**detected(), **(system_configuration or {}), **os.environ, **(defines or {})}


def detected() -> dict[str, str]:
    """Return the variables that can be told without an installation."""
    release = os.uname().release
    return {
        "DATACRUMBS_KERNEL_UNAME_R": release,
        "DATACRUMBS_KERNEL_HEADERS_PATH": str(_kernel_headers(release)),
        "DATACRUMBS_LIBC_SO": "soname:libc.so.6",
    }


def _kernel_headers(release: str) -> Path:
    build = Path("/lib/modules") / release / "build"
    # Debian keeps what all flavours of a kernel share in a package of its own.
    common = release.rpartition("-")[0] + "-common"
    places = (
        build,
        Path("/usr/src/kernels") / release,
        Path("/usr/src") / f"linux-headers-{release}",
        Path("/usr/src") / f"linux-headers-{common}",
    )
    return next((place for place in places if (place / "include/linux/fs.h").is_file()), build)
