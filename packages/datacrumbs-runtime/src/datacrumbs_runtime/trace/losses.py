"""What a run did not record, by cause, and the check that nothing else is missing.

The BPF programs count per CPU in the map "losses"; the pump and the writer count what they wrote.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from datacrumbs_runtime.trace.trace_lines import metadata_line


@dataclass(frozen=True, slots=True)
class Losses:
    """Counters of one run so far. The first 17 are enum dc_loss, in its order.

    Attributes:
        offered: Calls that were to be written.
        ring_full: Of these, dropped because the CPU's ring was full.
        strings_full: File names and texts that found no room.
        string_unreadable: File names and texts whose memory was not there.
        scratch_busy: File names and texts lost because all buffers of a CPU were in use.
        arguments: Calls written without their arguments, because they were nested too deep.
        state: Threads for whose state there was no memory.
        spans_full: Begins of calls or spans that found no room.
        missed_begin: Ends of calls or spans whose begin was not seen.
        below_threshold: Calls shorter than the threshold: summed up, not written.
        compat: 32-bit system calls, which are not recorded.
        entered: Calls that began.
        filtered: Calls left out because they are not about a file.
        unfinished: Threads that died within a call.
        profile_full: Calls that found no room in the sums of profile mode.
        refused: Registrations by processes of another owner.
        counted: Calls that were counted (profile mode), not written.
        written: Calls that the pump turned into lines.
        bad_records: Records that the pump could not read.
        unknown_ids: File names and texts left out of lines because their string was lost.
        excluded: Calls on files outside the directories that are to be recorded.
        unwritten: Lines of calls that never reached the file, because the disk was full.
        skipped: How often the kernel did not run a program, because one was running on that CPU
            and had been preempted, or had itself called what is probed, or because there was no
            room for the return of one more call. Anybody's calls: at most as many of the run's
            were not recorded.
    """

    offered: int = 0
    ring_full: int = 0
    strings_full: int = 0
    string_unreadable: int = 0
    scratch_busy: int = 0
    arguments: int = 0
    state: int = 0
    spans_full: int = 0
    missed_begin: int = 0
    below_threshold: int = 0
    compat: int = 0
    entered: int = 0
    filtered: int = 0
    unfinished: int = 0
    profile_full: int = 0
    refused: int = 0
    counted: int = 0
    written: int = 0
    bad_records: int = 0
    unknown_ids: int = 0
    excluded: int = 0
    unwritten: int = 0
    skipped: int = 0

    @property
    def lost_calls(self) -> int:
        """Calls that should be in the trace and are not."""
        return (
            self.ring_full
            + self.bad_records
            + self.unwritten
            + self.spans_full
            + self.state
            + self.profile_full
        )

    @property
    def unaccounted(self) -> int:
        """Offered calls that were neither written nor counted as dropped.

        While the run goes on these wait in the rings; at its end it must be 0.
        """
        return self.offered - self.ring_full - self.written - self.bad_records - self.excluded

    @property
    def is_complete(self) -> bool:
        """Whether the trace holds all that it should."""
        incomplete = self.strings_full + self.scratch_busy + self.arguments + self.missed_begin
        return self.lost_calls == 0 and self.unaccounted == 0 and incomplete == 0

    def to_dict(self) -> dict[str, int]:
        """Return all counters by name."""
        return asdict(self)

    def summary(self) -> str:
        """Return one line for people, such as ``lost 12 of 1,000 calls: 12 ring full``."""
        causes = [
            f"{count:,} {text}" for name, text in _CAUSES.items() if (count := getattr(self, name))
        ]
        if self.unaccounted:
            causes.append(f"{self.unaccounted:,} not accounted for")
        lost = self.lost_calls
        calls = self.offered + self.counted + self.below_threshold + self.profile_full
        what = f"lost {lost:,} of {calls:,} calls" if lost else "lost no calls"
        return f"{what}: {', '.join(causes)}" if causes else what


_CAUSES = {
    "ring_full": "found the ring buffer full",
    "unwritten": "did not reach the disk",
    "bad_records": "unreadable records",
    "spans_full": "begins found no room",
    "state": "threads without memory for their state",
    "profile_full": "found no room in the profile",
    "arguments": "without arguments",
    "strings_full": "names found no room",
    "scratch_busy": "names found no free buffer",
    "string_unreadable": "strings unreadable",
    "unknown_ids": "names missing in lines",
    "missed_begin": "ends without a begin",
    "skipped": "programs not run by the kernel (calls of anybody)",
    "compat": "32-bit system calls",
    "unfinished": "threads ended within a call",
    "refused": "registrations refused",
}
KERNEL_COUNTERS = tuple(field.name for field in fields(Losses))[:17]
# These grow all the time; the others are worth a line in the trace when they change.
_ALWAYS_GROWING = frozenset({"offered", "entered", "written", "counted", "filtered", "excluded"})


def losses_from_counters(
    counters: Sequence[int],
    *,
    written: int = 0,
    bad_records: int = 0,
    unknown_ids: int = 0,
    excluded: int = 0,
    unwritten: int = 0,
    skipped: int = 0,
) -> Losses:
    """Give names to counters.

    Args:
        counters: Sums over all CPUs, in the order of enum dc_loss.
        written: Events of the pump.
        bad_records: Unreadable records of the pump.
        unknown_ids: Missing names of the pump.
        excluded: Calls that the pump left out.
        unwritten: Events that the writer dropped.
        skipped: Runs of programs that the kernel left out.

    Raises:
        ValueError: The number of counters is not that of enum dc_loss.
    """
    if len(counters) != len(KERNEL_COUNTERS):
        raise ValueError(f"{len(counters)} counters instead of {len(KERNEL_COUNTERS)}")
    return Losses(
        **dict(zip(KERNEL_COUNTERS, counters, strict=True)),
        written=written,
        bad_records=bad_records,
        unknown_ids=unknown_ids,
        excluded=excluded,
        unwritten=unwritten,
        skipped=skipped,
    )


class LossesInTrace:
    """Decides when the losses are worth a line in the trace: on change, and at the end.

    Args:
        host_hash: Hash of the node's name, see ``Pump.host_hash``.
    """

    def __init__(self, host_hash: str) -> None:
        self._host_hash = host_hash
        self._told = Losses()

    def line(self, losses: Losses, time_us: int, *, is_last: bool = False) -> bytes | None:
        """Return the line to write now, or None if nothing was lost since the last one.

        Args:
            losses: The counters now.
            time_us: Now, in microseconds since the epoch.
            is_last: The run is over: write all counters, whatever they are.
        """
        now = losses.to_dict()
        told = self._told.to_dict()
        changed = any(now[name] != told[name] for name in now if name not in _ALWAYS_GROWING)
        if not changed and not is_last:
            return None
        self._told = losses
        shown = {name: count for name, count in now.items() if count or is_last}
        return metadata_line(
            "datacrumbs_losses",
            {"at": time_us, "final": is_last, "lost": losses.lost_calls, **shown},
            host_hash=self._host_hash,
        )
