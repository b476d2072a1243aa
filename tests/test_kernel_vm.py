"""Functions of the kernel in a virtual machine, where this one cannot be probed as others can."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from datacrumbs_runtime.bpf import features
from datacrumbs_runtime.bpf.features import Tier

pytestmark = pytest.mark.kernel

TOOL = Path(__file__).parents[1] / "tools" / "kernel-vm.sh"
LIMIT_S = 1500
MISSING_STATUS = 77


@pytest.mark.timeout(LIMIT_S)
def test_kernel_functions_are_recorded_on_a_kernel_with_multi_links() -> None:
    if all(features.refusal(tier) is None for tier in (Tier.KPROBE_SESSION, Tier.KPROBE_MULTI)):
        pytest.skip("this kernel has multi links itself")
    run = subprocess.run(
        [TOOL, "--short"],
        env={**os.environ, "PYTHON": sys.executable},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if run.returncode == MISSING_STATUS:
        pytest.skip(" ".join(run.stderr.split()))
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr
    assert " passed" in run.stdout
