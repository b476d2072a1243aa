#!/usr/bin/env python3
"""Write the page about the settings of an installation, from their definitions.

usage: settings_reference.py FILE
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from datacrumbs_runtime.schema.site_config import Group, Setting, settings

INTRODUCTION = {
    Group.INSTALLATION: "Facts of the installation, fixed when it is made.",
    Group.SITE: "What the administrator decides once for all runs.",
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
        "does so under the same name; options of a command win over both.\n"
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


def write_settings(path: Path) -> None:
    """Write the page, if it changed."""
    text = "\n".join(lines())
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write_settings(Path(sys.argv[1]))
