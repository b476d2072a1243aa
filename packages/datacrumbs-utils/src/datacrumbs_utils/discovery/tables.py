"""Selections for people: the summary table, and the list of functions."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from datacrumbs_utils.discovery import explanation
from datacrumbs_utils.discovery.report import CategoryReport, Report
from datacrumbs_utils.discovery.select import Selection

EXPENSIVE_NAMED = 5
# What one call costs more when its probe is single-stepped, from the measurements in the docs.
SINGLE_STEP_US = 9
# Of a table that nobody looks at on a terminal.
WIDTH = 160


def print_summary(console: Console, report: Report) -> None:
    """Print one row per entry, and what the user should know besides."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("entry", no_wrap=True)
    table.add_column("probe", no_wrap=True)
    for name in ("found", "selected", "excluded", "refused", "expensive", "arguments"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in report.categories:
        table.add_row(
            Text(one.name),
            f"{one.probe}/{one.type}" if one.probe != one.type else one.probe,
            *(str(number) for number in _numbers(one)),
        )
    if len(report.categories) > 1:
        sums = [sum(column) for column in zip(*map(_numbers, report.categories), strict=True)]
        table.add_section()
        table.add_row("total", "", *(str(number) for number in sums), style="bold")
    if not console.is_terminal:
        console = Console(file=console.file, width=WIDTH, highlight=False)
    console.print(table)
    for note in notes(report):
        console.print(Text(note), soft_wrap=True)


def _numbers(one: CategoryReport) -> tuple[int, ...]:
    return (
        one.found,
        one.selected,
        sum(one.excluded.values()),
        sum(one.refused.values()),
        len(one.expensive),
        one.arguments_known,
    )


def notes(report: Report) -> Iterator[str]:
    """Yield what does not fit into the table, one line each."""
    for one in report.categories:
        yield from one.refusals
        if one.expensive:
            names = [name.partition(":0x")[0] for name in one.expensive]
            more = f" and {len(names) - EXPENSIVE_NAMED} more" * (len(names) > EXPENSIVE_NAMED)
            yield (
                f"{one.name}: {len(names)} expensive, up to {SINGLE_STEP_US} us a call: "
                f"{', '.join(names[:EXPENSIVE_NAMED])}{more}"
            )
        for remark in one.remarks:
            yield remark if remark.startswith(f"{one.name}:") else f"{one.name}: {remark}"


def function_lines(selection: Selection) -> Iterator[str]:
    """Yield every selected function with its category and signature, separated by tabs."""
    for choice in selection.choices:
        category = selection.category_of(choice)
        for name in choice.chosen:
            text = explanation.signature(choice, name, category)
            yield f"{choice.entry.category}\t{name}\t{text}"
