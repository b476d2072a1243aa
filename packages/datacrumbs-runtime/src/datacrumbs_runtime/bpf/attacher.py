"""Attaching everything that a run records, by the best ways that this kernel has."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from datacrumbs_runtime.bpf import attach_kprobes, attach_tracepoints, attach_uprobes
from datacrumbs_runtime.bpf.attach_report import AttachFailure, AttachReport
from datacrumbs_runtime.bpf.features import Tier, best_tier, refusal, tiers_of
from datacrumbs_runtime.bpf.links import Links
from datacrumbs_runtime.bpf.loader import OBJECT_PATH, PROCESS_PROGRAMS, Loaded, LoadSettings
from datacrumbs_runtime.bpf.registry import Registry
from datacrumbs_runtime.bpf.tracefs_events import remove_left_behind
from datacrumbs_runtime.errors import KernelError, ProgramRefusedError

logger = logging.getLogger(__name__)

SYSCALLS_TIER = "tp_btf"


@dataclass(frozen=True, slots=True)
class Plan:
    """Which programs are loaded for a run, and how they will be attached.

    Attributes:
        registry: What is recorded.
        client_libraries: Files with ``datacrumbs_start`` and ``datacrumbs_stop``, by which
            processes register themselves.
        programs: The programs to load, with the attach type of those that can have several.
        uprobe_tier: How functions of user space are attached; None: there are none, or it cannot.
        kprobe_tiers: How functions of the kernel are attached, best first.
        tracepoint_tier: How tracepoints are attached; None: there are none, or it cannot.
        refusals: Why a kind of probe cannot be attached at all.
        tier_of_program: The tier that needs a program; the others every run needs.
    """

    registry: Registry
    client_libraries: Sequence[str]
    programs: Mapping[str, int | None]
    uprobe_tier: Tier | None
    kprobe_tiers: Sequence[Tier]
    tracepoint_tier: Tier | None
    refusals: Mapping[str, str] = field(default_factory=dict)
    tier_of_program: Mapping[str, Tier] = field(default_factory=dict)

    @property
    def places(self) -> int:
        """How many places share attachments at most."""
        of_user = len(self.registry.uprobes) + len(self.registry.usdt)
        of_user += len(attach_uprobes.REGISTRATION) * len(self.client_libraries)
        of_kernel = len(self.registry.kprobes)
        return of_user * (self.uprobe_tier is Tier.UPROBE_TRACEFS) + of_kernel * (
            Tier.KPROBE_TRACEFS in self.kprobe_tiers
        )


def load(
    registry: Registry,
    client_libraries: Sequence[str],
    max_tier: str | None,
    settings_of: Callable[[Plan], LoadSettings],
    object_path: Path = OBJECT_PATH,
) -> tuple[Plan, Loaded]:
    """Choose the programs for a run and load them.

    A tier whose programs this kernel refuses is as good as one that it does not have.

    Args:
        registry: What is to be recorded.
        client_libraries: Files by whose functions processes register themselves.
        max_tier: Tiers above which nothing is tried, separated by commas.
        settings_of: Makes the settings for what was chosen.
        object_path: The compiled programs.

    Raises:
        KernelError: ``max_tier`` names no tier, or the kernel refuses what every run needs.
    """
    refused: dict[Tier, str] = {}
    while True:
        chosen = plan(registry, client_libraries, max_tier, refused)
        try:
            return chosen, Loaded(settings_of(chosen), object_path)
        except ProgramRefusedError as error:
            tier = chosen.tier_of_program.get(error.program)
            if tier is None:
                raise
            logger.warning("%s is not used: %s", tier.value, error)
            refused[tier] = str(error)


def plan(
    registry: Registry,
    client_libraries: Sequence[str] = (),
    max_tier: str | None = None,
    refused: Mapping[Tier, str] = MappingProxyType({}),
) -> Plan:
    """Ask the kernel what it can do and choose the programs to load.

    Args:
        registry: What is to be recorded.
        client_libraries: Files by whose functions processes register themselves.
        max_tier: Tiers above which nothing is tried, separated by commas.
        refused: Tiers that are known not to work, with the reason.

    Raises:
        KernelError: ``max_tier`` names no tier.
    """
    programs: dict[str, int | None] = dict.fromkeys(PROCESS_PROGRAMS)
    refusals: dict[str, str] = {}
    owners: dict[str, Tier] = {}

    def need(tier: Tier, wanted: Mapping[str, int | None]) -> None:
        programs.update(wanted)
        owners.update(dict.fromkeys(wanted, tier))

    def best_or_none(kind: str, is_wanted: bool) -> Tier | None:
        tiers_of(kind, max_tier)
        if not is_wanted:
            return None
        try:
            return best_tier(kind, max_tier, refused)
        except KernelError as error:
            refusals[kind] = str(error)
            return None

    if registry.syscalls:
        programs |= dict.fromkeys(attach_tracepoints.SYSCALL_PROGRAMS)
    uprobe = best_or_none("uprobe", bool(registry.uprobes or registry.usdt or client_libraries))
    if uprobe is not None:
        if registry.uprobes:
            need(uprobe, attach_uprobes.programs_of(uprobe))
        if registry.usdt:
            need(uprobe, attach_uprobes.usdt_programs_of(uprobe, registry.usdt))
        if client_libraries:
            need(uprobe, attach_uprobes.registration_programs_of(uprobe))
    kprobe = best_or_none("kprobe", bool(registry.kprobes))
    kprobes: list[Tier] = []
    if kprobe is not None:
        kprobes = _kprobe_tiers(kprobe, len(registry.kprobes))
        need(kprobes[0], attach_kprobes.programs_of(kprobes[0]))
    tracepoint = best_or_none("tracepoint", bool(registry.tracepoints))
    if tracepoint is not None:
        need(tracepoint, attach_tracepoints.programs_of(tracepoint, registry.tracepoints))
    return Plan(
        registry,
        client_libraries,
        programs,
        uprobe,
        tuple(kprobes),
        tracepoint,
        refusals,
        owners,
    )


def _kprobe_tiers(best: Tier, functions: int) -> list[Tier]:
    # The lower ones take what others do not.
    lower = [Tier.KPROBE_TRACEFS, Tier.KPROBE_PERF]
    if best in lower:
        lower = lower[lower.index(best) + 1 :]
    lower = [tier for tier in lower if refusal(tier) is None]
    is_crowd = functions > attach_kprobes.FENTRY_FUNCTIONS
    if best is Tier.KPROBE_FENTRY and is_crowd and Tier.KPROBE_TRACEFS in lower:
        return lower
    return [best, *lower]


def attach(loaded: Loaded, links: Links, chosen: Plan) -> AttachReport:
    """Attach everything; a function that cannot be attached stops no other.

    Args:
        loaded: The programs of the plan.
        links: Take over what is attached.
        chosen: What :func:`plan` returned.

    Raises:
        AttachError: What every run needs cannot be attached.
    """
    begin_ns = time.monotonic_ns()
    registry = chosen.registry
    refusals: dict[int, str] = {}
    unregistrable: dict[str, str] = {}
    tiers: dict[str, str] = {}
    if chosen.places:
        remove_left_behind()
    attach_tracepoints.attach_fixed(loaded, links, syscalls=bool(registry.syscalls))
    if registry.syscalls:
        tiers["syscalls"] = SYSCALLS_TIER
    if chosen.uprobe_tier is not None:
        tier = chosen.uprobe_tier
        tiers["uprobe"] = tier.value
        unregistrable = attach_uprobes.attach_registration(
            loaded, links, tier, chosen.client_libraries
        )
        if registry.uprobes:
            refusals |= attach_uprobes.attach_functions(loaded, links, tier, registry.uprobes)
        if registry.usdt:
            refusals |= attach_uprobes.attach_usdt(loaded, links, tier, registry.usdt)
    else:
        missing = {one.function for one in registry.uprobes}
        missing |= {one.function for one in registry.usdt}
        refusals |= dict.fromkeys(missing, chosen.refusals.get("uprobe", ""))
        unregistrable = dict.fromkeys(chosen.client_libraries, chosen.refusals.get("uprobe", ""))
    if chosen.kprobe_tiers:
        refused, used = attach_kprobes.attach_functions(
            loaded, links, chosen.kprobe_tiers, registry.kprobes
        )
        refusals |= refused
        tiers["kprobe"] = ",".join(tier.value for tier in used or chosen.kprobe_tiers[:1])
    else:
        missing = {target.function for target in registry.kprobes}
        refusals |= dict.fromkeys(missing, chosen.refusals.get("kprobe", ""))
    if chosen.tracepoint_tier is not None:
        tiers["tracepoint"] = chosen.tracepoint_tier.value
        refusals |= attach_tracepoints.attach_chosen(
            loaded, links, chosen.tracepoint_tier, registry.tracepoints
        )
    else:
        missing = {target.function for target in registry.tracepoints}
        refusals |= dict.fromkeys(missing, chosen.refusals.get("tracepoint", ""))
    report = _report(registry, refusals, unregistrable, tiers, time.monotonic_ns() - begin_ns)
    logger.debug("attached %d of %d functions", report.attached, report.requested)
    return report


def _report(
    registry: Registry,
    refusals: Mapping[int, str],
    unregistrable: Mapping[str, str],
    tiers: Mapping[str, str],
    duration_ns: int,
) -> AttachReport:
    failures = list(registry.refused)
    for index, reason in sorted(refusals.items()):
        function = registry.functions[index]
        failures.append(AttachFailure(function.category, function.name, reason))
    failures += [
        AttachFailure("registration", library, reason) for library, reason in unregistrable.items()
    ]
    # The requests within io_submit have rows, but no probe file names them.
    named = len(registry.functions) - len(registry.aio)
    return AttachReport(
        requested=named + len(registry.refused),
        attached=named - len(refusals),
        failures=tuple(failures),
        tiers=tiers,
        duration_ns=duration_ns,
    )
