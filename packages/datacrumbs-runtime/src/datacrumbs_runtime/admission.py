"""Whether a run may begin: what is asked for, whose run it is, and a probe file that is authentic.

Nothing here needs the programs or the trace, whose modules are imported while others work for us.
"""

import logging
import platform
import pwd
from dataclasses import dataclass
from pathlib import Path

from datacrumbs_runtime.cli import user_entry
from datacrumbs_runtime.errors import SigningError, UsageError
from datacrumbs_runtime.schema.probe_document import probe_file_from_document
from datacrumbs_runtime.schema.probe_file import (
    MAX_DOCUMENT_BYTES,
    ProbeFile,
    document_from_bytes,
)
from datacrumbs_runtime.schema.site_config import SiteConfig
from datacrumbs_runtime.schema.system_configuration import SystemConfiguration
from datacrumbs_runtime.signing.accounts import Account, account_of_uid, read_as_user
from datacrumbs_runtime.signing.installation import SigningPaths
from datacrumbs_runtime.signing.keys import load_keys
from datacrumbs_runtime.signing.verify import Expectation, verify_bytes

logger = logging.getLogger(__name__)

# Less than the whole, so that the error can name the file.
FILE_LIMIT_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What is asked for.

    Attributes:
        probe_file: Path of the signed probe file.
        run_id: Id of the run.
        system: The system configuration.
        config: Its settings, with those that environment and options change.
        cgroup: Only processes of this cgroup may register; None: of any.
        retry_failed: Also try what is known to fail.
    """

    probe_file: str
    run_id: str
    system: SystemConfiguration
    config: SiteConfig
    cgroup: Path | None = None
    retry_failed: bool = False


def wanted_user(config: SiteConfig) -> Account | None:
    """Return whose run it shall be, or None: of whoever the probe file was signed for.

    Raises:
        UsageError: There is no such user.
    """
    name = config.user
    if not name:
        return None
    hint = f"this node must know the user: see getent passwd {name}"
    return account_of_uid(user_entry(name, "user", hint).pw_uid)


def authentic_probe_file(request: RunRequest) -> tuple[ProbeFile, Account]:
    """Read the probe file, with its user's rights where the user is known, and verify it.

    Returns:
        The probe file, and whose run it is.

    Raises:
        DatacrumbsError: It cannot be read, or is not what the signer of this site signed for this
            user and host.
    """
    config, path = request.config, request.probe_file
    account = wanted_user(config)
    data = _content(config, account, path)
    if config.disable_probe_signing and request.system.root_only:
        logger.warning(
            "%s: NOT VERIFIED: DATACRUMBS_DISABLE_PROBE_SIGNING is set in %s",
            path,
            request.system.path,
        )
        probe_file = probe_file_from_document(document_from_bytes(data, path), path)
    else:
        if config.disable_probe_signing:
            logger.warning(
                "DATACRUMBS_DISABLE_PROBE_SIGNING is ignored: %s is not root's alone",
                request.system.path,
            )
        paths = SigningPaths.of_prefix(config.install_prefix, config.server_run_dir)
        expected = Expectation(
            hostname=platform.node(),
            site=_site_of_policy(paths.policy) or config.install_host,
            uid=None if account is None else account.uid,
            user=None if account is None else account.user,
            max_functions=config.max_runtime_functions,
        )
        keys = load_keys(config.install_data_dir)
        probe_file = verify_bytes(data, path, keys, expected)
    return probe_file, account or _signed_user(probe_file, path)


def _site_of_policy(policy: Path) -> str | None:
    if not policy.exists():
        return None
    # YAML takes longer to import than all the rest here.
    from datacrumbs_runtime.signing.policy_file import read_policy

    return read_policy(policy).site


def _content(config: SiteConfig, account: Account | None, path: str) -> bytes:
    # Without a user the path is root's own word.
    reader = account or account_of_uid(0)
    limit_s = config.start_timeout_s * FILE_LIMIT_SHARE
    try:
        return read_as_user(reader, path, MAX_DOCUMENT_BYTES, timeout_s=limit_s)
    except SigningError as error:
        made = "datacrumbs_probe_configurator makes probe files"
        hint = error.hint or (f"{account.user} must be able to read it" if account else made)
        raise SigningError(str(error), hint=hint) from error


def _signed_user(probe_file: ProbeFile, where: str) -> Account:
    summary = probe_file.summary
    if summary.uid is not None:
        return account_of_uid(summary.uid)
    try:
        return account_of_uid(pwd.getpwnam(summary.user).pw_uid)
    except KeyError:
        raise UsageError(
            f"{where}: belongs to {summary.user or 'nobody'}, who is unknown on this node",
            hint="name the user of the run with --user",
        ) from None


def check_all_processes(config: SiteConfig, account: Account) -> None:
    """Refuse to record everything that root does.

    Raises:
        UsageError: It is root's run.
    """
    if config.trace_all_processes and account.uid == 0:
        raise UsageError(
            "--trace-all-processes: not for root, whose processes the whole node waits for",
            hint="register those that matter with datacrumbs_wrap",
        )
