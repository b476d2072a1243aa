"""Control groups by path: the id by which the programs know one."""

import os
from pathlib import Path

from datacrumbs_runtime.errors import ConfigurationError

MOUNTS = Path("/proc/self/mounts")


def cgroup_id(path: Path) -> int:
    """Return the id of a cgroup.

    Args:
        path: Its directory, or its name below the mount point, as in /proc/PID/cgroup.

    Raises:
        ConfigurationError: It is not there, or not in the unified hierarchy (v2).
    """
    mount = unified_mount()
    directory = path
    if mount is not None and not path.is_relative_to("/sys"):
        directory = mount / str(path).lstrip("/")
    try:
        status = directory.stat()
    except OSError as error:
        raise ConfigurationError(f"--cgroup: {directory}: {error.strerror}") from error
    if mount is None or status.st_dev != mount.stat().st_dev:
        raise ConfigurationError(
            f"--cgroup: {directory}: not a cgroup of the unified hierarchy (v2)",
            hint="the line that begins with 0:: in /proc/PID/cgroup names it",
        )
    # The inode number of a cgroup's directory is its id: kernfs_id() in the kernel.
    return status.st_ino


def unified_mount() -> Path | None:
    """Return where the unified hierarchy is mounted, or None."""
    for line in os.fsdecode(MOUNTS.read_bytes()).splitlines():
        _, directory, kind, *_ = line.split(" ")
        if kind == "cgroup2":
            return Path(directory.replace("\\040", " "))
    return None
