"""What a run tells about itself while it lives: the document behind datacrumbs_status."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datacrumbs_runtime.bpf.attach_report import AttachFailure
from datacrumbs_runtime.engine import Engine, Statistics
from datacrumbs_runtime.run import FunctionSummary

if TYPE_CHECKING:
    from datacrumbs_runtime.custom.host import CustomProbe

FORMAT_VERSION = 1
BUSIEST_FUNCTIONS = 20
BUSIEST_FILES = 10
MAX_FAILURES = 200
_STATM = Path("/proc/self/statm")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What seldom changes while a run lives.

    Attributes:
        run_id: Its id.
        user: Whose it is.
        uid: His uid.
        hostname: This node.
        probe_file: What it records.
        mode: ``trace`` or ``profile``.
        since: Seconds since the epoch when it was ready.
        requested: Functions that the probe file names.
        attached: Functions that are recorded.
        failures: The others.
        tiers: How they are attached, by kind.
        cgroup: The cgroup whose processes alone may register, or None.
    """

    run_id: str
    user: str
    uid: int
    hostname: str
    probe_file: str
    mode: str
    since: float
    requested: int
    attached: int
    failures: Sequence[AttachFailure]
    tiers: Mapping[str, str]
    cgroup: str | None


class RunStatus:
    """Puts together the status of a run.

    Args:
        engine: The run.
        facts: What does not change.
        custom: Custom probes of the run.
    """

    def __init__(
        self, engine: Engine, facts: RunFacts, custom: Sequence["CustomProbe"] = ()
    ) -> None:
        self._engine = engine
        self._facts = facts
        self._custom = custom
        self._seen = 0
        self._seen_at_s = time.monotonic()
        self._rate = 0.0

    @property
    def reader_uid(self) -> int:
        """Who may read it besides root."""
        return self._facts.uid

    def add_failures(self, failures: Sequence[AttachFailure]) -> None:
        """Take note of functions that were attached and are no longer."""
        facts = self._facts
        self._facts = replace(
            facts,
            attached=facts.attached - len(failures),
            failures=(*facts.failures, *failures),
        )

    def document(self, state: str) -> dict[str, Any]:
        """Return the status now.

        Args:
            state: ``recording`` or ``stopping``.
        """
        facts = self._facts
        statistics = self._engine.statistics(BUSIEST_FILES)
        by_probe = [(probe, probe.functions()) for probe in self._custom]
        written, counted = (
            sum(
                each.statistics.calls
                for probe, functions in by_probe
                if probe.is_counted is is_counted
                for each in functions
            )
            for is_counted in (False, True)
        )
        written += statistics.losses.written
        counted += statistics.losses.counted
        lost_events = sum(probe.lost for probe in self._custom)
        calls = written + counted
        now_s = time.monotonic()
        if now_s - self._seen_at_s >= 0.2:
            self._rate = (calls - self._seen) / (now_s - self._seen_at_s)
            self._seen, self._seen_at_s = calls, now_s
        return {
            "format_version": FORMAT_VERSION,
            "run_id": facts.run_id,
            "state": state,
            "user": facts.user,
            "uid": facts.uid,
            "cgroup": facts.cgroup,
            "hostname": facts.hostname,
            "pid": os.getpid(),
            "since": round(facts.since, 3),
            "updated": round(time.time(), 3),
            "probe_file": facts.probe_file,
            "mode": facts.mode,
            "requested": facts.requested,
            "attached": facts.attached,
            "failed": len(facts.failures),
            "failures": [list(failure) for failure in facts.failures[:MAX_FAILURES]],
            "tiers": dict(facts.tiers),
            "events": written,
            "counted": counted,
            "events_per_s": round(self._rate, 1),
            "lost": statistics.losses.lost_calls + lost_events,
            "losses": {
                name: count
                for name, count in (*statistics.losses.to_dict().items(), ("custom", lost_events))
                if count
            },
            "memory_bytes": _resident_bytes(),
            "trace": str(self._engine.trace_path),
            "trace_bytes": statistics.file_bytes,
            "text_bytes": statistics.text_bytes,
            "waiting_bytes": statistics.waiting_bytes,
            "trouble": statistics.trouble,
            "functions": _functions(
                [*statistics.functions, *(each for _, functions in by_probe for each in functions)]
            ),
            "files": _files(statistics),
        }


def _resident_bytes() -> int:
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def _functions(functions: Sequence[FunctionSummary]) -> list[dict[str, Any]]:
    busiest = sorted(functions, key=lambda item: -item.statistics.time_ns)
    return [
        {
            "category": item.category,
            "name": item.name,
            "function": item.probe_name,
            "calls": item.statistics.calls,
            "errors": item.statistics.errors,
            "time_ns": item.statistics.time_ns,
            "p50_ns": item.statistics.p50_ns,
            "p99_ns": item.statistics.p99_ns,
            "max_ns": item.statistics.max_ns,
            "bytes": item.statistics.bytes,
        }
        for item in busiest[:BUSIEST_FUNCTIONS]
    ]


def _files(statistics: Statistics) -> list[dict[str, Any]]:
    return [
        {
            "path": item.path or item.file_hash,
            "calls": item.calls,
            "time_ns": item.time_ns,
            "bytes": item.bytes,
        }
        for item in statistics.files.by_time
    ]
