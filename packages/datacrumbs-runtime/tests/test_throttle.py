from datacrumbs_runtime.trace.throttle import CALM_CHECKS, Switch, Throttle


def test_function_above_the_limit_is_counted() -> None:
    throttle = Throttle(1000, [0, 1])
    assert throttle.check({0: 999, 1: 1001}, 1.0) == [Switch(1, True, 1001.0)]
    assert throttle.counted == {1}


def test_rate_is_per_second_since_the_last_check() -> None:
    throttle = Throttle(1000, [0])
    assert throttle.check({0: 1900}, 2.0) == []
    assert throttle.check({0: 1900 + 600}, 0.5) == [Switch(0, True, 1200.0)]


def test_calls_that_were_lost_count_as_well() -> None:
    throttle = Throttle(1000, [0])
    assert throttle.check({0: 600}, 1.0, loss=2.0) == [Switch(0, True, 1200.0)]


def test_function_that_is_not_to_be_traced_is_left_alone() -> None:
    throttle = Throttle(1000, [0])
    assert throttle.check({5: 10**6}, 1.0) == []


def test_calm_function_is_traced_again_after_some_checks() -> None:
    throttle = Throttle(1000, [0])
    throttle.check({0: 5000}, 1.0)
    for number in range(1, CALM_CHECKS):
        assert throttle.check({0: 5000 + number}, 1.0) == []
    assert throttle.check({0: 5000 + CALM_CHECKS}, 1.0) == [Switch(0, False, 1.0)]
    assert throttle.counted == frozenset()


def test_burst_in_between_starts_the_wait_again() -> None:
    throttle = Throttle(1000, [0])
    throttle.check({0: 5000}, 1.0)
    throttle.check({0: 5000}, 1.0)
    throttle.check({0: 5600}, 1.0)
    for _ in range(CALM_CHECKS - 1):
        assert throttle.check({0: 5600}, 1.0) == []
    assert throttle.check({0: 5600}, 1.0) == [Switch(0, False, 0.0)]
