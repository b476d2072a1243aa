"""Entries about tracepoints of the kernel: spans where two belong together, instants otherwise."""

from datacrumbs_runtime.schema.probe_file import Category
from datacrumbs_utils.discovery import matching, prototypes
from datacrumbs_utils.discovery.candidates import Candidate
from datacrumbs_utils.discovery.choices import Choice, count_arguments
from datacrumbs_utils.discovery.entries import Entry
from datacrumbs_utils.discovery.exclusions import Exclusions
from datacrumbs_utils.discovery.machine import Machine


def choose_tracepoints(entry: Entry, machine: Machine, exclusions: Exclusions) -> Choice:
    """Choose the spans and tracepoints that an entry means.

    A span is meant by its own name, or by an expression that matches both of its tracepoints; these
    are then no longer instants of their own.

    Raises:
        BtfError: The kernel does not describe its types.
    """
    choice = Choice(entry)
    tracepoints = machine.tracepoints
    name_of = matching.matcher(entry)
    part_of: dict[str, str] = {}
    if entry.uses_spans:
        for name, recipe in tracepoints.recipes.items():
            parts = tuple(part for part in (recipe.begin, recipe.end) if part != name)
            candidate = Candidate(name, aliases=parts)
            choice.found[name] = candidate
            ends = (Candidate(recipe.begin), Candidate(recipe.end))
            meant = name_of(Candidate(name)) is not None or all(
                name_of(end) is not None for end in ends
            )
            if meant:
                matching.choose(choice, name, candidate, exclusions)
                part_of.update({recipe.begin: name, recipe.end: name})
    for name in tracepoints.by_name:
        candidate = Candidate(name)
        choice.found.setdefault(name, candidate)
        if name_of(candidate) is None or name in choice.chosen:
            continue
        if name in part_of:
            if name not in part_of.values():
                choice.excluded[name] = f"part of {part_of[name]}"
            continue
        matching.choose(choice, name, candidate, exclusions)
    return choice


def tracepoint_category(choice: Choice, machine: Machine) -> Category:
    """Return the probe file's category of chosen spans and tracepoints."""
    entry = choice.entry
    tracepoints = machine.tracepoints
    names = tuple(choice.chosen)
    arguments = {}
    for name in names:
        choice.signatures[name] = tracepoints.signature(name)
        if name in entry.function_arguments:
            found, source = entry.function_arguments[name], "YAML"
        elif entry.takes_arguments:
            found, source = tracepoints.arguments(name), "BTF"
        else:
            continue
        if found:
            arguments[name] = prototypes.addresses_only(found)
            count_arguments(choice, source)
    spans = {
        name: tracepoints.span(name)
        for name in names
        if entry.uses_spans and name in tracepoints.recipes
    }
    return Category(
        entry.probe, entry.category, names, arguments=arguments, spans=spans, mode=entry.mode
    )
