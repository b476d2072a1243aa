"""datacrumbs_sqlite_extract: what the databases of an installation say, as JSON."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from datacrumbs_runtime import __version__
from datacrumbs_runtime.cli import CONTEXT_SETTINGS, examples, run_command
from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_runtime.status_db import INVALID, SUCCESSFUL

_TABLES = {"system-configuration": "system_configuration", "summary": "summary"}
_STATUS = {"valid-probes": SUCCESSFUL, "invalid-probes": INVALID}


@click.command(
    "datacrumbs_sqlite_extract",
    context_settings=CONTEXT_SETTINGS,
    epilog=examples(
        "datacrumbs_sqlite_extract --database system-probe-root-node.sqlite --section summary",
        "datacrumbs_sqlite_extract --database probes-runtime-status-root-node.sqlite "
        "--section invalid-probes",
    ),
)
@click.version_option(__version__)
@click.option(
    "--database",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    help="A system configuration, or the status database of a host configuration.",
)
@click.option(
    "--section",
    type=click.Choice([*_TABLES, *_STATUS]),
    required=True,
    help="What of it.",
)
def command(database: Path, section: str) -> None:
    """Print a section of a database of the installation as JSON.

    A system configuration has the sections system-configuration and summary, an object of settings
    each. A status database has valid-probes and invalid-probes, lists of what could be attached on
    this installation's nodes and what could not, with the reason.
    """
    click.echo(json.dumps(_section(database, section), indent=2))


def _section(path: Path, section: str) -> Any:
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as database:
            database.row_factory = sqlite3.Row
            if section in _TABLES:
                rows = database.execute(f"SELECT key, value FROM {_TABLES[section]}")  # noqa: S608  a constant
                return {str(row["key"]): str(row["value"]) for row in rows}
            rows = database.execute(
                "SELECT * FROM runtime_probe_status WHERE status = ? "
                "ORDER BY probe_group, scope_key, function_name",
                (_STATUS[section],),
            )
            return [{key: row[key] for key in row.keys()} for row in rows]  # noqa: SIM118  not a dict
    except sqlite3.Error as error:
        raise ConfigurationError(
            f"{path}: {error}",
            hint=f"{section} is in a "
            + ("system configuration" if section in _TABLES else "status database"),
        ) from error


def main() -> None:
    """Run the command."""
    run_command(command)
