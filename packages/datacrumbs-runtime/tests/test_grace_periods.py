"""Grace periods are expedited for a moment, by one at a time, and the setting is as it was."""

import threading
from pathlib import Path

import pytest

from datacrumbs_runtime.bpf import grace_periods
from datacrumbs_runtime.bpf.grace_periods import expedited_grace_periods


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "rcu_expedited"
    path.write_text("0\n")
    monkeypatch.setattr(grace_periods, "RCU_EXPEDITED", path)
    return path


@pytest.mark.parametrize("before", ["0\n", "1\n"])
def test_the_setting_is_put_back(setting: Path, before: str) -> None:
    setting.write_text(before)
    with expedited_grace_periods():
        assert setting.read_text() == "1\n"
    assert setting.read_text() == before


def test_the_setting_is_put_back_after_a_failure(setting: Path) -> None:
    with pytest.raises(OSError, match="busy"), expedited_grace_periods():
        raise OSError("busy")
    assert setting.read_text() == "0\n"


def test_two_at_once_leave_it_as_it_was(setting: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(50):
            with expedited_grace_periods():
                inside.append(1)
                most.append(len(inside))
                assert setting.read_text() == "1\n"
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert setting.read_text() == "0\n"


def test_where_it_cannot_be_written_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grace_periods, "RCU_EXPEDITED", tmp_path / "missing")
    done = []
    with expedited_grace_periods():
        done.append(1)
    assert done == [1]


@pytest.mark.kernel
def test_the_kernel_takes_the_setting() -> None:
    path = grace_periods.RCU_EXPEDITED
    if not path.exists():
        pytest.skip("this kernel's grace periods cannot be expedited")
    before = path.read_text()
    with expedited_grace_periods():
        assert path.read_text() == "1\n"
    assert path.read_text() == before
