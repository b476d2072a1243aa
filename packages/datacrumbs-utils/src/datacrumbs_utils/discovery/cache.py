"""Results that depend on a binary alone, kept by its build id in the user's cache directory.

Every file is replaced as a whole, so that readers and writers need no lock; of two that write at
the same time one is kept, and the other's results are computed again some day. A damaged file
counts as missing.
"""

import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 64 << 20
_KEY = re.compile(r"[A-Za-z0-9._-]{1,200}")


def directory() -> Path:
    """Return the cache directory: ``$XDG_CACHE_HOME/datacrumbs`` or ``~/.cache/datacrumbs``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    root = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return root / "datacrumbs"


def file_key(path: str | os.PathLike[str], build_id: str | None) -> str:
    """Return what identifies a file's contents: its build id, or a digest if it has none."""
    if build_id:
        return build_id
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return f"sha256-{digest.hexdigest()}"


def load(kind: str, version: int, key: str) -> dict[str, Any]:
    """Return what was stored, or an empty dictionary.

    Args:
        kind: What the results are, such as ``placement``.
        version: Version of the code that computed them; results of another one do not count.
        key: What they belong to, usually a build id.
    """
    path = _path(kind, key)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return {}
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        logger.debug("%s: ignored: %s", path, error)
        return {}
    if not isinstance(document, dict) or document.get("version") != version:
        return {}
    results = document.get("results")
    return results if isinstance(results, dict) else {}


def store(kind: str, version: int, key: str, results: Mapping[str, Any]) -> None:
    """Keep results for :func:`load`. A cache that cannot be written is no error."""
    path = _path(kind, key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        document = {"version": version, "results": dict(results)}
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w") as stream:
                json.dump(document, stream, separators=(",", ":"))
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        logger.debug("%s: not stored: %s", path, error)


def _path(kind: str, key: str) -> Path:
    if not _KEY.fullmatch(key) or key.startswith("."):
        key = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    return directory() / kind / f"{key}.json"
