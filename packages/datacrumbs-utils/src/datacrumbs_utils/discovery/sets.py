"""Probe sets that come with DataCrumbs, and configurations named where a set could be."""

import dataclasses
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path

from datacrumbs_runtime.errors import ConfigurationError, UsageError
from datacrumbs_utils.discovery import config
from datacrumbs_utils.discovery.config import HostConfig
from datacrumbs_utils.discovery.entries import Entry
from datacrumbs_utils.discovery.problems import Problem, nearest

MAX_INCLUDE_DEPTH = 8


def names() -> tuple[str, ...]:
    """Return the names of the built-in sets."""
    directory = resources.files("datacrumbs_utils") / "data" / "probe-sets"
    return tuple(
        sorted(
            file.name.removesuffix(".yaml")
            for file in directory.iterdir()
            if file.name.endswith(".yaml")
        )
    )


def load(name_or_path: str, variables: Mapping[str, str] | None = None) -> HostConfig:
    """Return a built-in set, a host configuration, or several of them together.

    Args:
        name_or_path: The name of a built-in set, the path of a YAML file, or a list of these with
            commas. A path that exists is a path even if it contains a comma.
        variables: Values for ``@NAME@``; None: the environment.

    Returns:
        The configuration with everything it includes. What is wrong with it is in its
        ``problems``, so that it can be said together with what a selection finds.

    Raises:
        UsageError: There is neither such a set nor such a file.
        ConfigurationError: A file cannot be read.
    """
    parts = [name_or_path]
    if "," in name_or_path and not Path(name_or_path).exists():
        parts = [part.strip() for part in name_or_path.split(",") if part.strip()]
    loaded = [_one(part, None, variables, 0) for part in parts]
    if not loaded:
        raise UsageError(f"no probe set is named: {name_or_path!r}", hint=_hint())
    return loaded[0] if len(loaded) == 1 else _joined(name_or_path, loaded)


def with_includes(
    loaded: HostConfig, variables: Mapping[str, str] | None = None, depth: int = 0
) -> HostConfig:
    """Put the entries of what a configuration includes in front of its own."""
    if not loaded.include:
        return loaded
    if depth >= MAX_INCLUDE_DEPTH:
        raise ConfigurationError(f"{loaded.path}: includes are nested too deeply")
    base = Path(loaded.path).parent
    included = [_one(name, base, variables, depth + 1) for name in loaded.include]
    joined = _joined(loaded.path, [*included, loaded])
    return dataclasses.replace(
        joined,
        include=loaded.include,
        trace_log_dir=loaded.trace_log_dir or joined.trace_log_dir,
        data_dir=loaded.data_dir or joined.data_dir,
        user=loaded.user or joined.user,
        inclusion_path=loaded.inclusion_path or joined.inclusion_path,
    )


def _one(
    name: str, base: Path | None, variables: Mapping[str, str] | None, depth: int
) -> HostConfig:
    if name in names():
        file = resources.files("datacrumbs_utils") / "data" / "probe-sets" / f"{name}.yaml"
        built_in = config.parse(
            file.read_text("utf-8"), name, {} if variables is None else variables
        )
        entries = tuple(dataclasses.replace(entry, is_optional=True) for entry in built_in.entries)
        return with_includes(dataclasses.replace(built_in, entries=entries), variables, depth)
    path = Path(name)
    if base is not None and not path.is_absolute():
        path = base / path
    if not path.exists() and "/" not in name and not name.endswith((".yaml", ".yml")):
        raise UsageError(
            f"there is no probe set {name!r} and no such file{nearest(name, names())}", hint=_hint()
        )
    return with_includes(config.read(path, variables), variables, depth)


def _joined(path: str, configs: list[HostConfig]) -> HostConfig:
    def first(values: Iterator[str | None]) -> str | None:
        return next((value for value in values if value), None)

    return HostConfig(
        path=path,
        entries=tuple(_without_repeats(entry for one in configs for entry in one.entries)),
        trace_log_dir=first(one.trace_log_dir for one in configs),
        data_dir=first(one.data_dir for one in configs),
        user=first(one.user for one in configs),
        inclusion_path=next((one.inclusion_path for one in configs if one.inclusion_path), ()),
        problems=_problems(configs),
    )


def _without_repeats(entries: Iterator[Entry]) -> Iterator[Entry]:
    """A set that is named twice, by itself and by way of another, counts once."""
    seen = set()
    for entry in entries:
        place = (entry.where, entry.position)
        if place not in seen:
            seen.add(place)
            yield entry


def _problems(configs: list[HostConfig]) -> tuple[Problem, ...]:
    return tuple(dict.fromkeys(problem for one in configs for problem in one.problems))


def _hint() -> str:
    return f"built-in sets: {', '.join(names())}; or give the path of a YAML file"
