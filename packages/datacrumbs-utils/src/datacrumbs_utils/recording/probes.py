"""What is recorded: a built-in set, a YAML file, or a probe file, as one probe file in memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from datacrumbs_runtime.errors import UsageError
from datacrumbs_runtime.schema import probe_document
from datacrumbs_runtime.schema.probe_file import (
    Category,
    ProbeFile,
    ProbeType,
    Summary,
    read_document,
)

if TYPE_CHECKING:
    from datacrumbs_utils.discovery.config import HostConfig

_GZIP = b"\x1f\x8b"
_YAML_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Probes:
    """What is recorded, and its name.

    Attributes:
        probe_file: The functions.
        name: What the trace's file name calls it.
        warnings: What was asked for and is not on this machine.
        inclusion_paths: Directories of the only files that are meant; empty: all files.
    """

    probe_file: ProbeFile
    name: str
    warnings: tuple[str, ...] = ()
    inclusion_paths: tuple[Path, ...] = ()


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
    # Commands wait for these imports: only where they are needed.
    from datacrumbs_utils.discovery import sets

    config = sets.load(name_or_path)
    name = path.stem if path.suffix in _YAML_SUFFIXES else name_or_path.replace(",", "+")
    name = name.replace("/", "_")
    inclusion_paths = tuple(map(Path, config.inclusion_path))
    listed = _listed_system_calls(config)
    if listed is not None:
        return Probes(listed, name, inclusion_paths=inclusion_paths)
    from datacrumbs_utils.discovery import select

    selection = select.select(config)
    report = selection.report
    refusals = tuple(line for category in report.categories for line in category.refusals)
    return Probes(selection.probe_file, name, report.warnings + refusals, inclusion_paths)


def _listed_system_calls(config: "HostConfig") -> ProbeFile | None:
    """Return the probe file of a set that only lists system calls which the recorder knows.

    For these there is nothing to find out about this machine. The set that is recorded by default
    is one of them, and looking into the kernel would make up a third of the time until the command
    starts.
    """
    if config.problems or not all(
        entry.probe is ProbeType.SYSCALLS
        and entry.is_optional
        and entry.functions
        and not (entry.exclude or entry.function_arguments)
        for entry in config.entries
    ):
        return None
    categories = tuple(
        Category(ProbeType.SYSCALLS, entry.category, entry.functions, mode=entry.mode)
        for entry in config.entries
    )
    return ProbeFile(Summary(config.path, "", "", "", ""), categories)


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
