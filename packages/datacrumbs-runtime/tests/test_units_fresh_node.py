"""The unit on a node that never had a run: what is missing is made, what cannot be is said."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_site import SYSCALLS
from systemd_container import RUN_DIR, Container, booted

pytestmark = pytest.mark.kernel

# Nothing of this is there before the first run.
TRACES = "/site/scratch/traces"


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    with booted(settings=[f"DATACRUMBS_TRACE_DIR_PATTERN={TRACES}/%USER%/%YY%"]) as made:
        yield made


@pytest.fixture(scope="module")
def probes(container: Container) -> Path:
    return container.probe_file("probes.json.gz", [SYSCALLS])


def test_start_without_its_environment_says_what_to_write(container: Container) -> None:
    container.run("rm", "-rf", RUN_DIR)
    container.run("systemctl", "start", "datacrumbs@none", check=False)
    assert container.property_of("none", "ActiveState") == "failed"
    assert container.property_of("none", "StatusText") == "no probe file"
    journal = container.run("journalctl", "-u", "datacrumbs@none", "--no-pager", "-o", "cat")
    assert "datacrumbs: error: no probe file" in journal
    assert f"write DATACRUMBS_PROBE_FILE=/PATH into {RUN_DIR}/datacrumbs-none.env" in journal
    # The next one who starts a run finds the place for it.
    assert container.run("stat", "-c", "%U %a", RUN_DIR).strip() == "root 755"


def test_error_and_hint_are_told_apart_in_the_journal(container: Container) -> None:
    container.start("absent", Path("/nowhere/probes.json.gz"))
    journal = container.run("journalctl", "-u", "datacrumbs@absent", "--no-pager", "-o", "cat")
    assert "datacrumbs: error: /nowhere/probes.json.gz: No such file or directory" in journal
    assert "datacrumbs: hint: alice must be able to read it" in journal


def test_user_can_reach_his_trace_below_directories_that_were_missing(
    container: Container, probes: Path
) -> None:
    container.start("first", probes)
    container.run(container.wrap, "true", user="alice")
    container.stop("first")
    found = container.run("find", TRACES, "-name", "*.pfw.gz", user="alice").split()
    assert len(found) == 1
    assert container.run("zcat", found[0], user="alice").startswith("[")
    for directory in ("/site", "/site/scratch", TRACES):
        assert container.run("stat", "-c", "%U %a", directory).strip() == "root 755"
