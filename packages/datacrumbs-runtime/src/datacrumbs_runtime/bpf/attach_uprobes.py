"""Attaching to functions of programs and libraries, and to their USDT probes."""

import mmap
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from datacrumbs_runtime.bpf import bpf_syscall
from datacrumbs_runtime.bpf.bisection import attach_or_bisect, reason_of
from datacrumbs_runtime.bpf.elf_file import ElfFile
from datacrumbs_runtime.bpf.features import Tier
from datacrumbs_runtime.bpf.links import Links
from datacrumbs_runtime.bpf.loader import Loaded
from datacrumbs_runtime.bpf.targets import UprobeTarget, UsdtTarget
from datacrumbs_runtime.bpf.uprobe_links import (
    Place,
    attach_program,
    attach_type,
    multi_link,
    shared_parts,
)
from datacrumbs_runtime.errors import ProbeFileError

# First bytes of what the kernel refuses on x86: lock prefix, int3, int, hlt, in and out, cli, sti.
# They only decide what is tried first when an attachment fails.
_SUSPECT_BYTES = frozenset(b"\xf0\xcc\xcd\xf4\xec\xed\xee\xef\xe4\xe5\xe6\xe7\xfa\xfb\x6c\x6d\x6e")
_INSTRUCTION_BYTES = 4
REGISTRATION = {"dc_register_start": "datacrumbs_start", "dc_register_stop": "datacrumbs_stop"}
_DEAD = "attached, but the kernel put no breakpoint there"
_PAIR = ("dc_uprobe_entry", "dc_uprobe_return")
# Others do not know whose end it is where two begin at once.
_TELL_TWO_APART = frozenset({Tier.UPROBE_SESSION, Tier.UPROBE_TRACEFS})
# Programs of USDT probes by role of their places.
_USDT_PROGRAMS = {
    "entry": "dc_uprobe_entry",
    "return": "dc_uprobe_return",
    "instant": "dc_uprobe_instant",
}

_Attach = Callable[[bytes, Sequence[Place]], None]


def programs_of(tier: Tier) -> dict[str, int | None]:
    """Return the programs that a tier needs for functions, with their attach types."""
    if tier is Tier.UPROBE_SESSION:
        return {"dc_uprobe_session": bpf_syscall.ATTACH_UPROBE_SESSION}
    return dict.fromkeys(_PAIR, attach_type(tier))


def usdt_programs_of(tier: Tier, targets: Iterable[UsdtTarget]) -> dict[str, int | None]:
    """Return the programs that a tier needs for USDT probes, with their attach types."""
    roles = {target.role for target in targets}
    return {program: attach_type(tier) for role, program in _USDT_PROGRAMS.items() if role in roles}


def registration_programs_of(tier: Tier) -> dict[str, int | None]:
    """Return the programs by which processes register, with their attach types."""
    return dict.fromkeys(REGISTRATION, attach_type(tier))


def attach_functions(
    loaded: Loaded, links: Links, tier: Tier, targets: Iterable[UprobeTarget]
) -> dict[int, str]:
    """Attach to entry and return of functions.

    Returns:
        Why a function is not attached, by its number.
    """
    if tier is Tier.UPROBE_SESSION:
        session = loaded.program_fd("dc_uprobe_session")

        def attach(path: bytes, places: Sequence[Place]) -> None:
            links.add(multi_link(session, path, places, session=True))
    else:
        entry, at_return = (loaded.program_fd(name) for name in _PAIR)

        def attach(path: bytes, places: Sequence[Place]) -> None:
            # The return first: a call that is seen to begin is seen to end.
            made = attach_program(tier, at_return, path, places, of_functions=True, at_return=True)
            try:
                made.take(attach_program(tier, entry, path, places, of_functions=True))
            except OSError:
                made.close()
                raise
            links.take(made)

    by_binary: dict[str, list[Place]] = defaultdict(list)
    firsts: dict[tuple[str, int], UprobeTarget] = {}
    twice: dict[int, str] = {}
    tells_apart = tier in _TELL_TWO_APART
    for target in targets:
        path, offset = target.binary_path, target.file_offset
        if tells_apart or (first := firsts.setdefault((path, offset), target)) is target:
            by_binary[path].append(Place(target.function, offset))
        else:
            twice[target.function] = f"recorded as {first.name}: the same function"
    return _attach_binaries(by_binary, attach, loaded, tier) | twice


