"""Writing probe files: whole or not at all."""

import gzip
import json
import os
import tempfile
from pathlib import Path

from datacrumbs_runtime.errors import ProbeFileError
from datacrumbs_runtime.schema.probe_document import document_from_probe_file
from datacrumbs_runtime.schema.probe_file import ProbeFile

MODE = 0o644


def check_writable(path: Path) -> None:
    """Find out early that a probe file cannot be written; makes its directory.

    Raises:
        ProbeFileError: The directory cannot be made or written to, or the path is a directory.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProbeFileError(f"{path.parent}: {error.strerror}") from error
    if path.is_dir():
        raise ProbeFileError(f"{path}: is a directory")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ProbeFileError(f"{path.parent}: not writable")


def write(path: Path, probe_file: ProbeFile) -> int:
    """Write a probe file; readers see the old file or the new one, never half of it.

    Returns:
        Its size in bytes.

    Raises:
        ProbeFileError: It cannot be written; nothing is left behind.
    """
    data = json.dumps(document_from_probe_file(probe_file), separators=(",", ":")).encode()
    if path.name.endswith(".gz"):
        data = gzip.compress(data, compresslevel=6, mtime=0)
    else:
        data += b"\n"
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fchmod(stream.fileno(), MODE)
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise ProbeFileError(f"{path}: {error.strerror}") from error
    return len(data)
