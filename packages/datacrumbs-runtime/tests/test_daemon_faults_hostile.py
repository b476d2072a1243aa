"""What somebody does to a run from outside: files replaced under it, names that deceive."""

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from daemon_site import ALICE, SYSCALLS, SYSTEM_PYTHON, Site, calls_on, new_site, uid_of
from waiting import HANG_S, wait_until

from datacrumbs_runtime.schema.probe_file import Category, ProbeType

pytestmark = pytest.mark.kernel

# Calls a function so many times; its argument tells that it was really called.
CALLER = "import ctypes, sys; [ctypes.CDLL(sys.argv[1]).work_add(i, 1) for i in range(30)]"
RUN_FILES = ("ready", "pid", "json", "runid", "env")


@pytest.fixture
def site() -> Iterator[Site]:
    with new_site() as made:
        yield made


def compiled(target: Path, text: str) -> Path:
    source = target.with_suffix(".c")
    source.write_text(text)
    options = ["-O1", "-shared", "-fPIC", "-Wl,--build-id", "-o", str(target), str(source)]
    subprocess.run(["cc", *options], check=True)
    target.chmod(0o755)
    return target


@pytest.fixture
def library(site: Site) -> Path:
    return compiled(site.shared / "libwork.so", "int work_add(int a, int b) { return a + b; }\n")


def functions(library: Path) -> Category:
    notes = subprocess.run(
        ["readelf", "-n", library], capture_output=True, text=True, check=True
    ).stdout
    (line,) = [line for line in notes.splitlines() if "Build ID" in line]
    return Category(
        ProbeType.UPROBE,
        "WORK",
        ("work_add",),
        binary_path=str(library),
        build_id=line.split()[-1],
    )


def call(site: Site, library: Path) -> None:
    done = site.wrapped(ALICE, SYSTEM_PYTHON, "-c", CALLER, str(library))
    assert done.returncode == 0, done.stderr


def work_calls(site: Site, run_id: str) -> int:
    lines = site.trace(run_id)
    return Counter(line["name"] for line in lines if line["ph"] == "X")["work_add"]


# ---- libraries


def test_library_that_is_upgraded_by_renaming_goes_on_where_it_is_in_use(
    site: Site, library: Path
) -> None:
    """What a package manager does: programs that began before are recorded to their end."""
    waiting = "import ctypes, sys; old = ctypes.CDLL(sys.argv[1]); sys.stdin.read(1); "
    loaded = waiting + "[old.work_add(i, 1) for i in range(30)]"
    with site.running("run1", site.probe_file(ALICE, [functions(library)])) as daemon:
        old = subprocess.Popen(
            [site.prefix / "bin/datacrumbs_wrap", SYSTEM_PYTHON, "-c", loaded, library],
            stdin=subprocess.PIPE,
            user=uid_of(ALICE),
            group=uid_of(ALICE),
            extra_groups=[],
            cwd="/",
        )
        maps = Path(f"/proc/{old.pid}/maps")
        wait_until(lambda: library.name in maps.read_text())
        new = compiled(site.shared / "new.so", "int work_add(int a, int b) { return a - b; }\n")
        new.replace(library)
        call(site, library)
        old.communicate(b"x", timeout=HANG_S)
        daemon.stop()
        assert daemon.process.returncode == 0
    assert work_calls(site, "run1") == 30


@pytest.mark.parametrize("content", [b"", b"no ELF file", b"\x7fELF" + bytes(4096)])
def test_library_that_is_overwritten_before_the_start_is_left_out(
    site: Site, library: Path, content: bytes
) -> None:
    probes = site.probe_file(ALICE, [SYSCALLS, functions(library)])
    library.write_bytes(content)
    with site.running("run1", probes) as daemon:
        did = site.workload(ALICE)
        ((_, function, reason),) = daemon.status()["failures"]
        daemon.stop()
        assert daemon.process.returncode == 0
    assert function == "work_add"
    assert f"{library}: not a 64-bit ELF file" in reason
    found = calls_on(site.trace("run1"), did["pid"], did["path"])
    assert found["pwrite64"] == did["done"]["pwrite64"]


