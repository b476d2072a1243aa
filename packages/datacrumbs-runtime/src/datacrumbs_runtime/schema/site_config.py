"""The settings of an installation: every ``DATACRUMBS_*`` key, its default, and who may change it.

They are stored in the system configuration (``schema.system_configuration``); a key that it lacks
has its default.
"""

# ruff: noqa: RUF009  the functions below are dataclasses.field() by other names

import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_runtime.schema import setting_types
from datacrumbs_runtime.schema.found_defaults import default_libc, default_scheduler
from datacrumbs_runtime.schema.setting import Group, Setting, fact_field, setting_field
from datacrumbs_runtime.schema.setting_types import Scheduler

PREFIX = "DATACRUMBS_"
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


def site_of(hostname: str) -> str:
    """Return what the hosts of one site have in common: the short host name without digits."""
    short = hostname.partition(".")[0]
    return "".join(character for character in short if not character.isdigit()) or short


@dataclass(frozen=True, slots=True)
class SiteConfig:
    """The settings of an installation, each checked; see :func:`settings` for what they mean."""

    install_prefix: Path = fact_field("/usr/local", "Where DataCrumbs is installed.")
    install_host: str = setting_field(
        Group.INSTALLATION,
        lambda: site_of(socket.gethostname()),
        "Host name in names of files: without digits, so that login1 and login2 share them.",
        setting_types.name,
        "name",
    )
    install_user: str = setting_field(
        Group.INSTALLATION, "root", "Who owns the installation.", setting_types.name, "name"
    )
    install_bin_dir: Path = fact_field("{install_prefix}/bin", "Commands for users.")
    install_sbin_dir: Path = fact_field("{install_prefix}/sbin", "Commands for root.")
    install_lib_dir: Path = fact_field("{install_prefix}/lib", "The client library.")
    install_libexec_dir: Path = fact_field(
        "{install_prefix}/libexec/datacrumbs", "The Python environment of the commands."
    )
    install_etc_dir: Path = fact_field("{install_prefix}/etc/datacrumbs", "Configuration.")
    install_configs_dir: Path = fact_field("{install_etc_dir}/configs", "Host configurations.")
    install_data_dir: Path = fact_field(
        "{install_prefix}/share/datacrumbs/data",
        "This system configuration, the keys, the status databases.",
    )
    install_modules_dir: Path = fact_field(
        "{install_etc_dir}/lmod/modulefiles", "Files for environment modules."
    )
    install_probe_objects_dir: Path = fact_field(
        "{install_libexec_dir}/probes",
        "Custom probes: the only place that they are loaded from.",
    )
    install_runstatedir: Path = fact_field("/var/run", "Where files of running programs are.")
    client_lib: Path = fact_field(
        "{install_lib_dir}/libdatacrumbs_client.so",
        "The library through which programs register with a run.",
    )

    trace_dir_pattern: str = setting_field(
        Group.SITE,
        "/var/log/datacrumbs/traces/%YY%/%MM%/%DD%",
        "Where traces go. %YY% %MM% %DD% are the local date, two digits each; %USER%, %RUN_ID% "
        "and %HOST% can be used as well.",
        setting_types.path_pattern,
        "path pattern",
        environment=True,
    )
    job_scheduler: Scheduler = setting_field(
        Group.SITE,
        default_scheduler,
        "Which scheduler starts runs: FLUX, SLURM or NONE.",
        setting_types.scheduler,
        "FLUX, SLURM, NONE",
    )
    job_id_var: str = setting_field(
        Group.SITE,
        "{job_id_var}",
        "The environment variable that holds the job id, from which a run takes its id.",
        setting_types.variable_name,
        "variable",
        environment=True,
    )
    server_run_dir: Path = setting_field(
        Group.SITE,
        "{install_runstatedir}/datacrumbs",
        "Files of the runs on a node: ready, pid, status, env, socket of the signer.",
        setting_types.absolute_path,
        "path",
    )
    server_run_id_file: Path = setting_field(
        Group.SITE,
        "{server_run_dir}/datacrumbs.runid",
        "Holds the id of the newest run, without a newline.",
        setting_types.absolute_path,
        "path",
    )
    log_dir: Path = setting_field(
        Group.SITE,
        "/var/log/datacrumbs",
        "Logs of runs that the service manager started.",
        setting_types.absolute_path,
        "path",
        environment=True,
    )
    user: str = setting_field(
        Group.SITE,
        "",
        "Whose processes a run records. Empty: the user for whom the probe file was signed.",
        setting_types.optional_name,
        "name",
        environment=True,
    )
    kernel_uname_r: str = setting_field(
        Group.SITE,
        lambda: os.uname().release,
        "The kernel that the site's host configurations are made for.",
        setting_types.text,
        "text",
    )
    kernel_headers_path: str = setting_field(
        Group.SITE,
        "/usr/src/kernels/{kernel_uname_r}",
        "Headers of the kernel, for host configurations that name functions by header. "
        "They may be missing: BTF takes their place.",
        setting_types.text,
        "path",
        environment=True,
    )
    libc_so: Path = setting_field(
        Group.SITE,
        default_libc,
        "The C library, for host configurations.",
        setting_types.absolute_path,
        "path",
        environment=True,
    )
    disable_probe_signing: bool = setting_field(
        Group.SITE,
        "0",
        "1: probe files without a valid signature are accepted. Honoured only if this file and its "
        "directory belong to root alone; every log says so.",
        setting_types.flag,
        "0 or 1",
    )
    max_runtime_functions: int = setting_field(
        Group.SITE,
        "16384",
        "How many functions one probe file may have.",
        setting_types.whole(1, 1 << 20),
        "count",
    )
    custom_probes: bool = setting_field(
        Group.SITE,
        "0",
        "1: custom probes of DATACRUMBS_INSTALL_PROBE_OBJECTS_DIR may be compiled and loaded.",
        setting_types.flag,
        "0 or 1",
    )
    start_timeout_s: float = setting_field(
        Group.SITE,
        "5",
        "A run that is not ready by then gives up.",
        setting_types.seconds(0.5, 3600),
        "seconds",
        environment=True,
    )
    server_load_timeout: int = setting_field(
        Group.SITE,
        "600",
        "How many seconds others wait for the ready file of a run.",
        setting_types.whole(1, 86400),
        "seconds",
        environment=True,
    )

    inclusion_paths: tuple[Path, ...] = setting_field(
        Group.RUN,
        "",
        "Only calls about files below these directories are kept (separated by colons). "
        "Empty: all calls.",
        setting_types.paths,
        "paths",
        environment=True,
    )
    mode: str = setting_field(
        Group.RUN,
        "trace",
        "trace: one event per call; profile: sums per function, process and interval.",
        setting_types.one_of("trace", "profile"),
        "trace, profile",
        environment=True,
    )
    ring_buffer_bytes: int = setting_field(
        Group.RUN,
        "16M",
        "Ring buffer of each CPU.",
        setting_types.size(4096, 1 << 30),
        "size",
        environment=True,
    )
    strings_buffer_bytes: int = setting_field(
        Group.RUN,
        "8M",
        "Ring buffer of texts and paths.",
        setting_types.size(4096, 1 << 30),
        "size",
        environment=True,
    )
    threshold_ns: int = setting_field(
        Group.RUN,
        "0",
        "Calls shorter than this many nanoseconds are summed per function instead of written.",
        setting_types.whole(0, 10**12),
        "nanoseconds",
        environment=True,
    )
    profile_interval_s: float = setting_field(
        Group.RUN,
        "1",
        "Length of an interval in profile mode.",
        setting_types.seconds(0.05, 3600),
        "seconds",
        environment=True,
    )
    string_capture_bytes: int = setting_field(
        Group.RUN,
        "64",
        "Longest captured text of a char * argument; paths are always whole.",
        setting_types.whole(1, 4096),
        "bytes",
        environment=True,
    )
    throttle_calls_per_s: int = setting_field(
        Group.RUN,
        "2000000",
        "A function called more often than this is counted instead of traced until it calms down; "
        "the trace says when. 0: never.",
        setting_types.whole(0, 10**12),
        "calls per second",
        environment=True,
    )
    trace_all_processes: bool = setting_field(
        Group.RUN,
        "0",
        "1: all processes of the user (with a cgroup: those in it) are recorded, not only those "
        "that register: the present ones, and others from the first program that they execute.",
        setting_types.flag,
        "0 or 1",
    )
    kernel_threads: bool = setting_field(
        Group.RUN,
        "0",
        "1: probes of the kernel also record its own threads, whoever they work for.",
        setting_types.flag,
        "0 or 1",
    )
    max_tier: str = setting_field(
        Group.RUN,
        "",
        "The best way of attaching that is tried, such as uprobe.multi; several with commas. "
        "Empty: the best there is.",
        setting_types.tiers,
        "tiers",
        environment=True,
    )
    log_level: str = setting_field(
        Group.RUN,
        "info",
        "debug, info, warning or error.",
        setting_types.one_of("debug", "info", "warning", "error"),
        "word",
        environment=True,
    )

    @classmethod
    def from_values(cls, values: Mapping[str, str], where: str) -> "SiteConfig":
        """Check values by key; missing ones get their defaults, unknown ones are ignored.

        Args:
            values: Text by key (``DATACRUMBS_...``).
            where: What errors call their source.

        Raises:
            ConfigurationError: A value cannot be used.
        """
        texts: dict[str, str] = {}
        parsed: dict[str, Any] = {}
        for setting in settings():
            text = values.get(setting.key)
            if text is None:
                text = _filled_default(setting, texts)
            texts[setting.name] = text
            parsed[setting.name] = parse_setting(setting, text, where)
        return cls(**parsed)

    def as_values(self) -> dict[str, str]:
        """Return every key with its value as text, as :meth:`from_values` reads it."""
        return {setting.key: _as_text(getattr(self, setting.name)) for setting in settings()}

    @property
    def trace_base_dir(self) -> Path:
        """The part of the trace directory that is the same for all runs."""
        parts: list[str] = []
        for part in Path(self.trace_dir_pattern).parts:
            if "%" in part:
                break
            parts.append(part)
        return Path(*parts)


