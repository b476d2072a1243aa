"""The owner of a run reads its status and its log, and can do nothing else to them."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_site import ALICE, BOB, EVE, Site, as_user, new_site, open_directory, uid_of

from datacrumbs_runtime.errors import SigningError
from datacrumbs_runtime.known_runs import known_runs
from datacrumbs_runtime.reading_rights import keep_for_reader, reader_of
from datacrumbs_runtime.service_log import _open_log

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root keeps files from others")

TRY_ALL = (
    "/bin/cat {} > /dev/null && echo reads",
    "echo x >> {} && echo writes",
    "/bin/chmod 0666 {} && echo changes",
    "exec 3<{}; /usr/bin/truncate -s 1M /proc/self/fd/3 && echo grows",
)


@pytest.fixture
def site() -> Iterator[Site]:
    with new_site() as made:
        yield made


@pytest.fixture
def root() -> Iterator[Path]:
    with open_directory() as made:
        yield made


def can(user: str, path: Path) -> set[str]:
    """Return what a user succeeds in doing to a file."""
    done = set()
    for command in TRY_ALL:
        ended = subprocess.run(
            ["/bin/sh", "-c", command.format(path)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd="/",
            **as_user(user),
        )
        done |= set(ended.stdout.split())
    return done


@pytest.mark.kernel
def test_owner_reads_status_and_log_and_writes_neither(site: Site) -> None:
    probes = site.probe_file(ALICE)
    with site.running("run1", probes, DATACRUMBS_SERVICE_RUN_ID="run1", DATACRUMBS_USER=ALICE):
        (log,) = site.log_dir.glob("datacrumbs_*_run1_*.log")
        for path in (site.run_dir / "datacrumbs-run1.json", log):
            assert can(ALICE, path) == {"reads"}
            assert can(BOB, path) == can(EVE, path) == set()
        (run,) = known_runs(site.run_dir)
        assert run.owner == ALICE


@pytest.mark.parametrize("mode", [0o400, 0o600])
def test_one_user_reads_what_is_kept_for_him(root: Path, mode: int) -> None:
    path = root / "file"
    path.write_text("text")
    path.chmod(0o666)
    # As an earlier version left it.
    os.chown(path, uid_of(BOB), 0)
    fd = os.open(path, os.O_WRONLY)
    try:
        keep_for_reader(fd, uid_of(ALICE), mode)
        status = path.stat()
        assert status.st_uid == 0
        assert stat.S_IMODE(status.st_mode) == mode | 0o040
        assert can(ALICE, path) == {"reads"}
        assert can(BOB, path) == set()
        assert reader_of(path) == uid_of(ALICE)
        keep_for_reader(fd, None, mode)
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert can(ALICE, path) == set()
        assert reader_of(path) == 0
        assert reader_of(root / "nothing") is None
    finally:
        os.close(fd)


@pytest.fixture
def without_acls(root: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "ramfs", "ramfs", str(root)], check=True)
    try:
        root.chmod(0o755)
        yield root
    finally:
        subprocess.run(["umount", str(root)], check=True)


def test_without_acls_the_file_is_its_readers(without_acls: Path) -> None:
    path = without_acls / "file"
    path.write_text("text")
    fd = os.open(path, os.O_WRONLY)
    try:
        keep_for_reader(fd, uid_of(ALICE), 0o400)
    finally:
        os.close(fd)
    assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (uid_of(ALICE), 0o400)
    assert reader_of(path) == uid_of(ALICE)


@pytest.mark.parametrize("kind", ["hard link", "FIFO", "device"])
def test_log_is_not_written_into_something_else(root: Path, kind: str) -> None:
    path, other = root / "run.log", root / "other"
    other.write_text("before\n")
    other.chmod(0o644)
    reader = -1
    if kind == "hard link":
        path.hardlink_to(other)
    elif kind == "FIFO":
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    else:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with pytest.raises(SigningError, match="something else is there"):
        _open_log(path, uid_of(ALICE))
    assert other.read_text() == "before\n"
    assert other.stat().st_uid == 0
    if reader >= 0:
        os.close(reader)
