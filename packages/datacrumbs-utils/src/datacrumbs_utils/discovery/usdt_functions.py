"""Entries about USDT probes: marks that a program's authors left in it."""

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_runtime.schema.probe_file import Argument, Category, UsdtPoint
from datacrumbs_utils.discovery import libraries, matching, usdt_providers
from datacrumbs_utils.discovery.candidates import Candidate
from datacrumbs_utils.discovery.choices import Choice, count_arguments
from datacrumbs_utils.discovery.entries import Entry
from datacrumbs_utils.discovery.exclusions import Exclusions

_BEGIN, _END = "__entry", "__return"


def choose_usdt(entry: Entry, exclusions: Exclusions) -> Choice:
    """Choose the probes of a provider that an entry means.

    ``NAME__entry`` and ``NAME__return`` are one function NAME; an expression may mean it by any of
    the three names.

    Raises:
        DatacrumbsError: The binary cannot be used, or has no probe of that provider.
    """
    from datacrumbs_utils.discovery import usdt

    choice = Choice(entry)
    choice.path = libraries.locate(entry.binary_path or "")
    provider = entry.provider or ""
    points = usdt.points(choice.path, provider)
    if not points:
        known = usdt.providers(choice.path)
        raise ConfigurationError(
            f"{choice.path} has no probes of provider {provider!r}; "
            + (f"it has {', '.join(known)}" if known else "it has none at all")
        )
    name_of = matching.matcher(entry)
    for name, parts in _functions(points).items():
        aliases = tuple(part for part in parts if part != name)
        candidate = Candidate(name, file_offset=points[parts[0]][0].offset, aliases=aliases)
        choice.found[name] = candidate
        if name_of(candidate) is not None:
            matching.choose(choice, name, candidate, exclusions)
    return choice


def _functions(points: dict[str, tuple[UsdtPoint, ...]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name in points:
        stem = name.removesuffix(_BEGIN).removesuffix(_END)
        paired = (stem + _BEGIN in points) and (stem + _END in points)
        if stem != name and paired:
            found[stem] = (stem + _BEGIN, stem + _END)
        else:
            found[name] = (name,)
    return found


def usdt_category(choice: Choice) -> Category:
    """Return the probe file's category of chosen USDT probes."""
    from datacrumbs_utils.discovery import elf, usdt

    entry, path = choice.entry, choice.path
    if path is None:
        raise ValueError("a choice of USDT probes without its binary")
    points = usdt.points(path, entry.provider or "")
    kept = {
        part: points[part]
        for candidate in choice.chosen.values()
        for part in (candidate.aliases or (candidate.symbol,))
    }
    arguments: dict[str, tuple[Argument, ...]] = {}
    for name, candidate in choice.chosen.items():
        first = points[(candidate.aliases or (name,))[0]][0]
        choice.signatures[name] = f"{name}({', '.join(first.arguments.split())})"
        if name in entry.function_arguments:
            found, source = entry.function_arguments[name], "YAML"
        elif entry.takes_arguments:
            found, source = usdt_providers.arguments(entry.provider or "", name), "provider"
        else:
            continue
        if found:
            arguments[name] = found
        elif first.arguments:
            # The recorder shows what the note lists, as arg0, arg1, ...
            source = "notes"
        else:
            continue
        count_arguments(choice, source)
    return Category(
        entry.probe,
        entry.category,
        tuple(choice.chosen),
        arguments=arguments,
        binary_path=str(path),
        build_id=elf.build_id(path),
        provider=entry.provider,
        usdt_points=kept,
        mode=entry.mode,
    )
