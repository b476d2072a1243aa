"""datacrumbs_system_configurator: make, show and change the system configuration."""

import json
import os
import shlex
from pathlib import Path

import click

from datacrumbs_runtime import __version__
from datacrumbs_runtime.cli import (
    CONTEXT_SETTINGS,
    common_options,
    examples,
    prefix_option,
    run_command,
    set_up_logging,
    teller,
)
from datacrumbs_runtime.errors import ConfigurationError, UsageError
from datacrumbs_runtime.prefix import find_prefix
from datacrumbs_runtime.schema.setting import Group
from datacrumbs_runtime.schema.site_config import settings
from datacrumbs_runtime.schema.system_configuration import (
    find_system_configuration,
    read_system_configuration,
)
from datacrumbs_runtime.signing.keys import SECRET_NAME, create_key
from datacrumbs_runtime.system_config import (
    change_system_configuration,
    create_system_configuration,
    fixed_settings,
    parse_assignments,
    planned_configuration,
)

# Units, host configuration and datacrumbs_wrap were made with these.
_RENDERED = frozenset(
    {
        "DATACRUMBS_SERVER_RUN_DIR",
        "DATACRUMBS_LOG_DIR",
        "DATACRUMBS_TRACE_DIR_PATTERN",
    }
)


@click.command(
    "datacrumbs_system_configurator",
    context_settings=CONTEXT_SETTINGS,
    epilog=examples(
        "datacrumbs_system_configurator",
        "datacrumbs_system_configurator --show",
        "datacrumbs_system_configurator --set DATACRUMBS_JOB_SCHEDULER=SLURM",
        "datacrumbs_system_configurator --set DATACRUMBS_THROTTLE_CALLS_PER_S=500000",
    ),
)
@click.version_option(__version__)
@prefix_option
@click.option("--show", is_flag=True, help="Print the settings; anybody may.")
@click.option("--json", "as_json", is_flag=True, help="With --show: as JSON.")
@click.option("--shell", is_flag=True, help="With --show: as export lines for a shell.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one setting; repeatable.",
)
@common_options
def command(
    prefix: Path | None,
    show: bool,
    as_json: bool,
    shell: bool,
    assignments: tuple[str, ...],
    verbose: bool,
    quiet: bool,
    dry_run: bool,
) -> None:
    """Make the system configuration and the probe secret of this installation if they are missing.

    What exists is never changed, but for the settings that --set names and others that follow
    from them.
    """
    set_up_logging(verbose=verbose, quiet=quiet)
    for name, is_given in (("--json", as_json), ("--shell", shell)):
        if is_given and not show:
            raise UsageError(f"{name}: only with --show")
    if show and assignments:
        raise UsageError("--set: not with --show")
    root = (prefix or find_prefix()).absolute()
    changes = parse_assignments(assignments)
    if show:
        _show(root, as_json=as_json, shell=shell)
        return
    if os.geteuid() != 0:
        raise ConfigurationError(
            "only root makes or changes the system configuration",
            hint="--show works for everybody",
        )
    # Whatever root's own umask is: users read the settings.
    os.umask(0o022)
    _make(root, changes, quiet=quiet, dry_run=dry_run)


def _show(prefix: Path, *, as_json: bool, shell: bool) -> None:
    path = find_system_configuration(prefix, os.environ)
    system = read_system_configuration(path)
    # A shell gets what commands started from it would use, the others what the file says.
    config = system.with_environment(os.environ) if shell else system.config
    values = config.as_values()
    if as_json:
        document = {"system_configuration": values, "summary": dict(system.summary)}
        click.echo(json.dumps(document, indent=2))
    elif shell:
        for setting in settings():
            # Exported, a default of a run would win over what an administrator sets later.
            if setting.group is not Group.RUN or setting.name == "inclusion_paths":
                click.echo(f"export {setting.key}={shlex.quote(values[setting.key])}")
    else:
        click.echo(f"# settings: {path}")
        click.echo(f"# secret: {_state_of(path.parent / SECRET_NAME)}")
        for key, value in values.items():
            click.echo(f"{key}={value}")


def _state_of(secret: Path) -> str:
    return str(secret) if secret.exists() else f"{secret} is missing"


def _make(prefix: Path, changes: dict[str, str], *, quiet: bool, dry_run: bool) -> None:
    say = teller(quiet=quiet, dry_run=dry_run)
    try:
        path = find_system_configuration(prefix, os.environ)
    except ConfigurationError:
        path, config = planned_configuration(prefix, changes)
    else:
        _, config = planned_configuration(prefix, {})
    if not path.exists():
        say(f"make {path}")
        if not dry_run:
            create_system_configuration(path, config)
    elif changes:
        for key in fixed_settings(changes):
            raise ConfigurationError(
                f"--set: {key}: was fixed when the installation was made",
                hint="datacrumbs_bootstrap makes another one, with --prefix and --set",
            )
        say(f"set {', '.join(changes)} in {path}")
        if not dry_run:
            change_system_configuration(path, changes)
            if _RENDERED & set(changes):
                say(
                    "installed files name these directories: run datacrumbs_bootstrap again, "
                    "then systemctl daemon-reload on each node"
                )
    secret = path.parent / SECRET_NAME
    if not secret.exists():
        say(f"make {secret}")
        if not dry_run:
            create_key(path.parent)


def main() -> None:
    """Run the command."""
    run_command(command)
