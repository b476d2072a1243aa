"""From a host configuration to a probe file: find, choose, check the limit, place, describe."""

import getpass
import logging
import os
import pwd
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datacrumbs_runtime.errors import ConfigurationError, DatacrumbsError
from datacrumbs_runtime.schema.probe_file import (
    DEFAULT_MAX_FUNCTIONS,
    Category,
    ProbeFile,
    ProbeType,
    Summary,
)
from datacrumbs_runtime.schema.site_config import site_of
from datacrumbs_utils.discovery import matching, report
from datacrumbs_utils.discovery.choices import Choice
from datacrumbs_utils.discovery.config import HostConfig
from datacrumbs_utils.discovery.entries import Entry
from datacrumbs_utils.discovery.exclusions import Exclusions
from datacrumbs_utils.discovery.machine import Machine
from datacrumbs_utils.discovery.problems import Problem, nearest, raise_errors
from datacrumbs_utils.discovery.report import Report

logger = logging.getLogger(__name__)

WARN_FROM = 0.9
BIGGEST_NAMED = 5

# Called with what is being done, how many steps are done, and how many there are.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Selection:
    """The functions that a configuration means on this machine.

    Attributes:
        probe_file: What to record, not signed yet.
        report: How it came about.
        choices: The candidates of each entry, for listings and explanations.
    """

    probe_file: ProbeFile
    report: Report
    choices: tuple[Choice, ...]

    def category_of(self, choice: Choice) -> Category | None:
        """Return the category of the probe file with an entry's functions; None: it has none."""
        return next(
            (
                one
                for one in self.probe_file.categories
                if one.type == choice.entry.probe
                and one.name == choice.entry.category
                and choice.chosen.keys() <= set(one.functions)
            ),
            None,
        )


def select(
    config: HostConfig,
    *,
    progress: Progress | None = None,
    exclusions: Exclusions | None = None,
    max_functions: int = DEFAULT_MAX_FUNCTIONS,
    output_path: Path | None = None,
    install_user: str | None = None,
) -> Selection:
    """Find the functions that a configuration means, and decide how each is probed.

    Args:
        config: The configuration; problems that it brings along are raised with those found here.
        progress: Called as the work goes on.
        exclusions: Functions to leave out.
        max_functions: More functions than this are an error, noticed before any slow work.
        output_path: Where the probe file will be written, for its summary.
        install_user: Who installed DataCrumbs, for the summary; None: the current user.

    Raises:
        ConfigurationError: The configuration has errors, means nothing on this machine, or too
            much. Every error is named with its place.
    """
    told = progress or _silent
    machine = Machine()
    problems = list(config.problems)
    choices: list[Choice] = []
    for number, entry in enumerate(config.entries):
        told(f"looking for {entry.name}", number, 2 * len(config.entries))
        choice = _choose(entry, machine, exclusions or Exclusions(), problems)
        if choice is not None:
            choices.append(choice)
    _drop_repeats(choices)
    raise_errors(problems)
    if not any(choice.chosen for choice in choices):
        raise ConfigurationError(
            f"{config.path}: none of its functions is on this machine",
            hint="datacrumbs_probe_configurator --dry-run --verbose says what was looked for",
        )
    warnings = [str(problem) for problem in problems if not problem.is_error]
    warnings += _check_limit(choices, max_functions)
    categories: list[Category] = []
    reports = []
    for number, choice in enumerate(choices, len(config.entries)):
        told(f"placing {choice.entry.name}", number, 2 * len(config.entries))
        category = _category(choice, machine) if choice.chosen else None
        if category is not None and category.functions:
            categories.append(category)
        reports.append(report.of_category(choice, category))
        for remark in choice.remarks:
            logger.debug("%s: %s", choice.entry.name, remark)
    told("done", 2 * len(config.entries), 2 * len(config.entries))
    summary = _summary(config, output_path, install_user)
    return Selection(
        ProbeFile(summary, tuple(categories)),
        Report(tuple(reports), tuple(warnings), max_functions),
        tuple(choices),
    )


def _silent(what: str, done: int, total: int) -> None:
    logger.debug("%s (%d of %d)", what, done, total)


def _choose(
    entry: Entry, machine: Machine, exclusions: Exclusions, problems: list[Problem]
) -> Choice | None:
    """Choose one entry's functions; None and a problem if its files are unusable."""
    try:
        choice = _candidates(entry, machine, exclusions)
    except DatacrumbsError as error:
        problems.append(_unusable(entry, error))
        return Choice(entry, remarks=[str(error)]) if entry.is_optional else None
    choice.chosen = matching.in_order(entry, choice.chosen)
    missing = matching.missing_names(entry, choice.found.values())
    for name in missing:
        if entry.is_optional:
            choice.remarks.append(f"{name} is not on this machine")
        else:
            known = [candidate.symbol for candidate in choice.found.values()]
            problems.append(
                Problem(
                    entry.where,
                    entry.place("functions"),
                    f"{entry.name}: no function {name}{nearest(name, known)}",
                    is_error=False,
                )
            )
    if not (choice.chosen or choice.excluded or choice.refused):
        _note_empty(entry, choice, problems)
    elif not choice.chosen:
        reasons = {**choice.excluded, **choice.refused}
        first = next(iter(reasons.values()))
        text = f"{entry.name}: none of {len(reasons)} functions is left: {first}"
        choice.remarks.append(text)
        if not entry.is_optional:
            problems.append(Problem(entry.where, entry.position, text, is_error=False))
    return choice


