"""Functions that are called so often that tracing them drowns the run: counted for a while.

Each check compares how often every function was called since the last one with a limit. A function
above it is counted instead of traced until it has been calm for some checks.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

# Between half the limit and the limit nothing changes, so that a function does not flutter.
CALM_SHARE = 0.5
CALM_CHECKS = 5


class Switch(NamedTuple):
    """A function whose mode changes.

    Attributes:
        function: Its number.
        is_counted: Whether it is counted from now on, or traced again.
        calls_per_s: How often it was called.
    """

    function: int
    is_counted: bool
    calls_per_s: float


class Throttle:
    """Decides which functions are counted for a while.

    Args:
        limit_calls_per_s: Above this a function is counted.
        functions: The functions that may be switched: those that are to be traced.
    """

    def __init__(self, limit_calls_per_s: float, functions: Iterable[int]) -> None:
        self._limit = limit_calls_per_s
        self._functions = frozenset(functions)
        self._seen: dict[int, int] = {}
        self._calm_checks: dict[int, int] = {}

    @property
    def counted(self) -> frozenset[int]:
        """The functions that are counted now."""
        return frozenset(self._calm_checks)

    def check(self, calls: Mapping[int, int], elapsed_s: float, loss: float = 1.0) -> list[Switch]:
        """Return the functions to switch.

        Args:
            calls: Calls of each function since the run began, traced and counted ones; a function
                that is missing was not called.
            elapsed_s: Time since the last check, in seconds.
            loss: How many calls were offered for each that was written since the last check.
        """
        switches = []
        for function in self._functions & (calls.keys() | self._calm_checks.keys()):
            now = calls.get(function, 0)
            rate = (now - self._seen.get(function, 0)) / elapsed_s
            self._seen[function] = now
            if function not in self._calm_checks:
                # Calls that found the ring full are missing here.
                rate *= loss
                if rate > self._limit:
                    self._calm_checks[function] = 0
                    switches.append(Switch(function, True, rate))
            elif rate > self._limit * CALM_SHARE:
                self._calm_checks[function] = 0
            else:
                self._calm_checks[function] += 1
                if self._calm_checks[function] >= CALM_CHECKS:
                    del self._calm_checks[function]
                    switches.append(Switch(function, False, rate))
        return sorted(switches)