def settings() -> Iterator[Setting]:
    """Yield every setting, in the order of the documentation."""
    for item in fields(SiteConfig):
        yield Setting(
            name=item.name,
            key=PREFIX + item.name.upper(),
            group=item.metadata["group"],
            meaning=item.metadata["meaning"],
            default=item.metadata["default"],
            from_environment=item.metadata["environment"],
            parse=item.metadata["parse"],
            type_name=item.metadata["type_name"],
        )


def setting_of(key: str, where: str) -> Setting:
    """Return the setting with this key.

    Raises:
        ConfigurationError: There is none; the hint names the nearest.
    """
    import difflib

    by_key = {setting.key: setting for setting in settings()}
    if key in by_key:
        return by_key[key]
    nearest = difflib.get_close_matches(key.upper(), by_key, 1, 0.6)
    every = "datacrumbs_system_configurator --show lists them all"
    raise ConfigurationError(
        f"{where}: {key}: no such setting",
        hint=f"did you mean {nearest[0]}?" if nearest else every,
    )


def parse_setting(setting: Setting, text: str, where: str) -> Any:
    """Return the value of a setting from its text.

    Raises:
        ConfigurationError: The text is not a value of it.
    """
    try:
        return setting.parse(text)
    except ValueError as error:
        raise ConfigurationError(f"{where}: {setting.key}: {text!r}: {error}") from error


def _filled_default(setting: Setting, texts: Mapping[str, str]) -> str:
    if setting.name == "job_id_var":
        scheduler = texts["job_scheduler"].upper()
        return {"FLUX": "FLUX_JOB_ID", "SLURM": "SLURM_JOB_ID"}.get(scheduler, "")
    return _PLACEHOLDER.sub(lambda match: texts[match[1]], setting.default())


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, tuple):
        return ":".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
