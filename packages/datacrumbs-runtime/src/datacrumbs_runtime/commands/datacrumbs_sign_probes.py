"""datacrumbs_sign_probes: the signing service of a login node, and its keys."""

import grp
import logging
import sys
from collections.abc import Callable
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
)
from datacrumbs_runtime.errors import UsageError
from datacrumbs_runtime.prefix import find_prefix
from datacrumbs_runtime.schema.probe_document import CHECKSUM_ALGORITHMS
from datacrumbs_runtime.signing import keys
from datacrumbs_runtime.signing.installation import (
    DEFAULT_RUN_DIR,
    SigningPaths,
    installed_config,
    signer_source,
)
from datacrumbs_runtime.signing.policy import DAY_S
from datacrumbs_runtime.signing.request import Signer, audit_logger


@click.command(
    name="datacrumbs_sign_probes",
    context_settings=CONTEXT_SETTINGS,
    epilog=examples(
        "datacrumbs_sign_probes --check",
        "datacrumbs_sign_probes --rotate-key hmac-sha256 --keep-days 180",
        "systemctl enable --now datacrumbs_sign_probes.service",
    ),
)
@click.version_option(__version__)
@prefix_option
@click.option(
    "--run-dir",
    metavar="DIRECTORY",
    type=click.Path(path_type=Path),
    help="Where the socket is made.",
    show_default="the installation's",
)
@click.option(
    "--socket-group",
    metavar="GROUP",
    help="Only members of this group may ask.",
    show_default="everybody",
)
@click.option(
    "--site",
    metavar="NAME",
    help="The group of hosts on which signed files are valid.",
    show_default="the installation's",
)
@click.option(
    "--request-timeout",
    "request_timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 600),
    default=10.0,
    show_default=True,
    help="Longest wait for a request to arrive.",
)
@click.option(
    "--audit-log",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Append the audit lines to this file as well.",
)
@click.option(
    "--create-key",
    type=click.Choice(CHECKSUM_ALGORITHMS),
    help="Make a key if there is none, then end.",
)
@click.option(
    "--rotate-key",
    type=click.Choice(CHECKSUM_ALGORITHMS),
    help="Put a new key in the place of the present one, then end.",
)
@click.option(
    "--keep-days",
    metavar="DAYS",
    type=click.IntRange(0, 3660),
    default=180,
    show_default=True,
    help="With --rotate-key: how long the old key goes on verifying.",
)
@click.option("--check", is_flag=True, help="Check keys, policy and relay, then end.")
@common_options
def command(
    prefix: Path | None,
    run_dir: Path | None,
    socket_group: str | None,
    site: str | None,
    request_timeout_s: float,
    audit_log: Path | None,
    create_key: str | None,
    rotate_key: str | None,
    keep_days: int,
    check: bool,
    verbose: bool,
    quiet: bool,
    dry_run: bool,
) -> None:
    """Sign the probe files of this node's users, as far as the site's policy allows them.

    Runs as root on login nodes, normally as datacrumbs_sign_probes.service.
    """
    set_up_logging(verbose=verbose, quiet=quiet)
    prefix = (prefix or find_prefix()).absolute()
    config = installed_config(prefix)
    if config is not None:
        run_dir = run_dir or config.server_run_dir
        site = site or config.install_host
    paths = SigningPaths.of_prefix(prefix, run_dir or DEFAULT_RUN_DIR)
    if create_key and rotate_key:
        raise UsageError("--create-key and --rotate-key exclude each other")
    if create_key or rotate_key:
        if not dry_run:
            _change_key(paths, create_key, rotate_key, keep_days)
        return
    current_signer = signer_source(paths, site)
    _check(paths, current_signer)
    if check or dry_run:
        click.echo(f"{paths.data_dir}: keys, policy and relay are in order")
        return
    _log_audit(audit_log)
    _serve(paths, current_signer, socket_group, request_timeout_s)


def _change_key(
    paths: SigningPaths, create: str | None, rotate: str | None, keep_days: int
) -> None:
    if rotate:
        key = keys.rotate_key(paths.data_dir, rotate, keep_days * DAY_S)
        click.echo(f"key {key.key_id} signs from now on")
        return
    made = keys.create_key(paths.data_dir, create or keys.HMAC_SHA256)
    click.echo(f"key {made.key_id} was made" if made else "there is a key, nothing was changed")


def _check(paths: SigningPaths, current_signer: Callable[[], Signer]) -> None:
    from datacrumbs_runtime.signing.peer import relay_status

    current_signer().key()
    relay_status(paths.relay)


def _serve(
    paths: SigningPaths,
    current_signer: Callable[[], Signer],
    socket_group: str | None,
    request_timeout_s: float,
) -> None:
    from datacrumbs_runtime.signing.binaries import instruction_decoder
    from datacrumbs_runtime.signing.listener import listen
    from datacrumbs_runtime.signing.service import (
        Limits,
        SigningService,
        raise_descriptor_limit,
    )

    raise_descriptor_limit()
    # Loaded here once, not in the process of each request.
    instruction_decoder()
    group_id = None
    if socket_group is not None:
        try:
            group_id = grp.getgrnam(socket_group).gr_gid
        except KeyError:
            raise UsageError(f"--socket-group: {socket_group}: no such group") from None
    listener = listen(paths.socket, paths.socket_link, group_id=group_id)
    limits = Limits(request_timeout_s=request_timeout_s)
    SigningService(listener, paths.relay, current_signer, limits).run()


def _log_audit(path: Path | None) -> None:
    """Send audit lines to standard error, which is the journal, whatever else is logged."""
    audit_logger.setLevel(logging.INFO)
    audit_logger.propagate = False
    audit_logger.addHandler(logging.StreamHandler(sys.stderr))
    if path is not None:
        handler = logging.FileHandler(path)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        audit_logger.addHandler(handler)


def main() -> None:
    """Run the command."""
    run_command(command)


if __name__ == "__main__":
    main()
