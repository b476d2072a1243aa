"""datacrumbs_probe_verify: is a probe file valid, and if not, everything that is wrong with it."""

import json
import os
import platform
import time
from pathlib import Path

import click

from datacrumbs_runtime import __version__
from datacrumbs_runtime.cli import (
    CONTEXT_SETTINGS,
    common_options,
    examples,
    prefix_option,
    print_error,
    run_command,
    set_up_logging,
    user_entry,
)
from datacrumbs_runtime.errors import SigningError
from datacrumbs_runtime.prefix import find_prefix
from datacrumbs_runtime.schema.probe_file import DEFAULT_MAX_FUNCTIONS, ProbeFile
from datacrumbs_runtime.signing.installation import SigningPaths, installed_config
from datacrumbs_runtime.signing.verify import Expectation

NAME = "datacrumbs_probe_verify"


@click.command(
    name=NAME,
    context_settings=CONTEXT_SETTINGS,
    epilog=examples(
        "datacrumbs_probe_verify probes.json.gz",
        "datacrumbs_probe_verify --user anna --host node17 probes.json.gz",
    ),
)
@click.version_option(__version__)
@click.argument("file", type=click.Path(path_type=Path))
@prefix_option
@click.option(
    "--user", metavar="NAME", help="Whose run it is for, by name or uid.", show_default="anybody's"
)
@click.option(
    "--host",
    metavar="NAME",
    default=platform.node,
    help="The host that it is for.",
    show_default="this host",
)
@click.option(
    "--site",
    metavar="NAME",
    help="The group of hosts that it is for.",
    show_default="the installation's",
)
@click.option(
    "--max-functions",
    metavar="NUMBER",
    type=click.IntRange(min=1),
    help="The most functions that a probe file may have.",
    show_default="the installation's",
)
@click.option(
    "--binaries/--no-binaries",
    default=True,
    show_default=True,
    help="Compare the binaries on this host with what the file says of them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@common_options
def command(
    file: Path,
    prefix: Path | None,
    user: str | None,
    host: str,
    site: str | None,
    max_functions: int | None,
    binaries: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    dry_run: bool,
) -> int:
    """Verify the probe file FILE: signature, owner, site, expiry, limits and build ids.

    A signature of the kind hmac-sha256 can be checked by root only.
    """
    del dry_run  # nothing is changed anyway
    set_up_logging(verbose=verbose, quiet=quiet)
    uid, name = _user(user)
    prefix = (prefix or find_prefix()).absolute()
    paths = SigningPaths.of_prefix(prefix)
    config = installed_config(prefix)
    if config is not None:
        site = site or _site_of_policy(paths) or config.install_host
        max_functions = max_functions or config.max_runtime_functions
    expected = Expectation(
        host, site, uid, name, max_functions or DEFAULT_MAX_FUNCTIONS, time.time()
    )
    probe_file, problems = _examine(file, paths, expected, binaries)
    if as_json:
        click.echo(json.dumps(_as_json(file, probe_file, problems), indent=2))
    elif not problems and not quiet:
        click.echo(_sentence(file, probe_file))
    for message, hint in problems:
        if not as_json:
            print_error(NAME, f"{file}: {message}", hint)
    return 1 if problems else 0


def _site_of_policy(paths: SigningPaths) -> str | None:
    from datacrumbs_runtime.signing.policy_file import read_policy

    return read_policy(paths.policy).site


def _user(user: str | None) -> tuple[int | None, str | None]:
    if user is None:
        return None, None
    entry = user_entry(user)
    return entry.pw_uid, entry.pw_name


def _examine(
    file: Path, paths: SigningPaths, expected: Expectation, binaries: bool
) -> tuple[ProbeFile, list[tuple[str, str | None]]]:
    from datacrumbs_runtime.schema.probe_document import probe_file_from_document
    from datacrumbs_runtime.schema.probe_file import MAX_DOCUMENT_BYTES, document_from_bytes
    from datacrumbs_runtime.signing.accounts import open_regular_file, read_bounded
    from datacrumbs_runtime.signing.keys import ED25519, load_keys
    from datacrumbs_runtime.signing.verify import check_signature, mismatches

    # Root looks at files of users with this.
    with open(open_regular_file(str(file)), "rb", buffering=0) as stream:  # noqa: PTH123  a descriptor
        data = read_bounded(stream.fileno(), str(file), MAX_DOCUMENT_BYTES)
    document = document_from_bytes(data, str(file))
    # A public key is enough for those who cannot read more, as long as it was not retired.
    public_only = os.geteuid() != 0 and document.get("checksum_algorithm") == ED25519
    keys = load_keys(paths.data_dir, public_only=public_only)
    check_signature(document, str(file), keys)
    probe_file = probe_file_from_document(document, str(file))
    problems = mismatches(probe_file, expected)
    if binaries:
        problems += _changed_binaries(probe_file)
    return probe_file, problems


def _changed_binaries(probe_file: ProbeFile) -> list[tuple[str, str | None]]:
    from datacrumbs_runtime.signing.accounts import open_regular_file
    from datacrumbs_runtime.signing.binaries import check_binary

    problems: list[tuple[str, str | None]] = []
    for category in probe_file.categories:
        if category.binary_path is None:
            continue
        try:
            fd = open_regular_file(category.binary_path)
            with open(fd, "rb", buffering=0):  # noqa: PTH123  closes the descriptor
                check_binary(category, fd)
        except SigningError as error:
            problems.append((str(error), error.hint))
    return problems


def _sentence(file: Path, probe_file: ProbeFile) -> str:
    from datacrumbs_runtime.signing.verify import shown_date

    summary = probe_file.summary
    expires = summary.expires
    until = "without an end" if expires is None else f"until {shown_date(expires)}"
    return (
        f"{file}: valid: {probe_file.function_count} functions in "
        f"{len(probe_file.categories)} categories, signed by {probe_file.checksum_algorithm} "
        f"key {probe_file.key_id or '(unnamed)'} for {summary.user} "
        f"on {summary.site or summary.hostname}, {until}"
    )


def _as_json(
    file: Path, probe_file: ProbeFile, problems: list[tuple[str, str | None]]
) -> dict[str, object]:
    summary = probe_file.summary
    return {
        "file": str(file),
        "valid": not problems,
        "problems": [message for message, _ in problems],
        "user": summary.user,
        "uid": summary.uid,
        "hostname": summary.hostname,
        "site": summary.site,
        "created": summary.created,
        "expires": summary.expires,
        "algorithm": probe_file.checksum_algorithm,
        "key_id": probe_file.key_id,
        "categories": len(probe_file.categories),
        "functions": probe_file.function_count,
    }


def main() -> None:
    """Run the command."""
    run_command(command)


if __name__ == "__main__":
    main()
