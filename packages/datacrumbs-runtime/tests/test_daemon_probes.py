"""Which probes a run has: of libraries, failed ones, ones that failed before, of replaced files."""

import gzip
import hashlib
import json
import shutil
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from daemon_site import ALICE, SYSCALLS, Site, new_site

from datacrumbs_runtime.schema.probe_file import Argument, Category, ProbeType, canonical_bytes

pytestmark = pytest.mark.kernel

SIGNATURE = {"checksum", "checksum_algorithm", "key_id"}

LIBRARY = """
#include <stdio.h>
__attribute__((noinline)) int work_add(int a, int b) { return a + b; }
__attribute__((noinline)) int work_say(const char *text) { return text[0]; }
#ifdef SECOND
__attribute__((noinline)) int work_more(int a) { return a * 3; }
#endif
"""
PROGRAM = """
#include <unistd.h>
int work_add(int a, int b);
int work_say(const char *text);
int main(void)
{
	volatile int sum = 0;
	for (int i = 0; i < 50; i++)
		sum += work_add(i, 1);
	for (int i = 0; i < 20; i++)
		sum += work_say("hello");
	return sum == 0;
}
"""


def compile_to(target: Path, text: str, *options: str) -> None:
    source = target.with_suffix(".c")
    source.write_text(text)
    subprocess.run(
        ["cc", "-O1", "-Wl,--build-id", "-o", str(target), str(source), *options], check=True
    )
    target.chmod(0o755)


@pytest.fixture
def site() -> Iterator[Site]:
    with new_site() as made:
        yield made


@pytest.fixture
def library(site: Site) -> Path:
    directory = site.root / "lib"
    directory.mkdir(mode=0o755)
    path = directory / "libwork.so"
    compile_to(path, LIBRARY, "-shared", "-fPIC")
    program = directory / "work"
    compile_to(program, PROGRAM, str(path), f"-Wl,-rpath,{directory}")
    return path


def build_id(path: Path) -> str:
    done = subprocess.run(["readelf", "-n", path], capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if "Build ID" in line]
    return line.split()[-1]


def functions(library: Path, *names: str) -> Category:
    arguments = {
        "work_add": (
            Argument(0, 4, False, "a", "int"),
            Argument(1, 4, False, "b", "int"),
        ),
        "work_say": (Argument(0, 8, True, "text", "char *"),),
    }
    return Category(
        ProbeType.UPROBE,
        "WORK",
        names or ("work_add", "work_say"),
        arguments={name: item for name, item in arguments.items() if name in (names or arguments)},
        returns=dict.fromkeys(names or arguments, "int"),
        binary_path=str(library),
        build_id=build_id(library),
    )


def work(site: Site) -> None:
    done = site.wrapped(ALICE, str(site.root / "lib/work"))
    assert done.returncode == 0, done.stderr


def counts(site: Site, run_id: str) -> Counter[str]:
    return Counter(
        line["name"] for line in site.trace(run_id) if line["ph"] == "X" and line["cat"] == "WORK"
    )


def marks(site: Site) -> dict[str, tuple[str, str]]:
    path = site.data_dir / "probes-runtime-status-root-host.sqlite"
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute(
            "SELECT function_name, status, reason FROM runtime_probe_status "
            "WHERE probe_group = 'binary'"
        )
        return {name: (status, reason) for name, status, reason in rows}


def test_functions_of_a_library_are_recorded_with_their_arguments(
    site: Site, library: Path
) -> None:
    with site.running("run1", site.probe_file(ALICE, [functions(library)])):
        work(site)
    lines = [line for line in site.trace("run1") if line["ph"] == "X" and line["cat"] == "WORK"]
    added = [line["args"] for line in lines if line["name"] == "work_add"]
    assert [(args["a"], args["b"], args["ret"]) for args in added] == [
        (i, 1, i + 1) for i in range(50)
    ]
    said = [line["args"] for line in lines if line["name"] == "work_say"]
    assert [(args["text"], args["ret"]) for args in said] == [("hello", ord("h"))] * 20


