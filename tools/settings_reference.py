#!/usr/bin/env python3
"""Write the page about the settings of an installation, from their definitions.

usage: settings_reference.py FILE

A file whose name ends in ".7" is a manual page, any other one of the documentation.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from datacrumbs_runtime.schema.setting import Group, Setting
from datacrumbs_runtime.schema.site_config import settings

INTRODUCTION = {
    Group.INSTALLATION: "Facts of the installation, fixed when it is made.",
    Group.SITE: "What the administrator decides once for all runs. For one run `--user`, "
    "`--trace-dir-pattern`, `--log-dir` and `--start-timeout-s` of `datacrumbs` change it.",
    Group.RUN: "Defaults of a run. Each is also an option of the command `datacrumbs`.",
}
# Defaults that are found on the machine rather than written down.
FOUND = {
    "install_host": "this host's",
    "job_scheduler": "what is installed",
    "job_id_var": "the scheduler's: `FLUX_JOB_ID` or `SLURM_JOB_ID`",
    "kernel_uname_r": "the running kernel",
    "libc_so": "the one in use",
}

ALSO_EXPORTED = {
    "DATACRUMBS_VERSION": "version of DataCrumbs",
    "DATACRUMBS_IS_ROOT": "1 for root, else 0",
    "DATACRUMBS_MODULEPATH": "directory of the module files",
    "DATACRUMBS_PROBE_SECRET_FILE": "path of the probe secret",
    "DATACRUMBS_SERVER_RUN_ID": "the run: as set before, else the job's id, else this node's "
    "newest run",
    "DATACRUMBS_SERVER_PID_FILE": "`<run dir>/datacrumbs-<run id>.pid`",
    "DATACRUMBS_SERVER_READY_FILE": "`<run dir>/datacrumbs-<run id>.ready`",
    "DATACRUMBS_SERVER_STATUS_FILE": "`<run dir>/datacrumbs-<run id>.json`",
    "DATACRUMBS_SERVER_ENV_FILE": "`<run dir>/datacrumbs-<run id>.env`",
    "DATACRUMBS_LOG_FILE": "`<log dir>/datacrumbs_<user>_<run id>_<host>.log`",
}
ONLY_ENVIRONMENT = {
    "DATACRUMBS_SYSTEM_PROBE_FILE_OVERRIDE": "path of the system configuration",
    "DATACRUMBS_SIGN_PROBES_SOCKET_PATH": "socket of the signer, for clients",
    "DATACRUMBS_PROBE_FILE": "probe file of a run, read by the unit",
    "DATACRUMBS_SERVICE_RUN_ID": "id of a run that a service manager started: its log is a file",
    "DATACRUMBS_CGROUP": "as `--cgroup`: only processes of this cgroup can register",
    "VERBOSE, QUIET, DRY_RUN": "as the options of these names",
}
RESERVED = {
    "DATACRUMBS_INPUT_DRY_RUN": "`yes`: print what would be submitted instead of submitting it",
    "DATACRUMBS_SERVICE_PHASE_OVERRIDE": "`prolog` or `epilog`: which of them is tried out",
}


def default_of(setting: Setting) -> str:
    """Return what the page shows as a setting's default."""
    if setting.name in FOUND:
        return FOUND[setting.name]
    text = setting.default()
    return f"`{re.sub(r'{([a-z_]+)}', lambda match: f'<{match[1]}>', text)}`" if text else "empty"


def lines() -> Iterator[str]:
    """Yield the lines of the page."""
    yield "# Settings\n"
    yield (
        "`datacrumbs_system_configurator` makes the file with the settings of an installation, "
        "shows them (`--show`) and changes one (`--set KEY=VALUE`). `<name>` in a default stands "
        "for the setting `DATACRUMBS_NAME`. Where the environment may override a setting, it "
        "does so under the same name, and the daemon warns of variables that it may not take; "
        "options of a command win over both. Sizes can have a suffix (`64k`, `16M`).\n"
    )
    yield (
        "The file is `<prefix>/share/datacrumbs/data/system-probe-<install user>-<host>.sqlite` "
        "with the tables `system_configuration(key, value)` and `summary(key, value)`; settings "
        "of a run are in it only if somebody set them. `. <prefix>/bin/datacrumbs_setup` exports "
        "those of installation and site to a shell and puts the commands on PATH.\n"
    )
    for group, introduction in INTRODUCTION.items():
        yield f"## {group.value.capitalize()}\n\n{introduction}\n"
        yield "| key | value | default | environment | meaning |\n|---|---|---|---|---|"
        for setting in settings():
            if setting.group is group:
                overrides = "yes" if setting.from_environment else "no"
                yield (
                    f"| `{setting.key}` | {setting.type_name} | {default_of(setting)} "
                    f"| {overrides} | {setting.meaning} |"
                )
        yield ""
    for heading, variables in (
        ("Also exported by `datacrumbs_setup`", ALSO_EXPORTED),
        ("Only in the environment", ONLY_ENVIRONMENT),
        ("Reserved for the integration of schedulers", RESERVED),
    ):
        yield f"## {heading}\n\n| variable | meaning |\n|---|---|"
        yield from (f"| `{name}` | {meaning} |" for name, meaning in variables.items())
        yield ""


def roff(text: str) -> str:
    """Return text of the page as roff has it: names bold, nothing taken for a request."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"`([^`]*)`", r"\\fB\1\\fP", re.sub(r"^([.'])", r"\\&\1", text, flags=re.M))


def manual_page() -> str:
    """Return the page as one of the manual."""
    page = [
        '.TH "datacrumbs_settings" "7" "" "DataCrumbs" "DataCrumbs"',
        # A hyphen within a path would be read as a part of it.
        ".nh",
        ".ad l",
        ".SH NAME",
        r"datacrumbs_settings \- settings and variables of DataCrumbs",
    ]
    for line in lines():
        for part in line.splitlines():
            cells = [cell.strip() for cell in part.strip("|").split(" | ")]
            if part == "# Settings":
                page.append(".SH DESCRIPTION")
            elif part.startswith("## "):
                page.append(f".SH {roff(part[3:].replace('`', '').upper())}")
            elif part.startswith("| `") or part.startswith("| VERBOSE"):
                page += [".TP", roff(cells[0]), roff(cells[-1])]
                if len(cells) == 5:
                    _, kind, default, overrides, _ = cells
                    also = "; also from the environment" if overrides == "yes" else ""
                    page += [".br", roff(f"({kind}; default: {default}{also})")]
            elif part and not part.startswith("|"):
                page += [".PP", roff(part)]
    page += [".SH SEE ALSO", r"datacrumbs_system_configurator(8), datacrumbs(8)"]
    return "\n".join(page) + "\n"


def write_settings(path: Path) -> None:
    """Write the page, if it changed."""
    text = manual_page() if path.suffix == ".7" else "\n".join(lines())
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write_settings(Path(sys.argv[1]))
