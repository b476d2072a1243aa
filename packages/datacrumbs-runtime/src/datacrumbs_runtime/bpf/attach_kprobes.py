"""Attaching to functions of the kernel."""

import os
import struct
from collections.abc import Callable, Sequence

from datacrumbs_runtime.bpf import bpf_syscall
from datacrumbs_runtime.bpf.bisection import attach_or_bisect, reason_of
from datacrumbs_runtime.bpf.features import Tier, probe_event_source
from datacrumbs_runtime.bpf.kernel_symbols import function_addresses
from datacrumbs_runtime.bpf.layout import COOKIE_SHARED_BIT
from datacrumbs_runtime.bpf.links import Links
from datacrumbs_runtime.bpf.loader import Loaded
from datacrumbs_runtime.bpf.targets import KprobeTarget
from datacrumbs_runtime.bpf.tracefs_events import EVENT_PLACES, SharedEvent
from datacrumbs_runtime.errors import KernelError

_ENTRY, _RETURN = "dc_kprobe_entry", "dc_kprobe_return"
# The programs of fentry are loaded once for each function: more share events of tracefs.
FENTRY_FUNCTIONS = 16
_MOST_CALLS_AT_ONCE = 4096
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
) -> dict[int, str]:
    """Attach to entry and return of kernel functions.

    Args:
        loaded: The programs.
        links: Take over what is attached.
        tiers: The tiers to use, best first. What one refuses goes on to the next: perf events take
            functions that multi links and fentry do not.
        targets: The functions.

    Returns:
        Why a function is not attached, by its number: the reason of the first tier.
    """
    reasons: dict[int, str] = {}
    waiting = list(targets)
    for tier in tiers:
        if not waiting:
            break
        refused = _ATTACH[tier](loaded, links, waiting)
        for target, reason in refused:
            reasons.setdefault(target.index, reason)
        waiting = [target for target, _ in refused]
    return {target.index: reasons[target.index] for target in waiting}


def _attach_session(loaded: Loaded, links: Links, targets: Sequence[KprobeTarget]) -> _Refused:
    program = loaded.program_fd("dc_kprobe_session")

    def attach(part: Sequence[KprobeTarget]) -> None:
        links.add(
            bpf_syscall.link_create_kprobe_multi(
                program,
                [target.symbol for target in part],
                [target.index for target in part],
                session=True,
            )
        )

    return attach_or_bisect(targets, attach)


def _attach_multi(loaded: Loaded, links: Links, targets: Sequence[KprobeTarget]) -> _Refused:
    entry, at_return = loaded.program_fd(_ENTRY), loaded.program_fd(_RETURN)

    def attach(part: Sequence[KprobeTarget]) -> None:
        symbols = [target.symbol for target in part]
        cookies = [target.index for target in part]
        link = bpf_syscall.link_create_kprobe_multi(entry, symbols, cookies)
        try:
            links.add(
                bpf_syscall.link_create_kprobe_multi(at_return, symbols, cookies, at_return=True)
            )
        except OSError:
            os.close(link)
            raise
        links.add(link)

    return attach_or_bisect(targets, attach)


def _attach_fentry(loaded: Loaded, links: Links, targets: Sequence[KprobeTarget]) -> _Refused:
    refused: _Refused = []
    names = ("dc_fentry", "dc_fexit")
    for target in targets:
        try:
            again = loaded.load_again(
                dict.fromkeys(names),
                {"dc_single_function": struct.pack("=I", target.index)},
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
    addresses = function_addresses(target.symbol for target in targets)
    refused: _Refused = []
    waiting: list[KprobeTarget] = []
    for target in targets:
        found = addresses.get(target.symbol, ())
        if len(found) == 1:
            loaded.share(found[0], target.index)
            waiting.append(target)
        elif found:
            refused.append((target, f"the kernel has {len(found)} functions of that name"))
        else:
            refused.append((target, "the kernel has no function of that name"))

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
    made.afterwards(event.remove)
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
        made: list[int] = []
        try:
            for name, config in ((_RETURN, return_bit), (_ENTRY, 0)):
                event = bpf_syscall.perf_event_open_probe(
                    event_type, config, part[0].symbol.encode(), 0
                )
                made.append(event)
                made.append(
                    bpf_syscall.link_create_perf_event(programs[name].fd, event, part[0].index)
                )
        except OSError:
            for descriptor in made:
                os.close(descriptor)
            raise
        links.add(*made)

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
