"""Entries about programs and libraries: which functions, where each is probed, what is captured."""

import logging
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from datacrumbs_runtime.errors import DatacrumbsError
from datacrumbs_runtime.schema.probe_file import Argument, Category, plain_symbol
from datacrumbs_utils.discovery import libraries, library_headers, matching, prototypes
from datacrumbs_utils.discovery.candidates import Candidate
from datacrumbs_utils.discovery.choices import Choice, count_arguments, describe
from datacrumbs_utils.discovery.entries import Entry
from datacrumbs_utils.discovery.exclusions import Exclusions
from datacrumbs_utils.discovery.machine import Machine
from datacrumbs_utils.discovery.signatures import Signature

logger = logging.getLogger(__name__)

# Functions that programs call many millions of times a second: a probe costs a hundred times what
# they do themselves.
LEAF_FUNCTIONS = frozenset(
    {"strlen", "strnlen", "strcmp", "strncmp", "strcasecmp", "strchr", "strrchr", "strcpy"}
    | {"strncpy", "strcat", "strstr", "memcpy", "memmove", "memset", "memcmp", "memchr", "mempcpy"}
    | {"malloc", "free", "calloc", "realloc", "getc", "putc", "fgetc", "fputc", "getc_unlocked"}
    | {"putc_unlocked", "getchar", "putchar", "feof", "ferror", "fileno", "toupper", "tolower"}
    | {"isalpha", "isdigit", "isspace", "abs", "rand", "random", "time", "clock_gettime"}
    | {"gettimeofday", "pthread_mutex_lock", "pthread_mutex_unlock", "pthread_self"}
    | {"pthread_getspecific", "__errno_location", "sched_yield", "getpid", "PyObject_GetAttr"}
)

# What libc has of them for each generation of CPUs: __memcpy_avx_unaligned_erms, __strlen_evex.
_CPU_VARIANT = re.compile(r"__(?P<plain>[a-z]+?)(?:_chk)?_(?:sse|ssse|avx|evex|erms)\w*")


def choose_binary_functions(entry: Entry, machine: Machine, exclusions: Exclusions) -> Choice:
    """Choose the functions of a binary that an entry means.

    Raises:
        DatacrumbsError: A file that the entry names cannot be used.
    """
    choice = Choice(entry)
    path = libraries.locate((entry.binary_path if entry.type == "header" else entry.file) or "")
    choice.path = path
    declared = None
    if entry.type == "header":
        declared = _declared(choice, path, machine)
    name_of = matching.matcher(entry, path)
    for candidate in machine.elf_functions(path):
        if declared is not None and declared.isdisjoint((candidate.symbol, *candidate.aliases)):
            continue
        choice.found[_function_name(entry, candidate.symbol, candidate)] = candidate
        name = name_of(candidate)
        if name is None:
            continue
        function = _function_name(entry, name, candidate)
        if function in choice.chosen:
            choice.remarks.append(f"{function}: several versions, only the default one is probed")
            continue
        if candidate.refused is None and candidate.file_offset is None:
            candidate = replace(candidate, refused="not in any segment of the file")
        matching.choose(choice, function, candidate, exclusions)
    return choice


def _function_name(entry: Entry, name: str, candidate: Candidate) -> str:
    if entry.include_offsets and candidate.value is not None:
        return f"{name}:{candidate.value:#x}"
    return name


def _declared(choice: Choice, path: Path, machine: Machine) -> frozenset[str] | None:
    header = library_headers.find(choice.entry.file or "", path)
    if header is None:
        choice.remarks.append(
            f"{choice.entry.file} is not on this machine: all functions of {path} are candidates"
        )
        return None
    return machine.header_functions(header)


