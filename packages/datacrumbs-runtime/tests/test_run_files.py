"""The files of a run when others end at the same time, or it has ended itself."""

from pathlib import Path

from datacrumbs_runtime.run_files import RunFiles


def run_files(run_dir: Path, run_id: str) -> RunFiles:
    return RunFiles(run_dir, run_dir / "datacrumbs.runid", run_id)


def test_a_run_that_ends_meanwhile_is_not_named(tmp_path: Path) -> None:
    """Its ready file is listed, and gone when it is looked at."""
    older, newer = run_files(tmp_path, "older"), run_files(tmp_path, "newer")
    for files in (older, newer):
        files.claim()
        files.announce()
    gone = tmp_path / "datacrumbs-gone.ready"
    gone.symlink_to(tmp_path / "nothing")
    newer.remove()
    assert (tmp_path / "datacrumbs.runid").read_text() == "older"
    older.remove()
    assert list(tmp_path.iterdir()) == [gone]


def test_nothing_is_made_after_the_end(tmp_path: Path) -> None:
    files = run_files(tmp_path, "run1")
    files.remove()
    files.claim()
    files.announce()
    assert list(tmp_path.iterdir()) == []
