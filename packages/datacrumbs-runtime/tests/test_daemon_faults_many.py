"""Every end of a run with as many functions as the largest published set has: none may hang."""

import errno
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_site import ALICE, SYSTEM_PYTHON, RunningDaemon, Site, new_site
from faulty_file_system import HANG, Mounted, mounted
from kernel_objects import open_ids, still_there
from waiting import wait_until

from datacrumbs_runtime.schema.probe_file import Category, ProbeType

pytestmark = pytest.mark.kernel

FUNCTIONS = 8723
CALLED = 50
CALLER = (
    "import ctypes, sys; library = ctypes.CDLL(sys.argv[1]); "
    f"[getattr(library, f'many_{{i}}')(i) for i in range({CALLED})]"
)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with new_site() as made:
        source = made.shared / "many.c"
        source.write_text(
            "\n".join(f"int many_{i}(int a) {{ return a + {i}; }}" for i in range(FUNCTIONS))
        )
        library = made.shared / "libmany.so"
        command = ["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source)]
        subprocess.run(command, check=True)
        library.chmod(0o755)
        yield made


@pytest.fixture(scope="module")
def probes(site: Site) -> Path:
    names = tuple(f"many_{i}" for i in range(FUNCTIONS))
    path = str(site.shared / "libmany.so")
    return site.probe_file(ALICE, [Category(ProbeType.UPROBE, "MANY", names, binary_path=path)])


@pytest.fixture
def traces(site: Site) -> Iterator[Mounted]:
    if not os.access("/dev/fuse", os.W_OK):
        pytest.skip("file systems need /dev/fuse")
    with mounted(site.traces) as made:
        yield made


def call(site: Site) -> None:
    library = str(site.shared / "libmany.so")
    done = site.wrapped(ALICE, SYSTEM_PYTHON, "-c", CALLER, library)
    assert done.returncode == 0, done.stderr


def calls(lines: list[dict[str, Any]]) -> int:
    names = Counter(line["name"] for line in lines if line["ph"] == "X" and line["cat"] == "MANY")
    assert set(names) <= {f"many_{i}" for i in range(CALLED)}
    return sum(names.values())


def assert_everything_is_attached(daemon: RunningDaemon) -> None:
    status = daemon.status()
    assert (status["attached"], status["failed"]) == (FUNCTIONS, 0)


def assert_freed(objects: set[tuple[str, int]]) -> None:
    """The kernel frees them a moment after their last user."""
    assert {kind for kind, _ in objects} == {"link", "map", "prog"}
    wait_until(lambda: not still_there(objects), lambda: still_there(objects))


def test_signal_ends_it(site: Site, probes: Path) -> None:
    with site.running("signal", probes) as daemon:
        assert_everything_is_attached(daemon)
        call(site)
        daemon.stop()
        assert daemon.process.returncode == 0
    assert calls(site.trace("signal")) == CALLED


def test_many_signals_end_it(site: Site, probes: Path) -> None:
    with site.running("signals", probes) as daemon:
        call(site)
        for _ in range(5):
            daemon.process.send_signal(signal.SIGTERM)
            daemon.process.send_signal(signal.SIGHUP)
        assert daemon.exit_status() == 0
    assert calls(site.trace("signals")) == CALLED


def test_signal_during_the_start_ends_it(site: Site, probes: Path) -> None:
    for number in range(3):
        daemon = site.daemon(f"early-{number}", probes)
        lock = site.run_dir / f"datacrumbs-early-{number}.lock"
        while not lock.exists() and daemon.process.poll() is None:
            time.sleep(0.0005)
        time.sleep(number * 0.03)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.exit_status() == 0
        assert not list(site.run_dir.glob(f"*early-{number}*"))


def test_kill_ends_it_and_nothing_stays_attached(site: Site, probes: Path) -> None:
    with site.running("killed", probes) as daemon:
        call(site)
        wait_until(lambda: calls(site.trace_so_far("killed")) == CALLED)
        objects = open_ids(daemon.process.pid)
        daemon.stop(signal.SIGKILL)
        assert_freed(objects)
    assert calls(site.trace("killed")) == CALLED


def test_killed_writer_and_removed_directory_do_not_keep_it(site: Site, probes: Path) -> None:
    with site.running("both", probes) as daemon:
        shutil.rmtree(site.traces)
        pid = daemon.process.pid
        (writer,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(writer), signal.SIGKILL)
        call(site)
        daemon.stop()
        assert daemon.process.returncode == 0
    assert calls(site.trace("both")) == CALLED


def test_killed_daemon_detaches_while_the_disk_hangs(
    site: Site, probes: Path, traces: Mounted
) -> None:
    with site.running("killed-hanging", probes) as daemon:
        objects = open_ids(daemon.process.pid)
        traces.order(HANG)
        call(site)
        time.sleep(0.7)
        daemon.stop(signal.SIGKILL)
        assert_freed(objects)
        traces.order("")


@pytest.mark.parametrize("order", [str(errno.ENOSPC), str(errno.EROFS), HANG])
def test_disk_that_takes_nothing_does_not_keep_it(
    site: Site, probes: Path, traces: Mounted, order: str
) -> None:
    run_id = f"disk-{order}"
    with site.running(run_id, probes) as daemon:
        assert_everything_is_attached(daemon)
        wait_until(lambda: site.trace_so_far(run_id))
        traces.order(order)
        call(site)
        objects = open_ids(daemon.process.pid)
        daemon.stop()
        assert daemon.process.returncode == (1 if order == HANG else 0)
        # While it still does not answer.
        assert_freed(objects)
        traces.order("")
    if order == HANG:
        wait_until(lambda: calls(site.trace_so_far(run_id)) == CALLED)
    else:
        assert calls(site.trace(run_id)) == 0


def test_hanging_disk_fails_the_start(site: Site, probes: Path, traces: Mounted) -> None:
    traces.order(HANG)
    daemon = site.daemon("unready", probes, "--start-timeout-s", "5")
    assert daemon.exit_status() == 1
    assert "the file system does not answer" in daemon.output()
    assert not list(site.run_dir.glob("*unready*"))


def test_library_that_is_removed_meanwhile_does_not_keep_it(site: Site, probes: Path) -> None:
    library = site.shared / "libmany.so"
    with site.running("removed", probes) as daemon:
        call(site)
        copy = library.with_name("copy.so")
        shutil.copy(library, copy)
        library.unlink()
        daemon.stop()
        assert daemon.process.returncode == 0
        copy.rename(library)
    assert calls(site.trace("removed")) == CALLED
