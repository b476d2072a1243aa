"""Files of an installation that an administrator may change.

They are written once, and later only while they still are as they were written.
"""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from datacrumbs_runtime.errors import ConfigurationError

_VARIABLE = re.compile(r"@(DATACRUMBS_[A-Z_]+)@")


class Change(Enum):
    """What happens to a file."""

    MADE = "make"
    UPDATED = "update"
    SAME = "same"
    KEPT = "keep"
    """It was changed since: a newer version is put beside it, once, with the suffix ``.new``."""


def fill_template(text: str, values: Mapping[str, str], where: str) -> str:
    """Put values in place of ``@DATACRUMBS_...@``.

    Raises:
        ConfigurationError: A variable has no value; the error names line and variable.
    """
    for number, line in enumerate(text.splitlines(), 1):
        for match in _VARIABLE.finditer(line):
            if match[1] not in values:
                raise ConfigurationError(f"{where}:{number}: @{match[1]}@ has no value")
    return _VARIABLE.sub(lambda match: values[match[1]], text)


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Write a file so that it appears whole, in the place of an older one.

    Raises:
        ConfigurationError: It could not be written.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.chmod(mode)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigurationError(f"{path}: {error.strerror}") from error


class InstalledFiles:
    """Writes files and remembers what it wrote, in a manifest.

    Args:
        manifest: Where it is remembered.
        prefix: Paths in the manifest are relative to it.
    """

    def __init__(self, manifest: Path, prefix: Path) -> None:
        self._manifest = manifest
        self._prefix = prefix
        self._digests: dict[str, str] = {}
        if manifest.exists():
            try:
                known = json.loads(manifest.read_text())
                self._digests = {str(name): str(digest) for name, digest in known.items()}
            except (OSError, ValueError, AttributeError) as error:
                raise ConfigurationError(f"{manifest}: {error}") from error

    def plan(self, path: Path, content: bytes) -> Change:
        """Return what :meth:`install` would do."""
        try:
            present = path.read_bytes()
        except FileNotFoundError:
            return Change.MADE
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror}") from error
        if present == content:
            return Change.SAME
        written = self._digests.get(self._name(path))
        if _digest(present) == written:
            return Change.UPDATED
        # Whoever keeps his own changed this very version, or was shown it already.
        known = (written, self._digests.get(self._name(_beside(path))))
        return Change.SAME if _digest(content) in known else Change.KEPT

    def install(self, path: Path, content: bytes, mode: int = 0o644) -> Change:
        """Write a file unless an administrator has changed the present one."""
        change = self.plan(path, content)
        if change is Change.KEPT:
            replace_file(_beside(path), content, mode)
            self._digests[self._name(_beside(path))] = _digest(content)
        elif change is not Change.SAME:
            replace_file(path, content, mode)
            self._digests[self._name(path)] = _digest(content)
        elif path.read_bytes() == content:
            self._digests[self._name(path)] = _digest(content)
        return change

    def save(self) -> None:
        """Write the manifest."""
        text = json.dumps(self._digests, indent=1, sort_keys=True) + "\n"
        if not self._manifest.exists() or self._manifest.read_text() != text:
            replace_file(self._manifest, text.encode(), 0o644)

    def _name(self, path: Path) -> str:
        return os.path.relpath(path, self._prefix)


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
