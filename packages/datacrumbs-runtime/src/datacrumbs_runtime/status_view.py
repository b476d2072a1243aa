"""The runs of a node on a terminal: an overview, and of a run what it did and does."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

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

_WIDE_COLUMNS = 110
_MIN_NAME_COLUMNS = 10
_OWNER_COLUMNS = 16
_FAILURES_SHOWN = 20
_DAY_S = 86400
_SECOND_NS = 1_000_000_000
_STATE_STYLES = {"recording": "green", "dead": "bold red"}
# Counters that tell of no loss.
_NO_LOSSES = frozenset({"offered", "written", "entered", "counted"})
# Lines of the live view that are not rows of functions or files.
_FRAME_LINES = 10
_MIN_ROWS = 1
_STATUSES_OF_A_RATE = 4


class Rate(NamedTuple):
    """What happened per second of late."""

    calls: float
    time_ns: float
    bytes: float


class Rates:
    """What the functions and files of a run did of late: over its newest statuses.

    Over several, because counted calls come by the interval.
    """

    def __init__(self) -> None:
        self._statuses: deque[Mapping[str, Any]] = deque(maxlen=_STATUSES_OF_A_RATE)
        self._rates: dict[tuple[str, ...], Rate] = {}

    def update(self, status: Mapping[str, Any]) -> None:
        """Take a status; the same one again changes nothing."""
        statuses = self._statuses
        if statuses and statuses[-1]["updated"] == status["updated"]:
            return
        if statuses and statuses[-1]["since"] != status["since"]:
            # Another run of the same id.
            statuses.clear()
        statuses.append(status)
        self._rates = {}
        elapsed_s = status["updated"] - statuses[0]["updated"]
        if elapsed_s <= 0:
            return
        old = dict(_items(statuses[0]))
        for key, item in _items(status):
            # A name that was not among the busiest before: how often it was called is not known.
            then = old.get(key)
            if then is not None:
                self._rates[key] = Rate(
                    *(
                        max(0.0, (item[name] - then[name]) / elapsed_s)
                        for name in ("calls", "time_ns", "bytes")
                    )
                )

    def of(self, item: Mapping[str, Any]) -> Rate | None:
        """Return the rate of a function or file of the status, if it is known."""
        return self._rates.get(_key(item))

    def busiest(self, items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return functions or files, those first on which most time was spent of late."""

        def order(item: Mapping[str, Any]) -> tuple[float, float]:
            rate = self.of(item)
            return (-rate.time_ns if rate else 0.0, -item["time_ns"])

        return sorted(items, key=order)


def _items(status: Mapping[str, Any]) -> list[tuple[tuple[str, ...], Mapping[str, Any]]]:
    return [(_key(item), item) for item in (*status["functions"], *status["files"])]


def _key(item: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a function or file is known by; several functions may have the same name."""
    if "path" in item:
        return (item["path"],)
    return (item["category"], item.get("function", item["name"]))


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
        title = Text(f"runs on {self._hostname}", style="bold")
        title.append(f"  {datetime.now().astimezone():%H:%M:%S}  Ctrl-C ends", style="not bold dim")
        yield title
        if not self._runs:
            yield Text("no runs on this node")
            return
        shown = list(self._runs[: max(1, height // 3)])
        yield overview(shown, width)
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
    for run in runs:
        if in_detail and run.status is not None:
            parts += _details(run.status, width)
    return Group(*parts)


def overview(runs: Sequence[KnownRun], width: int) -> Table:
    """Return a line for each run: whose, since when, how much."""
    titles = ("state", "owner", "since", "probes", "events", "per s", "lost", "trace")
    rows = [_overview_row(run) for run in runs]
    table, name_columns = _table("run", titles, rows, width, left=3)
    for run, row in zip(runs, rows, strict=True):
        cells = [Text(text) for text in row]
        cells[0].stylize(_STATE_STYLES.get(run.state, "yellow"))
        status = run.status
        if status is not None and status["attached"] < status["requested"]:
            cells[3].stylize("yellow")
        if status is not None and status["lost"]:
            cells[6].stylize("bold red")
        table.add_row(Text(shortened(printable(run.run_id), name_columns)), *cells)
    return table


def _overview_row(run: KnownRun) -> tuple[str, ...]:
    status = run.status
    if status is None:
        return (run.state, "?", "?", "", "", "", "", "")
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
    words.append(f"not in the trace: {_losses(status) or 'nothing'}")
    return Text(shortened(printable(", ".join(words)), width), no_wrap=True)


def _failed(status: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold yellow", padding=(0, 2, 0, 0))
    table.add_column("failed probes", overflow="fold")
    table.add_column("reason", overflow="fold")
    for category, function, reason in status["failures"][:_FAILURES_SHOWN]:
        table.add_row(Text(printable(f"{category} {function}")), Text(printable(reason)))
    more = status["failed"] - min(len(status["failures"]), _FAILURES_SHOWN)
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
    for item in functions:
        name = f"{item['category']} {item['name']}"
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
    table, name_columns = _table(title, titles, [row for _, row in named], width)
    for name, row in named:
        table.add_row(Text(shortened(printable(name), name_columns)), *row)
    return table


def _table(
    title: str, titles: Sequence[str], rows: Sequence[Sequence[str]], width: int, left: int = 0
) -> tuple[Table, int]:
    """Return a table without its rows, and how long names in its first column may be.

    Args:
        title: Heading of the first column.
        titles: Headings of the others.
        rows: What will be in the others.
        width: Columns that there are.
        left: So many of the others are texts.
    """
    gap = 1 if width < _WIDE_COLUMNS else 2
    columns = [
        max(len(heading), *(len(row[index]) for row in rows)) if rows else len(heading)
        for index, heading in enumerate(titles)
    ]
    name_columns = max(_MIN_NAME_COLUMNS, width - sum(columns) - gap * len(columns))
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    table.add_column(title, no_wrap=True, style="cyan", min_width=min(name_columns, len(title)))
    for index, (heading, columns_needed) in enumerate(zip(titles, columns, strict=True)):
        table.add_column(
            heading,
            justify="left" if index < left else "right",
            no_wrap=True,
            min_width=columns_needed,
        )
    return table, name_columns
