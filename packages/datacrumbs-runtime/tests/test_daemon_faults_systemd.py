"""A disk that hangs, and a writer that is killed, under a real systemd, in the unit's sandbox."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_site import SYSCALLS
from faulty_file_system import FOLLOWED, HANG
from systemd_container import LOG_DIR, RUN_DIR, Container, booted
from waiting import wait_until

pytestmark = pytest.mark.kernel

SERVER = Path(__file__).with_name("faulty_file_system.py")
DISK = f"{LOG_DIR}/disk"
ORDERS = "/tmp/orders"
WRITES = ["dd", "if=/dev/zero", "of=/tmp/x", "bs=1000", "count=123"]


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    with booted("--device=/dev/fuse") as made:
        made.put("/tmp/server.py", SERVER.read_text())
        made.put(ORDERS, "")
        made.run("mkdir", "-p", DISK)
        command = ["python3", "-I", "-S", "/tmp/server.py", DISK, ORDERS, "0"]
        made.run("systemd-run", "--unit=faulty", *command)
        wait_until(lambda: "faulty" in made.run("cat", "/proc/mounts"))
        yield made
        # The end of the server is that of whoever waits for it.
        made.run("systemctl", "kill", "-s", "KILL", "faulty", check=False)


@pytest.fixture(scope="module")
def probes(container: Container) -> Path:
    return container.probe_file("probes.json.gz", [SYSCALLS])


def start(container: Container, run_id: str, probes: Path) -> None:
    pattern = f"{DISK}/%RUN_ID%"
    container.start(run_id, probes, DATACRUMBS_TRACE_DIR_PATTERN=pattern)
    assert container.property_of(run_id, "ActiveState") == "active"


def order(container: Container, text: str) -> None:
    container.put(ORDERS, text)
    wait_until(lambda: container.run("cat", ORDERS + FOLLOWED) == text)


def writes(container: Container, run_id: str) -> int:
    """Return how many of the calls are in the trace, which must be complete."""
    path = container.trace_of(run_id)
    container.run("cp", path, f"{container.shared}/copy.gz")
    text = gzip.decompress((container.shared / "copy.gz").read_bytes()).decode()
    lines = [json.loads(line) for line in text.splitlines()[1:] if line != "]"]
    assert lines[-1]["name"] == "datacrumbs_losses"
    assert lines[-1]["args"]["final"]
    hashes = [line["args"]["value"] for line in lines if line["args"].get("name") == "/tmp/x"]
    calls = [line for line in lines if line["ph"] == "X" and line["name"] == "write"]
    return sum(line["args"].get("fhash") in hashes for line in calls)


def test_stop_ends_the_daemon_and_lets_the_writer_finish(
    container: Container, probes: Path
) -> None:
    start(container, "h1", probes)
    order(container, HANG)
    try:
        container.run(container.wrap, *WRITES, user="alice")
        container.run("systemctl", "stop", "datacrumbs@h1")
        # The trace is not closed, and whoever writes it is still there.
        assert container.property_of("h1", "ActiveState") == "failed"
        assert container.property_of("h1", "Result") == "exit-code"
        assert container.run("pgrep", "-f", "scribe_program")
        assert "datacrumbs-h1.ready" not in container.run("ls", RUN_DIR)
    finally:
        order(container, "")
    wait_until(lambda: container.run("pgrep", "-f", "scribe_program", check=False) == "")
    assert writes(container, "h1") == 123
    journal = container.run("journalctl", "-u", "datacrumbs@h1", "--no-pager")
    assert "the file system does not answer" in journal


def test_start_that_the_disk_holds_fails_while_it_still_does(
    container: Container, probes: Path
) -> None:
    order(container, HANG)
    try:
        pattern = f"{DISK}/%RUN_ID%"
        container.start("h2", probes, DATACRUMBS_TRACE_DIR_PATTERN=pattern)
        assert container.property_of("h2", "ActiveState") == "failed"
        journal = container.run("journalctl", "-u", "datacrumbs@h2", "--no-pager")
        assert "the file system does not answer" in journal
    finally:
        order(container, "")
    wait_until(lambda: container.run("pgrep", "-f", "scribe_program", check=False) == "")
    # Nobody wrote to it.
    assert container.run("find", DISK, "-name", "*-h2-*") == ""


def test_killed_writer_is_replaced_within_the_sandbox(container: Container, probes: Path) -> None:
    start(container, "w1", probes)
    main = container.property_of("w1", "MainPID")
    container.run("pkill", "-KILL", "-P", main, "-f", "scribe_program")
    container.run(container.wrap, *WRITES, user="alice")
    # The daemon has a child again.
    has_writer = ("pgrep", "-P", main, "-f", "scribe_program")
    wait_until(lambda: container.run(*has_writer, check=False))
    container.stop("w1")
    assert container.property_of("w1", "Result") == "success"
    assert writes(container, "w1") == 123
