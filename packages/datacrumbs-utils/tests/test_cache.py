"""Cached results of discovery."""

import multiprocessing
from pathlib import Path

import pytest

from datacrumbs_utils.discovery import cache


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_what_was_stored_is_found() -> None:
    cache.store("kind", 1, "abc", {"one": [1, "zwei", None]})
    assert cache.load("kind", 1, "abc") == {"one": [1, "zwei", None]}


def test_other_versions_kinds_and_keys_are_not_mixed_up() -> None:
    cache.store("kind", 1, "abc", {"one": 1})
    assert cache.load("kind", 2, "abc") == {}
    assert cache.load("other", 1, "abc") == {}
    assert cache.load("kind", 1, "abd") == {}


def test_keys_never_leave_the_directory(cache_home: Path) -> None:
    for key in ("../../escape", ".hidden", "a/b", "x" * 5000, "new\nline", ""):
        cache.store("kind", 1, key, {"key": key})
        assert cache.load("kind", 1, key) == {"key": key}
    directory = cache_home / "datacrumbs" / "kind"
    files = {path for path in cache_home.rglob("*") if path.is_file()}
    assert {path.parent for path in files} == {directory}


def _write(number: int) -> None:
    for turn in range(50):
        cache.store("kind", 1, "shared", {str(number): "x" * 1000 * (turn % 7 + 1)})


def test_readers_never_see_a_half_written_file(cache_home: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(number,)) for number in range(4)]
    cache.store("kind", 1, "shared", {"start": "x"})
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert len(cache.load("kind", 1, "shared")) == 1
    assert all(writer.exitcode == 0 for writer in writers)
    assert [path.name for path in (cache_home / "datacrumbs" / "kind").iterdir()] == ["shared.json"]


def test_directory_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cache.store("kind", 1, "abc", {"one": 1})
    assert cache.load("kind", 1, "abc") == {}
