"""Attachments in the kernel, owned together and closed together."""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TypeVar

from datacrumbs_runtime.bpf.grace_periods import expedited_grace_periods
from datacrumbs_runtime.bpf.misses import link_misses
from datacrumbs_runtime.bpf.tracefs_events import SharedEvent, missed_of_events
from datacrumbs_runtime.errors import KernelError

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

# Each link waits for the kernel when it is closed; the waits of several threads overlap.
CLOSING_THREADS = 16
_MANY = 128


class Links:
    """File descriptors whose closing detaches. Closing them twice does nothing."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []
        self._events: list[SharedEvent] = []
        # What the kernel said last that it left out: by link, of closed links, of events.
        self._missed: dict[int, int] = {}
        self._missed_before = 0
        self._missed_of_events = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._descriptors)

    def add(self, *descriptors: int) -> None:
        """Take over descriptors: a link, then what it needs to stay open."""
        self._descriptors.extend(descriptors)

    def add_of_kernel_functions(self, link: int) -> None:
        """Take over a link of which the kernel may tell what it left out; see :meth:`missed`."""
        self._descriptors.append(link)
        if (missed := link_misses(link)) is not None:
            with self._lock:
                self._missed[link] = missed

    def add_event(self, event: SharedEvent) -> None:
        """Take over an event of tracefs, which is removed when everything is detached."""
        self._events.append(event)

    def take(self, other: "Links") -> None:
        """Take over everything that others own."""
        with self._lock:
            self._descriptors += other._descriptors
            self._events += other._events
            self._missed |= other._missed
            other._descriptors, other._events, other._missed = [], [], {}

    def missed(self, *, of_events: bool = False) -> int:
        """Return how often the kernel did not get as far as a program, as far as it tells.

        For any thread, also while the links are being closed.

        Args:
            of_events: Ask anew about events of tracefs, for which the kernel waits until nobody
                changes an event; else they count as when it was asked last. It is in closing.
        """
        if of_events:
            self._ask_events()
        with self._lock:
            for link, missed in self._missed.items():
                self._missed[link] = link_misses(link) or missed
            return self._missed_before + sum(self._missed.values()) + self._missed_of_events

    def close(self) -> None:
        """Detach everything; returns when it is detached."""
        with self._lock:
            descriptors, self._descriptors = self._descriptors, []
        # Perf events, of which each waits several times.
        is_slow = len(descriptors) >= _MANY
        try:
            with expedited_grace_periods() if is_slow else nullcontext():
                in_threads(descriptors, self._detach)
        finally:
            self._ask_events()
            events, self._events = self._events, []
            in_threads(events, SharedEvent.remove)

    def _detach(self, descriptor: int) -> None:
        with self._lock:
            if (missed := self._missed.pop(descriptor, None)) is not None:
                self._missed_before += link_misses(descriptor) or missed
        os.close(descriptor)

    def _ask_events(self) -> None:
        # Without the lock: others must not wait as well.
        if not self._events:
            return
        try:
            self._missed_of_events = missed_of_events(self._events)
        except (OSError, KernelError) as error:
            logger.warning("calls that the kernel missed are not counted: %s", error)


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
