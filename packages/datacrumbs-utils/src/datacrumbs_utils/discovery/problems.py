"""Everything that is wrong with a configuration, collected so that it can be said at once."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

from datacrumbs_runtime.errors import ConfigurationError

HINT = "docs/user/host-configuration.md explains every key"


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a file; lines and columns count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        where: The file.
        position: The place in the file, or None if it has none.
        message: What is wrong, in one sentence.
        is_error: Whether nothing can be made of the file because of it; otherwise a warning.
    """

    where: str
    position: Position | None
    message: str
    is_error: bool = True

    def __str__(self) -> str:
        place = f":{self.position.line}:{self.position.column}" if self.position else ""
        return f"{self.where}{place}: {self.message}"


@dataclass(slots=True)
class Problems:
    """The problems found so far in one file."""

    where: str
    found: list[Problem] = field(default_factory=list)

    def error(self, position: Position | None, message: str) -> None:
        """Note what makes the file unusable."""
        self._add(Problem(self.where, position, message))

    def warning(self, position: Position | None, message: str) -> None:
        """Note what the user should know and can live with."""
        self._add(Problem(self.where, position, message, is_error=False))

    def _add(self, problem: Problem) -> None:
        # An alias brings the same place up more than once.
        if problem not in self.found:
            self.found.append(problem)


def raise_errors(problems: Iterable[Problem]) -> None:
    """Raise one error that lists every problem, if any of them is an error.

    Raises:
        ConfigurationError: Its message has one line per error, in the order of the files.
    """
    errors = [problem for problem in problems if problem.is_error]
    if not errors:
        return
    first_of_file: dict[str, int] = {}
    for problem in errors:
        first_of_file.setdefault(problem.where, len(first_of_file))
    errors.sort(key=lambda p: (first_of_file[p.where], p.position or Position(0, 0)))
    message = "\n".join(str(problem) for problem in errors)
    if len(errors) > 1:
        message = f"{len(errors)} problems\n{message}"
    raise ConfigurationError(message, hint=HINT)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean ...?)`` with the known word that is closest, or nothing."""
    candidates = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(word.lower(), candidates, n=1, cutoff=0.6)
    return f" (did you mean {candidates[matches[0]]}?)" if matches else ""
