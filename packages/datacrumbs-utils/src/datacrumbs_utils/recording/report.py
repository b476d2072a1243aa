"""What a recording came to, for programs: one JSON object."""

from typing import Any

from datacrumbs_runtime.engine import FileStatistics, FunctionSummary
from datacrumbs_utils.recording.session import Outcome

_SECOND_NS = 1_000_000_000


def document(title: str, outcome: Outcome) -> dict[str, Any]:
    """Return everything that is known of a recording."""
    summary = outcome.summary
    statistics = summary.statistics
    return {
        "command": title,
        "exit_status": outcome.status,
        "trace": str(summary.trace_path),
        "trace_bytes": statistics.file_bytes,
        "duration_s": summary.duration_ns / _SECOND_NS,
        "events": summary.events,
        "in_flight": summary.in_flight,
        "complete": outcome.is_complete,
        "failure": None if outcome.failure is None else str(outcome.failure),
        "functions": [_function(function) for function in statistics.functions],
        "files_by_time": [_file(file) for file in statistics.files.by_time],
        "files_by_bytes": [_file(file) for file in statistics.files.by_bytes if file.bytes],
        "losses": statistics.losses.to_dict(),
        "attached": {
            "requested": outcome.attached.requested,
            "attached": outcome.attached.attached,
            "tiers": dict(outcome.attached.tiers),
            "duration_s": outcome.attached.duration_ns / _SECOND_NS,
            "failures": [
                {"category": category, "function": function, "reason": reason}
                for category, function, reason in outcome.attached.failures
            ],
        },
    }


def _function(function: FunctionSummary) -> dict[str, Any]:
    one = function.statistics
    return {
        "category": function.category,
        "name": function.name,
        "function": function.probe_name,
        "calls": one.calls,
        "errors": one.errors,
        "bytes": one.bytes,
        "total_ns": one.time_ns,
        "mean_ns": one.time_ns // one.calls if one.calls else 0,
        "min_ns": one.min_ns,
        "p50_ns": one.p50_ns,
        "p99_ns": one.p99_ns,
        "max_ns": one.max_ns,
    }


def _file(file: FileStatistics) -> dict[str, Any]:
    return {
        "path": file.path,
        "fhash": file.file_hash,
        "calls": file.calls,
        "total_ns": file.time_ns,
        "bytes": file.bytes,
    }
