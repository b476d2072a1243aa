"""datacrumbs_probe_configurator: from a host configuration to a signed probe file."""

import gc
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
from datacrumbs_runtime.schema.probe_file import DEFAULT_MAX_FUNCTIONS
from datacrumbs_utils import __version__

if TYPE_CHECKING:
    from datacrumbs_utils.discovery.config import HostConfig
    from datacrumbs_utils.discovery.exclusions import Exclusions
    from datacrumbs_utils.discovery.select import Progress

COMMAND = "datacrumbs_probe_configurator"
MAX_FUNCTIONS_VARIABLE = "DATACRUMBS_MAX_RUNTIME_FUNCTIONS"


@click.command(
    COMMAND,
    context_settings=CONTEXT_SETTINGS,
    no_args_is_help=True,
    epilog=examples(
        "datacrumbs_probe_configurator host.yaml probes.json.gz",
        "datacrumbs_probe_configurator --dry-run host.yaml probes.json.gz",
        "datacrumbs_probe_configurator --list posix",
        "datacrumbs_probe_configurator --explain H5Dwrite host.yaml",
    ),
)
@click.version_option(__version__)
@click.argument("host_yaml", metavar="HOST.YAML")
@click.argument("output", metavar="[OUT.JSON.GZ]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--define",
    "defines",
    metavar="KEY=VALUE",
    multiple=True,
    help="Value of @KEY@ in the configuration. Wins over the environment and the installation.",
)
@click.option("--list", "list_functions", is_flag=True, help="List functions and signatures only.")
@click.option(
    "--explain", metavar="FUNCTION", multiple=True, help="Say why a function is in or not, only."
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    type=click.IntRange(1, 3600),
    default=60,
    show_default=True,
    help="Longest wait for the signer.",
)
@common_options
def command(
    host_yaml: str,
    output: Path | None,
    defines: tuple[str, ...],
    list_functions: bool,
    explain: tuple[str, ...],
    as_json: bool,
    timeout_s: int,
    verbose: bool,
    quiet: bool,
    dry_run: bool,
) -> None:
    """Find the functions that HOST.YAML means, have the selection signed, write it to OUT.JSON.GZ.

    HOST.YAML is a host configuration, or a built-in probe set: posix, stdio, kernel-io, all. The
    exit status is 0 only if a signed file was written (or none was asked for, or the site has
    switched signing off).
    """
    set_up_logging(verbose=verbose, quiet=quiet)
    shows_only = dry_run or list_functions or bool(explain)
    if output is None and not shows_only:
        raise UsageError(
            "OUT.JSON.GZ is missing", hint="--dry-run shows the selection without writing it"
        )
    # Heavy imports come after the arguments are known to be right.
    from datacrumbs_utils.discovery import installation, probe_file_output, sets, templates
    from datacrumbs_utils.discovery.select import select

    system = installation.system_configuration()
    variables = templates.variables(_defines(defines), system.stored if system else None)
    config = sets.load(host_yaml, variables)
    if output is not None and not shows_only:
        probe_file_output.check_writable(output)
    with _progress(quiet=quiet or as_json or list_functions) as progress:
        selection = select(
            config,
            progress=progress,
            exclusions=_exclusions(config, variables, may_write=not shows_only),
            max_functions=_max_functions(variables),
            output_path=output,
            install_user=variables.get("DATACRUMBS_INSTALL_USER"),
        )
    if not quiet:
        for warning in selection.report.warnings:
            sys.stderr.write(f"{COMMAND}: warning: {warning}\n")
        if config.inclusion_path:
            sys.stderr.write(
                f"{COMMAND}: warning: inclusion_path is a setting of the run, "
                "DATACRUMBS_INCLUSION_PATHS: the probe file does not carry it\n"
            )
    if explain:
        from datacrumbs_utils.discovery.explanation import explain as explanation_of

        for function in explain:
            print("\n".join(explanation_of(selection, function)))
        return
    if list_functions:
        from datacrumbs_utils.discovery.tables import function_lines

        for line in function_lines(selection):
            print(line)
        return
    document = selection.report.document()
    if not shows_only and output is not None:
        from datacrumbs_utils.discovery import signing_client

        document["signed"] = not installation.needs_no_signature(system)
        if document["signed"]:
            result = signing_client.sign(selection.probe_file, timeout_s=timeout_s)
        else:
            result = selection.probe_file
            sys.stderr.write(
                f"{COMMAND}: warning: NOT SIGNED: DATACRUMBS_DISABLE_PROBE_SIGNING is set here\n"
            )
        document["probe_file"] = str(output)
        document["bytes"] = probe_file_output.write(output, result)
    if as_json:
        print(json.dumps(document, indent=2))
    elif not quiet:
        from rich.console import Console

        from datacrumbs_utils.discovery.tables import print_summary

        print_summary(Console(highlight=False), selection.report)
        if "probe_file" in document:
            state = "signed" if document["signed"] else "NOT SIGNED"
            print(f"wrote {output}: {selection.report.selected} functions, {state}")


def _defines(defines: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for define in defines:
        key, equals, value = define.partition("=")
        if not equals or not key:
            raise UsageError(f"--define {define}: not KEY=VALUE")
        found[key.strip("@")] = value
    return found


def _max_functions(variables: dict[str, str]) -> int:
    text = variables.get(MAX_FUNCTIONS_VARIABLE, "")
    if not text:
        return DEFAULT_MAX_FUNCTIONS
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"{MAX_FUNCTIONS_VARIABLE}: {text!r} is not a positive number")
    return int(text)


def _exclusions(
    config: "HostConfig", variables: dict[str, str], *, may_write: bool
) -> "Exclusions":
    """Read the list of excluded functions; where there is none yet, leave an empty one."""
    from datacrumbs_runtime.schema.site_config import site_of
    from datacrumbs_utils.discovery import exclusions
    from datacrumbs_utils.discovery.exclusions import Exclusions
    from datacrumbs_utils.discovery.select import current_user

    directory = config.data_dir or variables.get("DATACRUMBS_INSTALL_DATA_DIR")
    if not directory:
        return Exclusions()
    user = variables.get("DATACRUMBS_INSTALL_USER") or current_user()
    host = variables.get("DATACRUMBS_INSTALL_HOST") or site_of(socket.gethostname())
    path = Path(directory).expanduser() / exclusions.file_name(user, host)
    if may_write and not path.exists() and os.access(path.parent, os.W_OK):
        exclusions.write_template(path, config.entries)
    return exclusions.load(path)


@contextmanager
def _progress(*, quiet: bool) -> Iterator["Progress | None"]:
    """Show what is being done on a terminal; elsewhere nothing."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("starting", total=None)

        def show(what: str, done: int, total: int) -> None:
            display.update(task, description=what, completed=done, total=total)

        yield show


def main() -> None:
    """Run the command."""
    # A selection makes some hundred thousand objects and no cycles worth looking for: 0.97 s with
    # the collector, 0.76 s without, at the same 89 MiB (libc, MPI, HDF5 and kernel, cached).
    gc.disable()
    run_command(command)


if __name__ == "__main__":
    main()
