from pathlib import Path

import pytest

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_runtime.installed_files import Change, InstalledFiles, fill_template


def files(prefix: Path) -> InstalledFiles:
    return InstalledFiles(prefix / "manifest.json", prefix)


def test_missing_file_is_made(tmp_path: Path) -> None:
    installed = files(tmp_path)
    assert installed.install(tmp_path / "etc/a", b"1", 0o640) is Change.MADE
    assert (tmp_path / "etc/a").read_bytes() == b"1"
    assert (tmp_path / "etc/a").stat().st_mode & 0o777 == 0o640


def test_file_as_it_was_written_is_updated(tmp_path: Path) -> None:
    first = files(tmp_path)
    first.install(tmp_path / "a", b"1")
    first.save()
    assert files(tmp_path).install(tmp_path / "a", b"2") is Change.UPDATED
    assert (tmp_path / "a").read_bytes() == b"2"


def test_file_that_somebody_changed_is_kept_and_the_new_one_put_beside_it(tmp_path: Path) -> None:
    first = files(tmp_path)
    first.install(tmp_path / "a", b"1")
    first.save()
    (tmp_path / "a").write_bytes(b"mine")
    second = files(tmp_path)
    assert second.plan(tmp_path / "a", b"2") is Change.KEPT
    assert second.install(tmp_path / "a", b"2") is Change.KEPT
    assert (tmp_path / "a").read_bytes() == b"mine"
    assert (tmp_path / "a.new").read_bytes() == b"2"


def test_new_version_is_put_beside_a_changed_file_once(tmp_path: Path) -> None:
    first = files(tmp_path)
    first.install(tmp_path / "a", b"1")
    (tmp_path / "a").write_bytes(b"mine")
    assert first.install(tmp_path / "a", b"2") is Change.KEPT
    first.save()
    (tmp_path / "a.new").unlink()
    assert files(tmp_path).install(tmp_path / "a", b"2") is Change.SAME
    assert not (tmp_path / "a.new").exists()
    assert files(tmp_path).install(tmp_path / "a", b"3") is Change.KEPT
    assert (tmp_path / "a").read_bytes() == b"mine"


def test_changed_file_is_kept_without_a_word_while_there_is_no_newer_version(
    tmp_path: Path,
) -> None:
    first = files(tmp_path)
    first.install(tmp_path / "a", b"1")
    first.save()
    (tmp_path / "a").write_bytes(b"mine")
    assert files(tmp_path).install(tmp_path / "a", b"1") is Change.SAME
    assert (tmp_path / "a").read_bytes() == b"mine"
    assert not (tmp_path / "a.new").exists()


def test_file_that_was_there_before_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"older")
    assert files(tmp_path).install(tmp_path / "a", b"1") is Change.KEPT
    assert (tmp_path / "a").read_bytes() == b"older"


def test_template_is_filled() -> None:
    text = fill_template("x @DATACRUMBS_A@/y", {"DATACRUMBS_A": "/p"}, "t")
    assert text == "x /p/y"


def test_variable_without_value_is_named_with_its_line() -> None:
    with pytest.raises(ConfigurationError, match="t:2: @DATACRUMBS_B@ has no value"):
        fill_template("a\n@DATACRUMBS_B@", {}, "t")
