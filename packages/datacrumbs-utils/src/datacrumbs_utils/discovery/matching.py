"""Which candidates an entry means: its regex or names, its exclusions, and the special rules."""

from collections.abc import Callable, Iterable
from pathlib import Path

from datacrumbs_runtime.schema.probe_file import ProbeType, plain_symbol
from datacrumbs_utils.discovery.candidates import Candidate
from datacrumbs_utils.discovery.choices import Choice
from datacrumbs_utils.discovery.entries import Entry
from datacrumbs_utils.discovery.exclusions import Exclusions
from datacrumbs_utils.discovery.regex import MPI_REGEX, Regex, compile_regex

# An MPI library has thousands of functions of its own under the few hundred of the standard.
_MPI = compile_regex(MPI_REGEX)
_EVERYTHING = frozenset({"", ".*"})


def matcher(entry: Entry, path: Path | None = None) -> Callable[[Candidate], str | None]:
    """Return what gives the name under which an entry means a candidate, or None if it does not.

    A name of one address is probed once: where several of them match, the symbol's own name counts,
    else the first alias.
    """
    if entry.functions:
        wanted = frozenset(plain_symbol(function) for function in entry.functions)

        def by_list(candidate: Candidate) -> str | None:
            if candidate.symbol in wanted:
                return candidate.symbol
            return next((name for name in candidate.aliases if name in wanted), None)

        return by_list
    regex = _regex(entry, path)
    if regex is None:
        return lambda candidate: candidate.symbol
    if entry.probe is ProbeType.SYSCALLS:
        return _by(lambda name, value: regex.matches_syscall(name))
    if regex.is_plain:
        fullmatch = regex.pattern.fullmatch
        return _by(lambda name, value: fullmatch(name) is not None)
    return _by(regex.matches_symbol)


def _by(matches: Callable[[str, int | None], bool]) -> Callable[[Candidate], str | None]:
    def by_expression(candidate: Candidate) -> str | None:
        # Of a hundred thousand kernel functions hardly any has an alias.
        if matches(candidate.symbol, candidate.value):
            return candidate.symbol
        for name in candidate.aliases:
            if matches(name, candidate.value):
                return name
        return None

    return by_expression


def missing_names(entry: Entry, candidates: Iterable[Candidate]) -> tuple[str, ...]:
    """Return the names of an entry's ``functions`` that no candidate has."""
    if not entry.functions:
        return ()
    known = {name for candidate in candidates for name in (candidate.symbol, *candidate.aliases)}
    return tuple(name for name in entry.functions if plain_symbol(name) not in known)


def in_order(entry: Entry, chosen: dict[str, Candidate]) -> dict[str, Candidate]:
    """Return what an entry chose, in the order in which it lists names if it does."""
    places = {plain_symbol(name): place for place, name in enumerate(entry.functions)}
    if not places:
        return chosen
    names = sorted(chosen, key=lambda name: places.get(plain_symbol(name), len(places)))
    return {name: chosen[name] for name in names}


def choose(choice: Choice, name: str, candidate: Candidate, exclusions: Exclusions) -> None:
    """Put a candidate that the entry means where it belongs: chosen, excluded or refused."""
    why = _excluded_by(choice.entry, candidate, exclusions)
    if why is not None:
        choice.excluded[name] = why
    elif candidate.refused is not None:
        choice.refused[name] = candidate.refused
    else:
        choice.chosen[name] = candidate


def _excluded_by(entry: Entry, candidate: Candidate, exclusions: Exclusions) -> str | None:
    """Return what excludes a candidate, in a few words, or None."""
    names = (candidate.symbol, *candidate.aliases)
    listed = exclusions.source(entry.probe, entry.name, names)
    if listed is not None:
        return listed
    matches: Callable[[Regex, str], bool] = (
        Regex.matches_syscall if entry.probe is ProbeType.SYSCALLS else Regex.matches_symbol
    )
    for regex in entry.exclude:
        if any(matches(regex, name) for name in names):
            return f"exclude {regex.source}"
    return None


def _regex(entry: Entry, path: Path | None) -> Regex | None:
    source = entry.regex.source if entry.regex else ""
    if source in _EVERYTHING and _is_mpi_library(entry, path):
        return _MPI
    return entry.regex


def _is_mpi_library(entry: Entry, path: Path | None) -> bool:
    given = Path(entry.binary_path or entry.file or "").name.removeprefix("soname:")
    return any(
        name.startswith("libmpi.so") for name in (given, path.name if path is not None else "")
    )
