"""What a user may not use up of a disk, his trace does not use up either."""

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_site import ALICE, open_directory

from datacrumbs_runtime.file_rights import CAP_SYS_RESOURCE
from datacrumbs_runtime.signing.accounts import account_of_uid
from datacrumbs_runtime.trace.scribe import OtherProcess
from datacrumbs_runtime.trace.scribe_messages import CREATE, Request
from datacrumbs_runtime.trace.trace_file import Owner, Place, TraceFile

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="acts as other users")

CAP_SYS_NICE = 23
PIECE = bytes(64 << 10)
SETS = ("CapInh", "CapPrm", "CapEff")


@pytest.fixture
def disk() -> Iterator[Path]:
    """A file system of which a quarter is kept for root."""
    with open_directory() as root:
        image, mount = root / "image", root / "disk"
        mount.mkdir()
        with image.open("wb") as stream:
            stream.truncate(24 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "25", str(image)], check=True)
        done = subprocess.run(
            ["mount", "-o", "loop", str(image), str(mount)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"no loop devices here: {done.stderr.strip()}")
        try:
            mount.chmod(0o755)
            yield mount
        finally:
            subprocess.run(["umount", str(mount)], check=True)


def fill(file: TraceFile) -> None:
    while True:
        file.write(PIECE)


def test_trace_leaves_what_is_kept_for_root(disk: Path) -> None:
    entry = pwd.getpwnam(ALICE)
    free = os.statvfs(disk)
    kept_bytes = (free.f_bfree - free.f_bavail) * free.f_frsize
    assert kept_bytes > 4 << 20
    owner = Owner(entry.pw_uid, entry.pw_gid)
    place = Place(str(disk), "trace.pfw.gz", owner, account_of_uid(entry.pw_uid))
    file = TraceFile(place)
    try:
        with pytest.raises(OSError, match="No space left on device"):
            fill(file)
        # It may have to be made anew as well.
        (disk / "trace.pfw.gz").unlink()
        with pytest.raises(OSError, match="No space left on device"):
            file.write(PIECE)
        left = os.statvfs(disk)
    finally:
        file.close()
    assert left.f_bfree * left.f_frsize >= kept_bytes - len(PIECE)


GIVES_UP = """
import sys
from datacrumbs_runtime.file_rights import give_up
status = lambda: [line.split() for line in open("/proc/self/status")]
sets = lambda: [int(words[1], 16) for words in status() if words[0][:-1] in sys.argv[2:]]
before = sets()
give_up(int(sys.argv[1]))
print(*before, *sets())
"""


@pytest.mark.parametrize("capability", [CAP_SYS_NICE, CAP_SYS_RESOURCE, 38])
def test_capability_that_is_given_up_is_gone_and_no_other(capability: int) -> None:
    command = [sys.executable, "-c", GIVES_UP, str(capability), *SETS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    numbers = [int(word) for word in done.stdout.split()]
    before, after = numbers[: len(SETS)], numbers[len(SETS) :]
    assert after == [one & ~(1 << capability) for one in before]


def rights(pid: int | str) -> dict[str, int]:
    """Return the capability sets of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    words = dict(line.split(":", 1) for line in lines)
    return {name: int(words[name], 16) for name in SETS}


@pytest.mark.skipif(
    not rights("self")["CapPrm"] >> CAP_SYS_RESOURCE & 1, reason="we have no CAP_SYS_RESOURCE"
)
def test_process_that_writes_traces_cannot_exceed_quotas(disk: Path) -> None:
    entry = pwd.getpwnam(ALICE)
    owner = Owner(entry.pw_uid, entry.pw_gid)
    place = Place(str(disk), "trace.pfw.gz", owner, account_of_uid(entry.pw_uid))
    scribe = OtherProcess()
    try:
        scribe.send(Request(CREATE, place))
        answer = scribe.answer(60.0)
        assert answer is not None
        assert answer.error_number == 0
        found = rights(scribe._process.pid)
    finally:
        scribe.close(60.0)
    assert not any(one >> CAP_SYS_RESOURCE & 1 for one in found.values())
