"""Control groups by path: the ids by which the programs know one."""

import os
from dataclasses import dataclass
from pathlib import Path

from datacrumbs_runtime.errors import ConfigurationError

MOUNTS = Path("/proc/self/mounts")
CONTROLLERS = Path("/proc/cgroups")
_HINT = "the line that begins with 0:: in /proc/PID/cgroup names one"


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A control group.

    Attributes:
        id: What tells it from others of its hierarchy.
        hierarchy: Number of the hierarchy; 0: the unified one (v2).
        directory: Its directory.
    """

    id: int
    hierarchy: int
    directory: Path


def find_cgroup(path: Path) -> Cgroup:
    """Return a control group of either kind.

    Args:
        path: Its directory, or its name in the unified hierarchy, as in /proc/PID/cgroup.

    Raises:
        ConfigurationError: It is not there, or is no control group with a controller.
    """
    unified = unified_mount()
    directory = path
    if unified is not None and not path.is_relative_to("/sys"):
        directory = unified / str(path).lstrip("/")
    try:
        status = directory.stat()
    except OSError as error:
        raise ConfigurationError(f"--cgroup: {directory}: {error.strerror}", hint=_HINT) from error
    for mount, kind, options in _mounts():
        try:
            is_here = kind in ("cgroup", "cgroup2") and mount.stat().st_dev == status.st_dev
        except OSError:
            continue
        hierarchy = _hierarchy(kind, options) if is_here else None
        if hierarchy is not None:
            # The inode number of a cgroup's directory is its id: kernfs_id() in the kernel.
            return Cgroup(status.st_ino, hierarchy, directory)
    raise ConfigurationError(
        f"--cgroup: {directory}: no control group with a controller",
        hint=_HINT,
    )


def unified_mount() -> Path | None:
    """Return where the unified hierarchy is mounted, or None."""
    return next((mount for mount, kind, _ in _mounts() if kind == "cgroup2"), None)


def _mounts() -> list[tuple[Path, str, frozenset[str]]]:
    """Return directory, type and options of all mounts."""
    found = []
    for line in os.fsdecode(MOUNTS.read_bytes()).splitlines():
        _, directory, kind, options, *_ = line.split(" ")
        found.append((Path(directory.replace("\\040", " ")), kind, frozenset(options.split(","))))
    return found


def _hierarchy(kind: str, options: frozenset[str]) -> int | None:
    """Return the number of a mounted hierarchy, or None: it has no controller."""
    if kind == "cgroup2":
        return 0
    for line in CONTROLLERS.read_text().splitlines():
        name, number, *_ = line.split()
        if name in options and number != "0":
            return int(number)
    return None