def test_two_runs_probe_the_same_functions_side_by_side(site: Site, library: Path) -> None:
    probes = site.probe_file(ALICE, [functions(library)])
    with site.running("run1", probes), site.running("run2", probes):
        work(site)
    assert counts(site, "run1") == counts(site, "run2") == {"work_add": 50, "work_say": 20}


def test_failing_probe_stops_no_other_and_is_skipped_the_next_time(
    site: Site, library: Path
) -> None:
    probes = site.probe_file(ALICE, [functions(library, "work_add", "work_missing")])
    with site.running("run1", probes) as daemon:
        status = daemon.status()
        work(site)
        daemon.stop()
        assert "WORK: work_missing: " in daemon.output()
    assert (status["requested"], status["attached"]) == (2, 1)
    assert counts(site, "run1") == {"work_add": 50}
    assert marks(site)["work_add"] == ("successful", "")
    assert marks(site)["work_missing"][0] == "invalid"
    with site.running("run2", probes) as daemon:
        ((category, function, reason),) = daemon.status()["failures"]
    assert (category, function) == ("WORK", "work_missing")
    assert reason.startswith("skipped, it failed before: ")
    with site.running("run3", probes, "--retry-failed") as daemon:
        ((_, _, reason),) = daemon.status()["failures"]
    assert not reason.startswith("skipped")


def test_failure_of_a_tier_that_was_asked_for_is_not_kept(site: Site, library: Path) -> None:
    probes = site.probe_file(ALICE, [functions(library, "work_add", "work_missing")])
    with site.running("run1", probes, "--max-tier", "uprobe.multi") as daemon:
        assert daemon.status()["attached"] == 1
    with site.running("run2", probes) as daemon:
        ((_, _, reason),) = daemon.status()["failures"]
    assert not reason.startswith("skipped")


def test_new_build_is_tried_again_and_success_clears_the_mark(site: Site, library: Path) -> None:
    names = ("work_add", "work_more")
    with site.running("run1", site.probe_file(ALICE, [functions(library, *names)])):
        pass
    assert marks(site)["work_more"][0] == "invalid"
    library.unlink()
    compile_to(library, LIBRARY, "-shared", "-fPIC", "-DSECOND")
    with site.running("run2", site.probe_file(ALICE, [functions(library, *names)])) as daemon:
        assert daemon.status()["attached"] == 2
    assert marks(site)["work_more"] == ("successful", "")


def test_library_that_was_replaced_since_signing_is_left_out(site: Site, library: Path) -> None:
    probes = site.probe_file(ALICE, [SYSCALLS, functions(library)])
    library.unlink()
    compile_to(library, LIBRARY, "-shared", "-fPIC", "-DSECOND")
    with site.running("run1", probes) as daemon:
        status = daemon.status()
        work(site)
    assert (status["requested"], status["attached"]) == (11, 9)
    assert {failure[1] for failure in status["failures"]} == {"work_add", "work_say"}
    assert all("build id" in failure[2] for failure in status["failures"])
    assert counts(site, "run1") == {}
    # It is not the functions' fault: with a new probe file they are attached at once.
    with site.running("run2", site.probe_file(ALICE, [functions(library)])) as daemon:
        assert daemon.status()["attached"] == 2


def test_library_replaced_during_the_run_does_no_harm(site: Site, library: Path) -> None:
    with site.running("run1", site.probe_file(ALICE, [functions(library)])) as daemon:
        work(site)
        copy = library.with_name("new.so")
        shutil.copy(library, copy)
        copy.replace(library)
        work(site)
        assert daemon.stop() < 20
        assert daemon.process.returncode == 0
    assert counts(site, "run1") == {"work_add": 50, "work_say": 20}


def test_library_that_the_user_may_not_read_is_left_out(site: Site, library: Path) -> None:
    probes = site.probe_file(ALICE, [SYSCALLS, functions(library)])
    library.chmod(0o600)
    with site.running("run1", probes) as daemon:
        status = daemon.status()
    assert status["attached"] == 9
    assert {failure[2] for failure in status["failures"]} == {f"{library}: Permission denied"}
    assert marks(site) == {}


