"""The custom probes of a run: which are allowed, and getting them to run."""

import secrets
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from datacrumbs_runtime.bpf.attach_report import AttachFailure
from datacrumbs_runtime.errors import DatacrumbsError
from datacrumbs_runtime.schema.probe_file import Category, ProbeFile, ProbeType
from datacrumbs_runtime.schema.system_configuration import SystemConfiguration

if TYPE_CHECKING:
    from datacrumbs_runtime.custom.host import CustomProbe
    from datacrumbs_runtime.engine import Engine

BPF_FILE_SYSTEM = Path("/sys/fs/bpf")


def split_off(probe_file: ProbeFile) -> tuple[ProbeFile, tuple[Category, ...]]:
    """Return a probe file without its custom categories, and those."""
    custom = tuple(item for item in probe_file.categories if item.type is ProbeType.CUSTOM)
    others = tuple(item for item in probe_file.categories if item.type is not ProbeType.CUSTOM)
    return replace(probe_file, categories=others), custom


def forbidden(system: SystemConfiguration, *, is_switched_on: bool) -> str | None:
    """Return why custom probes may not be used here, or None."""
    if not is_switched_on:
        return "custom probes are switched off: DATACRUMBS_CUSTOM_PROBES is 0"
    if not system.root_only:
        return f"custom probes are off: others than root could have written {system.path}"
    return None


def pinned_processes(run_id: str, directory: Path = BPF_FILE_SYSTEM) -> Path:
    """Return a name for the map of a run's processes; what an earlier run left is removed.

    Everybody may make directories there, so the name is one that nobody knows before.
    """
    # That file system knows no dots, and run ids have no plus.
    stem = f"datacrumbs-{run_id.replace('.', '+')}-processes"
    for left in directory.glob(f"{stem}+*"):
        with suppress(OSError):
            left.unlink()
    return directory / f"{stem}+{secrets.token_hex(8)}"


def attach_custom(
    categories: Sequence[Category],
    engine: "Engine",
    directory: Path,
    run_id: str,
    stack: ExitStack,
    *,
    mode: str,
    interval_s: float,
    timeout_s: float,
) -> tuple[list["CustomProbe"], list[AttachFailure]]:
    """Compile and attach custom probes; one that fails stops no other.

    Args:
        categories: What is to be recorded.
        engine: The run, with ``publish_processes``.
        directory: The administrator's plugin directory.
        run_id: Id of the run.
        stack: Takes over what has to be closed.
        mode: ``trace`` or ``profile``, for categories that do not say.
        interval_s: Interval of profile mode, in seconds.
        timeout_s: Longest time for each.

    Returns:
        The probes that run, and the functions that are not recorded.
    """
    # Most runs have none, and reading plugins needs more than all the rest here.
    from datacrumbs_runtime.custom.host import CustomProbe
    from datacrumbs_runtime.custom.plugin import read_plugin

    probes: list[CustomProbe] = []
    failures: list[AttachFailure] = []
    name = pinned_processes(run_id)
    try:
        engine.pin_processes(name)
    except (OSError, DatacrumbsError) as error:
        return [], _all_failed(categories, str(error))
    try:
        for category in categories:
            try:
                plugin = read_plugin(directory, category.plugin or "")
                chosen = frozenset(category.functions)
                missing = chosen - set(plugin.functions)
                is_counted = (category.mode or mode) == "profile"
                probe = CustomProbe(
                    plugin,
                    category.name,
                    chosen,
                    name,
                    counted_every_s=interval_s if is_counted else None,
                    timeout_s=timeout_s,
                )
            except DatacrumbsError as error:
                failures += _all_failed([category], str(error))
                continue
            stack.callback(probe.close)
            probes.append(probe)
            failures += [
                AttachFailure(category.name, function, f"{plugin.name} reports no such function")
                for function in sorted(missing)
            ]
    finally:
        # Those that run have opened it; nobody else shall.
        name.unlink(missing_ok=True)
    return probes, failures


def _all_failed(categories: Sequence[Category], reason: str) -> list[AttachFailure]:
    return [
        AttachFailure(category.name, function, reason)
        for category in categories
        for function in category.functions
    ]
