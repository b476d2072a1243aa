"""What goes wrong around a run: each thing has one behaviour, and never a hang."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from daemon_site import ALICE, Site, calls_on, joining, lines_of, new_site, uid_of
from waiting import wait_until

pytestmark = pytest.mark.kernel


@pytest.fixture
def site() -> Iterator[Site]:
    with new_site() as made:
        yield made


def test_removed_trace_directory_is_made_again_and_nothing_is_missing(site: Site) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        first = site.workload(ALICE)
        site.wait_until_written("run1", first)
        shutil.rmtree(site.traces)
        second = site.workload(ALICE)
        daemon.stop()
        assert "was removed and is written anew" in daemon.output()
    lines = site.trace("run1")
    for did in (first, second):
        found = calls_on(lines, did["pid"], did["path"])
        assert found["pwrite64"] == did["done"]["pwrite64"]


def test_trace_directory_that_cannot_be_made_stops_the_start(site: Site) -> None:
    site.set(DATACRUMBS_TRACE_DIR_PATTERN="/proc/traces")
    daemon = site.daemon("run1", site.probe_file(ALICE))
    assert daemon.exit_status() == 1
    assert f"trace-{ALICE}-run1-" in daemon.output()
    assert list(site.run_dir.iterdir()) == []


@pytest.fixture
def small_disk(site: Site) -> Iterator[Path]:
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", site.traces], check=True
    )
    try:
        yield site.traces
    finally:
        subprocess.run(["umount", "-l", site.traces], check=True)


def fill(directory: Path) -> Path:
    """Write until the disk is full; return the file that did it."""
    path = directory / "filler"
    with path.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(4096))
    return path


def test_full_disk_is_waited_for(site: Site, small_disk: Path) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        filler = fill(small_disk)
        did = site.workload(ALICE, calls=2000)
        daemon.wait_to_say("No space left on device")
        wait_until(lambda: daemon.status()["trouble"] == "No space left on device", daemon.output)
        filler.unlink()
        daemon.wait_to_say("writing again")
        wait_until(lambda: daemon.status()["trouble"] is None, daemon.output)
        daemon.stop()
    found = calls_on(site.trace("run1"), did["pid"], did["path"])
    assert {name: found[name] for name in did["done"]} == did["done"]


def test_disk_that_stays_full_is_told_and_the_run_ends_in_time(
    site: Site, small_disk: Path
) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        fill(small_disk)
        site.workload(ALICE, calls=500)
        daemon.stop()
        assert daemon.process.returncode == 0
        assert "calls dropped" in daemon.output()
    (path,) = site.trace_paths()
    # Whatever fitted is a row of whole members.
    if path.stat().st_size:
        lines_of(path)


def test_file_system_that_becomes_read_only_does_not_stop_the_run(
    site: Site, small_disk: Path
) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        first = site.workload(ALICE)
        site.wait_until_written("run1", first)
        # A file that is open for writing keeps it from becoming read-only as a whole: the
        # administrator's umount is lazy, and its place is read-only.
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", site.traces], check=True)
        try:
            second = site.workload(ALICE)
            daemon.stop()
            assert daemon.process.returncode == 0
        finally:
            subprocess.run(["umount", site.traces], check=True)
    lines = site.trace("run1")
    for did in (first, second):
        assert calls_on(lines, did["pid"], did["path"])["pwrite64"] == did["done"]["pwrite64"]


PIDS = Path("/sys/fs/cgroup/pids")


@pytest.mark.skipif(not os.access(PIDS, os.W_OK), reason="no pids controller to limit processes")
@pytest.mark.parametrize("most", [1, 2])
def test_process_table_that_is_full_is_an_error_and_no_hang(site: Site, most: int) -> None:
    probes = site.probe_file(ALICE)
    group = PIDS / f"datacrumbs-test-{os.getpid()}"
    group.mkdir()
    (group / "pids.max").write_text(str(most))
    try:
        # The probe file is opened by a child with the user's rights, which cannot be made.
        daemon = site.daemon("run1", probes, "--user", ALICE, launcher=joining(group))
        assert daemon.exit_status() == 1
        assert "starting run run1: " in daemon.output()
        assert "Traceback" not in daemon.output()
        assert not site.run_dir.exists() or list(site.run_dir.iterdir()) == []
    finally:
        group.rmdir()


def test_run_goes_on_while_the_run_directory_is_gone(site: Site) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        shutil.rmtree(site.run_dir)
        did = site.workload(ALICE)
        time.sleep(1.2)
        assert daemon.process.poll() is None
        daemon.stop()
        assert daemon.process.returncode == 0
    assert calls_on(site.trace("run1"), did["pid"], did["path"])["fsync"] == [1, 0]


def test_daemon_that_is_stopped_for_a_while_misses_nothing_that_fits_its_rings(
    site: Site,
) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        daemon.process.send_signal(signal.SIGSTOP)
        did = site.workload(ALICE, calls=1000)
        daemon.process.send_signal(signal.SIGCONT)
        daemon.stop()
    found = calls_on(site.trace("run1"), did["pid"], did["path"])
    assert {name: found[name] for name in did["done"]} == did["done"]


def test_start_that_takes_too_long_is_given_up(site: Site) -> None:
    probes = site.probe_file(ALICE)
    daemon = site.daemon("run1", probes, "--start-timeout-s", "0.5")
    lock = site.run_dir / "datacrumbs-run1.lock"
    while not lock.exists() and daemon.process.poll() is None:
        time.sleep(0.0005)
    # Stopped from outside it cannot get ready; continued, it notices that it is late.
    daemon.process.send_signal(signal.SIGSTOP)
    time.sleep(1)
    daemon.process.send_signal(signal.SIGCONT)
    if daemon.becomes_ready():
        pytest.skip("it was ready before it could be stopped")
    assert daemon.exit_status() == 1
    assert "took longer than 0.5 s" in daemon.output()
    assert not site.run_dir.exists() or list(site.run_dir.iterdir()) == []


def test_user_directory_that_leads_elsewhere_gets_nobody_roots_rights(site: Site) -> None:
    """A user owns a part of the way and turns it to where only root may write."""
    own = site.traces / "own"
    own.mkdir()
    os.chown(own, uid_of(ALICE), -1)
    target = site.root / "only-root"
    target.mkdir(mode=0o755)
    (own / "run1").symlink_to(target)
    site.set(DATACRUMBS_TRACE_DIR_PATTERN=f"{own}/%RUN_ID%")
    daemon = site.daemon("run1", site.probe_file(ALICE))
    assert daemon.exit_status() == 1
    assert "Permission denied" in daemon.output()
    assert list(target.iterdir()) == []
