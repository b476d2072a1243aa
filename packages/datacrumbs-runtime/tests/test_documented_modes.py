"""What a run makes has the modes and owners that the documentation lists, and no others."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_site import ALICE, Site, new_site, uid_of

from datacrumbs_runtime.signing.listener import listen

PAGE = Path(__file__).resolve().parents[3] / "docs/administrator/daemon.md"
ROW = re.compile(r"\| `([^`]+)` \| (0[0-7]{3})([^|]*)\|")


def documented() -> dict[str, tuple[int, str]]:
    """Return mode, and what is said of the owner, by name of file."""
    return {name: (int(mode, 8), rest) for name, mode, rest in ROW.findall(PAGE.read_text())}


@pytest.fixture
def site() -> Iterator[Site]:
    with new_site() as made:
        yield made


@pytest.mark.kernel
def test_run_directory_holds_what_is_listed_with_the_listed_modes(site: Site) -> None:
    listed = {
        name.replace("<run id>", "run1"): entry
        for name, entry in documented().items()
        if name.startswith("datacrumbs") and "sign-probes" not in name
    }
    with site.running("run1", site.probe_file(ALICE)):
        assert stat.S_IMODE(site.run_dir.stat().st_mode) == 0o755
        found = {path.name: path.stat() for path in site.run_dir.iterdir()}
    assert {name: stat.S_IMODE(status.st_mode) for name, status in found.items()} == {
        name: mode for name, (mode, _) in listed.items()
    }
    for name, status in found.items():
        expected = uid_of(ALICE) if "the owner's" in listed[name][1] else 0
        assert status.st_uid == expected, name


@pytest.mark.kernel
def test_log_trace_and_database_have_the_listed_modes(site: Site) -> None:
    probes = site.probe_file(ALICE)
    with site.running("run1", probes, DATACRUMBS_SERVICE_RUN_ID="run1", DATACRUMBS_USER=ALICE):
        site.workload(ALICE)
    (trace,) = site.trace_paths()
    (log,) = site.log_dir.glob("datacrumbs_*_run1_*.log")
    (database,) = site.data_dir.glob("probes-runtime-status-*.sqlite")
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o755
    ends = {"pfw.gz": trace, ".log": log, ".sqlite": database}
    for end, path in ends.items():
        ((mode, rest),) = [entry for name, entry in documented().items() if name.endswith(end)]
        assert stat.S_IMODE(path.stat().st_mode) == mode, path
        owner = uid_of(ALICE) if "the owner's" in rest else 0
        assert path.stat().st_uid == owner, path


@pytest.mark.skipif(os.geteuid() != 0, reason="the run directory must be root's")
@pytest.mark.parametrize("group_id", [None, 0])
def test_socket_of_the_signer_has_the_listed_mode(tmp_path: Path, group_id: int | None) -> None:
    name = "datacrumbs-sign-probes.sock"
    path = tmp_path / "run" / name
    mode, rest = documented()[name]
    if group_id is not None:
        mode = int(rest.partition("`--socket-group` ")[2][:4], 8)
    before = os.umask(0o077)
    try:
        listener = listen(path, None, group_id=group_id)
    finally:
        os.umask(before)
    with listener:
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
        assert stat.S_IMODE(path.stat().st_mode) == mode
        lock = path.with_name(f"{name}.lock")
        assert stat.S_IMODE(lock.stat().st_mode) == documented()[lock.name][0]
