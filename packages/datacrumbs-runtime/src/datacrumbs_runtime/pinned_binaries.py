"""The binaries of a probe file, opened once with the user's rights and used by descriptor.

What a path leads to can change between the check and the attaching; what a descriptor leads to
cannot. So the kernel is given ``/proc/self/fd/N`` instead of the path.
"""

import hashlib
import json
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from datacrumbs_runtime.errors import SigningError
from datacrumbs_runtime.schema.probe_file import Category, ProbeFile
from datacrumbs_runtime.signing.accounts import Account, TaskAsUser, open_regular_file
from datacrumbs_runtime.signing.binaries import check_binary

_FDS_PER_MESSAGE = 64
_PINNED = re.compile("/proc/self/fd/[0-9]+")
PROC_MODULES = Path("/proc/modules")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A category whose binary cannot be used now, and why."""

    category: Category
    reason: str


class PinnedBinaries:
    """Holds the binaries of a probe file open.

    Another process opens and checks them, from the beginning on.

    Args:
        probe_file: Whose binaries.
        account: With whose rights they are opened.
        timeout_s: Longest wait for file systems that do not answer.
    """

    def __init__(self, probe_file: ProbeFile, account: Account, *, timeout_s: float) -> None:
        self._probe_file = probe_file
        self._fds: dict[str, int] = {}
        self._errors: Mapping[str, str] = {}
        self._changed: Mapping[int, str] = {}
        self._names: Mapping[str, str] = {}
        paths = sorted({item.binary_path for item in probe_file.categories if item.binary_path})
        self._opening = _Opening(probe_file, paths, account, timeout_s) if paths else None

    @property
    def probe_file(self) -> ProbeFile:
        """The probe file, with the paths that the user knows."""
        return self._probe_file

    def usable(self) -> tuple[ProbeFile, list[Refusal]]:
        """Return the probe file with pinned binaries, without the categories that lack theirs.

        Raises:
            SigningError: A file system did not answer in time.
        """
        self._wait()
        kept: list[Category] = []
        refused: list[Refusal] = []
        for position, category in enumerate(self._probe_file.categories):
            path = category.binary_path
            if path is None:
                kept.append(category)
            elif path in self._errors:
                refused.append(Refusal(category, self._errors[path]))
            elif position in self._changed:
                refused.append(Refusal(category, self._changed[position]))
            else:
                kept.append(replace(category, binary_path=f"/proc/self/fd/{self._fds[path]}"))
        return replace(self._probe_file, categories=tuple(kept)), refused

    def readable(self, text: str) -> str:
        """Return a pinned path, or a message that begins with one, with the path the user knows."""
        found = _PINNED.match(text)
        if found is None or found[0] not in self._names:
            return text
        return self._names[found[0]] + text[found.end() :]

    def version_of(self, category: Category) -> str:
        """Return what tells this build of a category's binary, or of the kernel, from others.

        A build id; for binaries without one their size and time; for kernel functions which
        modules are loaded, as that decides what there is to attach to.
        """
        if category.build_id is not None:
            return category.build_id
        fd = self._fds.get(category.binary_path or "")
        if fd is not None:
            status = os.fstat(fd)
            return f"{status.st_size}-{status.st_mtime_ns}"
        return _loaded_modules()

    def _wait(self) -> None:
        if self._opening is not None:
            with self._opening as opening:
                self._opening = None
                self._fds, self._errors, self._changed = opening.result()
            self._names = {f"/proc/self/fd/{fd}": path for path, fd in self._fds.items()}

    def close(self) -> None:
        """Close all descriptors."""
        if self._opening is not None:
            self._opening.close()
            self._opening = None
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}


def _loaded_modules() -> str:
    try:
        names = sorted(line.split(" ", 1)[0] for line in PROC_MODULES.read_text().splitlines())
    except OSError:
        return ""
    return hashlib.sha256(" ".join(names).encode()).hexdigest()[:16] if names else ""


class _Opening:
    """Has the binaries opened and checked in a child that has the user's rights."""

    def __init__(
        self, probe_file: ProbeFile, paths: list[str], account: Account, timeout_s: float
    ) -> None:
        self._paths = paths
        self._ours, childs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def task() -> bytes:
            errors: dict[str, str] = {}
            changed: dict[int, str] = {}
            opened: dict[str, int] = {}
            for path in paths:
                try:
                    opened[path] = open_regular_file(path)
                except SigningError as error:
                    errors[path] = str(error)
            for position, category in enumerate(probe_file.categories):
                if category.binary_path in opened:
                    try:
                        check_binary(category, opened[category.binary_path])
                    except SigningError as error:
                        # Whoever tells it names the category as well.
                        reason = str(error).removeprefix(f"{category.name}: ")
                        changed[position] = f"{reason}; {error.hint}" if error.hint else reason
            fds = list(opened.values())
            for start in range(0, len(fds), _FDS_PER_MESSAGE):
                socket.send_fds(childs, [b"f"], fds[start : start + _FDS_PER_MESSAGE])
            return json.dumps([errors, changed]).encode()

        with childs:
            try:
                self._task = TaskAsUser(account, task, timeout_s=timeout_s)
            except OSError:
                self._ours.close()
                raise

    def result(self) -> tuple[dict[str, int], Mapping[str, str], Mapping[int, str]]:
        """Return descriptors by path, errors by path, and what does not fit by category.

        Raises:
            SigningError: It took too long.
        """
        errors: dict[str, str]
        changed: dict[str, str]
        errors, changed = json.loads(self._task.result())
        wanted = [path for path in self._paths if path not in errors]
        self._ours.setblocking(False)
        received: list[int] = []
        while len(received) < len(wanted):
            _, fds, _, _ = socket.recv_fds(self._ours, 1, _FDS_PER_MESSAGE)
            received += fds
        for fd in received:
            os.set_inheritable(fd, False)
        by_path = dict(zip(wanted, received, strict=True))
        return by_path, errors, {int(position): text for position, text in changed.items()}

    def __enter__(self) -> "_Opening":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        self._ours.close()
        with self._task:
            pass
