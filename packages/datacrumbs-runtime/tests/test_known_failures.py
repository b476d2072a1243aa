import pytest

from datacrumbs_runtime.known_failures import may_pass

NO_KPROBES = "no kprobe (kprobe.multi: Operation not supported; fentry: Operation not permitted)"


@pytest.mark.parametrize("reason", ["Cannot allocate memory", "x: Device or resource busy (y)"])
def test_what_may_pass_is_tried_again(reason: str) -> None:
    assert may_pass(reason, has_all_rights=True)
    assert may_pass(reason, has_all_rights=False)


def test_what_is_not_permitted_may_be_another_time_only_with_more_rights() -> None:
    assert may_pass(NO_KPROBES, has_all_rights=False)
    assert not may_pass(NO_KPROBES, has_all_rights=True)


def test_a_function_that_is_not_there_will_not_be_the_next_time() -> None:
    assert not may_pass("x_read: no such function", has_all_rights=False)