def _note_empty(entry: Entry, choice: Choice, problems: list[Problem]) -> None:
    where = f" of {choice.path}" if choice.path is not None else ""
    meant = f"regex {entry.regex.source}" if entry.regex else "it"
    text = f"{entry.name}: {meant} matches none of the {len(choice.found)} functions{where}"
    if entry.is_optional:
        choice.remarks.append(text)
        return
    key = "regex" if entry.regex else "functions" if entry.functions else "name"
    problems.append(Problem(entry.where, entry.place(key), text))


def _unusable(entry: Entry, error: DatacrumbsError) -> Problem:
    key = "binary_path" if "binary_path" in entry.places else "file"
    place = entry.place(key)
    text = f"{entry.name}: {error}" + (f" ({error.hint})" if error.hint else "")
    return Problem(entry.where, place, text, is_error=not entry.is_optional)


def _candidates(entry: Entry, machine: Machine, exclusions: Exclusions) -> Choice:
    # Each kind has its own libraries behind it, and a selection rarely needs all of them.
    if entry.probe is ProbeType.SYSCALLS:
        from datacrumbs_utils.discovery import kernel_functions

        return kernel_functions.choose_syscalls(entry, machine, exclusions)
    if entry.probe is ProbeType.KPROBE:
        from datacrumbs_utils.discovery import kernel_functions

        return kernel_functions.choose_kernel_functions(entry, machine, exclusions)
    if entry.probe is ProbeType.UPROBE:
        from datacrumbs_utils.discovery import binary_functions

        return binary_functions.choose_binary_functions(entry, machine, exclusions)
    if entry.probe is ProbeType.USDT:
        from datacrumbs_utils.discovery import usdt_functions

        return usdt_functions.choose_usdt(entry, exclusions)
    if entry.probe is ProbeType.TRACEPOINT:
        from datacrumbs_utils.discovery import tracepoint_functions

        return tracepoint_functions.choose_tracepoints(entry, machine, exclusions)
    from datacrumbs_utils.discovery import custom_functions

    return custom_functions.choose_custom(entry, exclusions)


def _category(choice: Choice, machine: Machine) -> Category:
    probe = choice.entry.probe
    if probe is ProbeType.SYSCALLS:
        from datacrumbs_utils.discovery import kernel_functions

        return kernel_functions.syscall_category(choice, machine)
    if probe is ProbeType.KPROBE:
        from datacrumbs_utils.discovery import kernel_functions

        return kernel_functions.kernel_category(choice)
    if probe is ProbeType.UPROBE:
        from datacrumbs_utils.discovery import binary_functions

        return binary_functions.binary_category(choice)
    if probe is ProbeType.USDT:
        from datacrumbs_utils.discovery import usdt_functions

        return usdt_functions.usdt_category(choice)
    if probe is ProbeType.TRACEPOINT:
        from datacrumbs_utils.discovery import tracepoint_functions

        return tracepoint_functions.tracepoint_category(choice, machine)
    from datacrumbs_utils.discovery import custom_functions

    return custom_functions.custom_category(choice)


def _drop_repeats(choices: list[Choice]) -> None:
    """Probe a function once: the first entry that means it has it."""
    owners: dict[tuple[ProbeType, str, object], str] = {}
    for choice in choices:
        for name, candidate in list(choice.chosen.items()):
            where = str(choice.path) if choice.entry.probe is ProbeType.UPROBE else ""
            provider = choice.entry.provider or ""
            place = candidate.file_offset if choice.entry.probe is ProbeType.UPROBE else name
            key = (choice.entry.probe, where + "\0" + provider, place)
            owner = owners.setdefault(key, choice.entry.name)
            if owner != choice.entry.name:
                del choice.chosen[name]
                choice.excluded[name] = f"already in {owner}"


def _check_limit(choices: list[Choice], max_functions: int) -> list[str]:
    total = sum(len(choice.chosen) for choice in choices)
    biggest = sorted(choices, key=lambda choice: len(choice.chosen), reverse=True)[:BIGGEST_NAMED]
    parts = ", ".join(f"{one.entry.name} {len(one.chosen)}" for one in biggest if one.chosen)
    if total > max_functions:
        raise ConfigurationError(
            f"{total} functions are selected, {max_functions} are allowed "
            f"(DATACRUMBS_MAX_RUNTIME_FUNCTIONS); the biggest: {parts}",
            hint="narrow their regex, add exclude, or switch one off with enable_explorer: false",
        )
    if total >= WARN_FROM * max_functions:
        return [f"{total} functions are selected, {max_functions} are allowed: {parts}"]
    return []


def _summary(config: HostConfig, output_path: Path | None, install_user: str | None) -> Summary:
    user = config.user or current_user()
    try:
        uid: int | None = pwd.getpwnam(user).pw_uid
    except KeyError:
        uid = None
    host = socket.gethostname().partition(".")[0]
    path = Path(config.path)
    return Summary(
        config_file_path=str(path.resolve()) if path.is_file() else config.path,
        probe_file_path=str(output_path.absolute()) if output_path is not None else "",
        hostname=host,
        user=user,
        install_user=install_user or current_user(),
        uid=os.getuid() if config.user is None else uid,
        site=site_of(host),
        created=int(time.time()),
    )


def current_user() -> str:
    """Return the name of the user of this process, or the number if nobody knows a name for it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        try:
            return getpass.getuser()
        except (KeyError, OSError):
            return str(os.getuid())
