"""What is recorded: a built-in set, a YAML file, or a probe file, as one probe file in memory."""

from dataclasses import dataclass
from pathlib import Path

from datacrumbs_runtime.errors import UsageError
from datacrumbs_runtime.schema import probe_document
from datacrumbs_runtime.schema.probe_file import ProbeFile, read_document

_GZIP = b"\x1f\x8b"
_YAML_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Probes:
    """What is recorded, and its name.

    Attributes:
        probe_file: The functions.
        name: What the trace's file name calls it.
        warnings: What was asked for and is not on this machine.
    """

    probe_file: ProbeFile
    name: str
    warnings: tuple[str, ...] = ()


def load(name_or_path: str) -> Probes:
    """Find the functions that ``--probes`` names.

    Args:
        name_or_path: A built-in set, several of them with commas, a YAML file, or a probe file.
            A probe file needs no signature here: whoever may record may choose what.

    Raises:
        DatacrumbsError: It cannot be read, or has errors, each named with its place.
    """
    path = Path(name_or_path)
    if path.is_dir():
        raise UsageError(f"--probes: {name_or_path}: is a directory")
    if _is_probe_file(path):
        document = read_document(path)
        # The suffix .gz goes, as everywhere where a probe file names a trace.
        return Probes(probe_document.probe_file_from_document(document, str(path)), path.stem)
    # Finding functions takes a good part of a second to import: only here.
    from datacrumbs_utils.discovery import select, sets

    selection = select.select(sets.load(name_or_path))
    name = path.stem if path.suffix in _YAML_SUFFIXES else name_or_path.replace(",", "+")
    return Probes(selection.probe_file, name.replace("/", "_"), selection.report.warnings)


def _is_probe_file(path: Path) -> bool:
    """Tell a probe file from a YAML file by what it begins with."""
    if path.suffix in _YAML_SUFFIXES:
        return False
    try:
        with path.open("rb") as stream:
            head = stream.read(64).lstrip()
    except OSError:
        # Not there or not readable: if it is called like one, reading it again says why.
        return path.name.endswith((".json", ".json.gz"))
    return head.startswith((_GZIP, b"{"))
