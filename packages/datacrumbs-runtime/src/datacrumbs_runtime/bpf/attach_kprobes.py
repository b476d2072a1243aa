"""Attaching to functions of the kernel."""

import os
import struct
from collections import Counter
from collections.abc import Callable, Sequence

from datacrumbs_runtime.bpf import bpf_syscall, perf_events
from datacrumbs_runtime.bpf.bisection import attach_or_bisect, reason_of
from datacrumbs_runtime.bpf.features import Tier, probe_event_source, returns_come_from_a_pool
from datacrumbs_runtime.bpf.kernel_symbols import locate, traceable_functions
from datacrumbs_runtime.bpf.layout import COOKIE_SHARED_BIT
from datacrumbs_runtime.bpf.libbpf import possible_cpus
from datacrumbs_runtime.bpf.links import Links
from datacrumbs_runtime.bpf.loader import Loaded
from datacrumbs_runtime.bpf.targets import KprobeTarget
from datacrumbs_runtime.bpf.tracefs_events import EVENT_PLACES, SharedEvent
from datacrumbs_runtime.errors import KernelError

_ENTRY, _RETURN = "dc_kprobe_entry", "dc_kprobe_return"
# The programs of fentry are loaded, and taken out, once for each function: more share events of
# tracefs, of which each costs a hundredth of that.
FENTRY_FUNCTIONS = 4
_MOST_CALLS_AT_ONCE = 4096
_RETURNS_OF_A_LINK = 4096
_NOT_TRACEABLE = "the kernel does not allow tracing it"
_Refused = list[tuple[KprobeTarget, str]]


def programs_of(tier: Tier) -> dict[str, int | None]:
    """Return the programs that a tier needs, with their attach types.

    The programs of fentry are loaded for each function, and those of perf events when a function
    needs them.
    """
    if tier is Tier.KPROBE_SESSION:
        return {"dc_kprobe_session": bpf_syscall.ATTACH_KPROBE_SESSION}
    if tier is Tier.KPROBE_MULTI:
        return {
            _ENTRY: bpf_syscall.ATTACH_KPROBE_MULTI,
            _RETURN: bpf_syscall.ATTACH_KPROBE_MULTI,
        }
    return {}


def attach_functions(
    loaded: Loaded, links: Links, tiers: Sequence[Tier], targets: Sequence[KprobeTarget]
) -> tuple[dict[int, str], list[Tier]]:
    """Attach to entry and return of kernel functions.

    Args:
        loaded: The programs.
        links: Take over what is attached.
        tiers: The tiers to use, best first. What one refuses goes on to the next: perf events take
            functions that multi links and fentry do not.
        targets: The functions.

    Returns:
        Why a function is not attached, by its number: the reason of the first tier; and the tiers
        that took any.
    """
    waiting, unknown = locate(targets)
    reasons: dict[int, str] = {}
    used: list[Tier] = []
    for tier in tiers:
        if tier is not Tier.KPROBE_SESSION:
            waiting, twice = _once_each(waiting)
            unknown += twice
        if not waiting:
            break
        try:
            refused = _ATTACH[tier](loaded, links, waiting)
        except KernelError as error:
            refused = [(target, str(error)) for target in waiting]
        for target, reason in refused:
            reasons.setdefault(target.function, reason)
        if len(refused) < len(waiting):
            used.append(tier)
        waiting = [target for target, _ in refused]
    failed = {target.function: reasons[target.function] for target in waiting}
    return failed | {target.function: reason for target, reason in unknown}, used


def _once_each(targets: Sequence[KprobeTarget]) -> tuple[list[KprobeTarget], _Refused]:
    # Only sessions tell whose end it is where two begin at once.
    names: dict[int | str, str] = {}
    taken: list[KprobeTarget] = []
    refused: _Refused = []
    for target in targets:
        first = names.setdefault(target.address or target.symbol, target.name)
        if len(names) > len(taken):
            taken.append(target)
        else:
            refused.append((target, f"recorded as {first}: the same function"))
    return taken, refused


def _attach_session(loaded: Loaded, links: Links, targets: Sequence[KprobeTarget]) -> _Refused:
    program = loaded.program_fd("dc_kprobe_session")
    returns = _returns_of_a_function()

    def attach(part: Sequence[KprobeTarget]) -> None:
        links.add_of_kernel_functions(_link(program, part, returns, session=True))

    return _attach_together(targets, attach)


def _attach_multi(loaded: Loaded, links: Links, targets: Sequence[KprobeTarget]) -> _Refused:
    entry, at_return = loaded.program_fd(_ENTRY), loaded.program_fd(_RETURN)
    returns = _returns_of_a_function()

    def attach(part: Sequence[KprobeTarget]) -> None:
        # The return first: a call that is seen to begin is seen to end.
        link = _link(at_return, part, returns, at_return=True)
        try:
            links.add_of_kernel_functions(_link(entry, part))
        except OSError:
            os.close(link)
            raise
        links.add_of_kernel_functions(link)

    return _attach_together(targets, attach)


def _returns_of_a_function() -> int:
    """Return how many returns a link has for each function, 0: as many as it takes."""
    return 2 * possible_cpus() if returns_come_from_a_pool() else 0


