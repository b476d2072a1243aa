"""The runs of a node on a terminal: an overview, and of a run what it did and does."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from datacrumbs_runtime.cli import printable, shortened
from datacrumbs_runtime.known_runs import KnownRun
from datacrumbs_runtime.schema.quantities import (
    shown_bytes,
    shown_count,
    shown_rate,
    shown_time,
)
from datacrumbs_runtime.status_rates import Rate, Rates

_WIDE_COLUMNS = 110
_MIN_NAME_COLUMNS = 10
_OWNER_COLUMNS = 16
_FAILURES_SHOWN = 20
_FAILED_NAMES_SHOWN = 5
_DAY_S = 86400
_SECOND_NS = 1_000_000_000
_STATE_STYLES = {"recording": "green", "dead": "bold red"}
# Counters that tell of no loss.
_NO_LOSSES = frozenset({"offered", "written", "entered", "counted"})
_HIDDEN = "what other users' runs record, only root and they see"
# Lines of the live view that are not rows of functions or files.
_FRAME_LINES = 10
_MIN_ROWS = 1


class LiveView:
    """What a terminal shows while runs go on; as much as fits.

    Args:
        hostname: This node.
    """

    def __init__(self, hostname: str) -> None:
        self._hostname = hostname
        self._runs: Sequence[KnownRun] = ()
        self._rates: dict[str, Rates] = {}

    def update(self, runs: Sequence[KnownRun]) -> None:
        """Take what is known of the runs now."""
        self._runs = runs
        self._rates = {run.run_id: self._rates.get(run.run_id, Rates()) for run in runs}
        for run in runs:
            if run.status is not None:
                self._rates[run.run_id].update(run.status)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, options.height or console.height
        title = Text(f"runs on {self._hostname}", style="bold", no_wrap=True, overflow="crop")
        title.append(f"  {datetime.now().astimezone():%H:%M:%S}  Ctrl-C ends", style="not bold dim")
        yield title
        if not self._runs:
            yield Text("no runs on this node")
            return
        shown = list(self._runs[: max(1, height // 3)])
        yield overview(shown, width)
        if _has_hidden(shown):
            yield Text(_HIDDEN, style="dim", no_wrap=True, overflow="crop")
        if len(self._runs) > len(shown):
            yield Text(f"{len(self._runs) - len(shown)} more", style="dim")
        run = max(
            (run for run in self._runs if run.status),
            key=lambda run: run.status["events_per_s"] if run.status else 0.0,
            default=None,
        )
        if run is not None and run.status is not None:
            rows = max(2 * _MIN_ROWS, height - _FRAME_LINES - len(shown))
            yield from self._live(run.run_id, run.status, width, rows)

    def _live(
        self, run_id: str, status: Mapping[str, Any], width: int, rows: int
    ) -> Sequence[RenderableType]:
        rates = self._rates[run_id]
        head = Text(f"\n{printable(run_id)}: ", style="bold", no_wrap=True)
        head.append(shortened(printable(status["trace"]), width - len(head) + 1), style="not bold")
        parts: list[RenderableType] = [head, _loss_line(status, width)]
        file_rows = max(_MIN_ROWS, rows * 2 // 5)
        files = rates.busiest(status["files"])[:file_rows]
        function_rows = max(_MIN_ROWS, rows - len(files))
        functions = rates.busiest(status["functions"])[:function_rows]
        parts += [Text(), _functions(functions, width, rates)]
        parts += [Text(), _files(files, width, rates, counted=status["counted"])]
        return parts


def still_view(runs: Sequence[KnownRun], width: int, *, in_detail: bool) -> RenderableType:
    """Return what is known of runs.

    Args:
        runs: The runs.
        width: Columns of the terminal.
        in_detail: Also functions, files, and what failed.
    """
    parts: list[RenderableType] = [overview(runs, width)]
    if _has_hidden(runs):
        parts.append(Text(_HIDDEN, style="dim"))
    for run in runs:
        if in_detail and run.status is not None:
            parts += _details(run.status, width)
    return Group(*parts)


def _has_hidden(runs: Sequence[KnownRun]) -> bool:
    """Return whether there are runs of which this user may not know more."""
    return any(run.status is None and run.is_ready and run.is_active for run in runs)


def overview(runs: Sequence[KnownRun], width: int) -> Table:
    """Return a line for each run: whose, since when, how much."""
    titles = ("state", "owner", "since", "probes", "events", "per s", "lost", "trace")
    rows = [_overview_row(run) for run in runs]
    table, name_columns, shown = _table("run", titles, rows, width, left=3)
    for run, row in zip(runs, rows, strict=True):
        cells = [Text(text) for text in row]
        cells[0].stylize(_STATE_STYLES.get(run.state, "yellow"))
        status = run.status
        if status is not None and status["attached"] < status["requested"]:
            cells[3].stylize("yellow")
        if status is not None and status["lost"]:
            cells[6].stylize("bold red")
        if status is not None and status.get("trouble"):
            cells[7].stylize("bold red")
        table.add_row(Text(shortened(printable(run.run_id), name_columns)), *cells[:shown])
    return table


def _overview_row(run: KnownRun) -> tuple[str, ...]:
    status = run.status
    if status is None:
        owner = shortened(printable(run.owner), _OWNER_COLUMNS) if run.owner else "?"
        since = _since(run.since) if run.since is not None else "?"
        return (run.state, owner, since, "", "", "", "", "")
    return (
        run.state,
        shortened(printable(status["user"]), _OWNER_COLUMNS),
        _since(float(status["since"])),
        f"{status['attached']}/{status['requested']}",
        shown_count(status["events"] + status["counted"]),
        shown_count(round(status["events_per_s"])),
        shown_count(status["lost"]),
        shown_bytes(status["trace_bytes"]),
    )


def _since(since_s: float) -> str:
    """Return a moment as its time of day, or its date if that was another day's."""
    moment = datetime.fromtimestamp(since_s).astimezone()
    return f"{moment:%H:%M:%S}" if time.time() - since_s < _DAY_S else f"{moment:%b %d}"


