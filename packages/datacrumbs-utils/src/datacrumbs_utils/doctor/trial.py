"""The check that decides: record a command, and look whether the trace holds what it did."""

import gzip
import tempfile
from pathlib import Path

from datacrumbs_runtime.engine import RunSettings
from datacrumbs_runtime.errors import DatacrumbsError
from datacrumbs_runtime.schema.probe_file import Category, ProbeFile, ProbeType, Summary
from datacrumbs_utils.doctor.check import Check, State
from datacrumbs_utils.recording import requirements, session
from datacrumbs_utils.recording.probes import Probes
from datacrumbs_utils.recording.signals import Signals

_NAME = "a recording"
_SECTION = "recording"
_FILE_NAME = "datacrumbs-doctor"
_RING_BYTES = 256 << 10
_CALLS = ("openat", "read", "write", "close")


def trial(directory: Path | None = None) -> Check:
    """Record ``dd`` copying a byte, into a temporary directory.

    Args:
        directory: Where; None: where temporary files go.
    """
    with tempfile.TemporaryDirectory(dir=directory) as name:
        target = Path(name, _FILE_NAME)
        target.write_text("x")
        probe_file = ProbeFile(
            Summary("", "", "", "", ""), (Category(ProbeType.SYSCALLS, "POSIX", _CALLS),)
        )
        request = session.Request(
            probes=Probes(probe_file, "trial"),
            settings=RunSettings(ring_buffer_bytes=_RING_BYTES),
            run_id="trial",
            command=("dd", f"if={target}", f"of={target}.copy", "status=none"),
            output=Path(name, "trial.pfw.gz"),
        )
        signals = Signals()
        try:
            requirements.require()
            outcome = session.record(request, signals)
        except DatacrumbsError as error:
            return Check(_SECTION, _NAME, State.MISSING, str(error), error.hint)
        finally:
            signals.restore()
        return _judged(outcome, target)


def _judged(outcome: session.Outcome, target: Path) -> Check:
    losses = outcome.summary.statistics.losses
    with gzip.open(outcome.summary.trace_path, "rt") as stream:
        text = stream.read()
    if not outcome.is_complete:
        return Check(_SECTION, _NAME, State.MISSING, losses.summary())
    if f'"{target}.copy"' not in text or '"name":"write"' not in text:
        return Check(_SECTION, _NAME, State.MISSING, "what the command did is not in the trace")
    attach_ms = outcome.attached.duration_ns / 1e6
    return Check(
        _SECTION,
        _NAME,
        State.GOOD,
        f"{outcome.summary.events} events of a small command, attached in {attach_ms:.0f} ms",
    )
