"""datacrumbs_record: record a command, or processes that run already."""

import json
import logging
import shlex
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from datacrumbs_runtime.cli import (
    CONTEXT_SETTINGS,
    common_options,
    examples,
    run_command,
    set_up_logging,
)
from datacrumbs_runtime.errors import UsageError
from datacrumbs_utils import __version__

if TYPE_CHECKING:
    from datacrumbs_utils.recording.session import Outcome, Request

MIN_RING_BYTES = 4 << 10
MAX_RING_BYTES = 1 << 30
DEFAULT_RING_BUFFER = "16M"
DEFAULT_PROBES = "posix"

logger = logging.getLogger(__name__)


@click.command(
    "datacrumbs_record",
    context_settings={
        **CONTEXT_SETTINGS,
        "allow_interspersed_args": False,
    },
    epilog=examples(
        "datacrumbs_record -- tar cf /tmp/tree.tar /usr/include",
        "datacrumbs_record --probes posix,stdio --output /tmp -- python3 simulation.py",
        "datacrumbs_record --mode profile --duration 60s --pid 4711",
    ),
)
@click.version_option(__version__)
@click.option(
    "--probes",
    default=DEFAULT_PROBES,
    metavar="NAME|FILE",
    show_default=True,
    help="What to record: built-in sets (posix, stdio, kernel-io, all; several with commas), "
    "a YAML file, or a probe file.",
)
@click.option(
    "--mode",
    type=click.Choice(["trace", "profile"]),
    default="trace",
    show_default=True,
    help="Record every call, or count calls in the kernel.",
)
@click.option(
    "--output",
    metavar="FILE|DIRECTORY",
    type=click.Path(path_type=Path),
    help="File or directory of the trace.",
    show_default="the working directory",
)
@click.option("--user", metavar="NAME", help="Run the command as this user, by name or uid.")
@click.option(
    "--pid",
    "pids",
    metavar="PID",
    type=click.IntRange(min=1),
    multiple=True,
    help="Record this running process, its threads and children, instead of a command.",
)
@click.option("--duration", metavar="TIME", help="Stop recording after this time, such as 10s.")
@click.option(
    "--wait-all", is_flag=True, help="Record until all that the command started has ended."
)
@click.option("--run-id", metavar="NAME", help="Name of the run.", show_default="the time of day")
@click.option(
    "--ring-buffer-size",
    metavar="SIZE",
    default=DEFAULT_RING_BUFFER,
    show_default=True,
    help="Memory of each CPU for events on their way to the trace.",
)
@click.option(
    "--threshold",
    metavar="TIME",
    default="0",
    show_default=True,
    help="Only sum up calls that are shorter than this, such as 10us.",
)
@click.option(
    "--string-bytes",
    metavar="BYTES",
    type=click.IntRange(8, 4096),
    default=64,
    show_default=True,
    help="Longest text of an argument.",
)
@click.option("--kernel-threads", is_flag=True, help="Also record threads of the kernel.")
@click.option(
    "--max-tier",
    metavar="TIERS",
    help="Attach by no better ways than these, such as uprobe.multi,kprobe.perf.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one line of JSON.")
@common_options
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[--] COMMAND [ARGUMENTS]...")
def command(
    probes: str,
    mode: str,
    output: Path | None,
    user: str | None,
    pids: tuple[int, ...],
    duration: str | None,
    wait_all: bool,
    run_id: str | None,
    ring_buffer_size: str,
    threshold: str,
    string_bytes: int,
    kernel_threads: bool,
    max_tier: str | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    dry_run: bool,
    command: tuple[str, ...],
) -> int:
    """Record COMMAND and everything it starts, or running processes.

    The trace (DFTracer format, .pfw.gz) goes to the working directory. The summary goes to standard
    error, so that the command's output stays its own. The exit status is the command's.
    """
    set_up_logging(verbose=verbose, quiet=quiet)
    if bool(command) == bool(pids):
        raise UsageError(
            "give either a command or --pid" if command else "what shall be recorded?",
            hint="datacrumbs_record -- COMMAND ARGUMENTS, or datacrumbs_record --pid PID",
        )
    if pids and (user or wait_all):
        raise UsageError("--user and --wait-all are for commands, not for --pid")

    # Imports are most of the time until the command starts: those of the summary come after it.
    from datacrumbs_utils.recording.signals import Signals

    signals = Signals()
    from datacrumbs_runtime.engine import RunSettings
    from datacrumbs_runtime.schema.quantities import size_bytes, time_ns
    from datacrumbs_runtime.schema.run_id import choose_run_id
    from datacrumbs_utils.recording import child, requirements, session
    from datacrumbs_utils.recording import probes as probes_module

    settings = RunSettings(
        mode=mode,
        ring_buffer_bytes=_ring_bytes(size_bytes(ring_buffer_size, "--ring-buffer-size")),
        threshold_ns=time_ns(threshold, "--threshold", "ns"),
        string_capture_bytes=string_bytes,
        include_kernel_threads=kernel_threads,
        max_tier=max_tier,
    )
    if not dry_run:
        requirements.require()
    found = probes_module.load(probes)
    request = session.Request(
        probes=found,
        settings=replace(settings, inclusion_paths=found.inclusion_paths),
        command=command,
        pids=pids,
        user=child.account(user) if user else None,
        output=output,
        run_id=choose_run_id(run_id, {}, "", datetime.now().astimezone()),
        duration_s=time_ns(duration, "--duration", "s") / 1e9 if duration else None,
        wait_for_all=wait_all,
    )
    for warning in request.probes.warnings:
        logger.warning("%s", warning)
    if dry_run:
        _say_what_would_be_recorded(request)
        return 0
    session.check_processes(pids)
    outcome = session.record(request, signals, _say_ready if pids and not quiet else None)
    _report(command, pids, outcome, as_json=as_json, quiet=quiet, verbose=verbose)
    return outcome.status


def _ring_bytes(size: int) -> int:
    if not MIN_RING_BYTES <= size <= MAX_RING_BYTES:
        raise UsageError(
            f"--ring-buffer-size: must be from {MIN_RING_BYTES >> 10}K to {MAX_RING_BYTES >> 20}M"
        )
    return size


def _say_ready(trace: Path) -> None:
    sys.stderr.write(f"datacrumbs_record: recording to {trace}, ^C to stop\n")


def _say_what_would_be_recorded(request: "Request") -> None:
    for category in request.probes.probe_file.categories:
        click.echo(f"{category.name}: {len(category.functions)} functions")
    what = shlex.join(request.command) or ", ".join(f"process {pid}" for pid in request.pids)
    click.echo(f"would record: {what}")


def _report(
    command: tuple[str, ...],
    pids: tuple[int, ...],
    outcome: "Outcome",
    *,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    title = shlex.join(command) or ", ".join(f"process {pid}" for pid in pids)
    if verbose:
        for category, function, reason in outcome.attached.failures:
            logger.warning("%s %s: %s", category, function, reason)
    if as_json:
        from datacrumbs_utils.recording import report

        click.echo(json.dumps(report.document(title, outcome)))
    elif not quiet:
        from rich.console import Console

        from datacrumbs_utils.recording import summary

        summary.print_summary(Console(stderr=True, highlight=False), title, outcome)


def main() -> None:
    """Run the command."""
    run_command(command)
