"""The installation that a command belongs to: its prefix, settings and files."""

import os
import sqlite3
import sys
from pathlib import Path

from datacrumbs_runtime.errors import ConfigurationError

OVERRIDE_VARIABLE = "DATACRUMBS_SYSTEM_PROBE_FILE_OVERRIDE"
PREFIX_VARIABLE = "DATACRUMBS_INSTALL_PREFIX"
_DATA_DIRECTORY = Path("share/datacrumbs/data")
_SETTINGS_PATTERN = "system-probe-*-*.sqlite"


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


def settings_path() -> Path | None:
    """Return the file with the installation's settings, or None if nothing is installed here."""
    override = os.environ.get(OVERRIDE_VARIABLE)
    if override:
        return Path(override)
    places = [prefix()]
    if PREFIX_VARIABLE in os.environ:
        places.insert(0, Path(os.environ[PREFIX_VARIABLE]))
    for place in places:
        found = sorted((place / _DATA_DIRECTORY).glob(_SETTINGS_PATTERN))
        if found:
            return found[0]
    return None


def settings() -> dict[str, str]:
    """Return the installation's settings; empty if nothing is installed here.

    Raises:
        ConfigurationError: The file is there and cannot be read.
    """
    path = settings_path()
    if path is None:
        return {}
    if not path.is_file():
        raise ConfigurationError(f"{path}: no such file", hint=f"see {OVERRIDE_VARIABLE}")
    try:
        with sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True) as database:
            rows = database.execute("SELECT key, value FROM system_configuration").fetchall()
        database.close()
    except sqlite3.Error as error:
        raise ConfigurationError(f"{path}: not a system configuration: {error}") from error
    return {str(key): str(value) for key, value in rows}
