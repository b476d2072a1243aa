"""Functions and their arguments from C headers, for libraries without debugging information.

Headers are read by libclang, which also tells sizes. All functions of a header are read at once and
kept until one of the files that it includes changes.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_utils.discovery import cache, include_directories
from datacrumbs_utils.discovery.signatures import Signature, from_row, to_row

_CACHE_KIND = "headers"
_CACHE_VERSION = 1
_MAX_ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class Declared:
    """A function that a header declares, itself or by including others.

    Attributes:
        signature: What it takes and returns.
        file: The file that declares it.
    """

    signature: Signature
    file: str


def functions(header: str | os.PathLike[str]) -> frozenset[str]:
    """Return the names of the functions that a header is about.

    Those are the ones that it declares, and those of the headers that it includes from its own
    directory (``hdf5.h`` consists of such headers). Of a header in a directory that many libraries
    share only its own and those in ``bits`` count. Inline functions are left out.

    Raises:
        ConfigurationError: It cannot be read.
    """
    path = Path(header).resolve()
    return frozenset(
        name
        for name, declared in _declarations(path).items()
        if _belongs(Path(declared.file), path)
    )


def signatures(header: str | os.PathLike[str], symbols: Iterable[str]) -> dict[str, Signature]:
    """Return the signatures of functions that a header or one of its includes declares.

    Args:
        header: Its path.
        symbols: Names of functions; those that are not declared are missing in the result.

    Raises:
        ConfigurationError: It cannot be read.
    """
    declared = _declarations(Path(header).resolve())
    return {name: declared[name].signature for name in symbols if name in declared}


def _belongs(file: Path, header: Path) -> bool:
    if file == header:
        return True
    shared = header.parent.name == "include" or header.parent.name.endswith("-linux-gnu")
    if shared:
        return "bits" in file.parent.parts[-1:] or file.parent.name == header.stem
    return file.is_relative_to(header.parent)


def _declarations(header: Path) -> dict[str, Declared]:
    if not header.is_file():
        raise ConfigurationError(f"{header}: no such header")
    key = os.fspath(header)
    stored = cache.load(_CACHE_KIND, _CACHE_VERSION, key)
    found = _from_cache(stored)
    if found is None:
        found, files = _parse(header)
        rows = {name: [one.file, to_row(one.signature)] for name, one in found.items()}
        cache.store(_CACHE_KIND, _CACHE_VERSION, key, {"files": _stamps(files), "functions": rows})
    return found


def _from_cache(stored: dict[str, Any]) -> dict[str, Declared] | None:
    stamps, rows = stored.get("files"), stored.get("functions")
    if not isinstance(stamps, dict) or not isinstance(rows, dict) or not stamps:
        return None
    if _stamps(stamps) != stamps:
        return None
    found = {}
    for name, row in rows.items():
        signature = from_row(row[1]) if isinstance(row, list) and len(row) == 2 else None
        if signature is None:
            return None
        found[name] = Declared(signature, str(row[0]))
    return found


def _stamps(files: Iterable[str]) -> dict[str, list[int]]:
    stamps = {}
    for file in files:
        try:
            status = os.stat(file)  # noqa: PTH116 (some hundred of them: no Path objects)
        except OSError:
            stamps[file] = [0, 0]
        else:
            stamps[file] = [status.st_size, status.st_mtime_ns]
    return stamps


def _parse(header: Path) -> tuple[dict[str, Declared], list[str]]:
    from datacrumbs_utils.discovery import header_parser

    directories: list[str] = []
    parsed = header_parser.parse(header, directories)
    for _ in range(_MAX_ATTEMPTS):
        if parsed.missing is None:
            break
        more = [os.fspath(path) for path in include_directories.for_missing(parsed.missing)]
        more = [path for path in more if path not in directories]
        if not more:
            break
        directories = [*directories, *more]
        parsed = header_parser.parse(header, directories)
    declared = {name: Declared(*row) for name, row in parsed.functions.items()}
    return declared, parsed.files