@pytest.mark.parametrize("size", [0, 100_000])
def test_library_that_is_overwritten_during_the_run_harms_no_other_function(
    site: Site, library: Path, size: int
) -> None:
    with site.running("run1", site.probe_file(ALICE, [SYSCALLS, functions(library)])) as daemon:
        call(site, library)
        # Truncated, and written again, in its place.
        library.write_bytes(bytes(size))
        did = site.workload(ALICE)
        daemon.stop()
        assert daemon.process.returncode == 0
    assert work_calls(site, "run1") == 30
    found = calls_on(site.trace("run1"), did["pid"], did["path"])
    assert found["pwrite64"] == did["done"]["pwrite64"]


# ---- the trace directory


def test_directory_that_its_owner_turns_elsewhere_leads_root_nowhere(site: Site) -> None:
    own = site.traces / "own"
    own.mkdir()
    os.chown(own, uid_of(ALICE), -1)
    target = site.root / "only-root"
    target.mkdir(mode=0o755)
    site.set(DATACRUMBS_TRACE_DIR_PATTERN=f"{own}/%RUN_ID%")
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        site.wait_until_written("run1", site.workload(ALICE))
        shutil.rmtree(own / "run1")
        (own / "run1").symlink_to(target)
        site.workload(ALICE)
        daemon.wait_to_say("Permission denied: the trace waits in memory")
        assert daemon.status()["state"] == "recording"
        daemon.stop()
        assert daemon.process.returncode == 0
        assert "calls dropped" in daemon.output()
    assert list(target.iterdir()) == []


def test_foreign_file_in_the_place_of_the_trace_is_not_touched(site: Site) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        site.wait_until_written("run1", site.workload(ALICE))
        (path,) = site.trace_paths()
        path.unlink()
        path.symlink_to(site.root / "elsewhere")
        did = site.workload(ALICE)
        daemon.stop()
        assert daemon.process.returncode == 0
    assert not (site.root / "elsewhere").exists()
    path.unlink()
    found = calls_on(site.trace("run1"), did["pid"], did["path"])
    assert found["pwrite64"] == did["done"]["pwrite64"]


def test_directory_that_is_unmounted_lazily_still_takes_the_trace(site: Site) -> None:
    """Whoever has the file system open elsewhere finds all of it."""
    other = site.root / "other"
    other.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", site.traces], check=True)
    subprocess.run(["mount", "--bind", site.traces, other], check=True)
    try:
        with site.running("run1", site.probe_file(ALICE)) as daemon:
            subprocess.run(["umount", "-l", site.traces], check=True)
            did = site.workload(ALICE)
            daemon.stop()
            assert daemon.process.returncode == 0
        site.traces = other
        found = calls_on(site.trace("run1"), did["pid"], did["path"])
        assert found["pwrite64"] == did["done"]["pwrite64"]
    finally:
        subprocess.run(["umount", "-l", other], check=True)


# ---- the run directory


def test_links_in_the_place_of_a_runs_files_are_replaced_and_not_followed(site: Site) -> None:
    site.run_dir.mkdir(mode=0o755)
    victim = site.root / "victim"
    victim.write_text("mine")
    for kind in RUN_FILES:
        (site.run_dir / f"datacrumbs-run1.{kind}").symlink_to(victim)
    (site.run_dir / "datacrumbs.runid").symlink_to(victim)
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        assert daemon.status()["state"] == "recording"
        assert not (site.run_dir / "datacrumbs-run1.ready").is_symlink()
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("kind", ["lock", "ready", "pid", "json"])
def test_what_cannot_be_replaced_fails_the_start_in_words(site: Site, kind: str) -> None:
    site.run_dir.mkdir(mode=0o755)
    path = site.run_dir / f"datacrumbs-run1.{kind}"
    path.mkdir()
    daemon = site.daemon("run1", site.probe_file(ALICE))
    assert daemon.exit_status() == 1
    assert f"{path}: Is a directory" in daemon.output()
    assert "Traceback" not in daemon.output()
    assert list(site.run_dir.iterdir()) == [path]


def test_link_in_the_place_of_the_lock_fails_the_start(site: Site) -> None:
    site.run_dir.mkdir(mode=0o755)
    victim = site.root / "victim"
    (site.run_dir / "datacrumbs-run1.lock").symlink_to(victim)
    daemon = site.daemon("run1", site.probe_file(ALICE))
    assert daemon.exit_status() == 1
    assert "datacrumbs-run1.lock: Too many levels of symbolic links" in daemon.output()
    assert not victim.exists()


