"""Entries about custom probes: BPF source that the administrator put into the plugin directory."""

import json
from pathlib import Path
from typing import Any

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_runtime.schema.probe_file import Category
from datacrumbs_utils.discovery import matching
from datacrumbs_utils.discovery.candidates import Candidate
from datacrumbs_utils.discovery.choices import Choice
from datacrumbs_utils.discovery.entries import Entry
from datacrumbs_utils.discovery.exclusions import Exclusions

MAX_FILE_BYTES = 4 << 20
SOURCE_SUFFIXES = (".bpf.c", ".c")


def choose_custom(entry: Entry, exclusions: Exclusions) -> Choice:
    """Choose the functions that a custom probe reports.

    Raises:
        ConfigurationError: A file is missing or not of the expected form.
    """
    choice = Choice(entry)
    choice.path = _existing(entry.file or "")
    name_of = matching.matcher(entry)
    for name in _functions(_existing(entry.custom_probes or "")):
        candidate = Candidate(name)
        choice.found[name] = candidate
        if name_of(candidate) is not None:
            matching.choose(choice, name, candidate, exclusions)
    choice.remarks.append(
        f"plugin {_plugin(choice.path)} is compiled on the node, from the administrator's plugin "
        "directory and only if the site's policy allows it"
    )
    return choice


def custom_category(choice: Choice) -> Category:
    """Return the probe file's category of a custom probe."""
    entry = choice.entry
    if choice.path is None:
        raise ValueError("a choice of custom functions without its source")
    overrides = entry.function_arguments
    return Category(
        entry.probe,
        entry.category,
        tuple(choice.chosen),
        arguments={name: overrides[name] for name in choice.chosen if name in overrides},
        mode=entry.mode,
        plugin=_plugin(choice.path),
    )


def _plugin(source: Path) -> str:
    for suffix in SOURCE_SUFFIXES:
        if source.name.endswith(suffix):
            return source.name.removesuffix(suffix)
    return source.name


def _existing(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise ConfigurationError(f"{path}: no such file")
    return path


def _functions(path: Path) -> list[str]:
    try:
        with path.open("rb") as stream:
            document: Any = json.loads(stream.read(MAX_FILE_BYTES))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}: not JSON: {error}") from error
    found: dict[str, None] = {}
    for group in document if isinstance(document, list) else [document]:
        functions = group.get("functions") if isinstance(group, dict) else None
        if not isinstance(functions, list):
            raise ConfigurationError(f"{path}: needs a list of groups, each with functions")
        for function in functions:
            if not isinstance(function, str) or not function:
                raise ConfigurationError(f"{path}: a function is not a name")
            found.setdefault(function)
    if not found:
        raise ConfigurationError(f"{path}: names no function")
    return list(found)
