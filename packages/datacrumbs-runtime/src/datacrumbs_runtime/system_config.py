"""Making and changing the system configuration of an installation."""

import os
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_runtime.schema.setting import Group
from datacrumbs_runtime.schema.site_config import (
    SiteConfig,
    parse_setting,
    setting_of,
    settings,
)
from datacrumbs_runtime.schema.system_configuration import (
    DATA_SUBDIRECTORY,
    FILE_OVERRIDE_VARIABLE,
    SystemConfiguration,
    read_system_configuration,
)
from datacrumbs_runtime.signing.accounts import user_name

MODE = 0o644
_TABLES = (
    "CREATE TABLE system_configuration (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE summary (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
)


def parse_assignments(assignments: Sequence[str]) -> dict[str, str]:
    """Return the values of ``KEY=VALUE`` arguments, checked.

    Raises:
        ConfigurationError: A key is unknown or a value impossible.
    """
    values = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigurationError(f"--set {assignment}: not KEY=VALUE")
        setting = setting_of(key, "--set")
        parse_setting(setting, text, "--set")
        values[key] = text
    return values


def planned_configuration(prefix: Path, changes: Mapping[str, str]) -> tuple[Path, SiteConfig]:
    """Return where the configuration of a prefix belongs and what it says if made now.

    Args:
        prefix: The installation prefix, absolute.
        changes: Values that differ from the defaults, by key.

    Raises:
        ConfigurationError: A value is impossible.
    """
    values = {
        "DATACRUMBS_INSTALL_PREFIX": str(prefix),
        "DATACRUMBS_INSTALL_USER": user_name(os.geteuid()),
        **changes,
    }
    config = SiteConfig.from_values(values, "system configuration")
    override = os.environ.get(FILE_OVERRIDE_VARIABLE)
    name = f"system-probe-{config.install_user}-{config.install_host}.sqlite"
    return Path(override) if override else prefix / DATA_SUBDIRECTORY / name, config


def create_system_configuration(path: Path, config: SiteConfig) -> bool:
    """Write a system configuration unless there is one; an existing file is never changed.

    Returns:
        Whether it was written.

    Raises:
        ConfigurationError: It could not be written.
    """
    if path.exists():
        return False
    texts = config.as_values()
    values = {
        setting.key: texts[setting.key]
        for setting in settings()
        # Defaults of runs stay out: a later version may have better ones.
        if setting.group is not Group.RUN or setting.name == "inclusion_paths"
    }
    summary = _summary(path, config)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with closing(sqlite3.connect(temporary)) as database, database:
                for statement in _TABLES:
                    database.execute(statement)
                database.executemany(
                    "INSERT INTO system_configuration VALUES (?, ?)", values.items()
                )
                database.executemany("INSERT INTO summary VALUES (?, ?)", summary.items())
            temporary.chmod(MODE)
            # Unlike a rename, a link never replaces what somebody else just made.
            os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError:
        return False
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigurationError(f"{path}: {reason}") from error
    return True


def _summary(path: Path, config: SiteConfig) -> dict[str, str]:
    return {
        "trace_log_dir": str(config.trace_base_dir),
        "data_dir": str(config.install_data_dir),
        "system_probe_path": str(path),
        "hostname": config.install_host,
        "user": config.user or config.install_user,
        "install_user": config.install_user,
    }


def fixed_settings(values: Mapping[str, str]) -> list[str]:
    """Return which keys are facts of an installation, which only making it anew changes."""
    return [key for key in values if setting_of(key, "--set").group is Group.INSTALLATION]


def _with_followers(present: SystemConfiguration, values: Mapping[str, str]) -> dict[str, str]:
    """Return new values, and those of other settings that were what the old ones made them.

    The run-id file is in the run directory, for instance, unless somebody put it elsewhere.
    """
    changed = dict(values)
    for setting in settings():
        stored = present.stored.get(setting.key)
        if setting.key in values or stored is None:
            continue
        others = {key: text for key, text in present.stored.items() if key != setting.key}
        before = SiteConfig.from_values(others, str(present.path))
        after = SiteConfig.from_values({**others, **changed}, str(present.path))
        if stored == before.as_values()[setting.key] != after.as_values()[setting.key]:
            changed[setting.key] = after.as_values()[setting.key]
    return changed


def change_system_configuration(path: Path, values: Mapping[str, str]) -> None:
    """Change settings in an existing system configuration.

    The file is replaced as a whole, so that a reader sees the old or the new one.

    Args:
        path: The file.
        values: New values by key; already checked one by one.

    Raises:
        ConfigurationError: It could not be read or written, or the whole would not be valid.
    """
    present = read_system_configuration(path)
    values = _with_followers(present, values)
    config = SiteConfig.from_values({**present.stored, **values}, str(path))
    # Only what these values change of it; the rest is as the installation was made.
    before = _summary(path, present.config)
    summary = {key: text for key, text in _summary(path, config).items() if text != before[key]}
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        status = path.stat()
        temporary.write_bytes(path.read_bytes())
        try:
            with closing(sqlite3.connect(temporary)) as database, database:
                database.executemany(
                    "INSERT OR REPLACE INTO system_configuration VALUES (?, ?)", values.items()
                )
                database.executemany(
                    "INSERT OR REPLACE INTO summary VALUES (?, ?)", summary.items()
                )
            temporary.chmod(MODE)
            os.chown(temporary, status.st_uid, status.st_gid)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigurationError(f"{path}: {reason}") from error
