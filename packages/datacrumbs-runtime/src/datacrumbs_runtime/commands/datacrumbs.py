"""datacrumbs: the node daemon, one run."""

import json
import logging
import os
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from datacrumbs_runtime import __version__
from datacrumbs_runtime.bpf.attach_report import AttachReport
from datacrumbs_runtime.cli import CONTEXT_SETTINGS, examples, prefix_option, run_command
from datacrumbs_runtime.errors import DatacrumbsError, UsageError
from datacrumbs_runtime.prefix import find_prefix
from datacrumbs_runtime.schema.run_id import check_run_id, choose_run_id
from datacrumbs_runtime.schema.setting import Group
from datacrumbs_runtime.schema.site_config import SiteConfig, settings
from datacrumbs_runtime.schema.system_configuration import (
    find_system_configuration,
    read_system_configuration,
)
from datacrumbs_runtime.sd_notify import sd_notify
from datacrumbs_runtime.service_log import log_path, log_to_file, log_to_terminal, settle

logger = logging.getLogger(__name__)

# What is logged behind an error, wherever that is logged.
_HINT = logging.ERROR + 1
logging.addLevelName(_HINT, "HINT")

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

# Settings of the site that one run may have differently.
_ALSO_OPTIONS = ("user", "trace_dir_pattern", "log_dir", "start_timeout_s")


def _setting_options(command: Decorated) -> Decorated:
    """Add an option for every setting of a run, named like its key."""
    for setting in reversed(list(settings())):
        if setting.group is Group.RUN or setting.name in _ALSO_OPTIONS:
            option = click.option(
                f"--{setting.name.replace('_', '-')}",
                setting.name,
                metavar=_metavar(setting.type_name),
                help=setting.meaning,
            )
            command = option(command)
    return command


def _metavar(type_name: str) -> str:
    """Return a kind of value in one word: ``path pattern`` and ``0 or 1`` are several."""
    words = re.split(", | or ", type_name)
    return "|".join(words) if len(words) > 1 else type_name.upper().replace(" ", "-")


@click.command(
    "datacrumbs",
    context_settings=CONTEXT_SETTINGS,
    epilog=examples(
        "datacrumbs --check /home/anna/probes.json.gz",
        "datacrumbs /home/anna/probes.json.gz 4711",
        "datacrumbs --mode profile --profile-interval-s 10 /home/anna/probes.json.gz",
    ),
)
@click.version_option(__version__)
@click.argument("probe_file", metavar="SIGNED-PROBES.JSON.GZ")
@click.argument("run_id", required=False)
@click.option(
    "--check",
    is_flag=True,
    help="Attach, report, detach, and end, with status 1 if anything failed.",
)
@click.option("--json", "as_json", is_flag=True, help="With --check: report as JSON.")
@click.option(
    "--cgroup",
    type=click.Path(path_type=Path),
    envvar="DATACRUMBS_CGROUP",
    help="Only processes of this cgroup can register.",
)
@click.option("--retry-failed", is_flag=True, help="Also try what failed in earlier runs.")
@prefix_option
@_setting_options
def command(
    probe_file: str,
    run_id: str | None,
    check: bool,
    as_json: bool,
    cgroup: Path | None,
    retry_failed: bool,
    prefix: Path | None,
    **options: str | None,
) -> int:
    """Record the registered processes of one user until a signal comes.

    The probe file must be signed for that user on this site. The run id is the argument, else the
    job's id, else the time. Options win over the environment (DATACRUMBS_...), and that over the
    system configuration, which datacrumbs_system_configurator --show prints.
    """
    if as_json and not check:
        raise UsageError("--json: only with --check", hint="datacrumbs_status --json tells of runs")
    if os.geteuid() != 0:
        raise DatacrumbsError(
            "only root may load BPF programs and read the probe secret",
            hint="use datacrumbs@<run-id>.service, or sudo",
        )
    # Private files are made with their modes; directories are for everybody to enter.
    os.umask(0o022)
    system = read_system_configuration(
        find_system_configuration((prefix or find_prefix()).absolute(), os.environ)
    )
    config = _with_options(system.with_environment(os.environ), options)
    chosen = choose_run_id(run_id, os.environ, config.job_id_var, datetime.now().astimezone())
    if not probe_file:
        raise _no_probe_file(config, chosen)
    _set_up_log(config, chosen, is_check=check)
    for key in system.ignored_variables(os.environ):
        logger.warning("environment: %s: only the system configuration decides that", key)

    from datacrumbs_runtime import daemon
    from datacrumbs_runtime.admission import RunRequest

    request = RunRequest(
        # Whoever opens it may work elsewhere, and so may whoever reads the status.
        probe_file=str(Path(probe_file).absolute()),
        run_id=chosen,
        system=system,
        config=config,
        cgroup=cgroup,
        retry_failed=retry_failed,
    )
    if check:
        _, report = daemon.check(request)
        _print_report(report, as_json=as_json)
        return 1 if report.failures else 0
    try:
        return daemon.run(request)
    except DatacrumbsError as error:
        sd_notify(f"STATUS={error}")
        if not os.environ.get("DATACRUMBS_SERVICE_RUN_ID"):
            # What led to the error is said before it.
            settle()
            raise
        # Both the run's log and the journal shall have it.
        logger.error("%s", error)  # noqa: TRY400  expected: no traceback
        if error.hint:
            logger.log(_HINT, "%s", error.hint)
        return error.exit_status


def _no_probe_file(config: SiteConfig, run_id: str) -> UsageError:
    """Return what is wrong when a unit was started without its environment."""
    environment = config.server_run_dir / f"datacrumbs-{run_id}.env"
    message = "no probe file"
    sd_notify(f"STATUS={message}")
    return UsageError(message, hint=f"write DATACRUMBS_PROBE_FILE=/PATH into {environment}")


def _with_options(config: SiteConfig, options: dict[str, str | None]) -> SiteConfig:
    changes = {}
    for setting in settings():
        text = options.get(setting.name)
        if text is not None:
            try:
                changes[setting.name] = setting.parse(text)
            except ValueError as error:
                option = f"--{setting.name.replace('_', '-')}"
                raise UsageError(f"{option}: {text!r}: {error}") from error
    return replace(config, **changes)


def _set_up_log(config: SiteConfig, run_id: str, *, is_check: bool) -> None:
    service_run_id = os.environ.get("DATACRUMBS_SERVICE_RUN_ID")
    if not service_run_id or is_check:
        log_to_terminal(config.log_level)
        return
    check_run_id(service_run_id, "DATACRUMBS_SERVICE_RUN_ID")
    from datacrumbs_runtime.admission import FILE_LIMIT_SHARE, wanted_user

    account = wanted_user(config)
    user = account.user if account else config.install_user
    path = log_path(config.log_dir, user, service_run_id or run_id)
    log_to_file(
        path,
        config.log_level,
        account.uid if account else None,
        timeout_s=config.start_timeout_s * FILE_LIMIT_SHARE,
    )


def _print_report(report: AttachReport, *, as_json: bool) -> None:
    if as_json:
        document = {
            "requested": report.requested,
            "attached": report.attached,
            "failures": [failure._asdict() for failure in report.failures],
            "tiers": dict(report.tiers),
        }
        click.echo(json.dumps(document, indent=2))
        return
    click.echo(f"{report.attached} of {report.requested} functions can be recorded")
    for kind, tier in sorted(report.tiers.items()):
        click.echo(f"{kind}: {tier}")
    for failure in report.failures:
        click.echo(f"{failure.category}: {failure.function}: {failure.reason}")


def main() -> None:
    """Run the command."""
    run_command(command)
