"""What a selection found, per category: for the summary table, for JSON and for explanations."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from datacrumbs_runtime.schema.probe_file import Category
from datacrumbs_utils.discovery.choices import Choice
from datacrumbs_utils.discovery.entries import PROBES

_DETAIL = re.compile(r"(?<=instruction) \([^()]*\)|(?<=same code as) [^,]+(?=,)")
_PROBE_WORDS = {probe: word for word, probe in PROBES.items()}


@dataclass(frozen=True, slots=True)
class CategoryReport:
    """One entry's outcome.

    Attributes:
        name: The entry's name.
        category: The trace category.
        probe: How its functions are probed, as in YAML.
        type: Where candidates came from.
        path: The binary or header that was looked into, or None.
        found: How many candidates there were.
        selected: How many functions are probed.
        excluded: How many matched and were excluded, by what.
        refused: How many matched and cannot be probed, by reason.
        expensive: Functions that cost much per call, with the reason.
        arguments_known: How many functions have their arguments captured.
        arguments_from: How many functions' arguments came from where.
        moved: How many probes sit a few instructions after the function's first.
        remarks: What the user should know.
    """

    name: str
    category: str
    probe: str
    type: str
    path: str | None
    found: int
    selected: int
    excluded: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    expensive: dict[str, str] = field(default_factory=dict)
    arguments_known: int = 0
    arguments_from: dict[str, int] = field(default_factory=dict)
    moved: int = 0
    remarks: tuple[str, ...] = ()

    @property
    def refusals(self) -> tuple[str, ...]:
        """One line for each reason for which functions are left out."""
        return tuple(
            f"{self.name}: {count} refused: {reason}" for reason, count in self.refused.items()
        )

    def document(self) -> dict[str, Any]:
        """Return the report as JSON shows it."""
        return {
            "name": self.name,
            "category": self.category,
            "probe": self.probe,
            "type": self.type,
            "path": self.path,
            "found": self.found,
            "selected": self.selected,
            "excluded": self.excluded,
            "refused": self.refused,
            "expensive": self.expensive,
            "arguments_known": self.arguments_known,
            "arguments_from": self.arguments_from,
            "moved": self.moved,
            "remarks": list(self.remarks),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a selection.

    Attributes:
        categories: One report per entry.
        warnings: What the user should know about the configuration itself.
        max_functions: The limit that was checked.
    """

    categories: tuple[CategoryReport, ...]
    warnings: tuple[str, ...] = ()
    max_functions: int = 0

    @property
    def selected(self) -> int:
        """The number of functions that are probed."""
        return sum(category.selected for category in self.categories)

    def document(self) -> dict[str, Any]:
        """Return the report as JSON shows it."""
        return {
            "functions": self.selected,
            "max_functions": self.max_functions,
            "categories": [category.document() for category in self.categories],
            "warnings": list(self.warnings),
        }


def of_category(choice: Choice, category: Category | None) -> CategoryReport:
    """Return what is worth telling about one entry.

    Args:
        choice: What it found and chose.
        category: What became of it in the probe file; None: nothing.
    """
    entry = choice.entry
    return CategoryReport(
        name=entry.name,
        category=entry.category,
        probe=_PROBE_WORDS[entry.probe],
        type=entry.type,
        path=str(choice.path) if choice.path is not None else None,
        found=len(choice.found),
        selected=len(category.functions) if category is not None else 0,
        excluded=_counts(choice.excluded),
        refused=_counts(choice.refused),
        expensive={name: why for name, why in choice.expensive.items() if name in choice.chosen},
        arguments_known=_arguments_known(choice, category),
        arguments_from={source: n for source, n in choice.arguments_from.items() if n},
        moved=len(category.placed_offsets) if category is not None else 0,
        remarks=tuple(dict.fromkeys(choice.remarks)),
    )


def _arguments_known(choice: Choice, category: Category | None) -> int:
    if category is None:
        return 0
    return min(sum(choice.arguments_from.values()), len(category.functions))


def _counts(reasons: dict[str, str]) -> dict[str, int]:
    return dict(Counter(map(_kind, reasons.values())).most_common())


def _kind(reason: str) -> str:
    """Return what a reason has in common with others: without instructions and names."""
    return _DETAIL.sub("", reason).partition("; ")[0]
