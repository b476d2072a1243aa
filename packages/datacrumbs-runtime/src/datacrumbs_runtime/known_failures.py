"""Leaving out what is known to fail, and keeping what attaching has shown."""

import errno
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from datacrumbs_runtime.bpf.attach_report import AttachFailure
from datacrumbs_runtime.pinned_binaries import PinnedBinaries
from datacrumbs_runtime.schema.probe_file import Category, ProbeFile
from datacrumbs_runtime.status_db import Outcome, StatusDatabase, Target, place_of

# What may be different at the next attempt without anything having changed.
_PASSING = (
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EIO,
    errno.EBADF,
    errno.EINTR,
    errno.EAGAIN,
    errno.EBUSY,
)
_FOR_LACK_OF_RIGHTS = (errno.EPERM, errno.EACCES)
_STATUS = Path("/proc/self/status")
_CAP_SYS_ADMIN = 21


def may_pass(reason: str, *, has_all_rights: bool) -> bool:
    """Return whether a function may be attached another time, although nothing has changed.

    Args:
        reason: Why it was refused.
        has_all_rights: Whether this process could not have had more; then "not permitted" is how
            a kernel says that it cannot.
    """
    numbers = _PASSING if has_all_rights else (*_PASSING, *_FOR_LACK_OF_RIGHTS)
    return any(os.strerror(number) in reason for number in numbers)


def _has_all_rights() -> bool:
    for line in _STATUS.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "CapEff":
            return bool(int(value, 16) >> _CAP_SYS_ADMIN & 1)
    return False


class KnownFailures:
    """The status database, seen from one run.

    Args:
        database: The database.
        binaries: The binaries of a probe file, opened.
    """

    def __init__(self, database: StatusDatabase, binaries: PinnedBinaries) -> None:
        self._database = database
        self._binaries = binaries
        self._versions = {
            place_of(category): binaries.version_of(category)
            for category in binaries.probe_file.categories
        }
        self._placed: dict[tuple[str, str], list[Mapping[str, int]]] = {}
        for category in binaries.probe_file.categories:
            if category.placed_offsets:
                self._placed.setdefault(place_of(category), []).append(category.placed_offsets)
        self._failed = database.failures(self._version)

    def _version(self, target: Target) -> str | None:
        """Return what has to be the same for a failure to count; None: it is not in question.

        Where a function is probed is up to the probe file. One that asks for an impossible place
        must not keep others from that function.
        """
        place = (target.group, target.scope)
        version = self._versions.get(place)
        if version is not None:
            for placed in self._placed.get(place, ()):
                if target.function in placed:
                    return f"{version}+{placed[target.function]:#x}"
        return version

    def without(self, probe_file: ProbeFile) -> tuple[ProbeFile, list[AttachFailure]]:
        """Return a probe file without what is known to fail, and what was left out."""
        if not self._failed:
            return probe_file, []
        left_out: list[AttachFailure] = []
        categories: list[Category] = []
        for category in probe_file.categories:
            kept = []
            place = self._place(category)
            for function in category.functions:
                reason = self._failed.get(Target(*place, function))
                if reason is None:
                    kept.append(function)
                else:
                    why = f"skipped, it failed before: {reason}"
                    left_out.append(AttachFailure(category.name, function, why))
            if kept:
                categories.append(replace(category, functions=tuple(kept)))
        return replace(probe_file, categories=tuple(categories)), left_out

    def record(self, tried: ProbeFile, failures: Iterable[AttachFailure]) -> None:
        """Keep what became of the functions that were tried."""
        reasons: Mapping[tuple[str, str], str] = {
            (failure.category, failure.function): failure.reason for failure in failures
        }
        has_all_rights = _has_all_rights()
        outcomes = []
        for category in tried.categories:
            place = self._place(category)
            for function in category.functions:
                reason = reasons.get((category.name, function))
                if reason is not None and may_pass(reason, has_all_rights=has_all_rights):
                    continue
                target = Target(*place, function)
                outcomes.append(Outcome(target, self._version(target) or "", reason))
        self._database.record(outcomes)

    def _place(self, pinned: Category) -> tuple[str, str]:
        if pinned.binary_path is None:
            return place_of(pinned)
        path = self._binaries.readable(pinned.binary_path)
        return place_of(replace(pinned, binary_path=path))
