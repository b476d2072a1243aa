"""The map by which custom probes know the processes of a run."""

import itertools

from datacrumbs_runtime.custom.attaching import pinned_processes
from datacrumbs_runtime.schema.run_id import check_run_id


def test_runs_never_share_the_name_of_their_processes() -> None:
    ids = ["".join(parts) for parts in itertools.product("a._-", repeat=3) if parts[0] == "a"]
    for run_id in ids:
        check_run_id(run_id, "a test")
    names = {pinned_processes(run_id).name for run_id in ids}
    assert len(names) == len(ids)
    assert not any("." in name for name in names)
