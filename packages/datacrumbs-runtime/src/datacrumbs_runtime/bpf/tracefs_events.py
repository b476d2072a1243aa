"""Events of tracefs that many probed places share: one attachment instead of one for each.

An event is defined by lines written to ``uprobe_events`` or ``kprobe_events``, one line for each
place, and stays defined when the process that did it is gone. So its name tells the process, and
whoever starts later removes what the dead left behind.
"""

import errno
import itertools
import logging
import os
import time
from collections.abc import Container, Iterable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

from datacrumbs_runtime.bpf import bpf_syscall, perf_events
from datacrumbs_runtime.bpf.grace_periods import expedited_grace_periods
from datacrumbs_runtime.errors import KernelError

logger = logging.getLogger(__name__)

# Enabling an event is all or nothing; smaller ones are sooner split until the culprit is found.
EVENT_PLACES = 1000

# Every kprobe that is removed costs a grace period, some 15 ms, one after another.
_WORTH_EXPEDITING = 8

_TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
_GROUP_PREFIX = "datacrumbs_"
# The kernel splits a definition at these, or takes the rest of the line for a comment.
_SPLITTING = frozenset(b" \t\n\r#;\"'\\")
_MAX_PATH_BYTES = 3000
_RELEASED_WITHIN_S = 1.0
_PROFILE_COLUMNS = 3
_numbers = itertools.count()


def event_directory() -> Path:
    """Return where tracefs is mounted.

    Raises:
        KernelError: Nowhere.
    """
    for directory in _TRACEFS:
        if (directory / "events").is_dir():
            return directory
    raise KernelError("tracefs is not mounted", hint=f"mount -t tracefs none {_TRACEFS[0]}")


class SharedEvent:
    """An event of tracefs; :meth:`remove` ends it.

    Attributes:
        kind: ``uprobe`` or ``kprobe``.
        name: Of the event; no other process has one of that name.
    """

    def __init__(self, kind: str) -> None:
        """Choose a name that nobody else has; nothing is defined yet.

        Args:
            kind: ``uprobe`` or ``kprobe``.

        Raises:
            KernelError: There is no tracefs.
            OSError: It takes no definitions.
        """
        self.kind = kind
        self._directory = event_directory()
        self._group = _group_of(os.getpid())
        # The kernel shows names without groups where it counts what it missed.
        self.name = f"{kind}s_{next(_numbers)}_{self._group.removeprefix(_GROUP_PREFIX)}"
        # Truncating would remove the events of everybody.
        self._file = os.open(
            self._directory / f"{kind}_events", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        )
        self._places = 0

    def __len__(self) -> int:
        return self._places

    def add(self, place: bytes, how: str = "p") -> None:
        """Add a place.

        Args:
            place: ``PATH:OFFSET``, or a function of the kernel.
            how: ``p`` for the place itself, ``r`` for the return of the function there.

        Raises:
            OSError: The kernel refused this place.
        """
        os.write(self._file, f"{how}:{self._group}/{self.name} ".encode() + place + b"\n")
        self._places += 1

    def attach(self, program: int, cookie: int) -> tuple[int, int]:
        """Attach a program to all places and return the link and the event it needs.

        Raises:
            OSError: The kernel refused one of the places, or all.
        """
        number = (self._directory / "events" / self._group / self.name / "id").read_text()
        event = perf_events.open_tracepoint(int(number))
        try:
            return bpf_syscall.link_create_perf_event(program, event, cookie), event
        except OSError:
            os.close(event)
            raise

    def remove(self) -> None:
        """Remove the event; what is attached to it must have been closed."""
        if self._file < 0:
            return
        try:
            if self._places:
                is_slow = self.kind == "kprobe" and self._places >= _WORTH_EXPEDITING
                with expedited_grace_periods() if is_slow else nullcontext():
                    _remove(self._file, f"{self._group}/{self.name}")
        finally:
            os.close(self._file)
            self._file = -1


def user_place(path: bytes, descriptor: int, offset: int, semaphore: int = 0) -> bytes:
    """Return a place in a file as an event's definition has it.

    Args:
        path: The file.
        descriptor: The same file, open: a name for it if the kernel would misread its path.
        offset: Where in the file, in bytes.
        semaphore: Where in the file the semaphore of a USDT probe is; 0: it has none.
    """
    if len(path) > _MAX_PATH_BYTES or not _SPLITTING.isdisjoint(path):
        path = b"/proc/self/fd/%d" % descriptor
    place = b"%s:0x%x" % (path, offset)
    return place + b"(0x%x)" % semaphore if semaphore else place


def missed_of_events(events: Iterable[SharedEvent]) -> int:
    """Return how often the kernel did not get as far as the programs of events.

    Counted at the entry and the return of each function of the kernel: it was in another probe, or
    had no room for one more return. Of user space's functions it counts nothing of the kind.

    Raises:
        KernelError: There is no tracefs.
        OSError: The kernel does not tell.
    """
    names = {event.name for event in events if event.kind == "kprobe"}
    if not names:
        return 0
    return sum_misses((event_directory() / "kprobe_profile").read_text(), names)


def sum_misses(profile: str, names: Container[str]) -> int:
    """Add up the misses of some events, each in as many lines as it has places.

    Args:
        profile: The file ``kprobe_profile`` of tracefs: name, hits and misses of each place.
        names: The events.
    """
    rows = (line.split() for line in profile.splitlines())
    return sum(int(row[2]) for row in rows if len(row) == _PROFILE_COLUMNS and row[0] in names)


def remove_left_behind() -> None:
    """Remove the events of processes of ours that are gone."""
    try:
        directory = event_directory()
    except KernelError:
        return
    own = _group_of(0).rpartition("_")[0] + "_"
    for group, name in _events(directory, own):
        process = group.removeprefix(own)
        if not process.isdigit() or _is_alive(int(process)):
            continue
        kind = name.partition("s_")[0]
        with suppress(OSError):
            file = os.open(directory / f"{kind}_events", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                with expedited_grace_periods() if kind == "kprobe" else nullcontext():
                    _remove(file, f"{group}/{name}")
                logger.info("removed the event %s/%s, whose process is gone", group, name)
            finally:
                os.close(file)


def _group_of(process: int) -> str:
    # Process numbers mean something in their own namespace only.
    return f"{_GROUP_PREFIX}{Path('/proc/self/ns/pid').stat().st_ino}_{process}"


def _events(directory: Path, prefix: str) -> Iterator[tuple[str, str]]:
    with suppress(OSError):
        for group in sorted((directory / "events").glob(f"{prefix}*")):
            for event in sorted(group.iterdir()):
                if event.is_dir():
                    yield group.name, event.name


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(file: int, name: str) -> None:
    # The last reference may be given back by the kernel a little later than close() returns.
    deadline = time.monotonic() + _RELEASED_WITHIN_S
    while True:
        try:
            os.write(file, f"-:{name}\n".encode())
        except OSError as error:
            if error.errno == errno.EBUSY and time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            if error.errno != errno.ENOENT:
                logger.warning("cannot remove the event %s: %s", name, error.strerror)
        return
