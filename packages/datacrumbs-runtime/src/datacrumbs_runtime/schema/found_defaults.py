"""Defaults of settings that are found on the machine."""

import os
import re
from pathlib import Path

from datacrumbs_runtime.schema.setting_types import Scheduler


def default_scheduler() -> str:
    """Return the scheduler whose programs are on this machine."""
    import shutil

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
