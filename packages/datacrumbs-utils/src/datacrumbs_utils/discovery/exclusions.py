"""Lists of functions that must not be probed: probes-exclusion-*.json of an installation.

The file is a JSON array; each element names a group by its ``type`` and ``name`` and lists
``functions``. Anything else in an element, as left by copying from a probe file, is ignored.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_runtime.schema.probe_file import ProbeType, plain_symbol
from datacrumbs_utils.discovery.entries import PROBES, Entry

MAX_FILE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Exclusions:
    """Functions to leave out, by probe type and entry name.

    Attributes:
        path: The file that they came from, or None.
        functions: Plain names by type and entry.
    """

    path: Path | None = None
    functions: Mapping[tuple[ProbeType, str], frozenset[str]] = field(default_factory=dict)

    def source(self, probe: ProbeType, entry_name: str, names: Iterable[str]) -> str | None:
        """Return where one of the names is listed for an entry, or None."""
        listed = self.functions.get((probe, entry_name), frozenset())
        if self.path is not None and any(name in listed for name in names):
            return self.path.name
        return None


def file_name(install_user: str, host: str) -> str:
    """Return the name of an installation's list."""
    return f"probes-exclusion-{install_user}-{host}.json"


def load(path: Path) -> Exclusions:
    """Read a list; a file that does not exist is an empty one.

    Raises:
        ConfigurationError: It cannot be read, or is not such a list.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return Exclusions()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigurationError(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB")
    try:
        document = json.loads(data)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{path}:{error.lineno}:{error.colno}: {error.msg}") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path}: not JSON: {error}") from error
    if not isinstance(document, list):
        raise ConfigurationError(f"{path}: not a list of groups with type, name and functions")
    found: dict[tuple[ProbeType, str], frozenset[str]] = {}
    for number, element in enumerate(document, 1):
        key, functions = _group(element, f"{path}: element {number}")
        found[key] = found.get(key, frozenset()) | functions
    return Exclusions(path, found)


def _group(element: Any, where: str) -> tuple[tuple[ProbeType, str], frozenset[str]]:
    if not isinstance(element, dict):
        raise ConfigurationError(f"{where}: not a group with type, name and functions")
    name, functions = element.get("name"), element.get("functions")
    probe: Any = element.get("type")
    if isinstance(probe, str):
        probe = PROBES.get(probe)
    try:
        probe = ProbeType(probe)
    except ValueError as error:
        raise ConfigurationError(f"{where}: unknown type {element.get('type')!r}") from error
    if not isinstance(name, str) or not isinstance(functions, list):
        raise ConfigurationError(f"{where}: needs a name and a list of functions")
    if not all(isinstance(function, str) for function in functions):
        raise ConfigurationError(f"{where}: a function is not a string")
    # Lists are often copied from elsewhere: fork@GLIBC_2.2.5, read:0x114980, sys_openat.
    plain = {plain_symbol(function).partition("@")[0] for function in functions}
    if probe is ProbeType.SYSCALLS:
        plain |= {name.removeprefix("__x64_").removeprefix("sys_") for name in plain}
    return (probe, name), frozenset(plain)


def write_template(path: Path, entries: Iterable[Entry]) -> None:
    """Write a list without functions, one group per entry, for people to fill in.

    Raises:
        ConfigurationError: It cannot be written. An existing file is left alone.
    """
    groups: dict[tuple[int, str], dict[str, Any]] = {}
    for entry in entries:
        group = {"type": int(entry.probe), "name": entry.name, "functions": []}
        groups.setdefault((int(entry.probe), entry.name), group)
    text = json.dumps(list(groups.values()), indent=2) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
