"""What an entry found and chose, before anything slow is done about it."""

from dataclasses import dataclass, field
from pathlib import Path

from datacrumbs_runtime.schema.probe_file import plain_symbol
from datacrumbs_utils.discovery.candidates import Candidate
from datacrumbs_utils.discovery.entries import Entry
from datacrumbs_utils.discovery.signatures import Signature


@dataclass(slots=True)
class Choice:
    """The functions of one entry.

    Attributes:
        entry: The entry.
        path: The binary or header that was looked into, or None.
        found: All candidates by name, chosen or not.
        chosen: The candidates that are to be probed, by the name that the trace will show.
        excluded: Names that matched and were excluded, and by what.
        refused: Names that matched and cannot be probed, and why.
        expensive: Names that can be probed at a high cost per call, and why.
        remarks: What the user should know about how the functions were found.
        arguments_from: Where argument names came from (``DWARF``, ``mpi.h``, ...), with counts.
        signatures: Declarations for people, by name.
        not_captured: Parameters that a probe cannot read, and why, by name.
    """

    entry: Entry
    path: Path | None = None
    found: dict[str, Candidate] = field(default_factory=dict)
    chosen: dict[str, Candidate] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    expensive: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    arguments_from: dict[str, int] = field(default_factory=dict)
    signatures: dict[str, str] = field(default_factory=dict)
    not_captured: dict[str, tuple[str, ...]] = field(default_factory=dict)


def describe(choice: Choice, name: str, signature: Signature) -> None:
    """Keep what people want to know of a chosen function's signature."""
    choice.signatures[name] = signature.text(plain_symbol(name))
    missing = signature.uncapturable()
    if missing:
        choice.not_captured[name] = missing


def count_arguments(choice: Choice, source: str, functions: int = 1) -> None:
    """Note where the arguments of some of the functions came from."""
    choice.arguments_from[source] = choice.arguments_from.get(source, 0) + functions