def attach_usdt(
    loaded: Loaded, links: Links, tier: Tier, targets: Sequence[UsdtTarget]
) -> dict[int, str]:
    """Attach to USDT probes: to pairs, which are calls, and to single ones, which are moments.

    Returns:
        Why a function is not attached, or not everywhere, by its number.
    """
    refusals: dict[int, str] = {}
    for role, name in _USDT_PROGRAMS.items():
        by_binary: dict[str, list[Place]] = defaultdict(list)
        for target in targets:
            if target.role == role:
                by_binary[target.binary_path].append(
                    Place(target.function, target.file_offset, target.semaphore)
                )
        if not by_binary:
            continue
        program = loaded.program_fd(name)

        def attach(path: bytes, places: Sequence[Place], program: int = program) -> None:
            links.take(attach_program(tier, program, path, places))

        refusals |= _attach_binaries(by_binary, attach, loaded, tier)
    return refusals


def attach_registration(
    loaded: Loaded, links: Links, tier: Tier, libraries: Iterable[str]
) -> dict[str, str]:
    """Attach to the functions by which processes register themselves.

    Returns:
        Why nobody can register, by library.
    """
    refusals: dict[str, str] = {}
    for library in libraries:
        try:
            with ElfFile(Path(library)) as file:
                for program, symbol in REGISTRATION.items():
                    value = file.symbol_value(symbol)
                    offset = None if value is None else file.file_offset(value)
                    if offset is None:
                        refusals[library] = f"no function {symbol}"
                        continue
                    links.take(
                        attach_program(
                            tier,
                            loaded.program_fd(program),
                            os.fsencode(library),
                            [Place(0, offset)],
                        )
                    )
        except ProbeFileError as error:
            refusals[library] = str(error)
        except OSError as error:
            refusals[library] = reason_of(error)
    return refusals


def _attach_binaries(
    by_binary: Mapping[str, list[Place]], attach: _Attach, loaded: Loaded, tier: Tier
) -> dict[int, str]:
    return {
        place.function: reason
        for binary_path, places in by_binary.items()
        for place, reason in _attach_binary(binary_path, places, attach, loaded, tier)
    }


def _attach_binary(
    binary_path: str, places: list[Place], attach: _Attach, loaded: Loaded, tier: Tier
) -> list[tuple[Place, str]]:
    """Attach to places of one file, check that the kernel did it, and return what failed.

    A probe that cannot be placed fails only in processes that map the file, and is silently dead
    if there is none. So this process maps it: then the kernel tries every place at once. Not for
    places with semaphores, which the kernel would raise once more for this mapping and not lower
    again; they are at nops, which can be probed.
    """
    path = os.fsencode(binary_path)
    is_checked = not any(place.semaphore for place in places)
    with ExitStack() as stack:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, file)
            # Private: gets breakpoints, as a process that executes it. Shared: never gets any.
            flags = mmap.MAP_PRIVATE if is_checked else mmap.MAP_SHARED
            probed = stack.enter_context(mmap.mmap(file, 0, flags, mmap.PROT_READ))
            original = stack.enter_context(mmap.mmap(file, 0, mmap.MAP_SHARED, mmap.PROT_READ))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            return [(place, f"{binary_path}: {reason}") for place in places]
        size = len(original)
        refused = [
            (place, "beyond the end of the file") for place in places if place.offset >= size
        ]
        places = [place for place in places if place.offset < size]

        def attach_part(part: Sequence[Place]) -> None:
            attach(path, part)

        if tier is Tier.UPROBE_PERF:
            parts = [[place] for place in places]
        else:
            suspects = [place for place in places if original[place.offset] in _SUSPECT_BYTES]
            others = [place for place in places if original[place.offset] not in _SUSPECT_BYTES]
            parts = [others, suspects]
        if tier is Tier.UPROBE_TRACEFS:
            parts = [part for all_of_them in parts for part in shared_parts(loaded, all_of_them)]
        for part in parts:
            refused += attach_or_bisect(part, attach_part)
        failed = {(place.function, place.offset) for place, _ in refused}
        for place in places if is_checked else ():
            begin, end = place.offset, place.offset + _INSTRUCTION_BYTES
            if probed[begin:end] == original[begin:end] and (place.function, begin) not in failed:
                refused.append((place, _DEAD))
    return refused
