"""One measured figure, and the table of them."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        what: What was measured.
        who: The tracer, or what else differs between the lines of one subject.
        value: Median of the repeats, in ``unit``; None if it could not be measured.
        unit: Unit of the value.
        added: What it costs more than without a tracer, in ``unit``.
        ratio: The value by that of the peer or floor named in ``compared_to``.
        compared_to: What ``ratio`` is relative to.
        budget: What the project allows itself, in words.
        kept: Whether the value is within the budget; None without a budget.
        note: Why there is no value, or what to know about it.
    """

    what: str
    who: str
    value: float | None
    unit: str
    added: float | None = None
    ratio: float | None = None
    compared_to: str = ""
    budget: str = ""
    kept: bool | None = None
    note: str = ""


def _number(value: float | None) -> str:
    if value is None:
        return ""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def print_table(title: str, rows: Iterable[Row], console: Console) -> None:
    """Print one subject's rows."""
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("what")
    table.add_column("who")
    table.add_column("value", justify="right")
    table.add_column("added", justify="right")
    table.add_column("ratio", justify="right")
    table.add_column("budget")
    table.add_column("note", overflow="fold")
    for row in rows:
        ratio = f"{row.ratio:.2f} x {row.compared_to}" if row.ratio is not None else ""
        budget = row.budget + ("" if row.kept is None else " ok" if row.kept else " MISSED")
        value = f"{_number(row.value)} {row.unit}" if row.value is not None else "-"
        table.add_row(row.what, row.who, value, _number(row.added), ratio, budget, row.note)
    console.print(table)


def to_json(rows: Iterable[Row]) -> str:
    """Return the rows as a JSON list of objects."""
    return json.dumps([asdict(row) for row in rows], indent=1)