def test_files_of_a_killed_run_are_not_taken_for_the_next_ones(site: Site) -> None:
    probes = site.probe_file(ALICE)
    with site.running("run1", probes) as daemon:
        daemon.stop(signal.SIGKILL)
    assert (site.run_dir / "datacrumbs-run1.ready").exists()
    broken = site.probe_file(ALICE, is_signed=False, name="broken.json.gz")
    failed = site.daemon("run1", broken)
    assert failed.exit_status() == 1
    with site.running("run1", probes):
        pass
    assert list(site.run_dir.iterdir()) == []


# ---- names that deceive


NAME = "a\n2026-01-01 00:00:00,000 error datacrumbs: all is well\x1b[2J\x9b2J"


def test_names_in_the_log_cannot_look_like_lines_of_it(site: Site) -> None:
    category = replace(SYSCALLS, functions=("read", NAME))
    environment = {"DATACRUMBS_SERVICE_RUN_ID": "run1", "DATACRUMBS_USER": ALICE}
    daemon = site.daemon("run1", site.probe_file(ALICE, [category]), **environment)
    if daemon.becomes_ready():
        daemon.stop()
    (path,) = site.log_dir.iterdir()
    for text in (path.read_text(), daemon.output()):
        assert not any(line.startswith("2026-01-01 00:00:00,000") for line in text.split("\n"))
        assert not set(text) & {"\x1b", "\x9b", "\r"}


@pytest.mark.parametrize("under_systemd", [False, True])
def test_path_in_an_error_is_one_line(site: Site, under_systemd: bool) -> None:
    path = site.shared / NAME.replace("/", "_")
    environment = {"DATACRUMBS_SERVICE_RUN_ID": "run1"} if under_systemd else {}
    daemon = site.daemon("run1", path, **environment)
    assert daemon.exit_status() == 1
    text = daemon.output()
    assert not any(line.startswith("2026-01-01 00:00:00,000") for line in text.split("\n"))
    assert not set(text) & {"\x1b", "\x9b", "\r"}
    assert "No such file or directory" in text


@pytest.mark.parametrize("run_id", ["../../escape", "a\nb", "%n", "x" * 65, "-x"])
def test_impossible_run_id_of_the_service_names_no_log(site: Site, run_id: str) -> None:
    environment = {"DATACRUMBS_SERVICE_RUN_ID": run_id, "DATACRUMBS_USER": ALICE}
    daemon = site.daemon("run1", site.probe_file(ALICE), **environment)
    assert daemon.exit_status() == 2
    assert "DATACRUMBS_SERVICE_RUN_ID: " in daemon.output()
    assert not site.log_dir.exists()
    assert not list(site.root.glob("*escape*"))


@pytest.mark.parametrize("user", ["nobody\n", "\x1b[2J", "-1", "99999999999999999999", "no such"])
def test_impossible_user_is_refused_in_words(site: Site, user: str) -> None:
    daemon = site.daemon("run1", site.probe_file(ALICE), DATACRUMBS_USER=user)
    assert daemon.exit_status() in (1, 2)
    assert "Traceback" not in daemon.output()
    assert "\x1b" not in daemon.output()


@pytest.mark.parametrize(
    "pattern", ["relative/%RUN_ID%", "/dev/null/%RUN_ID%", "{root}/%USER%/../../x", "{root}/a\nb"]
)
def test_strange_trace_directory_works_or_is_refused_in_words(site: Site, pattern: str) -> None:
    daemon = site.daemon(
        "run1", site.probe_file(ALICE), "--trace-dir-pattern", pattern.format(root=site.root)
    )
    if daemon.becomes_ready():
        daemon.stop()
        assert daemon.process.returncode == 0
        assert "{root}" in pattern
        return
    assert daemon.exit_status() in (1, 2)
    assert "Traceback" not in daemon.output()


# ---- the daemon itself is held


def test_daemon_that_was_stopped_for_long_goes_on(site: Site) -> None:
    """As when the machine was suspended: more than one status is overdue."""
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        daemon.process.send_signal(signal.SIGSTOP)
        time.sleep(2.5)
        daemon.process.send_signal(signal.SIGCONT)
        did = site.workload(ALICE)
        time.sleep(1.2)
        assert daemon.process.poll() is None
        daemon.stop()
        assert daemon.process.returncode == 0
    found = calls_on(site.trace("run1"), did["pid"], did["path"])
    assert found["pwrite64"] == did["done"]["pwrite64"]
