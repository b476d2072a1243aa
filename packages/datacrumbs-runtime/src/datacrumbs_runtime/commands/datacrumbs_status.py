"""datacrumbs_status: the runs on this node."""

import json
import os
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from datacrumbs_runtime import __version__
from datacrumbs_runtime.cli import CONTEXT_SETTINGS, run_command
from datacrumbs_runtime.errors import ConfigurationError, DatacrumbsError
from datacrumbs_runtime.known_runs import KnownRun, known_runs
from datacrumbs_runtime.prefix import find_prefix
from datacrumbs_runtime.schema.run_id import check_run_id
from datacrumbs_runtime.schema.site_config import SiteConfig
from datacrumbs_runtime.schema.system_configuration import (
    find_system_configuration,
    read_system_configuration,
)

WATCH_INTERVAL_S = 1.0
FILE_WIDTH = 120


@click.command("datacrumbs_status", context_settings=CONTEXT_SETTINGS)
@click.version_option(__version__)
@click.argument("run_id", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print what is known as JSON.")
@click.option("--watch", is_flag=True, help="Show it live until interrupted.")
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    help="The run directory; default: this installation's.",
)
def command(run_id: str | None, as_json: bool, watch: bool, run_dir: Path | None) -> int:
    """Show the runs on this node: whose, since when, what is attached, written and lost.

    Root sees every run, others what their own runs record. The exit status is 1 if the run that
    was asked for is not active.
    """
    if run_id is not None:
        check_run_id(run_id)
    directory = run_dir or _run_directory()
    if watch:
        _watch(directory, run_id)
        return 0
    runs = _chosen(directory, run_id)
    if as_json:
        click.echo(json.dumps([run.to_dict() for run in runs], indent=2))
    elif not runs:
        click.echo("no runs on this node")
    else:
        _print(runs, in_detail=run_id is not None)
    return 0 if all(run.is_active for run in runs) or run_id is None else 1


def _run_directory() -> Path:
    try:
        path = find_system_configuration(find_prefix(), os.environ)
        return read_system_configuration(path).config.server_run_dir
    except ConfigurationError:
        return SiteConfig.from_values({}, "defaults").server_run_dir


def _chosen(directory: Path, run_id: str | None) -> list[KnownRun]:
    runs = known_runs(directory)
    if run_id is None:
        return runs
    chosen = [run for run in runs if run.run_id == run_id]
    if not chosen:
        raise DatacrumbsError(f"run {run_id}: not on this node")
    return chosen


def _print(runs: list[KnownRun], *, in_detail: bool) -> None:
    from rich.console import Console

    # A file or pipe has no width of its own.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else FILE_WIDTH)
    console.print(_overview(runs))
    for run in runs:
        if in_detail and run.status:
            for table in _details(run.status):
                console.print(table)


def _watch(directory: Path, run_id: str | None) -> None:
    from rich.console import Group
    from rich.live import Live

    def view() -> Group:
        runs = _chosen(directory, run_id)
        details = [table for run in runs if run.status for table in _details(run.status)]
        return Group(_overview(runs), *details)

    with Live(view(), auto_refresh=False, screen=False) as live:
        try:
            while True:
                time.sleep(WATCH_INTERVAL_S)
                live.update(view(), refresh=True)
        except KeyboardInterrupt:
            return
        except DatacrumbsError as error:
            live.update(str(error), refresh=True)


def _overview(runs: list[KnownRun]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("run", "state", "owner", "since"):
        table.add_column(heading, no_wrap=True)
    for heading in ("probes", "events", "per s", "lost", "trace/MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run in runs:
        status = run.status
        cells = [_safe(run.run_id), run.state]
        if status is None:
            cells += ["?", "?"]
        else:
            since = datetime.fromtimestamp(float(status["since"])).astimezone()
            cells += [
                _safe(str(status["user"])),
                since.strftime("%b %d %H:%M"),
                f"{status['attached']}/{status['requested']}",
                f"{status['events'] + status['counted']:,}",
                f"{status['events_per_s']:,.0f}",
                f"{status['lost']:,}",
                _mebibytes(status["trace_bytes"]),
            ]
        table.add_row(*cells)
    return table


def _details(status: dict[str, Any]) -> list[Any]:
    from rich.table import Table

    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    losses = {
        name: count
        for name, count in status["losses"].items()
        if name not in ("offered", "written", "entered", "counted")
    }
    for name, value in (
        ("probe file", status["probe_file"]),
        ("trace", status["trace"]),
        ("mode", status["mode"]),
        ("memory", f"{_mebibytes(status['memory_bytes'])} MiB"),
        ("cgroup", status["cgroup"] or "any"),
        ("attached by", ", ".join(sorted(set(status["tiers"].values())))),
        ("not in the trace", ", ".join(f"{k} {v:,}" for k, v in losses.items()) or "nothing"),
    ):
        facts.add_row(name, _safe(str(value)))
    tables: list[Any] = [facts]
    if status["failures"]:
        failed = Table(
            "category", "function", "reason", title="failed probes", title_justify="left"
        )
        for failure in status["failures"]:
            failed.add_row(*(_safe(str(item)) for item in failure))
        tables.append(failed)
    tables.append(_busiest_functions(status))
    tables.append(_busiest_files(status))
    return tables


def _busiest_functions(status: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title="busiest functions", title_justify="left", box=None)
    table.add_column("category")
    table.add_column("function")
    for heading in ("calls", "errors", "time/s", "p50/us", "p99/us", "MiB"):
        table.add_column(heading, justify="right")
    for item in status["functions"]:
        table.add_row(
            _safe(str(item["category"])),
            _safe(str(item["name"])),
            f"{item['calls']:,}",
            f"{item['errors']:,}",
            f"{item['time_ns'] / 1e9:.3f}",
            f"{item['p50_ns'] / 1e3:.1f}",
            f"{item['p99_ns'] / 1e3:.1f}",
            _mebibytes(item["bytes"]),
        )
    return table


def _busiest_files(status: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title="busiest files", title_justify="left", box=None)
    table.add_column("file", overflow="fold")
    for heading in ("calls", "time/s", "MiB"):
        table.add_column(heading, justify="right")
    for item in status["files"]:
        table.add_row(
            _safe(str(item["path"])),
            f"{item['calls']:,}",
            f"{item['time_ns'] / 1e9:.3f}",
            _mebibytes(item["bytes"]),
        )
    return table


def _safe(text: str) -> str:
    """Return text from elsewhere that steers neither the terminal nor the tables."""
    from rich.markup import escape

    return escape("".join(character if character.isprintable() else "?" for character in text))


def _mebibytes(count: int) -> str:
    return f"{count / (1 << 20):,.1f}"


def main() -> None:
    """Run the command."""
    run_command(command)
