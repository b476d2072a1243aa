"""Host configurations: which functions of which libraries and of the kernel are to be probed."""

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_utils.discovery import entries, templates, yaml_nodes
from datacrumbs_utils.discovery.entries import Entry
from datacrumbs_utils.discovery.problems import Position, Problem, Problems, nearest
from datacrumbs_utils.discovery.values import Values

TOP_LEVEL_KEYS = (
    "capture_probes",
    "trace_log_dir",
    "data_dir",
    "user",
    "inclusion_path",
    "include",
    "version",
)
# What is a setting of the installation or of a run today; files that have them keep working.
OLD_TOP_LEVEL_KEYS = ("name", "install_dir", "mode", "trace_file_path", "profiling_interval")


@dataclass(frozen=True, slots=True)
class HostConfig:
    """A host configuration.

    Attributes:
        path: The file it came from; the name of a built-in set otherwise.
        entries: The groups of functions, in the order of the file.
        trace_log_dir: Where traces are meant to go; a probe file does not carry it.
        data_dir: Where lists of excluded functions are kept, or None for the installation's.
        user: Who the probe file is for, or None for whoever makes it.
        inclusion_path: Below which directories files are meant; a probe file does not carry it.
        include: Names of built-in sets, or paths of configurations, that come first.
        problems: What is wrong with the file, for :func:`problems.raise_errors`.
    """

    path: str
    entries: tuple[Entry, ...]
    trace_log_dir: str | None = None
    data_dir: str | None = None
    user: str | None = None
    inclusion_path: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def read(path: Path, variables: Mapping[str, str] | None = None) -> HostConfig:
    """Read a host configuration, healthy or not.

    Args:
        path: The YAML file.
        variables: Values for ``@NAME@``; None: the environment.

    Returns:
        What could be understood, with everything that could not in ``problems``.

    Raises:
        ConfigurationError: The file cannot be read at all.
    """
    data = _bytes(path)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}:{line}: not UTF-8 text") from error
    return parse(text, str(path), variables)


def _bytes(path: Path) -> bytes:
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for somebody to write to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ConfigurationError(f"{path}: not a regular file")
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read(yaml_nodes.MAX_FILE_BYTES + 1)


def parse(text: str, where: str, variables: Mapping[str, str] | None = None) -> HostConfig:
    """Understand the text of a host configuration.

    Args:
        text: YAML.
        where: What problems call it, usually the path.
        variables: Values for ``@NAME@``; None: the environment.
    """
    problems = Problems(where)
    tree = yaml_nodes.compose(templates.mark(text), problems)
    if tree is None:
        if not problems.found:
            problems.error(Position(1, 1), "the file is empty, it needs capture_probes")
        return HostConfig(where, (), problems=tuple(problems.found))
    if not isinstance(tree, yaml_nodes.Mapping):
        problems.error(tree.position, "the top level must be a mapping with capture_probes")
        return HostConfig(where, (), problems=tuple(problems.found))
    top = Values(tree, templates.variables() if variables is None else variables, problems)
    for key in top.unknown_keys(TOP_LEVEL_KEYS):
        if key.text in OLD_TOP_LEVEL_KEYS:
            problems.warning(key.position, f"{key.text} is of older versions and means nothing")
        else:
            known = nearest(key.text, TOP_LEVEL_KEYS)
            problems.error(key.position, f"unknown key {key.text}{known}")
    include = top.texts("include")
    parsed = _entries(top, problems, needs_entries=not include)
    inclusion = top.text("inclusion_path")
    return HostConfig(
        path=where,
        entries=tuple(parsed),
        trace_log_dir=top.text("trace_log_dir"),
        data_dir=top.text("data_dir"),
        user=top.text("user"),
        inclusion_path=tuple(part for part in (inclusion or "").split(":") if part),
        include=include,
        problems=tuple(problems.found),
    )


def _entries(top: Values, problems: Problems, *, needs_entries: bool) -> Iterable[Entry]:
    node = top.node("capture_probes")
    if node is None:
        if needs_entries:
            problems.error(top.position, "capture_probes is missing")
        return
    if not isinstance(node, yaml_nodes.Sequence):
        problems.error(node.position, "capture_probes must be a list of entries")
        return
    if not node.items and needs_entries:
        problems.error(node.position, "capture_probes is empty")
    for item in node.items:
        if isinstance(item, yaml_nodes.Mapping):
            entry = entries.parse(Values(item, top.variables, problems), problems)
            if entry is not None:
                yield entry
        else:
            problems.error(item.position, "an entry must be a mapping with name and probe")
