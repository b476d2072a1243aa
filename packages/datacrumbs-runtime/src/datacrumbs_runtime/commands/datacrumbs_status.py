"""datacrumbs_status: the runs on this node."""

import json
import os
import platform
import signal
import sys
import time
from pathlib import Path

import click

from datacrumbs_runtime import __version__
from datacrumbs_runtime.cli import CONTEXT_SETTINGS, examples, run_command
from datacrumbs_runtime.errors import ConfigurationError, DatacrumbsError, UsageError
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
_TERMINATED_STATUS = 128 + signal.SIGTERM


@click.command(
    "datacrumbs_status",
    context_settings=CONTEXT_SETTINGS,
    epilog=examples(
        "datacrumbs_status                      all runs of this node",
        "datacrumbs_status 4711                 one run: losses, failed probes, busiest files",
        "datacrumbs_status 4711 --watch         the same live",
        "datacrumbs_status --json | jq '.[].lost'",
    ),
)
@click.version_option(__version__)
@click.argument("run_id", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print what is known as JSON.")
@click.option(
    "--watch",
    is_flag=True,
    help="Show it live until interrupted; with --json: a line of JSON every second.",
)
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The run directory.",
    show_default="this installation's",
)
def command(run_id: str | None, as_json: bool, watch: bool, run_dir: Path | None) -> int:
    """Show the runs on this node: whose, since when, what is attached, written and lost.

    Root sees every run, others what their own runs record. The exit status is 1 if the run that
    was asked for is not active.
    """
    if run_id is not None:
        check_run_id(run_id)
    directory = run_dir or _run_directory()
    runs = _chosen(directory, run_id)
    if watch:
        return _watch_json(directory, run_id) if as_json else _watch(directory, run_id)
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
        raise DatacrumbsError(
            f"run {run_id}: not on this node",
            hint="datacrumbs_status without a run id shows all",
        )
    return chosen


def _print(runs: list[KnownRun], *, in_detail: bool) -> None:
    from rich.console import Console

    from datacrumbs_runtime.status_view import still_view

    # A file or pipe has no width of its own.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else FILE_WIDTH)
    console.print(still_view(runs, console.width, in_detail=in_detail))


def _watch(directory: Path, run_id: str | None) -> int:
    from rich.console import Console
    from rich.live import Live

    from datacrumbs_runtime.status_view import LiveView

    if not sys.stdout.isatty():
        raise UsageError(
            "--watch: standard output is not a terminal",
            hint="--watch --json writes a line every second",
        )
    # The terminal must get its own screen back.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED_STATUS))
    view = LiveView(platform.node())
    runs: list[KnownRun] = []
    has_ended = False
    with Live(view, console=Console(highlight=False), auto_refresh=False, screen=True) as live:
        try:
            while True:
                found = [run for run in known_runs(directory) if run_id in (None, run.run_id)]
                has_ended = run_id is not None and not found
                if has_ended:
                    break
                runs = found
                view.update(runs)
                live.refresh()
                time.sleep(WATCH_INTERVAL_S)
        except KeyboardInterrupt:
            pass
    # The own screen is gone: leave behind what was last seen.
    if runs:
        _print(runs, in_detail=run_id is not None)
    if has_ended:
        click.echo(f"run {run_id} has ended", err=True)
    return 0


def _watch_json(directory: Path, run_id: str | None) -> int:
    try:
        while True:
            runs = [run for run in known_runs(directory) if run_id in (None, run.run_id)]
            if run_id is not None and not runs:
                return 0
            click.echo(json.dumps([run.to_dict() for run in runs], separators=(",", ":")))
            time.sleep(WATCH_INTERVAL_S)
    except KeyboardInterrupt:
        return 0


def main() -> None:
    """Run the command."""
    run_command(command)
