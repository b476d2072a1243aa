"""Attaching one program to many places of a file, by the ways that the kernel has for it."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from datacrumbs_runtime.bpf import bpf_syscall, perf_events
from datacrumbs_runtime.bpf.features import Tier, probe_event_source, semaphore_shift
from datacrumbs_runtime.bpf.layout import COOKIE_BY_STACK_BIT, COOKIE_SHARED_BIT, PLACE_BITS
from datacrumbs_runtime.bpf.links import Links
from datacrumbs_runtime.bpf.loader import Loaded
from datacrumbs_runtime.bpf.tracefs_events import EVENT_PLACES, SharedEvent, user_place

_SHARED = 1 << COOKIE_SHARED_BIT
_BY_STACK = 1 << COOKIE_BY_STACK_BIT
_IN_PAGE = (1 << PLACE_BITS) - 1


class Place(NamedTuple):
    """One instruction to probe: of a function, or of a USDT probe.

    Attributes:
        function: The row of the function.
        offset: Where in the file, in bytes.
        semaphore: Where in the file the semaphore of a USDT probe is; 0: it has none.
        number: Of the attachment that it shares with others; see :func:`shared_parts`.
    """

    function: int
    offset: int
    semaphore: int = 0
    number: int = 0


def attach_type(tier: Tier) -> int | None:
    """Return what a program must be loaded for; None: a program can have only one type."""
    has_links = tier in {Tier.UPROBE_SESSION, Tier.UPROBE_MULTI}
    return bpf_syscall.ATTACH_UPROBE_MULTI if has_links else None


def multi_link(
    program: int,
    path: bytes,
    places: Sequence[Place],
    *,
    session: bool = False,
    at_return: bool = False,
    flags: int = 0,
) -> int:
    """Attach by one link of the kernel's own for many places, and return it.

    The cookie of each is the number of its function and the flags.
    """
    semaphores = [place.semaphore for place in places]
    return bpf_syscall.link_create_uprobe_multi(
        program,
        path,
        [place.offset for place in places],
        [flags | place.function for place in places],
        ref_ctr_offsets=semaphores if any(semaphores) else None,
        session=session,
        at_return=at_return,
    )


def attach_program(
    tier: Tier,
    program: int,
    path: bytes,
    places: Sequence[Place],
    *,
    of_functions: bool = False,
    at_return: bool = False,
) -> Links:
    """Attach a program to places of a file: to all of them or to none.

    Args:
        tier: How.
        program: Loaded for :func:`attach_type`.
        path: The file.
        places: The places; a part made by :func:`shared_parts` if they share an attachment.
        of_functions: They are functions, whose return is probed as well.
        at_return: The program runs at their return.

    Raises:
        OSError: The kernel refused.
    """
    made = Links()
    flags = _BY_STACK if of_functions else 0
    try:
        if tier is Tier.UPROBE_PERF:
            _attach_each(made, program, path, places, at_return, flags)
        elif tier is Tier.UPROBE_TRACEFS:
            cookie = flags if at_return else flags | _SHARED | places[0].number
            _attach_shared(made, program, path, places, "r" if at_return else "p", cookie)
        else:
            made.add(multi_link(program, path, places, at_return=at_return, flags=flags))
    except BaseException:
        made.close()
        raise
    return made


def shared_parts(loaded: Loaded, places: Iterable[Place]) -> list[list[Place]]:
    """Divide places so that each part can share one attachment, and tell the programs of them.

    All places of an attachment have one cookie. The program tells them apart by their address
    within a page, the only part of an address that is the same wherever the file is mapped.
    """
    parts: dict[int, list[list[Place]]] = defaultdict(list)
    seen: dict[int, int] = defaultdict(int)
    numbers: dict[tuple[int, int], int] = {}
    for place in places:
        layer = seen[place.offset & _IN_PAGE]
        seen[place.offset & _IN_PAGE] += 1
        if not parts[layer] or len(parts[layer][-1]) == EVENT_PLACES:
            numbers[layer, len(parts[layer])] = next(loaded.place_numbers)
            parts[layer].append([])
        part = parts[layer][-1]
        number = numbers[layer, len(parts[layer]) - 1]
        loaded.share(number << PLACE_BITS | place.offset & _IN_PAGE, place.function)
        part.append(place._replace(number=number))
    return [part for layer in parts.values() for part in layer]


def _attach_each(
    made: Links,
    program: int,
    path: bytes,
    places: Sequence[Place],
    at_return: bool,
    flags: int,
) -> None:
    event_type, return_bit = probe_event_source("uprobe")
    for place in places:
        config = return_bit if at_return else 0
        if place.semaphore:
            config |= place.semaphore << semaphore_shift()
        event = perf_events.open_probe(event_type, config, path, place.offset)
        made.add(event)
        made.add(bpf_syscall.link_create_perf_event(program, event, flags | place.function))


def _attach_shared(
    made: Links, program: int, path: bytes, places: Sequence[Place], how: str, cookie: int
) -> None:
    event = SharedEvent("uprobe")
    made.add_event(event)
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for place in places:
            event.add(user_place(path, file, place.offset, place.semaphore), how)
    finally:
        os.close(file)
    made.add(*event.attach(program, cookie))