def test_link_that_is_turned_after_the_check_does_not_matter(site: Site, library: Path) -> None:
    """Names of binaries are resolved once, with the user's rights; the kernel gets that file."""
    link = site.shared / "link.so"
    link.symlink_to(library)
    probes = site.probe_file(ALICE, [replace(functions(library), binary_path=str(link))])
    with site.running("run1", probes) as daemon:
        link.unlink()
        link.symlink_to("/etc/passwd")
        work(site)
        assert daemon.status()["attached"] == 2
    assert counts(site, "run1") == {"work_add": 50, "work_say": 20}


def test_nothing_that_can_be_attached_is_a_failed_start(site: Site, library: Path) -> None:
    daemon = site.daemon("run1", site.probe_file(ALICE, [functions(library, "work_missing")]))
    assert daemon.exit_status() == 1
    assert "none of 1 functions can be recorded" in daemon.output()
    assert site.trace_paths() == []
    again = site.daemon("run1", site.probe_file(ALICE, [functions(library, "work_missing")]))
    assert again.exit_status() == 1
    assert site.trace_paths() == []


TIERS = ("uprobe.session", "uprobe.multi", "uprobe.tracefs", "uprobe.perf")


@pytest.mark.parametrize("tier", TIERS)
def test_every_tier_gives_the_same_trace(site: Site, library: Path, tier: str) -> None:
    probes = site.probe_file(ALICE, [functions(library)])
    with site.running("run1", probes, "--max-tier", tier) as daemon:
        # A kernel that lacks it takes one below.
        assert daemon.status()["tiers"]["uprobe"] in TIERS[TIERS.index(tier) :]
        work(site)
    assert counts(site, "run1") == {"work_add": 50, "work_say": 20}


def test_unknown_tier_is_named(site: Site) -> None:
    daemon = site.daemon("run1", site.probe_file(ALICE), "--max-tier", "uprobe.magic")
    assert daemon.exit_status() == 2
    assert "no tier uprobe.magic: known are uprobe.session, " in daemon.output()


def test_tracepoints_of_the_kernel_are_recorded(site: Site) -> None:
    category = Category(ProbeType.TRACEPOINT, "KERNEL", ("sched_process_exec",))
    with site.running("run1", site.probe_file(ALICE, [category])) as daemon:
        assert daemon.status()["attached"] == 1
        assert site.wrapped(ALICE, "/bin/true").returncode == 0
    names = [line["name"] for line in site.trace("run1") if line.get("cat") == "KERNEL"]
    assert names == ["sched_process_exec"]


def test_check_names_what_cannot_be_attached(site: Site, library: Path) -> None:
    probes = site.probe_file(ALICE, [functions(library, "work_add", "work_missing")])
    done = site.run(
        "datacrumbs", "--prefix", str(site.prefix), "--check", "--json", str(probes), "x"
    )
    report = json.loads(done.stdout)
    assert report["attached"] == 1
    assert [failure["function"] for failure in report["failures"]] == ["work_missing"]
    # A check is no run: it marks nothing.
    assert not list(site.data_dir.glob("probes-runtime-status-*"))


def test_trace_names_the_probe_file_as_it_was_signed(site: Site, library: Path) -> None:
    probes = site.probe_file(ALICE, [functions(library, "work_add", "work_missing")])
    document = json.loads(gzip.decompress(probes.read_bytes()))
    with site.running("run1", probes):
        pass
    (line,) = [line for line in site.trace("run1") if line["name"] == "datacrumbs"]
    unsigned = {key: document[key] for key in document if key not in SIGNATURE}
    assert line["args"]["probe_file_sha256"] in {
        hashlib.sha256(canonical_bytes(part)).hexdigest() for part in (document, unsigned)
    }
    assert (line["args"]["requested"], line["args"]["attached"]) == (2, 1)