def binary_category(choice: Choice) -> Category:
    """Place the probes of chosen functions, find out their arguments, make the category.

    Raises:
        DatacrumbsError: The binary cannot be read any more.
    """
    from datacrumbs_utils.discovery import elf, hazards, placement

    entry, path = choice.entry, choice.path
    if path is None:
        raise ValueError("a choice of binary functions without its binary")
    arguments, returns = _signatures(choice, path, tuple(choice.chosen))
    # Several versions of one symbol are several functions: they are placed by their full names.
    named = [replace(one, symbol=function) for function, one in choice.chosen.items()]
    registers = {
        function: {argument.index for argument in found} for function, found in arguments.items()
    }
    placed: dict[str, int] = {}
    for function, place in placement.place(path, named, registers).items():
        if place.refused is not None:
            choice.refused[function] = place.refused
            del choice.chosen[function]
            continue
        if place.file_offset != choice.chosen[function].file_offset:
            placed[function] = place.file_offset
        if not place.cheap:
            choice.expensive[function] = place.reason
        if _is_leaf(function, choice.chosen[function]):
            choice.expensive[function] = "called so often that a probe dominates its cost"
    throwing = sum(hazards.may_throw(plain_symbol(function)) for function in choice.chosen)
    if throwing:
        choice.remarks.append(
            f"{throwing} functions of C++: an exception that leaves one of them while it is probed "
            "ends the program"
        )
    functions = tuple(choice.chosen)
    return Category(
        entry.probe,
        entry.category,
        functions,
        arguments={name: arguments[name] for name in functions if name in arguments},
        returns={name: returns[name] for name in functions if name in returns},
        binary_path=str(path),
        include_offsets=entry.include_offsets,
        build_id=elf.build_id(path),
        placed_offsets=placed,
        mode=entry.mode,
    )


def _is_leaf(function: str, candidate: Candidate) -> bool:
    for name in (plain_symbol(function), candidate.symbol, *candidate.aliases):
        variant = _CPU_VARIANT.fullmatch(name)
        if name in LEAF_FUNCTIONS or (variant and variant["plain"] in LEAF_FUNCTIONS):
            return True
    return False


def _signatures(
    choice: Choice, path: Path, functions: Iterable[str]
) -> tuple[dict[str, tuple[Argument, ...]], dict[str, str]]:
    entry = choice.entry
    arguments: dict[str, tuple[Argument, ...]] = {}
    returns: dict[str, str] = {}
    open_names: dict[str, tuple[str, ...]] = {}
    for function in functions:
        candidate = choice.chosen[function]
        names = (plain_symbol(function), candidate.symbol, *candidate.aliases)
        override = next((name for name in names if name in entry.function_arguments), None)
        result = next((name for name in names if name in entry.function_returns), None)
        if result is not None:
            returns[function] = entry.function_returns[result]
        if override is not None:
            arguments[function] = entry.function_arguments[override]
            count_arguments(choice, "YAML")
        if override is None or result is None:
            open_names[function] = names
    if open_names and entry.takes_arguments and not _all_written_out(entry):
        for source, signatures in _sources(choice, path, open_names):
            for function in list(open_names):
                signature = signatures.get(function)
                if signature is None:
                    continue
                del open_names[function]
                returns.setdefault(function, signature.result_type())
                describe(choice, function, signature)
                if function not in arguments:
                    arguments[function] = prototypes.captured(
                        plain_symbol(function), signature.arguments()
                    )
                    count_arguments(choice, source)
    return {name: found for name, found in arguments.items() if found}, returns


def _all_written_out(entry: Entry) -> bool:
    """An entry that gives arguments and results itself is not looked up any further."""
    return bool(entry.function_arguments) and bool(entry.function_returns)


def _sources(
    choice: Choice, path: Path, open_names: dict[str, tuple[str, ...]]
) -> Iterable[tuple[str, dict[str, Signature]]]:
    """Yield what debugging information, then each header, says of the functions still open."""
    from datacrumbs_utils.discovery import dwarf

    def by_function(found: dict[str, Signature]) -> dict[str, Signature]:
        result = {}
        for function, names in open_names.items():
            signature = next((found[name] for name in names if name in found), None)
            if signature is not None:
                result[function] = signature
        return result

    def wanted() -> list[str]:
        return sorted({name for names in open_names.values() for name in names})

    try:
        yield "DWARF", by_function(dwarf.signatures(path, wanted()))
    except DatacrumbsError as error:
        choice.remarks.append(f"no debugging information: {error}")
    entry = choice.entry
    given = (entry.file or "",) if entry.type == "header" else entry.headers
    named = [library_headers.find(header, path) for header in given]
    for name, header in zip(given, named, strict=True):
        if header is None:
            choice.remarks.append(f"header {name} is not on this machine")
    for header in [*filter(None, named), *library_headers.usual(path)]:
        if not open_names:
            return
        from datacrumbs_utils.discovery import headers

        try:
            yield header.name, by_function(headers.signatures(header, wanted()))
        except DatacrumbsError as error:
            logger.debug("%s: %s", header, error)
            choice.remarks.append(f"{header.name}: {error}")
