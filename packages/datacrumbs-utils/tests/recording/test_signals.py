"""Waiting for a command and for what it leaves behind."""

import subprocess
import sys
from pathlib import Path

WAITING = """
import os, sys
from datacrumbs_utils.recording.child import adopt_orphans
from datacrumbs_utils.recording.signals import Signals, children

signals = Signals()
adopt_orphans()
helpers = children()
script = "(sleep 0.3; echo late >late) >/dev/null 2>&1 &"
pid = os.spawnv(os.P_NOWAIT, "/bin/sh", ["sh", "-c", script])
# It has ended, and what it left behind was adopted, before anybody waits for it.
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
sys.exit(signals.wait_for_child(pid, None, print, all_but=helpers))
"""


def test_what_a_command_leaves_behind_at_once_is_waited_for(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", WAITING], cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "late").exists()
