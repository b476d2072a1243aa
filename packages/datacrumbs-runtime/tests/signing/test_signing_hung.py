"""A user whose files or processes do not answer keeps nobody else waiting for the signer."""

import contextlib
import os
import subprocess
from pathlib import Path

import pytest
from faulty_file_system import HANG, mounted
from signing_site import ALICE, BOB, SIGNED, Site, as_json, probe_file
from waiting import HANG_S, wait_until

from datacrumbs_runtime.schema.probe_file import Category, ProbeType
from datacrumbs_runtime.signing.service import Limits

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="acts as other users"),
    pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="no FUSE here"),
]


def test_user_with_nothing_under_way_does_not_wait_for_others(shared_site: Site) -> None:
    disk = shared_site.root / "disk"
    disk.mkdir()
    library = disk / "library.so"
    wanted = probe_file(Category(ProbeType.UPROBE, "x", ("f",), binary_path=str(library)))
    request = shared_site.root / "request.json"
    request.write_bytes(as_json(wanted))
    held: list[subprocess.Popen[bytes]] = []
    with mounted(disk) as files:
        library.write_bytes(b"")
        files.order(HANG)
        try:
            for _ in range(Limits().workers + 1):
                with request.open("rb") as stream:
                    held.append(
                        subprocess.Popen(
                            shared_site.relay_command(timeout_s=int(HANG_S)),
                            stdin=stream,
                            stderr=subprocess.DEVNULL,
                            user=ALICE,
                            group=ALICE,
                            extra_groups=[],
                            cwd="/",
                        )
                    )
            # Each is decided by a process of the signer's, which has one of hers to look.
            wait_until(lambda: len(processes_of(ALICE)) >= len(held) + Limits().workers)
            assert shared_site.ask(probe_file(), BOB).returncode == SIGNED
            assert [process.poll() for process in held] == [None] * len(held)
        finally:
            files.order("")
            for process in held:
                process.kill()
                process.wait()


def processes_of(uid: int) -> list[Path]:
    found = []
    for path in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if path.name.isdecimal() and path.stat().st_uid == uid:
                found.append(path)
    return found
