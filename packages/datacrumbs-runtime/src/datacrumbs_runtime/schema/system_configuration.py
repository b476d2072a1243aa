"""The system configuration: the sqlite file in which an installation keeps its settings.

Tables ``system_configuration(key, value)`` and ``summary(key, value)``. This module finds and reads
it; whoever makes and changes it is the runtime's ``system_config``.
"""

import socket
import sqlite3
import stat
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_runtime.schema.setting import Group, Setting
from datacrumbs_runtime.schema.site_config import SiteConfig, parse_setting, settings, site_of

FILE_OVERRIDE_VARIABLE = "DATACRUMBS_SYSTEM_PROBE_FILE_OVERRIDE"
DATA_SUBDIRECTORY = Path("share/datacrumbs/data")


@dataclass(frozen=True, slots=True)
class SystemConfiguration:
    """A system configuration as read from its file.

    Attributes:
        path: The file.
        stored: What the file says, by key, unchecked keys of other versions included.
        summary: The table ``summary``.
        config: The checked settings, without the environment.
        root_only: Whether nobody but root can have written the file.
    """

    path: Path
    stored: Mapping[str, str]
    summary: Mapping[str, str]
    config: SiteConfig
    root_only: bool

    def with_environment(self, environment: Mapping[str, str]) -> SiteConfig:
        """Return the settings with those that the environment may override.

        Raises:
            ConfigurationError: A variable has an impossible value.
        """
        values = dict(self.stored)
        for setting in settings():
            text = environment.get(setting.key)
            if setting.from_environment and text:
                parse_setting(setting, text, "environment")
                values[setting.key] = text
        return SiteConfig.from_values(values, str(self.path))

    def ignored_variables(self, environment: Mapping[str, str]) -> list[str]:
        """Return the settings that the environment gives another value but may not override."""
        present = self.config.as_values()
        values = {**present, **{key: environment.get(key) or present[key] for key in present}}
        return [
            setting.key
            for setting in settings()
            if setting.group is not Group.INSTALLATION
            and not setting.from_environment
            and not _is_same(setting, values[setting.key], present[setting.key])
        ]


def _is_same(setting: Setting, text: str, other: str) -> bool:
    try:
        return bool(setting.parse(text) == setting.parse(other))
    except ValueError:
        return False


def find_system_configuration(prefix: Path, environment: Mapping[str, str]) -> Path:
    """Return the system configuration of an installation.

    Raises:
        ConfigurationError: There is none, or it cannot be told which of several is meant.
    """
    override = environment.get(FILE_OVERRIDE_VARIABLE)
    if override:
        return Path(override)
    directory = prefix / DATA_SUBDIRECTORY
    found = sorted(directory.glob("system-probe-*.sqlite"))
    site = site_of(socket.gethostname())
    of_this_site = [path for path in found if path.stem.endswith(f"-{site}")]
    candidates = of_this_site or found
    if not candidates:
        raise ConfigurationError(
            f"{directory}: no system configuration",
            hint="make it with datacrumbs_system_configurator, as root",
        )
    if len(candidates) > 1:
        names = ", ".join(path.name for path in candidates)
        raise ConfigurationError(
            f"{directory}: several system configurations: {names}",
            hint=f"name one in {FILE_OVERRIDE_VARIABLE}",
        )
    return candidates[0]


def read_system_configuration(path: Path) -> SystemConfiguration:
    """Read a system configuration.

    Raises:
        ConfigurationError: It cannot be read, or a value in it cannot be used.
    """
    try:
        status = path.stat()
        directory = path.parent.stat()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    root_only = all(
        item.st_uid == 0 and not stat.S_IMODE(item.st_mode) & 0o022 for item in (status, directory)
    )
    tables: dict[str, dict[str, str]] = {}
    try:
        # immutable: no lock files beside it, it may be on a file system without locks.
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as database:
            for table in ("system_configuration", "summary"):
                rows = database.execute(f"SELECT key, value FROM {table}")  # noqa: S608  constants
                tables[table] = {str(key): str(value) for key, value in rows}
    except sqlite3.Error as error:
        raise ConfigurationError(f"{path}: not a system configuration: {error}") from error
    stored = tables["system_configuration"]
    return SystemConfiguration(
        path, stored, tables["summary"], SiteConfig.from_values(stored, str(path)), root_only
    )
