"""``--trace-all-processes``: a user's processes are recorded without having registered."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_site import (
    ALICE,
    BOB,
    Site,
    as_user,
    new_site,
    open_directory,
    processes_in,
    uid_of,
)
from waiting import HANG_S

from datacrumbs_runtime.owned_processes import owned_processes

# Reads when it is told to; prints its id at once.
READER = """
import os, sys
print(os.getpid(), flush=True)
sys.stdin.readline()
fd = os.open(sys.argv[1], os.O_RDONLY)
os.pread(fd, 100, 0)
"""


@pytest.fixture
def site() -> Iterator[Site]:
    with new_site() as made:
        yield made


def reader(user: str, path: Path) -> subprocess.Popen[str]:
    uid = uid_of(user)
    return subprocess.Popen(
        ["/usr/bin/python3", "-c", READER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        user=uid,
        group=uid,
        extra_groups=[],
    )


def told(process: subprocess.Popen[str]) -> int:
    """Let a reader read, and return its id."""
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.communicate("\n", timeout=HANG_S)
    return pid


@pytest.mark.kernel
@pytest.mark.parametrize("option", ["0", "1"])
def test_present_and_later_processes_of_the_user_alone_are_recorded(
    site: Site, option: str
) -> None:
    path = site.shared / "data"
    path.write_bytes(bytes(1000))
    path.chmod(0o644)
    probes = site.probe_file(ALICE)
    with (
        reader(ALICE, path) as early,
        reader(BOB, path) as foreign,
        site.running("run1", probes, "--trace-all-processes", option),
        reader(ALICE, path) as late,
        reader(BOB, path) as later_foreign,
    ):
        own = {told(early), told(late)}
        others = {told(foreign), told(later_foreign)}
    found = processes_in(site.trace("run1"))
    assert not others & found
    assert own & found == (own if option == "1" else set())


@pytest.mark.kernel
def test_everything_that_root_does_is_refused(site: Site) -> None:
    daemon = site.daemon("run1", site.probe_file("root"), "--trace-all-processes", "1")
    assert daemon.exit_status() == 2
    assert "--trace-all-processes: not for root" in daemon.output()


def test_processes_of_a_user_are_found_with_proc_and_in_a_cgroup(tmp_path: Path) -> None:
    own, group = os.getpid(), tmp_path / "group/below"
    assert own in owned_processes(os.geteuid(), None)
    assert own not in owned_processes(os.geteuid() + 1, None)
    group.mkdir(parents=True)
    (group / "cgroup.procs").write_text(f"{own}\n1\n")
    assert own in owned_processes(os.geteuid(), tmp_path)
    assert set(owned_processes(os.geteuid(), tmp_path)) <= {own, 1}
    (group / "cgroup.procs").write_text("")
    assert owned_processes(os.geteuid(), tmp_path) == []


@pytest.mark.parametrize("rights", ["setgid", "unreadable", "undumpable"])
def test_processes_that_their_user_may_not_look_into_are_left_out(rights: str) -> None:
    with open_directory() as root:
        program = root / "program"
        program.write_bytes(Path("/bin/sleep").read_bytes())
        program.chmod({"setgid": 0o2755, "unreadable": 0o711, "undumpable": 0o755}[rights])
        code = "import ctypes, time; ctypes.CDLL(None).prctl(4, 0); print(1, flush=True); input()"
        command = [str(program), "100"]
        if rights == "undumpable":
            command = ["/usr/bin/python3", "-c", code]
        uid = uid_of(ALICE)
        with (
            subprocess.Popen(["/bin/sleep", "100"], **as_user(ALICE)) as other,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", **as_user(ALICE)
            ) as one,
        ):
            assert one.stdout is not None
            if rights == "undumpable":
                one.stdout.readline()
            found = owned_processes(uid, None)
            other.kill()
            one.kill()
        assert other.pid in found
        assert one.pid not in found
