"""More events than there is room for: nothing is lost without being counted."""

from pathlib import Path

import pytest
from recordings import Recorder

pytestmark = pytest.mark.kernel

WRITES = 150_000
PROCESSES = 2


@pytest.mark.parametrize("ring", ["256K", "16K"])
def test_offered_equals_written_plus_dropped(
    ring: str, recorder: Recorder, programs: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    recording = recorder(
        [programs / "many_writes", target, str(WRITES), str(PROCESSES)],
        options=["--ring-buffer-size", ring],
    )
    assert recording.status == 0
    losses = recording.report["losses"]
    assert losses["offered"] == losses["written"] + losses["ring_full"]
    assert losses["written"] == len(recording.trace.events)
    assert losses["entered"] == losses["offered"] + losses["filtered"]
    calls_of_writers = WRITES * PROCESSES
    others = losses["entered"] - calls_of_writers
    assert 0 < others < 100, "what a small C program does besides"
    if ring == "16K":
        assert losses["ring_full"] > 0
        assert not recording.report["complete"]
    for cause in ("offered", "written", "ring_full"):
        assert recording.trace.total(cause) == losses[cause]


def test_default_rings_hold_what_two_processes_write(
    recorder: Recorder, programs: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    recording = recorder([programs / "many_writes", target, "200000", "2", "100000"])
    assert recording.report["complete"], recording.report["losses"]
    written = [event for event in recording.trace.events if event.file == str(target)]
    assert sum(event.name == "pwrite64" for event in written) == 400_000
