"""What a start of the daemon does not do, and what others do meanwhile."""

import errno
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from waiting import wait_until

from datacrumbs_runtime.errors import SigningError
from datacrumbs_runtime.pinned_binaries import PinnedBinaries
from datacrumbs_runtime.schema.probe_file import Category, ProbeFile, ProbeType, Summary
from datacrumbs_runtime.signing.accounts import account_of_uid

PYTHON = os.path.realpath(sys.executable)
IMPORTED = """
import sys
import {module}
print(*sys.modules)
"""


def imported_by(module: str) -> set[str]:
    """Return what a module needs."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED.format(module=module)],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def descriptors() -> set[str]:
    """Return what this process has open."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def pinned(*categories: Category, timeout_s: float = 60) -> PinnedBinaries:
    """Have the binaries of some categories opened."""
    summary = Summary("host.yaml", "probes.json", "node1", "root", "root")
    account = account_of_uid(os.geteuid())
    return PinnedBinaries(ProbeFile(summary, categories), account, timeout_s=timeout_s)


def category(name: str, path: str) -> Category:
    """Return a category of no function."""
    return Category(ProbeType.UPROBE, name, (), binary_path=path)


def has_no_child() -> bool:
    """Return whether no process of ours is there, after reaping one that ended."""
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


def test_engine_is_imported_while_another_process_looks_at_the_binaries() -> None:
    at_once = imported_by("datacrumbs_runtime.daemon")
    assert "datacrumbs_runtime.pinned_binaries" in at_once
    assert not at_once & {"datacrumbs_runtime.engine", "datacrumbs_runtime.recording", "isal"}


@pytest.mark.parametrize("unneeded", ["yaml", "capstone", "shutil", "tempfile"])
def test_start_does_not_import_what_few_runs_need(unneeded: str) -> None:
    assert unneeded not in imported_by("datacrumbs_runtime.recording")


def test_binaries_are_opened_in_another_process() -> None:
    binaries = pinned(category("missing", "/no/such.so"), category("there", PYTHON))
    with closing(binaries):
        usable, refused = binaries.usable()
        assert [each.name for each in usable.categories] == ["there"]
        assert [(each.category.name, each.reason) for each in refused] == [
            ("missing", f"/no/such.so: {os.strerror(errno.ENOENT)}")
        ]
        path = usable.categories[0].binary_path
        assert path is not None
        assert Path(path).samefile(PYTHON)
        assert binaries.readable(f"{path}: gone") == f"{PYTHON}: gone"


def test_nothing_is_left_of_binaries_that_nobody_waited_for() -> None:
    before = descriptors()
    binaries = pinned(category("there", PYTHON))
    assert descriptors() > before
    binaries.close()
    assert descriptors() == before
    # On a busy machine it is not waited for.
    wait_until(has_no_child)


def test_binaries_that_take_too_long_are_told_when_they_are_needed() -> None:
    with (
        closing(pinned(category("there", PYTHON), timeout_s=0)) as binaries,
        pytest.raises(SigningError, match="took too long"),
    ):
        binaries.usable()