def _link(
    program: int,
    part: Sequence[KprobeTarget],
    returns: int = 0,
    *,
    session: bool = False,
    at_return: bool = False,
) -> int:
    # By address the kernel need not look up the names, of which it would take any of several.
    is_hidden = any(target.address == 0 for target in part)
    # Calls beyond the returns that the link has are lost, also to processes that are not recorded
    # and sleep in one. A function that is given several times is attached once and counts as many.
    copies = max(1, -(-_RETURNS_OF_A_LINK // (returns * len(part)))) if returns else 1
    if not is_hidden:
        part = list(part) * copies
    return bpf_syscall.link_create_kprobe_multi(
        program,
        [each.symbol for each in part] if is_hidden else [each.address for each in part],
        [target.function for target in part],
        session=session,
        at_return=at_return,
    )


def _attach_together(
    targets: Sequence[KprobeTarget], attach: Callable[[Sequence[KprobeTarget]], None]
) -> _Refused:
    """Attach with as few links as possible.

    One function that the kernel refuses fails the whole link: those of which it says that they
    cannot be traced are taken out first, and only what it does not say is searched for.
    """
    refused: _Refused = []
    for part in _rounds(targets):
        try:
            attach(part)
            continue
        except OSError:
            traceable = traceable_functions()
        if traceable is not None:
            refused += [(each, _NOT_TRACEABLE) for each in part if each.symbol not in traceable]
            part = [each for each in part if each.symbol in traceable]
        refused += attach_or_bisect(part, attach)
    return refused


def _rounds(targets: Sequence[KprobeTarget]) -> list[list[KprobeTarget]]:
    # A link tells functions apart by address: one that is asked for twice needs two links.
    rounds: list[list[KprobeTarget]] = []
    seen: Counter[int | str] = Counter()
    for target in targets:
        place = target.address or target.symbol
        if seen[place] == len(rounds):
            rounds.append([])
        rounds[seen[place]].append(target)
        seen[place] += 1
    return rounds


def _attach_fentry(loaded: Loaded, links: Links, targets: Sequence[KprobeTarget]) -> _Refused:
    refused: _Refused = []
    names = ("dc_fentry", "dc_fexit")
    for target in targets:
        try:
            again = loaded.load_again(
                dict.fromkeys(names),
                {"dc_single_function": struct.pack("=I", target.function)},
                dict.fromkeys(names, target.symbol),
            )
            made: list[int] = []
            try:
                # The return first: a call that is seen to begin is seen to end.
                for name in reversed(names):
                    made.append(bpf_syscall.link_create_tracing(again.programs[name].fd))
            except OSError:
                for descriptor in made:
                    os.close(descriptor)
                raise
            links.add(*made)
        except OSError as error:
            refused.append((target, reason_of(error)))
        except KernelError as error:
            refused.append((target, str(error)))
    return refused


def _attach_tracefs(loaded: Loaded, links: Links, targets: Sequence[KprobeTarget]) -> _Refused:
    programs = loaded.load_again({_ENTRY: None, _RETURN: None}, {}).programs
    refused: _Refused = []
    waiting: list[KprobeTarget] = []
    for target in targets:
        if not target.address:
            refused.append((target, "the kernel keeps the addresses of its functions to itself"))
        else:
            loaded.share(target.address, target.function)
            waiting.append(target)

    def attach(part: Sequence[KprobeTarget]) -> None:
        made = Links()
        try:
            # The return first: a call that is seen to begin is seen to end.
            left = _share_event(made, programs[_RETURN].fd, part, f"r{_calls_at_once()}", refused)
            _share_event(made, programs[_ENTRY].fd, left, "p", refused)
        except BaseException:
            made.close()
            raise
        links.take(made)

    for first in range(0, len(waiting), EVENT_PLACES):
        refused += attach_or_bisect(waiting[first : first + EVENT_PLACES], attach)
    return refused


def _share_event(
    made: Links, program: int, targets: Sequence[KprobeTarget], how: str, refused: _Refused
) -> list[KprobeTarget]:
    """Attach a program to all functions that the kernel takes, and return these."""
    event = SharedEvent("kprobe")
    made.add_event(event)
    taken: list[KprobeTarget] = []
    for target in targets:
        try:
            event.add(target.symbol.encode(), how)
            taken.append(target)
        except OSError as error:
            refused.append((target, reason_of(error)))
    if taken:
        made.add(*event.attach(program, 1 << COOKIE_SHARED_BIT))
    return taken


def _calls_at_once() -> int:
    # The kernel prepares for so many calls of a function that have not returned; its own number,
    # twice that of the CPUs, is too small for functions that sleep.
    return min(max(64, 4 * (os.cpu_count() or 1)), _MOST_CALLS_AT_ONCE)


def _attach_perf(loaded: Loaded, links: Links, targets: Sequence[KprobeTarget]) -> _Refused:
    event_type, return_bit = probe_event_source("kprobe")
    programs = loaded.load_again({_ENTRY: None, _RETURN: None}, {}).programs

    def attach(part: Sequence[KprobeTarget]) -> None:
        made = Links()
        try:
            for name, config in ((_RETURN, return_bit), (_ENTRY, 0)):
                event = perf_events.open_probe(event_type, config, part[0].symbol.encode(), 0)
                made.add(event)
                made.add_of_kernel_functions(
                    bpf_syscall.link_create_perf_event(programs[name].fd, event, part[0].function)
                )
        except OSError:
            made.close()
            raise
        links.take(made)

    refused: _Refused = []
    for target in targets:
        refused += attach_or_bisect([target], attach)
    return refused


_ATTACH: dict[Tier, Callable[[Loaded, Links, Sequence[KprobeTarget]], _Refused]] = {
    Tier.KPROBE_SESSION: _attach_session,
    Tier.KPROBE_MULTI: _attach_multi,
    Tier.KPROBE_FENTRY: _attach_fentry,
    Tier.KPROBE_TRACEFS: _attach_tracefs,
    Tier.KPROBE_PERF: _attach_perf,
}
