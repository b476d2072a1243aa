"""The map by which custom probes know the processes of a run."""

import itertools
from pathlib import Path

from datacrumbs_runtime.custom.attaching import pinned_processes
from datacrumbs_runtime.schema.run_id import check_run_id


def test_runs_never_share_the_name_of_their_processes(tmp_path: Path) -> None:
    ids = ["".join(parts) for parts in itertools.product("a._-", repeat=3) if parts[0] == "a"]
    for run_id in ids:
        check_run_id(run_id, "a test")
        pinned_processes(run_id, tmp_path).write_text(run_id)
    left = list(tmp_path.iterdir())
    assert sorted(path.read_text() for path in left) == sorted(ids)
    assert not any("." in path.name for path in left)


def test_name_is_new_each_time_and_replaces_what_a_killed_run_left(tmp_path: Path) -> None:
    first = pinned_processes("4711", tmp_path)
    first.write_text("")
    # Nobody can be in the way: not even with a directory, which cannot be replaced.
    (tmp_path / f"{first.name}0").mkdir()
    second = pinned_processes("4711", tmp_path)
    assert second.name != first.name
    assert not second.exists()
    assert not first.exists()
    (tmp_path / "datacrumbs-47-processes+1").write_text("")
    pinned_processes("4", tmp_path)
    assert (tmp_path / "datacrumbs-47-processes+1").exists()
