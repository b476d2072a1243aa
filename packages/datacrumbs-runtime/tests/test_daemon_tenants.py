"""Users apart: nobody sees, steers or disturbs the run of another."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from daemon_site import (
    ALICE,
    BOB,
    COMMAND,
    EVE,
    SYSTEM_PYTHON,
    WORKLOAD,
    Site,
    as_user,
    calls_on,
    new_site,
    processes_in,
    uid_of,
)
from waiting import HANG_S

from datacrumbs_runtime.cgroups import unified_mount

pytestmark = pytest.mark.kernel

PROCESSES = 20


@pytest.fixture
def site() -> Iterator[Site]:
    with new_site() as made:
        yield made


def attempt(user: str, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(command),
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
        cwd="/",
        **as_user(user),
    )


def test_two_users_with_many_processes_never_meet(site: Site) -> None:
    with (
        site.running("alices", site.probe_file(ALICE)),
        site.running("bobs", site.probe_file(BOB)),
        ThreadPoolExecutor(8) as pool,
    ):
        users = [ALICE, BOB] * PROCESSES
        done = list(pool.map(lambda user: (user, site.workload(user, calls=40)), users))
    for run_id, owner in (("alices", ALICE), ("bobs", BOB)):
        lines = site.trace(run_id)
        own = {did["pid"] for user, did in done if user == owner}
        assert len(own) == PROCESSES
        assert (
            own <= processes_in(lines) <= own | {line["pid"] for line in lines if "M" in line["ph"]}
        )
        assert processes_in(lines) == own
        for user, did in done:
            if user == owner:
                found = calls_on(lines, did["pid"], did["path"])
                assert {name: found[name] for name in did["done"]} == did["done"]
        files = {line["args"]["name"] for line in lines if line["name"] == "FH"}
        foreign = {did["path"] for user, did in done if user != owner}
        assert not files & foreign


def test_third_user_can_neither_read_nor_write_what_belongs_to_a_run(site: Site) -> None:
    with site.running("run1", site.probe_file(ALICE)):
        site.workload(ALICE)
        (trace,) = site.trace_paths()
        for path in (site.run_dir / "datacrumbs-run1.json", trace):
            assert attempt(EVE, "/bin/cat", path).returncode != 0
        for path in [*site.run_dir.iterdir(), trace]:
            status = path.stat()
            assert status.st_uid in (0, uid_of(ALICE)), path
            assert not stat.S_IMODE(status.st_mode) & 0o022, path
        for directory in (site.run_dir, trace.parent, site.data_dir):
            assert not stat.S_IMODE(directory.stat().st_mode) & 0o022, directory
            assert attempt(EVE, "/usr/bin/touch", directory / "x").returncode != 0
        for path in site.run_dir.iterdir():
            assert attempt(EVE, "/bin/rm", "-f", path).returncode != 0
        assert attempt(EVE, "/bin/cat", site.data_dir / ".datacrumbs-probe-secret").returncode != 0


def test_third_user_can_neither_signal_nor_stop_a_run(site: Site) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        pid = str(daemon.process.pid)
        for user in (EVE, ALICE):
            done = attempt(user, "/bin/sh", "-c", f"kill -{signal.SIGTERM.value} {pid}")
            assert done.returncode != 0
        assert daemon.process.poll() is None
        assert daemon.status()["state"] == "recording"


def test_third_user_cannot_keep_a_run_id_from_being_used(site: Site) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        daemon.stop(signal.SIGKILL)
    holder_code = (
        "import fcntl, glob, sys\n"
        f"held = [open(path) for path in glob.glob({str(site.run_dir / '*.pid')!r})]\n"
        "[fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB) for file in held]\n"
        "print(len(held), flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [SYSTEM_PYTHON, "-c", holder_code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
        **as_user(EVE),
    ) as holder:
        assert holder.stdout is not None
        assert int(holder.stdout.readline()) == 1
        with site.running("run1", site.probe_file(ALICE)) as daemon:
            assert daemon.status()["state"] == "recording"
        holder.kill()


def test_status_shows_others_no_more_than_whose_run_there_is_since_when(site: Site) -> None:
    program = COMMAND.format("datacrumbs_status")
    code = (
        f"import os; from datacrumbs_runtime.commands import datacrumbs_status; "
        f"os.setgroups([]); os.setgid({uid_of(EVE)}); os.setuid({uid_of(EVE)}); {program}"
    )
    with site.running("run1", site.probe_file(ALICE)):
        done = subprocess.run(
            [sys.executable, "-c", code, "--json", "--run-dir", str(site.run_dir)],
            capture_output=True,
            text=True,
            check=False,
            timeout=HANG_S,
        )
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)
    assert run["state"] == "recording"
    assert not run["readable"]
    assert run["user"] == ALICE
    assert set(run) == {"run_id", "pid", "state", "readable", "user", "since"}


# Started as root and recorded for root; then it becomes somebody else and runs a program.
CHANGES_USER = """
import os, subprocess, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o666)
os.pwrite(fd, b"before", 0)
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
os.execv("/bin/cat", ["cat", sys.argv[3]])
"""


def test_process_that_becomes_another_user_is_recorded_no_further_than_its_exec(site: Site) -> None:
    before, after = site.shared / "before", site.shared / "after"
    after.write_text("secret of another user")
    with site.running("run1", site.probe_file("root")) as daemon:
        command = [SYSTEM_PYTHON, "-c", CHANGES_USER, str(before), str(uid_of(EVE)), str(after)]
        done = site.wrapped("root", *command)
        assert done.stdout == "secret of another user"
        daemon.stop()
    lines = site.trace("run1")
    files = {line["args"]["name"] for line in lines if line["name"] == "FH"}
    assert str(before) in files
    assert str(after) not in files


def cgroup_roots() -> list[Path]:
    """Return where control groups can be made: the unified hierarchy and an old one."""
    roots = [unified_mount(), Path("/sys/fs/cgroup/freezer")]
    return [root for root in roots if root is not None and os.access(root, os.W_OK)]


@pytest.mark.skipif(not cgroup_roots(), reason="no writable hierarchy of control groups")
@pytest.mark.parametrize("root", cgroup_roots(), ids=lambda root: root.name)
def test_only_processes_of_the_jobs_cgroup_register(site: Site, root: Path) -> None:
    job = root / f"datacrumbs-test-{os.getpid()}"
    step = job / "step"
    step.mkdir(parents=True)
    code = (
        "import os, sys; open(sys.argv[1] + '/cgroup.procs', 'w').write('0'); "
        "os.execv(sys.argv[2], sys.argv[2:])"
    )
    wrap = str(site.prefix / "bin/datacrumbs_wrap")

    def workload_in(cgroup: Path, path: Path) -> dict[str, Any]:
        done = subprocess.run(
            [
                *(SYSTEM_PYTHON, "-c", code, str(cgroup), wrap),
                *(SYSTEM_PYTHON, "-c", WORKLOAD, str(path), "10", "8"),
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=HANG_S,
        )
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    try:
        with site.running("run1", site.probe_file("root"), "--cgroup", str(job)) as daemon:
            inside = workload_in(step, site.shared / "inside")
            outside = workload_in(root, site.shared / "outside")
            assert daemon.status()["cgroup"] == str(job)
        assert processes_in(site.trace("run1")) == {inside["pid"]}
        assert outside["pid"] not in processes_in(site.trace("run1"))
    finally:
        step.rmdir()
        job.rmdir()


def test_cgroup_that_is_none_is_an_error(site: Site) -> None:
    for path in (site.shared / "missing", Path("/etc"), Path("/sys/kernel")):
        daemon = site.daemon("run1", site.probe_file(ALICE), "--cgroup", str(path))
        assert daemon.exit_status() == 1
        assert "--cgroup" in daemon.output()


SETUID_PROGRAM = """
#include <fcntl.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	char text[16];
	int fd = open(argv[1], O_RDONLY);
	return argc != 2 || fd < 0 || read(fd, text, sizeof(text)) <= 0;
}
"""


def test_program_with_more_rights_than_its_user_is_not_recorded(site: Site) -> None:
    """What a setuid program does with root's rights is none of the user's business."""
    secret = site.root / "secret"
    secret.write_text("root's own")
    secret.chmod(0o600)
    source, program = site.root / "reader.c", site.root / "reader"
    source.write_text(SETUID_PROGRAM)
    subprocess.run(["cc", "-o", str(program), str(source)], check=True)
    program.chmod(0o4755)
    before = site.shared / "before"
    with site.running("run1", site.probe_file(ALICE)):
        command = f"echo x > {before}; exec {program} {secret}"
        done = site.wrapped(ALICE, "/bin/sh", "-c", command)
    assert done.returncode == 0, "the file system ignores setuid"
    files = {line["args"]["name"] for line in site.trace("run1") if line["name"] == "FH"}
    assert str(before) in files
    assert str(secret) not in files
