"""Every call of a workload, with every value, against strace's log of the very same processes."""

from pathlib import Path

import comparison
import pytest
from recordings import Recorder
from workloads import WORKLOADS, recorded_with_witness

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("name", WORKLOADS)
def test_trace_equals_strace(name: str, recorder: Recorder, programs: Path, tmp_path: Path) -> None:
    recording = recorded_with_witness(name, recorder, programs, tmp_path)
    comparison.require_equal(recording.trace, recording.calls, WORKLOADS[name][1])
