"""What never answers: file systems, a locked database, a service manager, a reader of the log."""

import fcntl
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from daemon_site import (
    ALICE,
    COMMAND,
    SYSCALLS,
    RunningDaemon,
    Site,
    calls_on,
    new_site,
)
from faulty_file_system import HANG, Mounted, mounted
from waiting import wait_until

from datacrumbs_runtime.schema.probe_file import Category, ProbeType

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="file systems need /dev/fuse"),
]
NO_ANSWER = "the file system does not answer"
# Long enough to begin even on a busy machine, short enough to wait for.
START_LIMIT = ("--start-timeout-s", "6")


@pytest.fixture
def site() -> Iterator[Site]:
    with new_site() as made:
        yield made


@pytest.fixture
def traces(site: Site) -> Iterator[Mounted]:
    with mounted(site.traces) as made:
        yield made


@pytest.fixture
def users(site: Site) -> Iterator[Mounted]:
    path = site.root / "users"
    path.mkdir()
    with mounted(path) as made:
        yield made


def wait_for_trace(site: Site, run_id: str) -> list[dict[str, Any]]:
    """Wait until whoever was left with a trace has written all of it."""

    def has_end() -> bool:
        lines = site.trace_so_far(run_id)
        return bool(lines) and lines[-1]["args"].get("final", False)

    wait_until(has_end)
    return site.trace(run_id)


def recorded(lines: list[dict[str, Any]], did: dict[str, Any]) -> dict[str, list[int]]:
    found = calls_on(lines, did["pid"], did["path"])
    return {name: found[name] for name in did["done"]}


def test_start_fails_in_time_and_says_why(site: Site, traces: Mounted) -> None:
    traces.order(HANG)
    daemon = site.daemon("run1", site.probe_file(ALICE), *START_LIMIT)
    assert daemon.exit_status() == 1
    assert f"-run1-{os.uname().nodename}-{ALICE}-probes.json.pfw.gz: {NO_ANSWER}" in daemon.output()
    assert list(site.run_dir.iterdir()) == []


@pytest.mark.parametrize("signals", [1, 2])
def test_stop_leaves_the_rest_to_whoever_can_wait(
    site: Site, traces: Mounted, signals: int
) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        first = site.workload(ALICE)
        site.wait_until_written("run1", first)
        traces.order(HANG)
        second = site.workload(ALICE)
        for _ in range(signals):
            daemon.process.send_signal(signal.SIGTERM)
        # The trace is not closed, and the service manager shall know.
        assert daemon.exit_status() == 1
        assert f"{NO_ANSWER}: " in daemon.output()
        assert " calls are left to process " in daemon.output()
        assert list(site.run_dir.iterdir()) == []
        traces.order("")
    lines = wait_for_trace(site, "run1")
    for did in (first, second):
        assert recorded(lines, did) == did["done"]


def test_killed_daemon_does_not_wait_for_it_either(site: Site, traces: Mounted) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        did = site.workload(ALICE)
        site.wait_until_written("run1", did)
        traces.order(HANG)
        site.workload(ALICE)
        time.sleep(0.7)
        # Its end is that of everything it holds in the kernel.
        daemon.stop(signal.SIGKILL)
        assert daemon.process.returncode == -signal.SIGKILL
        traces.order("")
    assert recorded(site.trace("run1"), did) == did["done"]


def test_recording_goes_on_and_nothing_is_missing_when_it_answers_again(
    site: Site, traces: Mounted
) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        traces.order(HANG)
        did = site.workload(ALICE, calls=2000)
        time.sleep(1.5)
        assert daemon.status()["lost"] == 0
        traces.order("")
        daemon.stop()
        assert daemon.process.returncode == 0
    assert recorded(site.trace("run1"), did) == did["done"]


@pytest.mark.parametrize("options", [(), ("--user", ALICE)])
def test_probe_file_that_cannot_be_reached_fails_the_start(
    site: Site, users: Mounted, options: tuple[str, ...]
) -> None:
    path = users.path / "probes.json.gz"
    path.write_bytes(site.probe_file(ALICE).read_bytes())
    users.order(HANG)
    daemon = site.daemon("run1", path, *options, *START_LIMIT)
    assert daemon.exit_status() == 1
    assert f"{path}: {NO_ANSWER}" in daemon.output()