def _details(status: Mapping[str, Any], width: int) -> list[RenderableType]:
    began = datetime.fromtimestamp(float(status["since"])).astimezone()
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in (
        ("since", f"{began:%Y-%m-%d %H:%M:%S}"),
        ("probe file", status["probe_file"]),
        ("trace", status["trace"]),
        ("mode", status["mode"]),
        ("memory", shown_bytes(status["memory_bytes"])),
        ("cgroup", status.get("cgroup") or "any"),
        ("attached by", ", ".join(sorted(set(map(str, status["tiers"].values()))))),
        *([("waiting", _waiting(status))] if status.get("trouble") else []),
        ("lost calls", f"{status['lost']:,}"),
        ("not in the trace", _losses(status) or "nothing"),
    ):
        facts.add_row(name, Text(printable(str(value))))
    parts: list[RenderableType] = [Text(), facts]
    if status["failures"]:
        parts += [Text(), _failed(status)]
    parts += [Text(), _functions(status["functions"], width, None)]
    parts += [Text(), _files(status["files"], width, None, counted=status["counted"])]
    return parts


def _waiting(status: Mapping[str, Any]) -> str:
    """Return what the disk does not take, and why."""
    return f"{shown_bytes(status['waiting_bytes'])} in memory: {status['trouble']}"


def _losses(status: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {count:,}"
        for name, count in status["losses"].items()
        if name not in _NO_LOSSES
    )


def _loss_line(status: Mapping[str, Any], width: int) -> Text:
    words = [f"{shown_bytes(status['memory_bytes'])} memory", f"mode {status['mode']}"]
    if status["failed"]:
        words.append(f"{status['failed']} probes failed")
    if status.get("trouble"):
        # Worth more than the rest, which may not fit beside it.
        words = [f"the trace waits: {_waiting(status)}"]
    words.append(f"not in the trace: {_losses(status) or 'nothing'}")
    return Text(shortened(printable(", ".join(words)), width), no_wrap=True)


