"""What a recording came to, for people: tables in the terminal."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from datacrumbs_runtime.cli import printable, shortened
from datacrumbs_runtime.engine import FileStatistics, FunctionStatistics, FunctionSummary
from datacrumbs_runtime.schema.quantities import (
    shown_bytes,
    shown_count,
    shown_rate,
    shown_time,
)
from datacrumbs_utils.recording.session import Outcome

FILES_SHOWN = 10
FUNCTIONS_SHOWN = 25
WIDE_COLUMNS = 110
_NAME_COLUMNS = 15
_FAILURES_SHOWN = 5
_TITLES = ("calls", "errors", "total", "mean", "p50", "p99", "max", "bytes", "MiB/s")
# Of very many files not all names are kept; the trace has them.
_UNNAMED = "(see the trace)"


def print_summary(console: Console, title: str, outcome: Outcome) -> None:
    """Print what was recorded, what was lost, and where the trace is."""
    console.print(Group(*_parts(console.width, title, outcome)))


def _parts(width: int, title: str, outcome: Outcome) -> Iterable[RenderableType]:
    statistics = outcome.summary.statistics
    yield Text()
    yield _head(title, outcome)
    categories = _by_category(statistics.functions)
    # The tables stand below each other: their columns shall as well, as far as there is room.
    longest = max((len(row[0]) for _, members in categories for row in _rows(members)), default=0)
    for category, functions in categories:
        yield Text()
        yield _functions_table(category, functions, width, longest)
    if statistics.files.by_time:
        yield Text()
        yield _files(outcome, width)
    yield Text()
    yield from _losses(outcome)
    yield _trace(outcome)


def _head(title: str, outcome: Outcome) -> Text:
    summary = outcome.summary
    text = Text(overflow="fold")
    text.append(printable(title), style="bold")
    text.append(f"  {shown_time(summary.duration_ns)}, {summary.events:,} events")
    counted = summary.statistics.losses.counted
    if counted:
        text.append(f", {counted:,} calls counted")
    if outcome.status:
        text.append(f", exit status {outcome.status}", style="yellow")
    return text


def _by_category(
    functions: Sequence[FunctionSummary],
) -> list[tuple[str, list[FunctionSummary]]]:
    """Return the functions of each category, the busiest first."""
    categories: dict[str, list[FunctionSummary]] = {}
    for function in functions:
        categories.setdefault(function.category, []).append(function)
    for members in categories.values():
        members.sort(key=lambda one: one.statistics.time_ns, reverse=True)
    return list(categories.items())


def _shown_name(function: FunctionSummary, twice: frozenset[str]) -> str:
    """Return a function's name, with the kernel's where several system calls share one."""
    if function.name in twice and function.probe_name != function.name:
        return function.probe_name.partition(":0x")[0]
    return function.name


def _functions_table(
    category: str, functions: list[FunctionSummary], width: int, least_name_columns: int
) -> Table:
    rows = _rows(functions)
    # Spans have no bytes, and what only happens, as an instant, takes no time either.
    used = [index for index in range(1, len(_TITLES) + 1) if any(row[index] for row in rows)]
    columns = [max(len(_TITLES[index - 1]), *(len(row[index]) for row in rows)) for index in used]
    gap = 1 if width < WIDE_COLUMNS else 2
    name_columns = max(_NAME_COLUMNS, width - sum(columns) - gap * len(columns))
    table = _table(gap)
    table.add_column(
        shortened(printable(category), name_columns),
        no_wrap=True,
        style="cyan",
        min_width=min(name_columns, least_name_columns),
    )
    for index, wide in zip(used, columns, strict=True):
        title = _TITLES[index - 1]
        style = "yellow" if title == "errors" else None
        table.add_column(title, justify="right", no_wrap=True, min_width=wide, style=style)
    for row in rows:
        table.add_row(shortened(row[0], name_columns), *(row[index] for index in used))
    return table


def _rows(functions: list[FunctionSummary]) -> list[tuple[str, ...]]:
    """Return a row for each function: its name, then what the titles say."""
    names = [one.name for one in functions]
    twice = frozenset(name for name in names if names.count(name) > 1)
    rows = [
        (printable(_shown_name(function, twice)), *_numbers(function.statistics))
        for function in functions[:FUNCTIONS_SHOWN]
    ]
    rest = [one.statistics for one in functions[FUNCTIONS_SHOWN:]]
    if rest:
        calls, time_ns = sum(one.calls for one in rest), sum(one.time_ns for one in rest)
        empty = ("",) * (len(_TITLES) - 3)
        rows.append((f"{len(rest)} more", shown_count(calls), "", _shown_spent(time_ns), *empty))
    return rows


def _shown_spent(duration_ns: float) -> str:
    return shown_time(duration_ns) if duration_ns else ""


def _numbers(one: FunctionStatistics) -> tuple[str, ...]:
    mean_ns = one.time_ns / one.calls if one.calls else 0
    has_times = one.time_ns > 0
    return (
        shown_count(one.calls),
        shown_count(one.errors) if one.errors else "",
        _shown_spent(one.time_ns),
        _shown_spent(mean_ns),
        *(
            shown_time(duration_ns) if has_times else ""
            for duration_ns in (one.p50_ns, one.p99_ns, one.max_ns)
        ),
        shown_bytes(one.bytes) if one.bytes else "",
        shown_rate(one.bytes, one.time_ns),
    )


def _table(gap: int) -> Table:
    return Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        # the box itself puts one space between columns
        padding=(0, gap - 1, 0, 0),
        show_edge=False,
        header_style="bold",
    )


def _files(outcome: Outcome, width: int) -> RenderableType:
    files = outcome.summary.statistics.files
    with_bytes = [file for file in files.by_bytes if file.bytes][:FILES_SHOWN]
    by_time = files.by_time[:FILES_SHOWN]
    longest = max(len(_shown_path(file)) for file in (*by_time, *with_bytes))
    tables = [_files_table("files by time", by_time, width, longest)]
    if with_bytes:
        tables.append(_files_table("files by bytes", with_bytes, width, longest))
    parts: list[RenderableType] = []
    for table in tables:
        parts += [table] if not parts else [Text(), table]
    return Group(*parts)


def _shown_path(file: FileStatistics) -> str:
    return printable(file.path or _UNNAMED)


def _files_table(
    title: str, files: Sequence[FileStatistics], width: int, least_path_columns: int
) -> Table:
    columns, gap = 7, 2
    table = _table(gap)
    path_columns = max(20, width - 3 * (columns + gap))
    least = min(path_columns, least_path_columns)
    table.add_column(title, no_wrap=True, style="cyan", min_width=least, max_width=path_columns)
    for name in ("calls", "time", "bytes"):
        table.add_column(name, justify="right", no_wrap=True, min_width=columns)
    for file in files:
        table.add_row(
            shortened(_shown_path(file), path_columns),
            shown_count(file.calls),
            shown_time(file.time_ns),
            shown_bytes(file.bytes) if file.bytes else "",
        )
    return table


def _losses(outcome: Outcome) -> Iterable[RenderableType]:
    losses = outcome.summary.statistics.losses
    if outcome.is_complete:
        yield Text("nothing was lost", style="green")
        yield from _under_way(losses.missed_begin, outcome.summary.in_flight)
    else:
        yield Text(f"INCOMPLETE: {losses.summary()}", style="bold red", overflow="fold")
    if losses.ring_full:
        yield Padding(
            Text("a larger --ring-buffer-size, or fewer functions, would help", style="red"),
            (0, 0, 0, 2),
        )
    if outcome.failure is not None:
        yield Text(f"the recording ended early: {outcome.failure}", style="bold red")
    failures = outcome.attached.failures
    if failures:
        yield Text(
            f"{len(failures)} of {outcome.attached.requested} functions are not recorded:",
            style="yellow",
        )
        for category, function, reason in failures[:_FAILURES_SHOWN]:
            line = f"{category} {function}: {reason}"
            yield Padding(Text(printable(line), overflow="fold"), (0, 0, 0, 2))
        if len(failures) > _FAILURES_SHOWN:
            yield Padding(Text("...: --verbose names all", style="dim"), (0, 0, 0, 2))


def _under_way(at_begin: int, at_end: int) -> Iterable[RenderableType]:
    for count, when in ((at_begin, "began"), (at_end, "ended")):
        if count:
            calls = "1 call was" if count == 1 else f"{count:,} calls were"
            yield Text(f"{calls} under way when the recording {when}", style="yellow")


def _trace(outcome: Outcome) -> Text:
    summary = outcome.summary
    size = summary.statistics.file_bytes
    text = Text(overflow="fold")
    text.append("trace: ")
    text.append(printable(str(summary.trace_path)), style="bold")
    per_event = f", {size / summary.events:.1f} bytes an event" if summary.events else ""
    text.append(f" ({shown_bytes(size)}{per_event})")
    return text
