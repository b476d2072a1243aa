"""Entries about the kernel: system calls and kernel functions."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from datacrumbs_runtime.errors import ConfigurationError, DatacrumbsError
from datacrumbs_runtime.schema.probe_file import Argument, Category
from datacrumbs_utils.discovery import btf, kernel_headers, libraries, matching, prototypes
from datacrumbs_utils.discovery.candidates import Candidate
from datacrumbs_utils.discovery.choices import Choice, count_arguments, describe
from datacrumbs_utils.discovery.entries import Entry
from datacrumbs_utils.discovery.exclusions import Exclusions
from datacrumbs_utils.discovery.machine import Machine
from datacrumbs_utils.discovery.syscall_prototypes import kernel_name

logger = logging.getLogger(__name__)

_MODULE_SUFFIXES = (".ko", ".ko.xz", ".ko.gz", ".ko.zst")


def choose_syscalls(entry: Entry, machine: Machine, exclusions: Exclusions) -> Choice:
    """Choose the system calls that an entry means."""
    choice = Choice(entry)
    candidates = {name: Candidate(symbol=name) for name in machine.syscalls}
    if entry.type == "header":
        declared = _declared(entry, choice, machine)
        if declared is not None:
            names = {name.removeprefix("sys_") for name in declared if name.startswith("sys_")}
            # A header declares a system call by the kernel's name: sys_newfstat for fstat.
            candidates = {
                name: candidate
                for name, candidate in candidates.items()
                if name in names or kernel_name(name) in names
            }
            choice.remarks.append(f"{len(names)} system calls are declared in {choice.path}")
        else:
            choice.remarks.append(
                f"{entry.file} is not on this machine: system calls taken from the kernel's BTF"
            )
    _choose(choice, candidates.values(), exclusions)
    return choice


def choose_kernel_functions(entry: Entry, machine: Machine, exclusions: Exclusions) -> Choice:
    """Choose the kernel functions that an entry means.

    Raises:
        DatacrumbsError: A file that the entry names cannot be used.
    """
    choice = Choice(entry)
    if entry.type == "header":
        candidates = _from_header(entry, choice, machine)
    elif entry.type == "binary":
        candidates = _from_module(entry, choice, machine)
    elif entry.type == "btf":
        described = machine.described_functions
        candidates = [one for one in machine.kernel_functions if one.symbol in described]
    else:
        candidates = machine.kernel_functions
    _choose(choice, candidates, exclusions)
    return choice


def _choose(choice: Choice, candidates: Iterable[Candidate], exclusions: Exclusions) -> None:
    found = list(candidates)
    # The first of several of one name counts.
    choice.found = {candidate.symbol: candidate for candidate in reversed(found)}
    name_of = matching.matcher(choice.entry)
    for candidate in found:
        name = name_of(candidate)
        if name is not None and name not in choice.chosen:
            matching.choose(choice, name, candidate, exclusions)


def _declared(entry: Entry, choice: Choice, machine: Machine) -> frozenset[str] | None:
    """Return the functions that the entry's header declares; None if it is not there."""
    path = Path(entry.file or "")
    if not path.is_absolute():
        raise ConfigurationError(f"{path}: give the absolute path of a header")
    if not path.is_file():
        return None
    choice.path = path
    return machine.header_functions(path)


def _from_header(entry: Entry, choice: Choice, machine: Machine) -> list[Candidate]:
    declared = _declared(entry, choice, machine)
    by_name = {candidate.symbol: candidate for candidate in machine.kernel_functions}
    if declared is None:
        header = Path(entry.file or "").name
        regex = kernel_headers.functions_regex(header)
        found = [one for one in by_name.values() if regex.matches(one.symbol)]
        choice.remarks.append(
            f"{entry.file} is not on this machine: of the running kernel's functions "
            f"{kernel_headers.description(header)} are taken instead"
        )
        return found
    absent = "declared, but inlined or not in this kernel"
    return [by_name.get(name, Candidate(name, refused=absent)) for name in sorted(declared)]


def _from_module(entry: Entry, choice: Choice, machine: Machine) -> list[Candidate]:
    path = libraries.locate(entry.file or "")
    choice.path = path
    if not path.name.endswith(_MODULE_SUFFIXES):
        choice.remarks.append(f"{path} does not look like a kernel module (.ko)")
    in_kernel = {candidate.symbol: candidate for candidate in machine.kernel_functions}
    candidates = machine.elf_functions(path)
    loaded = sum(candidate.symbol in in_kernel for candidate in candidates)
    if 2 * loaded < len(candidates):
        choice.remarks.append(
            f"{path.name} is not loaded here: its functions are checked when they are attached"
        )
        return candidates
    found = []
    for candidate in candidates:
        known = in_kernel.get(candidate.symbol)
        refused = candidate.refused or (
            known.refused if known else "not in the running kernel, or inlined there"
        )
        found.append(replace(candidate, refused=refused))
    return found


def syscall_category(choice: Choice, machine: Machine) -> Category:
    """Return the probe file's category of chosen system calls.

    The recorder knows what to show of a system call; only overrides go into the probe file.
    """
    entry = choice.entry
    overrides = entry.function_arguments
    names = tuple(choice.chosen)
    arguments = {name: overrides[name] for name in names if name in overrides}
    for name in names:
        describe(choice, name, machine.syscalls[name])
    count_arguments(choice, "built in", len(names) - len(arguments))
    count_arguments(choice, "YAML", len(arguments))
    return Category(entry.probe, entry.category, names, arguments, mode=entry.mode)


def kernel_category(choice: Choice) -> Category:
    """Return the probe file's category of chosen kernel functions."""
    entry = choice.entry
    names = tuple(choice.chosen)
    arguments: dict[str, tuple[Argument, ...]] = {}
    returns: dict[str, str] = {}
    if entry.takes_arguments:
        arguments, returns = _signatures(choice, names)
    returns |= {
        name: entry.function_returns[name] for name in names if name in entry.function_returns
    }
    return Category(entry.probe, entry.category, names, arguments, returns=returns, mode=entry.mode)


def _signatures(
    choice: Choice, names: tuple[str, ...]
) -> tuple[dict[str, tuple[Argument, ...]], dict[str, str]]:
    overrides = choice.entry.function_arguments
    try:
        described = btf.signatures(names)
    except DatacrumbsError as error:
        choice.remarks.append(f"no arguments: {error}")
        described = {}
    for name, signature in described.items():
        describe(choice, name, signature)
    # Texts are read from the memory of the process. The kernel's own strings are elsewhere, so
    # that a "const char *" of a kernel function is an address and nothing more.
    found = {
        name: prototypes.addresses_only(signature.arguments())
        for name, signature in described.items()
        if name not in overrides
    }
    used = {name: overrides[name] for name in names if name in overrides}
    count_arguments(choice, "BTF", len(found))
    count_arguments(choice, "YAML", len(used))
    returns = {name: signature.result_type() for name, signature in described.items()}
    return {name: arguments for name, arguments in {**found, **used}.items() if arguments}, returns
