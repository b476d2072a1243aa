"""What runs out: memory, descriptors, processes, room for files. And processes that are killed."""

import errno
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from daemon_site import ALICE, Site, calls_on, joining, lines_of, new_site
from faulty_file_system import Mounted, mounted
from waiting import HANG_S, wait_until

pytestmark = pytest.mark.kernel

CONTROLLERS = Path("/sys/fs/cgroup")
PROCESS_LIMIT = 8


@pytest.fixture
def site() -> Iterator[Site]:
    with new_site() as made:
        yield made


@contextmanager
def control_group(controller: str) -> Iterator[Path]:
    """Have a control group of the first version, which machines with the second alone lack."""
    path = CONTROLLERS / controller / f"datacrumbs-test-{os.getpid()}"
    if not os.access(path.parent, os.W_OK):
        pytest.skip(f"no {controller} controller of cgroup v1")
    path.mkdir()
    try:
        yield path
    finally:
        wait_until(lambda: not (path / "cgroup.procs").read_text())
        path.rmdir()


def writers(pid: int) -> list[int]:
    """Return the processes that a daemon has for itself: the one that writes its trace."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        # A thread may end meanwhile.
        with suppress(FileNotFoundError):
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def recorded(site: Site, run_id: str, did: dict[str, Any]) -> dict[str, list[int]]:
    found = calls_on(site.trace(run_id), did["pid"], did["path"])
    return {name: found.get(name, [0, 0]) for name in did["done"]}


# ---- killed processes


def test_killed_writer_is_replaced_and_nothing_is_missing(site: Site) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        first = site.workload(ALICE)
        (writer,) = writers(daemon.process.pid)
        os.kill(writer, signal.SIGKILL)
        second = site.workload(ALICE)
        wait_until(lambda: writers(daemon.process.pid) not in ([], [writer]))
        site.wait_until_written("run1", second)
        daemon.stop()
        assert daemon.process.returncode == 0
        assert "the process that wrote it is gone; another takes over" in daemon.output()
    for did in (first, second):
        assert recorded(site, "run1", did) == did["done"]


def test_writer_that_is_killed_at_the_end_is_replaced_too(site: Site) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        did = site.workload(ALICE)
        (writer,) = writers(daemon.process.pid)
        os.kill(writer, signal.SIGKILL)
        daemon.stop()
        # On a slow machine the other one may need longer than a disk is waited for.
        in_time = daemon.process.returncode == 0
        assert in_time or "calls are left to process" in daemon.output()
        site.wait_until_written("run1", did)
    assert recorded(site, "run1", did) == did["done"]


def test_both_killed_leave_a_valid_trace_and_the_run_id_is_free(site: Site) -> None:
    probes = site.probe_file(ALICE)
    with site.running("run1", probes) as daemon:
        did = site.workload(ALICE)
        site.wait_until_written("run1", did)
        (writer,) = writers(daemon.process.pid)
        os.kill(writer, signal.SIGKILL)
        daemon.stop(signal.SIGKILL)
    assert recorded(site, "run1", did) == did["done"]
    with site.running("run1", probes):
        pass
    assert list(site.run_dir.iterdir()) == []


# ---- memory


def test_memory_that_runs_out_at_the_start_leaves_nothing(site: Site) -> None:
    probes = site.probe_file(ALICE)
    with control_group("memory") as group:
        (group / "memory.limit_in_bytes").write_text(str(24 << 20))
        daemon = site.daemon("run1", probes, launcher=joining(group))
        assert daemon.exit_status() in (1, -signal.SIGKILL)
        assert not (site.run_dir / "datacrumbs-run1.ready").exists()
    with site.running("run1", probes):
        pass
    assert list(site.run_dir.iterdir()) == []


def test_memory_that_runs_out_during_the_run_leaves_a_valid_trace(site: Site) -> None:
    probes = site.probe_file(ALICE)
    with control_group("memory") as group, site.running("run1", probes) as daemon:
        did = site.workload(ALICE)
        site.wait_until_written("run1", did)
        (group / "cgroup.procs").write_text(str(daemon.process.pid))
        # What it has is charged elsewhere; everything new is too much.
        (group / "memory.limit_in_bytes").write_text("4096")
        deadline = time.monotonic() + HANG_S
        while daemon.process.poll() is None and time.monotonic() < deadline:
            site.workload(ALICE, calls=2000)
        assert daemon.exit_status() == -signal.SIGKILL
    assert recorded(site, "run1", did) == did["done"]
    with site.running("run1", probes):
        pass
    assert list(site.run_dir.iterdir()) == []


# ---- descriptors and processes


@pytest.mark.parametrize("most", [8, 12, 20, 40, 64])
def test_too_few_descriptors_are_an_error_in_words_or_enough(site: Site, most: int) -> None:
    limit = ("prlimit", f"--nofile={most}")
    daemon = site.daemon("run1", site.probe_file(ALICE), launcher=limit)
    if daemon.becomes_ready():
        daemon.stop()
        assert daemon.process.returncode == 0
        return
    assert daemon.exit_status() == 1
    assert "Too many open files" in daemon.output()
    assert "Traceback" not in daemon.output()
    assert not site.run_dir.exists() or list(site.run_dir.iterdir()) == []


def test_process_table_that_fills_up_during_the_run_does_not_stop_it(site: Site) -> None:
    with control_group("pids") as group, site.running("run1", site.probe_file(ALICE)) as daemon:
        (writer,) = writers(daemon.process.pid)
        (group / "cgroup.procs").write_text(str(daemon.process.pid))
        (group / "pids.max").write_text("0")
        # Nobody can take over from who is killed: the daemon writes itself.
        os.kill(writer, signal.SIGKILL)
        did = site.workload(ALICE)
        daemon.wait_to_say("the trace is written by this process")
        daemon.stop()
        # On a slow machine the other one may need longer than a disk is waited for.
        in_time = daemon.process.returncode == 0
        assert in_time or "calls are left to process" in daemon.output()
        site.wait_until_written("run1", did)
    assert recorded(site, "run1", did) == did["done"]


@pytest.mark.parametrize("most", range(1, PROCESS_LIMIT))
def test_process_table_that_is_nearly_full_is_an_error_in_words_or_enough(
    site: Site, most: int
) -> None:
    """Threads and children are refused one after the other."""
    with control_group("pids") as group:
        (group / "pids.max").write_text(str(most))
        daemon = site.daemon("run1", site.probe_file(ALICE), launcher=joining(group))
        if daemon.becomes_ready():
            daemon.stop()
            assert daemon.process.returncode == 0
            return
        assert daemon.exit_status() == 1
        assert "starting run run1: " in daemon.output()
        assert "Traceback" not in daemon.output()
        assert not site.run_dir.exists() or list(site.run_dir.iterdir()) == []


# ---- room for files


@pytest.fixture
def traces(site: Site) -> Iterator[Mounted]:
    if not os.access("/dev/fuse", os.W_OK):
        pytest.skip("file systems need /dev/fuse")
    with mounted(site.traces) as made:
        yield made


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EIO, errno.EROFS])
def test_refused_writes_are_waited_for(site: Site, traces: Mounted, number: int) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        traces.order(str(number))
        did = site.workload(ALICE, calls=1000)
        daemon.wait_to_say(f"{os.strerror(number)}: the trace waits in memory")
        traces.order("")
        daemon.stop()
        # On a slow machine the other one may need longer than a disk is waited for.
        in_time = daemon.process.returncode == 0
        assert in_time or "calls are left to process" in daemon.output()
        site.wait_until_written("run1", did)
    assert recorded(site, "run1", did) == did["done"]


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EROFS])
def test_writes_that_stay_refused_cost_what_came_after(
    site: Site, traces: Mounted, number: int
) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        first = site.workload(ALICE)
        site.wait_until_written("run1", first)
        traces.order(str(number))
        second = site.workload(ALICE)
        daemon.stop()
        assert daemon.process.returncode == 0
        assert f"{os.strerror(number)}: " in daemon.output()
        assert "calls dropped" in daemon.output()
    assert recorded(site, "run1", first) == first["done"]
    assert recorded(site, "run1", second) == {name: [0, 0] for name in second["done"]}


def test_file_size_limit_is_like_a_full_disk(site: Site) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        (writer,) = writers(daemon.process.pid)
        site.wait_until_written("run1", site.workload(ALICE, calls=1000))
        (path,) = site.trace_paths()
        limit = path.stat().st_size + 500
        resource.prlimit(writer, resource.RLIMIT_FSIZE, (limit, limit))
        site.workload(ALICE, calls=1000)
        daemon.stop()
        assert daemon.process.returncode == 0
        assert "calls dropped" in daemon.output()
    assert path.stat().st_size <= limit
    (said,) = [line for line in lines_of(path) if line["name"] == "datacrumbs_unwritten"]
    assert said["args"]["unwritten"] > 0


@contextmanager
def full(path: Path) -> Iterator[None]:
    """Have a small disk without any room at a path."""
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", str(path)]
    subprocess.run(mount, check=True)
    try:
        filler = path / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def test_log_that_has_no_room_does_not_hold_a_run(site: Site) -> None:
    environment = {"DATACRUMBS_SERVICE_RUN_ID": "run1", "DATACRUMBS_USER": ALICE}
    with full(site.log_dir):
        with site.running("run1", site.probe_file(ALICE), **environment) as daemon:
            did = site.workload(ALICE)
            daemon.stop()
            assert daemon.process.returncode == 0
            assert daemon.output() == ""
        (path,) = site.log_dir.glob("*.log")
        assert path.read_text() == ""
    assert recorded(site, "run1", did) == did["done"]


def test_disk_that_is_full_already_is_waited_for_too(site: Site) -> None:
    with full(site.traces):
        with site.running("run1", site.probe_file(ALICE)) as daemon:
            did = site.workload(ALICE)
            daemon.wait_to_say("No space left on device: the trace waits in memory")
            (site.traces / "filler").unlink()
            daemon.stop()
            assert daemon.process.returncode == 0
        assert recorded(site, "run1", did) == did["done"]


def test_run_directory_that_is_full_costs_the_status_only(site: Site) -> None:
    site.run_dir.mkdir(mode=0o755)
    options = "size=64k,mode=755"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(site.run_dir)]
    subprocess.run(mount, check=True)
    try:
        filler = site.run_dir / "filler"
        with site.running("run1", site.probe_file(ALICE)) as daemon:
            site.workload(ALICE)
            size = 64 << 10
            while size:
                try:
                    with filler.open("ab") as stream:
                        stream.write(bytes(size))
                except OSError:
                    size //= 2
            time.sleep(1.5)
            # What is there is a whole status, though an old one.
            assert daemon.status()["run_id"] == "run1"
            did = site.workload(ALICE)
            daemon.stop()
            assert daemon.process.returncode == 0
        assert list(site.run_dir.iterdir()) == [filler]
        # One that finds it full cannot start.
        filler.write_bytes(bytes(64 << 10))
        refused = site.daemon("run2", site.probe_file(ALICE))
        assert refused.exit_status() == 1
        assert "No space left on device" in refused.output()
    finally:
        subprocess.run(["umount", "-l", site.run_dir], check=True)
    assert recorded(site, "run1", did) == did["done"]
