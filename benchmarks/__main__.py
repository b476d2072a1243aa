"""``python -m benchmarks``: measure and print the tables. Needs root."""

import importlib
import os
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console

from benchmarks.rows import Row, print_table, to_json

SUBJECTS = (
    "system_calls",
    "functions",
    "attaching",
    "daemon",
    "consumer",
    "sizes",
    "discovery",
    "signing",
)


@click.command(name="benchmarks", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("subjects", nargs=-1, type=click.Choice(SUBJECTS))
@click.option("--repeats", default=5, show_default=True, help="Turns; the table shows medians.")
@click.option("--seconds", default=0.5, show_default=True, help="Length of one measurement.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def main(subjects: tuple[str, ...], repeats: int, seconds: float, as_json: bool) -> None:
    """Measure what recording costs, beside other tracers and the kernel's floor.

    Without SUBJECTS, all of them, which takes some ten minutes.
    """
    if os.geteuid() != 0:
        raise click.UsageError("recording needs root")
    console = Console(width=None if sys.stdout.isatty() else 150)
    everything: list[Row] = []
    for subject in subjects or SUBJECTS:
        module = importlib.import_module(f"benchmarks.{subject}")
        with tempfile.TemporaryDirectory(prefix="datacrumbs-bench-") as scratch:
            rows = list(module.measure(Path(scratch), seconds=seconds, repeats=repeats))
        everything += rows
        if not as_json:
            print_table(module.TITLE, rows, console)
    if as_json:
        click.echo(to_json(everything))


if __name__ == "__main__":
    main()
