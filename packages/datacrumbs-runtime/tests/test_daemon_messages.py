"""What the daemon says of a probe file: each thing once, and what to do about it."""

import json
import platform
import subprocess
from collections.abc import Iterator

import pytest
from daemon_site import ALICE, SYSCALLS, Owner, Site, new_site, write_probe_file

from datacrumbs_runtime.schema.probe_file import Category, ProbeType

pytestmark = pytest.mark.kernel

OTHER_BUILD = "ab" * 20
ABSENT = Category(ProbeType.UPROBE, "lib", ("f:0x10",), binary_path="/nowhere/lib.so")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with new_site() as made:
        yield made


def check(
    site: Site, *categories: Category, json_too: bool = False
) -> subprocess.CompletedProcess[str]:
    probes = site.probe_file(ALICE, categories)
    options = ["--json"] if json_too else []
    return site.run("datacrumbs", "--prefix", str(site.prefix), "--check", *options, str(probes))


def test_what_failed_is_told_once(site: Site) -> None:
    done = check(site, SYSCALLS, ABSENT)
    assert done.returncode == 1
    assert done.stdout.count("lib: f:0x10: /nowhere/lib.so: No such file or directory\n") == 1
    assert done.stderr == ""


def test_reason_of_a_changed_binary_names_category_once_and_what_to_do(site: Site) -> None:
    library = str((site.prefix / "lib/libdatacrumbs_client.so").resolve())
    changed = Category(
        ProbeType.UPROBE, "lib", ("f:0x10",), binary_path=library, build_id=OTHER_BUILD
    )
    done = check(site, SYSCALLS, changed)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("lib:")]
    assert line.startswith(f"lib: f:0x10: {library}: was changed since")
    assert line.endswith("; make the probe file again with datacrumbs_probe_configurator")


def test_file_without_functions_is_named_as_such(site: Site) -> None:
    done = check(site)
    assert done.stderr.splitlines() == [
        "datacrumbs: error: the probe file names no function",
        "datacrumbs: hint: make one with datacrumbs_probe_configurator",
    ]


def test_earlier_failures_are_only_spoken_of_where_there_were_any(site: Site) -> None:
    done = check(site, ABSENT)
    assert done.returncode == 1
    assert "none of 1 functions can be recorded: f:0x10: /nowhere/lib.so" in done.stderr
    assert "--retry-failed" not in done.stderr


def test_as_many_functions_as_the_file_names(site: Site) -> None:
    asynchronous = Category(
        ProbeType.SYSCALLS, "AIO", ("io_setup", "io_submit", "io_getevents", "read")
    )
    report = json.loads(check(site, asynchronous, json_too=True).stdout)
    assert (report["requested"], report["attached"]) == (4, 4)


def test_user_whom_the_node_does_not_know_is_named_with_what_to_look_at(site: Site) -> None:
    probes = site.shared / "ghost.json.gz"
    ghost = Owner("ghost", 54321, 54321)
    write_probe_file(probes, [SYSCALLS], site.data_dir, ghost, platform.node())
    done = site.run("datacrumbs", "--prefix", str(site.prefix), "--check", str(probes))
    assert "datacrumbs: error: uid 54321: no such user" in done.stderr
    assert "see getent passwd 54321" in done.stderr


def test_trace_out_of_the_reach_of_its_owner_is_told(site: Site) -> None:
    closed = site.root / "closed"
    closed.mkdir(mode=0o700)
    probes = site.probe_file(ALICE)
    told = f"{closed}/traces: the owner of the trace cannot enter it"
    for directory, is_told in ((closed / "traces", True), (site.traces / "open", False)):
        with site.running("run1", probes, "--trace-dir-pattern", str(directory)) as daemon:
            pass
        assert (told in daemon.output()) is is_told
        assert list(directory.glob("*.pfw.gz"))
