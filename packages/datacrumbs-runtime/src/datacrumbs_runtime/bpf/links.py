"""Attachments in the kernel, owned together and closed together."""

import os
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")

# Each link waits for the kernel when it is closed; the waits of several threads overlap.
CLOSING_THREADS = 16


class Links:
    """File descriptors whose closing detaches. Closing them twice does nothing."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []

    def __len__(self) -> int:
        return len(self._descriptors)

    def add(self, *descriptors: int) -> None:
        """Take over descriptors: a link, then what it needs to stay open."""
        self._descriptors.extend(descriptors)

    def close(self) -> None:
        """Detach everything; returns when it is detached."""
        descriptors, self._descriptors = self._descriptors, []
        in_threads(descriptors, os.close)


def in_threads(
    items: Sequence[Item], work: Callable[[Item], None], threads: int = CLOSING_THREADS
) -> None:
    """Do something to each item, from several threads if there are several items.

    For work that waits in the kernel. An exception of one item does not keep the others from being
    done; the first one is raised at the end.
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

    helpers = [
        threading.Thread(target=run, name="datacrumbs-links")
        for _ in range(min(threads, len(items)) - 1)
    ]
    for helper in helpers:
        helper.start()
    run()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]