@pytest.fixture
def library(users: Mounted) -> Category:
    source = users.path.with_name("work.c")
    source.write_text("int work_add(int a, int b) { return a + b; }\n")
    path = users.path / "libwork.so"
    built = users.path.with_name("libwork.so")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", built, source], check=True)
    path.write_bytes(built.read_bytes())
    return Category(ProbeType.UPROBE, "WORK", ("work_add",), binary_path=str(path))


def test_library_that_cannot_be_reached_fails_the_start(
    site: Site, users: Mounted, library: Category
) -> None:
    probes = site.probe_file(ALICE, [SYSCALLS, library])
    users.order(HANG)
    daemon = site.daemon("run1", probes, *START_LIMIT)
    assert daemon.exit_status() == 1
    assert "took too long to open" in daemon.output()
    assert list(site.run_dir.iterdir()) == []
    # The child that hangs holds nothing of the run.
    with site.running("run1", site.probe_file(ALICE)):
        pass


def test_library_that_cannot_be_reached_any_more_does_not_hold_the_stop(
    site: Site, users: Mounted, library: Category
) -> None:
    with site.running("run1", site.probe_file(ALICE, [SYSCALLS, library])) as daemon:
        assert daemon.status()["attached"] == 10
        users.order(HANG)
        did = site.workload(ALICE)
        daemon.stop()
        assert daemon.process.returncode == 0
    assert recorded(site.trace("run1"), did) == did["done"]


def test_log_that_cannot_be_opened_fails_the_start(site: Site, users: Mounted) -> None:
    site.set(DATACRUMBS_LOG_DIR=str(users.path / "log"))
    users.order(HANG)
    environment = {"DATACRUMBS_SERVICE_RUN_ID": "run1", "DATACRUMBS_USER": ALICE}
    daemon = site.daemon("run1", site.probe_file(ALICE), *START_LIMIT, **environment)
    assert daemon.exit_status() == 1
    assert f"_run1_{os.uname().nodename}.log: {NO_ANSWER}" in daemon.output()


def test_locked_status_database_does_not_stop_a_run(site: Site) -> None:
    unknown = replace(SYSCALLS, functions=(*SYSCALLS.functions, "no_such_call"))
    probes = site.probe_file(ALICE, [unknown])
    with site.running("run1", probes):
        pass
    (path,) = site.data_dir.glob("probes-runtime-status-*.sqlite")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with site.running("run2", probes) as daemon:
            assert daemon.status()["attached"] == 9
            daemon.stop()
            assert daemon.process.returncode == 0
            assert "known failures are not skipped: database is locked" in daemon.output()


def test_service_manager_that_does_not_read_does_not_hold_a_run(site: Site) -> None:
    address = str(site.root / "notify")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
    ):
        manager.bind(address)
        other.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                other.sendto(b"STATUS=many", address)
        with site.running("run1", site.probe_file(ALICE), NOTIFY_SOCKET=address) as daemon:
            daemon.stop()
            assert daemon.process.returncode == 0
            assert "cannot tell systemd READY=1" in daemon.output()


def test_log_that_nobody_reads_holds_neither_start_nor_stop(site: Site) -> None:
    """More is said than a pipe takes: the functions that cannot be recorded."""
    unknown = tuple(f"no_such_call_{number}" for number in range(3000))
    category = replace(SYSCALLS, functions=(*SYSCALLS.functions, *unknown))
    probes = site.probe_file(ALICE, [category])
    arguments = ["--prefix", str(site.prefix), str(probes), "run1"]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND.format("datacrumbs"), *arguments], stderr=subprocess.PIPE
    )
    daemon = RunningDaemon(site, "run1", process)
    daemon.output_path.write_text("")
    site.daemons.append(daemon)
    assert process.stderr is not None
    fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
    daemon.wait_ready()
    did = site.workload(ALICE)
    daemon.stop()
    assert process.returncode == 0
    process.stderr.close()
    assert recorded(site.trace("run1"), did) == did["done"]


def test_fifo_in_the_place_of_a_library_is_left_out(site: Site) -> None:
    path = site.shared / "libfifo.so"
    os.mkfifo(path)
    category = Category(ProbeType.UPROBE, "WORK", ("work_add",), binary_path=str(path))
    with site.running("run1", site.probe_file(ALICE, [SYSCALLS, category])) as daemon:
        ((_, _, reason),) = daemon.status()["failures"]
    assert reason == f"{path}: not a regular file"
    assert Path(path).exists()
