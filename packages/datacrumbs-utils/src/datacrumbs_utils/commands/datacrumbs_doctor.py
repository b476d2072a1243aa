"""datacrumbs_doctor: what this machine can do, what is missing and how to get it."""

import json

import click

from datacrumbs_runtime.cli import CONTEXT_SETTINGS, examples, run_command
from datacrumbs_utils import __version__


@click.command(
    "datacrumbs_doctor",
    context_settings=CONTEXT_SETTINGS,
    epilog=examples(
        "datacrumbs_doctor",
        "datacrumbs_doctor --json",
    ),
)
@click.version_option(__version__)
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def command(as_json: bool) -> int:
    """Look at the kernel, the rights and the software, and record a small command.

    Exit status 0: recording works here; 1: it does not, and the last lines say what to do.
    """
    from datacrumbs_utils.doctor import diagnosis

    found = diagnosis.diagnose()
    if as_json:
        click.echo(json.dumps(diagnosis.document(found), indent=2))
    else:
        from rich.console import Console

        diagnosis.print_diagnosis(Console(highlight=False), found)
    return 0 if found.can_record else 1


def main() -> None:
    """Run the command."""
    run_command(command)
