"""The settings of an installation: every ``DATACRUMBS_*`` key, its default, and who may change it.

They are stored in the system configuration (``schema.system_configuration``); a key that it lacks
has its default.
"""

# ruff: noqa: RUF009  the functions below are dataclasses.field() by other names

import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_runtime.schema import setting_types
from datacrumbs_runtime.schema.setting_types import Scheduler

PREFIX = "DATACRUMBS_"
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


class Group(Enum):
    """Where a setting is at home."""

    INSTALLATION = "installation"
    """Facts of this installation, fixed when it is made."""
    SITE = "site"
    """What the administrator decides, once for all runs."""
    RUN = "run"
    """Defaults of a run, which its options can change."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One key.

    Attributes:
        name: The attribute of :class:`SiteConfig`.
        key: The name in files and in the environment.
        group: Where it is at home.
        meaning: One sentence for the documentation.
        default: Its default as text; ``{name}`` stands for another setting.
        from_environment: Whether a variable of this name in the environment wins over the file.
        parse: From text to value.
        type_name: What kind of value it is, for the documentation.
    """

    name: str
    key: str
    group: Group
    meaning: str
    default: Callable[[], str]
    from_environment: bool
    parse: Callable[[str], Any]
    type_name: str


def site_of(hostname: str) -> str:
    """Return what the hosts of one site have in common: the short host name without digits."""
    short = hostname.partition(".")[0]
    return "".join(character for character in short if not character.isdigit()) or short


def default_scheduler() -> str:
    """Return the scheduler whose programs are on this machine."""
    search = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/bin", "/usr/local/bin"))
    for program, scheduler in (("flux", Scheduler.FLUX), ("sbatch", Scheduler.SLURM)):
        if shutil.which(program, path=search):
            return scheduler.value
    return Scheduler.NONE.value


def default_libc() -> str:
    """Return the C library that programs on this machine use."""
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        path = line.partition("/")[2]
        if re.search(r"(^|/)libc(\.so\.6|-[0-9.]+\.so)$", path):
            return f"/{path}"
    return "/lib64/libc.so.6"


def _setting(
    group: Group,
    default: str | Callable[[], str],
    meaning: str,
    parse: Callable[[str], Any],
    type_name: str,
    *,
    environment: bool = False,
) -> Any:
    return field(
        metadata={
            "group": group,
            "default": default if callable(default) else lambda: default,
            "meaning": meaning,
            "parse": parse,
            "type_name": type_name,
            "environment": environment,
        }
    )


def _fact(default: str | Callable[[], str], meaning: str) -> Any:
    return _setting(Group.INSTALLATION, default, meaning, setting_types.absolute_path, "path")


