"""Why a function is, or is not, in a selection."""

from collections.abc import Iterable, Iterator

from datacrumbs_runtime.schema.probe_file import Argument, Category, plain_symbol
from datacrumbs_utils.discovery.candidates import Candidate
from datacrumbs_utils.discovery.choices import Choice
from datacrumbs_utils.discovery.problems import nearest
from datacrumbs_utils.discovery.select import Selection


def explain(selection: Selection, function: str) -> list[str]:
    """Return one line per entry that has something to say about a function, or one that none has.

    Args:
        selection: What was selected.
        function: Its name, with or without ``sys_`` or an offset.
    """
    wanted = plain_symbol(function)
    names = {wanted, wanted.removeprefix("__x64_").removeprefix("sys_")}
    lines = [line for choice in selection.choices for line in _lines(choice, names, selection)]
    if lines:
        return lines
    strangers = [line for choice in selection.choices for line in _not_meant(choice, names)]
    if strangers:
        return strangers
    known = {plain_symbol(name) for choice in selection.choices for name in choice.found}
    return [f"{function}: no entry looks where it would be{nearest(wanted, known)}"]


def _lines(choice: Choice, names: set[str], selection: Selection) -> Iterator[str]:
    entry = choice.entry.name
    for name in choice.chosen:
        if plain_symbol(name) in names:
            yield f"{name}: in {entry}: {_details(choice, name, selection)}"
    for name, why in choice.excluded.items():
        if plain_symbol(name) in names:
            yield f"{name}: not in {entry}: excluded: {why}"
    for name, why in choice.refused.items():
        if plain_symbol(name) in names:
            yield f"{name}: not in {entry}: cannot be probed: {why}"
    for name, candidate in choice.chosen.items():
        if plain_symbol(name) not in names and not names.isdisjoint(_names(candidate)):
            yield f"{sorted(names & _names(candidate))[0]}: in {entry} under the name {name}"


def _names(candidate: Candidate) -> set[str]:
    return {candidate.symbol, *candidate.aliases}


def _not_meant(choice: Choice, names: set[str]) -> Iterator[str]:
    """Say why an entry does not mean a function that it could have meant."""
    for name, candidate in choice.found.items():
        if not names.isdisjoint(_names(candidate)):
            regex = choice.entry.regex
            why = (
                f"regex {regex.source} does not match" if regex else "it is not among its functions"
            )
            yield f"{name}: not in {choice.entry.name}: {why}"


def _details(choice: Choice, name: str, selection: Selection) -> str:
    category = selection.category_of(choice)
    candidate = choice.chosen[name]
    parts = []
    if choice.entry.regex is not None:
        parts.append(f"regex {choice.entry.regex.source} matches")
    if candidate.file_offset is not None:
        placed = candidate.file_offset
        if category is not None:
            placed = category.placed_offsets.get(name, placed)
        parts.append(f"{choice.path} at {placed:#x}")
        if placed != candidate.file_offset:
            parts.append(f"{placed - candidate.file_offset} bytes after its first instruction")
    if name in choice.expensive:
        parts.append(f"expensive: {choice.expensive[name]}")
    if candidate.aliases and candidate.file_offset is not None:
        parts.append(f"also called {', '.join(candidate.aliases)}")
    if category is not None and name in category.spans:
        span = category.spans[name]
        parts.append(f"from {span.begin} to {span.end}, same {span.begin_key}")
    parts.append(signature(choice, name, category))
    if name in choice.not_captured:
        parts.append(f"not captured: {', '.join(choice.not_captured[name])}")
    return "; ".join(parts)


def signature(choice: Choice, name: str, category: Category | None) -> str:
    """Return a function as C would declare it, or what is captured of it."""
    if name in choice.signatures:
        return choice.signatures[name]
    arguments = category.arguments.get(name, ()) if category is not None else ()
    plain = plain_symbol(name)
    returns = category.returns.get(name, "") if category is not None else ""
    return f"{returns} {plain}({_declarations(arguments)})".strip()


def _declarations(arguments: Iterable[Argument]) -> str:
    return ", ".join(f"{argument.c_type} {argument.label}" for argument in arguments)
