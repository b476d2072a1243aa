"""datacrumbs_bootstrap: install DataCrumbs from its source tree into one prefix."""

import os
from pathlib import Path

import click

from datacrumbs_runtime import __version__
from datacrumbs_runtime.bootstrap import BootstrapRequest, bootstrap, default_python, source_tree
from datacrumbs_runtime.cli import (
    CONTEXT_SETTINGS,
    common_options,
    examples,
    run_command,
    set_up_logging,
    teller,
)
from datacrumbs_runtime.errors import ConfigurationError, UsageError
from datacrumbs_runtime.system_config import parse_assignments


@click.command(
    "datacrumbs_bootstrap",
    context_settings=CONTEXT_SETTINGS,
    epilog=examples(
        "datacrumbs_bootstrap --prefix /opt/datacrumbs --dry-run",
        "datacrumbs_bootstrap --prefix /opt/datacrumbs --set DATACRUMBS_JOB_SCHEDULER=SLURM",
    ),
)
@click.version_option(__version__)
@click.option(
    "--prefix",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Where to install; the same on all nodes.",
)
@click.option(
    "--source",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="The source tree.",
    show_default="the one that this command runs from",
)
@click.option(
    "--python",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The interpreter for the commands, the same on all nodes.",
    show_default="this one, or /usr/bin/python3 if users cannot run this one",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting of the system configuration, if that is made now; repeatable. One that "
    "exists is not changed.",
)
@common_options
def command(
    prefix: Path,
    source: Path | None,
    python: Path | None,
    assignments: tuple[str, ...],
    verbose: bool,
    quiet: bool,
    dry_run: bool,
) -> None:
    """Install runtime, utilities and client from the source tree into one prefix.

    Makes the system configuration, the probe secret, units, a host configuration and module files
    if they are missing. A second run only does what is out of date. A file that an administrator
    changed is kept; its new version is put beside it as FILE.new.
    """
    set_up_logging(verbose=verbose, quiet=quiet)
    if prefix == Path():
        raise UsageError(
            "--prefix: empty, or the working directory",
            hint="name a directory of its own, such as /opt/datacrumbs",
        )
    if os.geteuid() != 0:
        raise ConfigurationError("only root installs", hint="the probe secret must belong to root")
    bootstrap(
        BootstrapRequest(
            prefix=prefix.absolute(),
            source=(source or source_tree()).absolute(),
            python=(python or default_python()).absolute(),
            changes=parse_assignments(assignments),
            dry_run=dry_run,
            say=teller(quiet=quiet, dry_run=dry_run),
        )
    )


def main() -> None:
    """Run the command."""
    run_command(command)