@dataclass(frozen=True, slots=True)
class SiteConfig:
    """The settings of an installation, each checked; see :func:`settings` for what they mean."""

    install_prefix: Path = _fact("/usr/local", "Where DataCrumbs is installed.")
    install_host: str = _setting(
        Group.INSTALLATION,
        lambda: site_of(socket.gethostname()),
        "Host name in names of files: without digits, so that login1 and login2 share them.",
        setting_types.name,
        "name",
    )
    install_user: str = _setting(
        Group.INSTALLATION, "root", "Who owns the installation.", setting_types.name, "name"
    )
    install_bin_dir: Path = _fact("{install_prefix}/bin", "Commands for users.")
    install_sbin_dir: Path = _fact("{install_prefix}/sbin", "Commands for root.")
    install_lib_dir: Path = _fact("{install_prefix}/lib", "The client library.")
    install_libexec_dir: Path = _fact(
        "{install_prefix}/libexec/datacrumbs", "The Python environment of the commands."
    )
    install_etc_dir: Path = _fact("{install_prefix}/etc/datacrumbs", "Configuration.")
    install_configs_dir: Path = _fact("{install_etc_dir}/configs", "Host configurations.")
    install_data_dir: Path = _fact(
        "{install_prefix}/share/datacrumbs/data",
        "This system configuration, the keys, the status databases.",
    )
    install_modules_dir: Path = _fact(
        "{install_etc_dir}/lmod/modulefiles", "Files for environment modules."
    )
    install_probe_objects_dir: Path = _fact(
        "{install_libexec_dir}/probes",
        "Custom probes: the only place that they are loaded from.",
    )
    install_runstatedir: Path = _fact("/var/run", "Where files of running programs are.")
    client_lib: Path = _fact(
        "{install_lib_dir}/libdatacrumbs_client.so",
        "The library through which programs register with a run.",
    )

    trace_dir_pattern: str = _setting(
        Group.SITE,
        "/var/log/datacrumbs/traces/%YY%/%MM%/%DD%",
        "Where traces go. %YY% %MM% %DD% are the local date, two digits each; %USER%, %RUN_ID% "
        "and %HOST% can be used as well.",
        setting_types.path_pattern,
        "path pattern",
        environment=True,
    )
    job_scheduler: Scheduler = _setting(
        Group.SITE,
        default_scheduler,
        "Which scheduler starts runs: FLUX, SLURM or NONE.",
        setting_types.scheduler,
        "FLUX, SLURM, NONE",
    )
    job_id_var: str = _setting(
        Group.SITE,
        "{job_id_var}",
        "The environment variable that holds the job id, from which a run takes its id.",
        setting_types.variable_name,
        "variable",
        environment=True,
    )
    server_run_dir: Path = _setting(
        Group.SITE,
        "{install_runstatedir}/datacrumbs",
        "Files of the runs on a node: ready, pid, status, env, socket of the signer.",
        setting_types.absolute_path,
        "path",
    )
    server_run_id_file: Path = _setting(
        Group.SITE,
        "{server_run_dir}/datacrumbs.runid",
        "Holds the id of the newest run, without a newline.",
        setting_types.absolute_path,
        "path",
    )
    log_dir: Path = _setting(
        Group.SITE,
        "/var/log/datacrumbs",
        "Logs of runs that the service manager started.",
        setting_types.absolute_path,
        "path",
        environment=True,
    )
    user: str = _setting(
        Group.SITE,
        "",
        "Whose processes a run records. Empty: the user for whom the probe file was signed.",
        setting_types.optional_name,
        "name",
        environment=True,
    )
    kernel_uname_r: str = _setting(
        Group.SITE,
        lambda: os.uname().release,
        "The kernel that the site's host configurations are made for.",
        setting_types.text,
        "text",
    )
    kernel_headers_path: str = _setting(
        Group.SITE,
        "/usr/src/kernels/{kernel_uname_r}",
        "Headers of the kernel, for host configurations that name functions by header. "
        "They may be missing: BTF takes their place.",
        setting_types.text,
        "path",
        environment=True,
    )
    libc_so: Path = _setting(
        Group.SITE,
        default_libc,
        "The C library, for host configurations.",
        setting_types.absolute_path,
        "path",
        environment=True,
    )
    disable_probe_signing: bool = _setting(
        Group.SITE,
        "0",
        "1: probe files without a valid signature are accepted. Honoured only if this file and its "
        "directory belong to root alone; every log says so.",
        setting_types.flag,
        "0 or 1",
    )
    max_runtime_functions: int = _setting(
        Group.SITE,
        "16384",
        "How many functions one probe file may have.",
        setting_types.whole(1, 1 << 20),
        "count",
    )
    custom_probes: bool = _setting(
        Group.SITE,
        "0",
        "1: custom probes of DATACRUMBS_INSTALL_PROBE_OBJECTS_DIR may be compiled and loaded.",
        setting_types.flag,
        "0 or 1",
    )
    start_timeout_s: float = _setting(
        Group.SITE,
        "5",
        "A run that is not ready by then gives up.",
        setting_types.seconds(0.5, 3600),
        "seconds",
        environment=True,
    )
    server_load_timeout: int = _setting(
        Group.SITE,
        "600",
        "How many seconds others wait for the ready file of a run.",
        setting_types.whole(1, 86400),
        "seconds",
        environment=True,
    )

    inclusion_paths: tuple[Path, ...] = _setting(
        Group.RUN,
        "",
        "Only calls about files below these directories are kept (separated by colons). "
        "Empty: all calls.",
        setting_types.paths,
        "paths",
        environment=True,
    )
    mode: str = _setting(
        Group.RUN,
        "trace",
        "trace: one event per call; profile: sums per function, process and interval.",
        setting_types.one_of("trace", "profile"),
        "trace, profile",
        environment=True,
    )
    ring_buffer_bytes: int = _setting(
        Group.RUN,
        "16M",
        "Ring buffer of each CPU.",
        setting_types.size(4096, 1 << 30),
        "size",
        environment=True,
    )
    strings_buffer_bytes: int = _setting(
        Group.RUN,
        "8M",
        "Ring buffer of texts and paths.",
        setting_types.size(4096, 1 << 30),
        "size",
        environment=True,
    )
    threshold_ns: int = _setting(
        Group.RUN,
        "0",
        "Calls shorter than this many nanoseconds are summed per function instead of written.",
        setting_types.whole(0, 10**12),
        "nanoseconds",
        environment=True,
    )
    profile_interval_s: float = _setting(
        Group.RUN,
        "1",
        "Length of an interval in profile mode.",
        setting_types.seconds(0.05, 3600),
        "seconds",
        environment=True,
    )
    string_capture_bytes: int = _setting(
        Group.RUN,
        "64",
        "Longest captured text of a char * argument; paths are always whole.",
        setting_types.whole(1, 4096),
        "bytes",
        environment=True,
    )
    throttle_calls_per_s: int = _setting(
        Group.RUN,
        "2000000",
        "A function called more often than this is counted instead of traced until it calms down; "
        "the trace says when. 0: never.",
        setting_types.whole(0, 10**12),
        "calls per second",
        environment=True,
    )
    kernel_threads: bool = _setting(
        Group.RUN,
        "0",
        "1: probes of the kernel also record its own threads, whoever they work for.",
        setting_types.flag,
        "0 or 1",
    )
    max_tier: str = _setting(
        Group.RUN,
        "",
        "The best way of attaching that is tried, such as uprobe.multi; several with commas. "
        "Empty: the best there is.",
        setting_types.tiers,
        "tiers",
        environment=True,
    )
    log_level: str = _setting(
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
    def secret_path(self) -> Path:
        """The secret that signs probe files."""
        return self.install_data_dir / ".datacrumbs-probe-secret"

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
    raise ConfigurationError(
        f"{where}: {key}: no such setting",
        hint=f"did you mean {nearest[0]}?" if nearest else "--show lists them all",
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
