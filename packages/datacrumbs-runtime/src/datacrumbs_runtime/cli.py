"""What all commands share: how they end, log and show text, which options they have in common."""

import logging
import os
import pwd
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from datacrumbs_runtime.errors import DatacrumbsError, UsageError

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def print_error(command_name: str, message: str, hint: str | None = None) -> None:
    """Write an error, and its hint if there is one, to standard error."""
    for kind, text in (("error", message), ("hint", hint)):
        if text:
            # Names of files may hold anything; some errors have several lines of their own.
            lines = "\n".join(map(printable, text.split("\n")))
            sys.stderr.write(f"{command_name}: {kind}: {lines}\n")


def set_up_logging(*, verbose: bool, quiet: bool) -> None:
    """Send log records to standard error: warnings, or everything, or errors only."""
    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname).1s %(name)s: %(message)s", force=True)


def printable(text: str) -> str:
    """Return a text from elsewhere in which nothing controls the terminal."""
    return "".join(
        character if character.isprintable() else repr(character)[1:-1] for character in text
    )


def shortened(path: str, columns: int) -> str:
    """Return a path that fits: its end says more than its middle."""
    if len(path) <= columns and path.isascii():
        return path
    from rich.cells import cell_len

    if cell_len(path) <= columns:
        return path
    head = _first_columns(path, columns // 4)
    tail = _first_columns(path[::-1], columns - columns // 4 - 3)[::-1]
    return f"{head}...{tail}"


def _first_columns(text: str, columns: int) -> str:
    """Return as much of a text as fits; some characters are as wide as two."""
    from rich.cells import cell_len

    end = max(columns, 0)
    while end and cell_len(text[:end]) > columns:
        end -= 1
    return text[:end]


def examples(*lines: str) -> str:
    """Return the end of a command's help: how it is used, a line each."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))


prefix_option = click.option(
    "--prefix",
    metavar="DIRECTORY",
    type=click.Path(path_type=Path),
    help="The installation.",
    show_default="the one that this command belongs to",
)


def user_entry(name: str, what: str = "--user:", hint: str | None = None) -> pwd.struct_passwd:
    """Find the user that the option --user names, or gives as a number.

    Args:
        name: Name or number.
        what: How the error begins, where a setting may have named the user as well.
        hint: What to do then.

    Raises:
        UsageError: There is none.
    """
    try:
        return pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        raise UsageError(f"{what} {name}: no such user", hint=hint) from None


def teller(*, quiet: bool, dry_run: bool) -> Callable[[str], None]:
    """Return what tells of each thing that is done, or would be, on standard error."""

    def tell(what: str) -> None:
        if not quiet:
            click.echo(f"would {what}" if dry_run else what, err=True)

    return tell


def common_options(command: Decorated) -> Decorated:
    """Add -v/--verbose, --quiet and -n/--dry-run, also settable as VERBOSE, QUIET, DRY_RUN."""
    options = (
        click.option("-v", "--verbose", envvar="VERBOSE", is_flag=True, help="Say each step."),
        click.option("--quiet", envvar="QUIET", is_flag=True, help="Say nothing but errors."),
        click.option(
            "-n",
            "--dry-run",
            envvar="DRY_RUN",
            is_flag=True,
            help="Show what would be done, do nothing.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def run_command(command: click.Command) -> NoReturn:
    """Run a click command as a program: print expected errors in one line and exit.

    Exit status 0: done; 1: an expected failure; 2: wrong usage; 130: interrupted.
    """
    name = command.name or "datacrumbs"
    try:
        status = command.main(prog_name=name, standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.UsageError as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            sys.stderr.write(error.format_message() + "\n")
        else:
            print_error(name, error.format_message(), f"see {name} --help")
        sys.exit(2)
    except click.ClickException as error:
        print_error(name, error.format_message())
        sys.exit(1)
    except DatacrumbsError as error:
        print_error(name, str(error), error.hint)
        sys.exit(error.exit_status)
    except (KeyboardInterrupt, click.Abort):
        print_error(name, "interrupted")
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away, as in `... | head`: not worth a word.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)