def _failed(status: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold yellow", padding=(0, 2, 0, 0))
    table.add_column("failed probes", overflow="fold")
    table.add_column("reason", overflow="fold")
    by_reason: dict[tuple[str, str], list[str]] = {}
    for category, function, reason in status["failures"]:
        by_reason.setdefault((category, reason), []).append(function)
    told = 0
    for (category, reason), functions in list(by_reason.items())[:_FAILURES_SHOWN]:
        names = ", ".join(functions[:_FAILED_NAMES_SHOWN])
        if len(functions) > _FAILED_NAMES_SHOWN:
            names += f" and {len(functions) - _FAILED_NAMES_SHOWN} more"
        table.add_row(Text(printable(f"{category} {names}")), Text(printable(reason)))
        told += len(functions)
    more = status["failed"] - told
    if more > 0:
        table.add_row(Text(f"{more} more", style="dim"), Text("--json and the log tell", "dim"))
    return table


def _functions(
    functions: Sequence[Mapping[str, Any]], width: int, rates: Rates | None
) -> RenderableType:
    titles: tuple[str, ...] = ("calls", "errors", "total", "p50", "p99", "bytes", "MiB/s")
    if rates is not None:
        titles = ("calls/s", "time/s", "MiB/s", "calls", "errors", "total", "p50", "p99")
    named: list[tuple[str, tuple[str, ...]]] = []
    names = Counter((item["category"], item["name"]) for item in functions)
    for item in functions:
        name = f"{item['category']} {item['name']}"
        if names[item["category"], item["name"]] > 1:
            # System calls that libc gives one name, such as open and creat.
            name += f" ({item.get('function', '?')})"
        sums = (
            shown_count(item["calls"]),
            shown_count(item["errors"]) if item["errors"] else "",
            *_times(item),
        )
        if rates is not None:
            named.append((name, (*_rate_cells(rates.of(item)), *sums)))
        else:
            rate = shown_rate(item["bytes"], item["time_ns"])
            named.append((name, (*sums, _shown_moved(item), rate)))
    return _busiest("busiest functions", titles, named, width)


def _times(item: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the times of a function; an instant has none."""
    if not item["time_ns"]:
        return ("", "", "")
    return (shown_time(item["time_ns"]), shown_time(item["p50_ns"]), shown_time(item["p99_ns"]))


def _files(
    files: Sequence[Mapping[str, Any]], width: int, rates: Rates | None, *, counted: int
) -> RenderableType:
    titles: tuple[str, ...] = ("calls", "total", "bytes")
    if rates is not None:
        titles = ("calls/s", "MiB/s", *titles)
    named: list[tuple[str, tuple[str, ...]]] = []
    for item in files:
        row: tuple[str, ...] = (
            shown_count(item["calls"]),
            shown_time(item["time_ns"]) if item["time_ns"] else "",
            _shown_moved(item),
        )
        if rates is not None:
            calls, _, moved = _rate_cells(rates.of(item))
            row = (calls, moved, *row)
        named.append((item["path"], row))
    if not named and counted:
        return Text("busiest files: none, as counted calls name no files", style="dim")
    return _busiest("busiest files", titles, named, width)


def _rate_cells(rate: Rate | None) -> tuple[str, str, str]:
    if rate is None or not rate.calls:
        return ("", "", "")
    return (
        shown_count(round(rate.calls)),
        shown_time(rate.time_ns),
        shown_rate(round(rate.bytes), _SECOND_NS),
    )


def _shown_moved(item: Mapping[str, Any]) -> str:
    return shown_bytes(item["bytes"]) if item["bytes"] else ""


def _busiest(
    title: str,
    titles: tuple[str, ...],
    named: Sequence[tuple[str, tuple[str, ...]]],
    width: int,
) -> RenderableType:
    if not named:
        return Text(f"{title}: none yet", style="dim")
    table, name_columns, shown = _table(title, titles, [row for _, row in named], width)
    for name, row in named:
        table.add_row(Text(shortened(printable(name), name_columns)), *row[:shown])
    return table


def _table(
    title: str, titles: Sequence[str], rows: Sequence[Sequence[str]], width: int, left: int = 0
) -> tuple[Table, int, int]:
    """Return a table without its rows, how long names may be, and how many other columns fit.

    Args:
        title: Heading of the first column.
        titles: Headings of the others.
        rows: What will be in the others.
        width: Columns that there are.
        left: So many of the others are texts.
    """
    gap = 1 if width < _WIDE_COLUMNS else 2
    columns = [
        max(cell_len(text) for text in (heading, *(row[index] for row in rows)))
        for index, heading in enumerate(titles)
    ]
    least = max(_MIN_NAME_COLUMNS, cell_len(title))
    while columns and least + sum(columns) + gap * len(columns) > width:
        columns.pop()
    name_columns = width - sum(columns) - gap * len(columns)
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    heading = title[:name_columns]
    table.add_column(heading, no_wrap=True, style="cyan", min_width=len(heading))
    for index, columns_needed in enumerate(columns):
        table.add_column(
            titles[index],
            justify="left" if index < left else "right",
            no_wrap=True,
            min_width=columns_needed,
        )
    return table, name_columns, len(columns)
