"""The installation that a command belongs to: its prefix, settings and files."""

import os
import sys
from pathlib import Path

from datacrumbs_runtime.schema.system_configuration import (
    DATA_SUBDIRECTORY,
    FILE_OVERRIDE_VARIABLE,
    SystemConfiguration,
    find_system_configuration,
    read_system_configuration,
)

PREFIX_VARIABLE = "DATACRUMBS_INSTALL_PREFIX"


def prefix() -> Path:
    """Return the directory above the ``bin/`` or ``sbin/`` that the running command lies in."""
    return Path(sys.argv[0]).resolve().parent.parent


def program(name: str) -> Path | None:
    """Return a program of the same installation, or None if there is none."""
    places = [Path(sys.argv[0]).absolute().parent, prefix() / "bin"]
    if PREFIX_VARIABLE in os.environ:
        places.append(Path(os.environ[PREFIX_VARIABLE]) / "bin")
    for place in places:
        if os.access(place / name, os.X_OK):
            return place / name
    return None


def system_configuration() -> SystemConfiguration | None:
    """Return the settings of the installation; None if nothing is installed here.

    Raises:
        ConfigurationError: The file is there and cannot be read.
    """
    places = [prefix()]
    if PREFIX_VARIABLE in os.environ:
        places.insert(0, Path(os.environ[PREFIX_VARIABLE]))
    for place in places:
        installed = any((place / DATA_SUBDIRECTORY).glob("system-probe-*.sqlite"))
        if installed or FILE_OVERRIDE_VARIABLE in os.environ:
            return read_system_configuration(find_system_configuration(place, os.environ))
    return None


def needs_no_signature(system: SystemConfiguration | None) -> bool:
    """Return whether the site has switched signing off, in a file that only root can write."""
    return system is not None and system.root_only and system.config.disable_probe_signing
