"""Where an installation keeps what signing and verifying need, and how it is put together."""

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_runtime.schema.site_config import SiteConfig, site_of
from datacrumbs_runtime.schema.system_configuration import (
    DATA_SUBDIRECTORY,
    FILE_OVERRIDE_VARIABLE,
    find_system_configuration,
    read_system_configuration,
)
from datacrumbs_runtime.signing.accounts import user_name

if TYPE_CHECKING:
    from datacrumbs_runtime.signing.policy import Policy
    from datacrumbs_runtime.signing.request import Signer

DEFAULT_RUN_DIR = Path("/var/run/datacrumbs")
SOCKET_NAME = "datacrumbs-sign-probes.sock"


@dataclass(frozen=True, slots=True)
class SigningPaths:
    """The files of an installation that have to do with signing.

    Attributes:
        data_dir: Where the keys are.
        policy: The site's policy; it need not exist.
        relay: The one program that the signer serves.
        socket: Where the signer listens.
        socket_link: Where clients look for the socket.
    """

    data_dir: Path
    policy: Path
    relay: Path
    socket: Path
    socket_link: Path

    @classmethod
    def of_prefix(cls, prefix: Path, run_dir: Path = DEFAULT_RUN_DIR) -> "SigningPaths":
        """Return the paths of the installation with this prefix."""
        data_dir = prefix / DATA_SUBDIRECTORY
        return cls(
            data_dir=data_dir,
            policy=prefix / "etc/datacrumbs/policy.yaml",
            relay=prefix / "bin/datacrumbs_probe_configurator_exec",
            socket=run_dir / SOCKET_NAME,
            socket_link=data_dir / SOCKET_NAME,
        )


def installed_config(prefix: Path) -> SiteConfig | None:
    """Return the settings of an installation, or None while it has no system configuration.

    Raises:
        ConfigurationError: There is one that cannot be read, or it cannot be told which is meant.
    """
    override = FILE_OVERRIDE_VARIABLE in os.environ
    if not override and not any((prefix / DATA_SUBDIRECTORY).glob("system-probe-*.sqlite")):
        return None
    path = find_system_configuration(prefix, os.environ)
    return read_system_configuration(path).with_environment(os.environ)


def signer_source(paths: SigningPaths, site: str | None) -> "Callable[[], Signer]":
    """Return a function that puts together what signs, as the files are when it is called.

    The policy is read again when its file changed; keys are read for each signature.

    Args:
        paths: The installation.
        site: The group of hosts on which signed files are valid; the policy's word comes first.

    Raises:
        ConfigurationError: There is no installation.
    """
    # Only for those who sign.
    from datacrumbs_runtime.signing.keys import load_keys
    from datacrumbs_runtime.signing.policy_file import read_policy
    from datacrumbs_runtime.signing.request import Signer

    hostname = platform.node()
    try:
        install_user = user_name(paths.data_dir.stat().st_uid)
    except OSError as error:
        raise ConfigurationError(
            f"{paths.data_dir}: {error.strerror}", hint="datacrumbs_bootstrap makes an installation"
        ) from error
    known: dict[tuple[int, ...] | None, Policy] = {}

    def current() -> "Signer":
        version = _version(paths.policy)
        if version not in known:
            policy = read_policy(paths.policy)
            known.clear()
            known[version] = policy
        policy = known[version]
        return Signer(
            key=lambda: load_keys(paths.data_dir).signing_key(policy.algorithm),
            policy=policy,
            hostname=hostname,
            site=policy.site or site or site_of(hostname),
            install_user=install_user,
        )

    return current


def _version(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size
