#!/usr/bin/env python3
"""Write the reference of the installed commands from their click objects.

usage: command_reference.py man|markdown DIRECTORY
"""

import importlib
import importlib.metadata
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent))
from settings_reference import write_settings

DISTRIBUTIONS = ("datacrumbs-runtime", "datacrumbs-utils")
EXIT_STATUS = "0: done. 1: an expected failure, told on standard error. 2: wrong usage."
EXIT_STATUS_OF = {
    "datacrumbs_record": "COMMAND's own. 1: COMMAND could not be started, or nothing recorded, "
    "told on standard error. 2: wrong usage.",
    "datacrumbs_status": "0: done. 1: the run is not on this node, or not active. 2: wrong usage.",
    "datacrumbs": "0: ended by a signal; with --check: all can be recorded. 1: an expected "
    "failure, told on standard error; with --check also: something cannot be recorded. 2: wrong "
    "usage.",
}
# Commands that only root can use: section 8 of the manual.
ADMINISTRATOR = frozenset(
    {
        "datacrumbs",
        "datacrumbs_bootstrap",
        "datacrumbs_sign_probes",
        "datacrumbs_system_configurator",
    }
)
# What the manual page of a command refers to.
SEE_ALSO = {
    "datacrumbs": ("datacrumbs_status(1)", "datacrumbs_wrap(1)", "datacrumbs_settings(7)"),
    "datacrumbs_bootstrap": ("datacrumbs_system_configurator(8)", "datacrumbs_settings(7)"),
    "datacrumbs_probe_configurator": ("datacrumbs_probe_verify(1)", "datacrumbs_sign_probes(8)"),
    "datacrumbs_probe_verify": ("datacrumbs_probe_configurator(1)", "datacrumbs(8)"),
    "datacrumbs_record": ("datacrumbs_doctor(1)",),
    "datacrumbs_sign_probes": ("datacrumbs_probe_configurator(1)", "datacrumbs_settings(7)"),
    "datacrumbs_sqlite_extract": ("datacrumbs_status(1)", "datacrumbs_settings(7)"),
    "datacrumbs_status": ("datacrumbs_wrap(1)", "datacrumbs(8)"),
    "datacrumbs_system_configurator": ("datacrumbs_bootstrap(8)", "datacrumbs_settings(7)"),
}


def installed_commands() -> Iterator[tuple[click.Command, str]]:
    """Yield the click command behind each console script of our packages, and its version."""
    scripts = [
        (script, distribution)
        for name in DISTRIBUTIONS
        for distribution in [importlib.metadata.distribution(name)]
        for script in distribution.entry_points
        if script.group == "console_scripts"
    ]
    for script, distribution in sorted(scripts, key=lambda entry: entry[0].name):
        module = importlib.import_module(script.module)
        commands = [value for value in vars(module).values() if isinstance(value, click.Command)]
        command = next((found for found in commands if found.name == script.name), None)
        if command is None:
            sys.exit(f"command_reference: error: {script.module}: no click command {script.name}")
        yield command, distribution.version


def context_of(command: click.Command) -> click.Context:
    """Return the context in which a command shows its help."""
    return click.Context(command, info_name=command.name, **command.context_settings)


def synopsis(command: click.Command, context: click.Context) -> str:
    """Return the usage without the command's name."""
    return " ".join(command.collect_usage_pieces(context))


def options(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """Yield each visible option as users type it, and its help."""
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record and isinstance(parameter, click.Option):
            yield record


def paragraphs(command: click.Command) -> Iterator[list[str]]:
    r"""Yield the help as paragraphs of one line, or of many after click's ``\b``."""
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        lines = paragraph.splitlines()
        if lines and lines[0] == "\b":
            yield lines[1:]
        else:
            yield [" ".join(line.strip() for line in lines)]


def examples(command: click.Command) -> list[str]:
    """Return the lines of a command's examples."""
    lines = inspect.cleandoc(command.epilog or "").splitlines()
    return [line.strip() for line in lines if line.startswith("  ")]


def roff(text: str) -> str:
    """Escape what roff would take for a request or an escape."""
    return re.sub(r"^([.'])", r"\\&\1", text.replace("\\", r"\e").replace("-", r"\-"), flags=re.M)


def manual_page(command: click.Command, version: str) -> str:
    """Return a command's manual page."""
    name = command.name or ""
    context = context_of(command)
    section = 8 if name in ADMINISTRATOR else 1
    lines = [f'.TH "{roff(name)}" "{section}" "" "DataCrumbs {version}" "DataCrumbs"']
    # No hyphens in names, no gaps between words.
    lines += [".nh", ".ad l"]
    purpose = command.get_short_help_str(200).rstrip(".")
    lines += [".SH NAME", f"{roff(name)} \\- {roff(purpose[:1].lower() + purpose[1:])}"]
    lines += [".SH SYNOPSIS", f"\\fB{roff(name)}\\fP {roff(synopsis(command, context))}"]
    lines.append(".SH DESCRIPTION")
    for paragraph in paragraphs(command):
        lines.append(".PP")
        if len(paragraph) > 1:
            lines += [".nf", *map(roff, paragraph), ".fi"]
        else:
            lines += map(roff, paragraph)
    lines.append(".SH OPTIONS")
    for option, text in options(command, context):
        lines += [".TP", f"\\fB{roff(option)}\\fP", roff(text)]
    if examples(command):
        lines += [".SH EXAMPLES", ".nf", *map(roff, examples(command)), ".fi"]
    lines += [".SH EXIT STATUS", roff(EXIT_STATUS_OF.get(name, EXIT_STATUS))]
    if name in SEE_ALSO:
        lines += [".SH SEE ALSO", roff(", ".join(SEE_ALSO[name]))]
    return "\n".join(lines) + "\n"


def markdown_page(command: click.Command) -> str:
    """Return a command's page of the documentation."""
    name = command.name or ""
    context = context_of(command)
    text = f"# {name}\n\n```text\n{name} {synopsis(command, context)}\n```\n"
    for paragraph in paragraphs(command):
        body = "\n".join(paragraph)
        text += f"\n```text\n{body}\n```\n" if len(paragraph) > 1 else f"\n{body}\n"
    text += "\n## Options\n"
    for option, help_text in options(command, context):
        text += f"\n`{option}`\n: {help_text}\n"
    if examples(command):
        body = "\n".join(examples(command))
        text += f"\n## Examples\n\n```text\n{body}\n```\n"
    return text


def write_reference(form: str, directory: Path) -> None:
    """Write one file a command into a directory.

    Args:
        form: ``man`` or ``markdown``; the directory of manual pages has one of each section in it.
        directory: Where to; made if it does not exist. Only files that changed are written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if form == "man":
        write_settings(directory / "datacrumbs_settings.7")
    for command, version in installed_commands():
        if form == "man":
            suffix = "8" if command.name in ADMINISTRATOR else "1"
            text = manual_page(command, version)
        else:
            suffix, text = "md", markdown_page(command)
        page = directory / f"{command.name}.{suffix}"
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in {"man", "markdown"}:
        sys.exit(__doc__)
    write_reference(sys.argv[1], Path(sys.argv[2]))
