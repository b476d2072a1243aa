"""Attachments in the kernel, owned together and closed together."""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TypeVar

from datacrumbs_runtime.bpf.grace_periods import expedited_grace_periods

Item = TypeVar("Item")

# Each link waits for the kernel when it is closed; the waits of several threads overlap.
CLOSING_THREADS = 16
_MANY = 128


class Links:
    """File descriptors whose closing detaches. Closing them twice does nothing."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []
        self._afterwards: list[Callable[[], None]] = []

    def __len__(self) -> int:
        return len(self._descriptors)

    def add(self, *descriptors: int) -> None:
        """Take over descriptors: a link, then what it needs to stay open."""
        self._descriptors.extend(descriptors)

    def afterwards(self, work: Callable[[], None]) -> None:
        """Take over what must be done when everything is detached."""
        self._afterwards.append(work)

    def take(self, other: "Links") -> None:
        """Take over everything that others own."""
        self._descriptors += other._descriptors
        self._afterwards += other._afterwards
        other._descriptors, other._afterwards = [], []

    def close(self) -> None:
        """Detach everything; returns when it is detached."""
        descriptors, self._descriptors = self._descriptors, []
        afterwards, self._afterwards = self._afterwards, []
        # Perf events, of which each waits several times.
        is_slow = len(descriptors) >= _MANY
        try:
            with expedited_grace_periods() if is_slow else nullcontext():
                in_threads(descriptors, os.close)
        finally:
            in_threads(afterwards, lambda work: work())


def in_threads(
    items: Sequence[Item], work: Callable[[Item], None], threads: int = CLOSING_THREADS
) -> None:
    """Do something to each item, from several threads if there are several items.

    For work that waits in the kernel; with as many threads as there is room for. An exception of
    one item does not keep the others from being done; the first one is raised at the end.
    """
    waiting = list(reversed(items))
    errors: list[BaseException] = []

    def run() -> None:
        while True:
            try:
                item = waiting.pop()
            except IndexError:
                return
            try:
                work(item)
            except BaseException as error:  # noqa: BLE001 (handed to the caller)
                errors.append(error)

    helpers = []
    for _ in range(min(threads, len(items)) - 1):
        helper = threading.Thread(target=run, name="datacrumbs-links")
        try:
            helper.start()
        except RuntimeError:
            break
        helpers.append(helper)
    run()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]
