"""What the functions and files of a run do per second, from one status of it to the next."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_STATUSES_OF_A_RATE = 4


class Rate(NamedTuple):
    """What happened per second of late."""

    calls: float
    time_ns: float
    bytes: float


class Rates:
    """What the functions and files of a run did of late: over its newest statuses.

    Over several, because counted calls come by the interval.
    """

    def __init__(self) -> None:
        self._statuses: deque[Mapping[str, Any]] = deque(maxlen=_STATUSES_OF_A_RATE)
        self._rates: dict[tuple[str, ...], Rate] = {}

    def update(self, status: Mapping[str, Any]) -> None:
        """Take a status; the same one again changes nothing."""
        statuses = self._statuses
        if statuses and statuses[-1]["updated"] == status["updated"]:
            return
        if statuses and statuses[-1]["since"] != status["since"]:
            # Another run of the same id.
            statuses.clear()
        statuses.append(status)
        self._rates = {}
        elapsed_s = status["updated"] - statuses[0]["updated"]
        if elapsed_s <= 0:
            return
        old = dict(_items(statuses[0]))
        for key, item in _items(status):
            # A name that was not among the busiest before: how often it was called is not known.
            then = old.get(key)
            if then is not None:
                self._rates[key] = Rate(
                    *(
                        max(0.0, (item[name] - then[name]) / elapsed_s)
                        for name in ("calls", "time_ns", "bytes")
                    )
                )

    def of(self, item: Mapping[str, Any]) -> Rate | None:
        """Return the rate of a function or file of the status, if it is known."""
        return self._rates.get(_key(item))

    def busiest(self, items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return functions or files, those first on which most time was spent of late."""

        def order(item: Mapping[str, Any]) -> tuple[float, float]:
            rate = self.of(item)
            return (-rate.time_ns if rate else 0.0, -item["time_ns"])

        return sorted(items, key=order)


def _items(status: Mapping[str, Any]) -> list[tuple[tuple[str, ...], Mapping[str, Any]]]:
    return [(_key(item), item) for item in (*status["functions"], *status["files"])]


def _key(item: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a function or file is known by; several functions may have the same name."""
    if "path" in item:
        return (item["path"],)
    return (item["category"], item.get("function", item["name"]))
