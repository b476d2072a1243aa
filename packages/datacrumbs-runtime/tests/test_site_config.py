from pathlib import Path

import pytest

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_runtime.schema.setting_types import Scheduler
from datacrumbs_runtime.schema.site_config import SiteConfig, setting_of, settings, site_of

CONTRACT_KEYS = {
    f"DATACRUMBS_{name}"
    for name in [
        "INSTALL_PREFIX",
        "INSTALL_HOST",
        "INSTALL_USER",
        "INSTALL_BIN_DIR",
        "INSTALL_SBIN_DIR",
        "INSTALL_LIB_DIR",
        "INSTALL_LIBEXEC_DIR",
        "INSTALL_ETC_DIR",
        "INSTALL_CONFIGS_DIR",
        "INSTALL_DATA_DIR",
        "INSTALL_MODULES_DIR",
        "INSTALL_PROBE_OBJECTS_DIR",
        "INSTALL_RUNSTATEDIR",
        "CLIENT_LIB",
        "TRACE_DIR_PATTERN",
        "JOB_SCHEDULER",
        "JOB_ID_VAR",
        "SERVER_RUN_DIR",
        "SERVER_RUN_ID_FILE",
        "LOG_DIR",
        "USER",
        "INCLUSION_PATHS",
        "KERNEL_UNAME_R",
        "KERNEL_HEADERS_PATH",
        "LIBC_SO",
        "DISABLE_PROBE_SIGNING",
    ]
}

INVALID = {
    "relative directory": ("DATACRUMBS_LOG_DIR", "var/log"),
    "directory with detour": ("DATACRUMBS_LOG_DIR", "/var/../etc"),
    "newline in path": ("DATACRUMBS_LOG_DIR", "/var/log\nX=1"),
    "NUL in path": ("DATACRUMBS_LOG_DIR", "/var/\0"),
    "unknown pattern": ("DATACRUMBS_TRACE_DIR_PATTERN", "/t/%YYYY%"),
    "unfinished pattern": ("DATACRUMBS_TRACE_DIR_PATTERN", "/t/%YY"),
    "unknown scheduler": ("DATACRUMBS_JOB_SCHEDULER", "PBS"),
    "shell in variable name": ("DATACRUMBS_JOB_ID_VAR", "A;rm"),
    "unknown mode": ("DATACRUMBS_MODE", "sample"),
    "size without number": ("DATACRUMBS_RING_BUFFER_BYTES", "M"),
    "size too small": ("DATACRUMBS_RING_BUFFER_BYTES", "1k"),
    "negative threshold": ("DATACRUMBS_THRESHOLD_NS", "-1"),
    "interval of nothing": ("DATACRUMBS_PROFILE_INTERVAL_S", "0"),
    "interval not a number": ("DATACRUMBS_PROFILE_INTERVAL_S", "nan"),
    "flag": ("DATACRUMBS_DISABLE_PROBE_SIGNING", "maybe"),
    "relative inclusion path": ("DATACRUMBS_INCLUSION_PATHS", "/a:b"),
    "user with slash": ("DATACRUMBS_USER", "a/b"),
}


def test_every_key_that_users_rely_on_exists() -> None:
    assert {setting.key for setting in settings()} >= CONTRACT_KEYS


def test_defaults_follow_the_prefix() -> None:
    config = SiteConfig.from_values({"DATACRUMBS_INSTALL_PREFIX": "/opt/dc"}, "test")
    assert config.install_data_dir == Path("/opt/dc/share/datacrumbs/data")
    assert config.client_lib == Path("/opt/dc/lib/libdatacrumbs_client.so")
    assert config.server_run_dir == Path("/var/run/datacrumbs")
    assert config.server_run_id_file == Path("/var/run/datacrumbs/datacrumbs.runid")
    assert config.threshold_ns == 0
    assert config.ring_buffer_bytes == 16 << 20
    assert config.profile_interval_s == 1
    assert config.max_runtime_functions == 16384
    assert not config.disable_probe_signing


@pytest.mark.parametrize(
    ("scheduler", "variable"), [("FLUX", "FLUX_JOB_ID"), ("slurm", "SLURM_JOB_ID"), ("NONE", "")]
)
def test_job_id_variable_follows_the_scheduler(scheduler: str, variable: str) -> None:
    config = SiteConfig.from_values({"DATACRUMBS_JOB_SCHEDULER": scheduler}, "test")
    assert config.job_scheduler is Scheduler(scheduler.upper())
    assert config.job_id_var == variable


def test_values_survive_being_written_and_read() -> None:
    values = {
        "DATACRUMBS_INSTALL_PREFIX": "/opt/dc",
        "DATACRUMBS_RING_BUFFER_BYTES": "64k",
        "DATACRUMBS_INCLUSION_PATHS": "/p/lustre:/home",
        "DATACRUMBS_PROFILE_INTERVAL_S": "0.5",
        "DATACRUMBS_MODE": "PROFILE",
        "DATACRUMBS_DISABLE_PROBE_SIGNING": "yes",
    }
    config = SiteConfig.from_values(values, "test")
    assert config.ring_buffer_bytes == 65536
    assert config.mode == "profile"
    assert SiteConfig.from_values(config.as_values(), "again") == config


@pytest.mark.parametrize(("key", "text"), INVALID.values(), ids=INVALID.keys())
def test_impossible_value_names_key_and_source(key: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"here: {key}: "):
        SiteConfig.from_values({key: text}, "here")


def test_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError) as caught:
        setting_of("DATACRUMBS_LOGDIR", "--set")
    assert caught.value.hint == "did you mean DATACRUMBS_LOG_DIR?"


@pytest.mark.parametrize(
    ("host", "site"),
    [("login1", "login"), ("node12.cluster.org", "node"), ("a1b2", "ab"), ("17", "17")],
)
def test_hosts_of_one_site_share_a_name(host: str, site: str) -> None:
    assert site_of(host) == site


def test_fixed_part_of_the_trace_directory() -> None:
    config = SiteConfig.from_values({"DATACRUMBS_TRACE_DIR_PATTERN": "/t/x/%USER%/%YY%"}, "test")
    assert config.trace_base_dir == Path("/t/x")
