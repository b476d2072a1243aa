"""The same processes in trace mode, in profile mode and in both at once, each against strace."""

from dataclasses import dataclass, replace

import comparison
import profiles
from recordings import Recording

from datacrumbs_runtime.schema.probe_file import Category
from datacrumbs_utils.recording import probes


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a recording.

    Attributes:
        name: What its trace is called.
        categories: What it records.
        mode: For categories that do not say.
        threshold_ns: Shorter calls are counted.
    """

    name: str
    categories: tuple[Category, ...]
    mode: str = "trace"
    threshold_ns: int = 0


POSIX = probes.load("posix").probe_file.categories
# The same calls in two categories, of which one says that it is counted.
DATA = tuple(name for name in POSIX[0].functions if comparison.moves_bytes(name))
NAMES = tuple(name for name in POSIX[0].functions if name not in DATA)
MIXED = (
    replace(POSIX[0], name="DATA", functions=DATA, mode="profile"),
    replace(POSIX[0], name="NAMES", functions=NAMES),
)
RUNS = (Run("traced", POSIX), Run("counted", POSIX, "profile"), Run("mixed", MIXED))


def require_equal(recording: Recording, at_least: int) -> comparison.Report:
    """Fail unless the three runs and strace's log of one workload are equal.

    Args:
        recording: Made of ``RUNS``.
        at_least: Calls that must be in all.
    """
    trace, calls = recording.trace, recording.calls
    report = comparison.require_equal(trace, calls, at_least)

    counted = recording.others["counted"]
    assert counted.events == []
    assert report.calls == profiles.require_equal(
        counted.counters, trace.events, calls, report.before
    )

    mixed = recording.others["mixed"]
    named = comparison.compare(mixed, [call for call in calls if call.name in NAMES])
    assert named.differences == []
    assert {line["cat"] for line in mixed.counters} == {"DATA"}
    of_data = profiles.require_equal(
        mixed.counters,
        [event for event in trace.events if event.system_call in DATA],
        [call for call in calls if call.name in DATA],
        [event for event in report.before if event.system_call in DATA],
    )
    assert of_data + named.calls == report.calls
    return report
