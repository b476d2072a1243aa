"""Attaching to functions of programs and libraries, and to their USDT probes."""

import mmap
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from datacrumbs_runtime.bpf import bpf_syscall
from datacrumbs_runtime.bpf.bisection import attach_or_bisect, reason_of
from datacrumbs_runtime.bpf.elf_file import ElfFile
from datacrumbs_runtime.bpf.features import Tier, probe_event_source, semaphore_shift
from datacrumbs_runtime.bpf.links import Links
from datacrumbs_runtime.bpf.loader import Loaded
from datacrumbs_runtime.bpf.registry import UprobeTarget, UsdtTarget
from datacrumbs_runtime.errors import ProbeFileError

# First bytes of what the kernel refuses on x86: lock prefix, int3, int, hlt, in and out, cli, sti.
# They only decide what is tried first when an attachment fails.
_SUSPECT_BYTES = frozenset(b"\xf0\xcc\xcd\xf4\xec\xed\xee\xef\xe4\xe5\xe6\xe7\xfa\xfb\x6c\x6d\x6e")
_INSTRUCTION_BYTES = 4
_REGISTRATION = {"dc_register_start": "datacrumbs_start", "dc_register_stop": "datacrumbs_stop"}
_DEAD = "attached, but the kernel put no breakpoint there"


class _Place(NamedTuple):
    """One instruction to probe: of a function, or of a USDT probe with its semaphore."""

    function: int
    offset: int
    semaphore: int = 0


_Attach = Callable[[bytes, Sequence[_Place]], None]


def programs_of(tier: Tier) -> dict[str, int | None]:
    """Return the programs that a tier needs for functions, with their attach types."""
    if tier is Tier.UPROBE_SESSION:
        return {"dc_uprobe_session": bpf_syscall.ATTACH_UPROBE_SESSION}
    return pair_programs_of(tier)


def pair_programs_of(tier: Tier) -> dict[str, int | None]:
    """Return the programs that a tier needs for USDT probes, with their attach types."""
    attach_type = None if tier is Tier.UPROBE_PERF else bpf_syscall.ATTACH_UPROBE_MULTI
    return {"dc_uprobe_entry": attach_type, "dc_uprobe_return": attach_type}


def registration_programs_of(tier: Tier) -> dict[str, int | None]:
    """Return the programs by which processes register, with their attach types."""
    attach_type = None if tier is Tier.UPROBE_PERF else bpf_syscall.ATTACH_UPROBE_MULTI
    return dict.fromkeys(_REGISTRATION, attach_type)


def attach_functions(
    loaded: Loaded, links: Links, tier: Tier, targets: Iterable[UprobeTarget]
) -> dict[int, str]:
    """Attach to entry and return of functions.

    Returns:
        Why a function is not attached, by its number.
    """
    if tier is Tier.UPROBE_SESSION:
        session = loaded.program_fd("dc_uprobe_session")

        def attach(path: bytes, places: Sequence[_Place]) -> None:
            links.add(_multi(session, path, places, session=True))
    else:
        entry, at_return = (loaded.program_fd(name) for name in pair_programs_of(tier))

        def attach(path: bytes, places: Sequence[_Place]) -> None:
            # The return first: a call that is seen to begin is seen to end.
            made = _one_program(tier, at_return, path, places, at_return=True)
            try:
                made += _one_program(tier, entry, path, places)
            except OSError:
                _close(made)
                raise
            links.add(*made)

    by_binary: dict[str, list[_Place]] = defaultdict(list)
    for target in targets:
        by_binary[target.binary_path].append(_Place(target.index, target.file_offset))
    return _attach_binaries(by_binary, attach, tier)


def attach_usdt(
    loaded: Loaded, links: Links, tier: Tier, targets: Sequence[UsdtTarget]
) -> dict[int, str]:
    """Attach to pairs of USDT probes.

    Returns:
        Why a function is not attached, or not everywhere, by its number.
    """
    refusals: dict[int, str] = {}
    for name, role in zip(pair_programs_of(tier), ("entry", "return"), strict=True):
        program = loaded.program_fd(name)

        def attach(path: bytes, places: Sequence[_Place], program: int = program) -> None:
            links.add(*_one_program(tier, program, path, places))

        by_binary: dict[str, list[_Place]] = defaultdict(list)
        for target in targets:
            if target.role == role:
                by_binary[target.binary_path].append(
                    _Place(target.index, target.file_offset, target.semaphore)
                )
        refusals |= _attach_binaries(by_binary, attach, tier)
    for target in targets:
        if target.role not in {"entry", "return"}:
            refusals[target.index] = "a USDT probe without an end cannot be recorded"
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
                for program, symbol in _REGISTRATION.items():
                    value = file.symbol_value(symbol)
                    offset = None if value is None else file.file_offset(value)
                    if offset is None:
                        refusals[library] = f"no function {symbol}"
                        continue
                    links.add(
                        *_one_program(
                            tier,
                            loaded.program_fd(program),
                            os.fsencode(library),
                            [_Place(0, offset)],
                        )
                    )
        except ProbeFileError as error:
            refusals[library] = str(error)
        except OSError as error:
            refusals[library] = reason_of(error)
    return refusals


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _is_perf(tier: Tier) -> bool:
    return tier is Tier.UPROBE_PERF


def _multi(
    program: int,
    path: bytes,
    places: Sequence[_Place],
    *,
    session: bool = False,
    at_return: bool = False,
) -> int:
    semaphores = [place.semaphore for place in places]
    return bpf_syscall.link_create_uprobe_multi(
        program,
        path,
        [place.offset for place in places],
        [place.function for place in places],
        ref_ctr_offsets=semaphores if any(semaphores) else None,
        session=session,
        at_return=at_return,
    )


def _one_program(
    tier: Tier, program: int, path: bytes, places: Sequence[_Place], *, at_return: bool = False
) -> list[int]:
    """Attach one program to all places; return the descriptors to keep, links first."""
    if not _is_perf(tier):
        return [_multi(program, path, places, at_return=at_return)]
    event_type, return_bit = probe_event_source("uprobe")
    opened: list[int] = []
    try:
        for place in places:
            config = return_bit if at_return else 0
            if place.semaphore:
                config |= place.semaphore << semaphore_shift()
            event = bpf_syscall.perf_event_open_probe(event_type, config, path, place.offset)
            opened.append(event)
            opened.insert(0, bpf_syscall.link_create_perf_event(program, event, place.function))
    except OSError:
        _close(opened)
        raise
    return opened


def _attach_binaries(
    by_binary: Mapping[str, list[_Place]], attach: _Attach, tier: Tier
) -> dict[int, str]:
    return {
        place.function: reason
        for binary_path, places in by_binary.items()
        for place, reason in _attach_binary(binary_path, places, attach, tier)
    }


def _attach_binary(
    binary_path: str, places: list[_Place], attach: _Attach, tier: Tier
) -> list[tuple[_Place, str]]:
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

        def attach_part(part: Sequence[_Place]) -> None:
            attach(path, part)

        if _is_perf(tier):
            parts = [[place] for place in places]
        else:
            suspects = [place for place in places if original[place.offset] in _SUSPECT_BYTES]
            others = [place for place in places if original[place.offset] not in _SUSPECT_BYTES]
            parts = [others, suspects]
        for part in parts:
            refused += attach_or_bisect(part, attach_part)
        failed = {place for place, _ in refused}
        for place in places if is_checked else ():
            instruction = slice(place.offset, place.offset + _INSTRUCTION_BYTES)
            if probed[instruction] == original[instruction] and place not in failed:
                refused.append((place, _DEAD))
    return refused
