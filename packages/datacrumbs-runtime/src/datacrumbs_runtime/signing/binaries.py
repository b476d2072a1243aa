"""Are the binaries of a probe file what it says, and may its user read them?

A uprobe is planted in the file, for every process that maps it: one in the middle of an
instruction, or a semaphore at an invented place, would break the programs of everybody. So each
offset must be one that the binary itself names.
"""

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from datacrumbs_runtime.errors import SigningError
from datacrumbs_runtime.schema.probe_file import (
    Category,
    ProbeFile,
    ProbeType,
    plain_symbol,
    symbol_value,
)
from datacrumbs_runtime.signing.accounts import Account, TaskAsUser, open_regular_file
from datacrumbs_runtime.signing.elf_facts import (
    EM_AARCH64,
    EM_X86_64,
    ElfFacts,
    UsdtPlace,
)
from datacrumbs_runtime.user_mounts import mounted_by_root

MAX_BINARIES = 512
# Placement steps over a few instructions at most.
MAX_PLACEMENT_BYTES = 128
DEBUG_DIRECTORY = Path("/usr/lib/debug/.build-id")

_ENDBR64 = b"\xf3\x0f\x1e\xfa"
_MAKE_AGAIN = "make the probe file again with datacrumbs_probe_configurator"


@dataclass(frozen=True, slots=True)
class BinaryFacts:
    """What was found behind the path of a category.

    Attributes:
        real_path: Where the path led to.
        build_id: The file's build id in hex, or None if it has none.
    """

    real_path: str
    build_id: str | None


class BinariesCheck:
    """Opens every binary of a probe file as its user and compares what the probe file says of it.

    That happens in another process, from the beginning on; use it in a ``with``.

    Args:
        probe_file: Whose binaries.
        account: With whose rights.
        timeout_s: How long it may take.

    Raises:
        SigningError: There are too many binaries.
    """

    def __init__(self, probe_file: ProbeFile, account: Account, *, timeout_s: float = 10.0) -> None:
        paths = {item.binary_path for item in probe_file.categories if item.binary_path}
        if len(paths) > MAX_BINARIES:
            raise SigningError(f"{len(paths)} binaries are more than {MAX_BINARIES}")
        self._task: TaskAsUser | None = None
        if paths:
            self._task = TaskAsUser(
                account, lambda: json.dumps(_facts(probe_file)).encode(), timeout_s=timeout_s
            )

    def __enter__(self) -> "BinariesCheck":
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.__exit__()

    def result(self) -> dict[int, BinaryFacts]:
        """Return what was found, by position of the category; those without a binary are left out.

        Raises:
            SigningError: The user may not read a binary, it is no ELF file, its build id is
                another, or an offset is none at which a probe may be.
        """
        if self._task is None:
            return {}
        facts: dict[str, Any] = json.loads(self._task.result())
        return {
            int(position): BinaryFacts(real_path, build_id)
            for position, (real_path, build_id) in facts.items()
        }


def check_binary(category: Category, fd: int) -> str | None:
    """Compare an open binary with all that a category says of it.

    For use just before attaching, with the descriptor that is attached to. The file behind a path
    may have been exchanged since the probe file was signed, and a build id alone does not tell:
    whoever makes a file also makes its build id. The file is its user's, so do this with his
    rights.

    Args:
        category: A category with a ``binary_path``.
        fd: The binary, open for reading; stays the caller's.

    Returns:
        The binary's build id in hex, or None if it has none.

    Raises:
        SigningError: It is another build, no ELF file, or has no function where one is probed.
    """
    where = f"{category.name}: {category.binary_path}"
    if os.geteuid() != 0 and not mounted_by_root(fd):
        # While the kernel waits for the page in which it plants a probe, no process of the node can
        # fork: whose program answers must not be up to a user.
        raise SigningError(
            f"{where}: is on a file system that a user mounted",
            hint="copy it to one of the node's own, and run it there",
        )
    facts = ElfFacts(fd, where)
    try:
        build_id = facts.build_id()
        if category.build_id is not None and category.build_id != build_id:
            raise SigningError(
                f"{where}: was changed since the probe file was made: its build id is "
                f"{build_id or 'missing'}, not {category.build_id}",
                hint=_MAKE_AGAIN,
            )
        _check_places(category, facts, build_id)
    except (struct.error, ValueError, OSError) as error:
        raise SigningError(f"{where}: broken ELF file") from error
    return build_id


def _facts(probe_file: ProbeFile) -> dict[int, tuple[str, str | None]]:
    """Do the work of :class:`BinariesCheck` with the rights of the calling process."""
    found: dict[int, tuple[str, str | None]] = {}
    by_path: dict[str, list[int]] = {}
    for position, category in enumerate(probe_file.categories):
        if category.binary_path:
            by_path.setdefault(category.binary_path, []).append(position)
    for path, positions in by_path.items():
        fd = open_regular_file(path)
        try:
            real_path = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
            for position in positions:
                build_id = check_binary(probe_file.categories[position], fd)
                found[position] = real_path, build_id
        finally:
            os.close(fd)
    return found


def _check_places(category: Category, facts: ElfFacts, build_id: str | None) -> None:
    if category.type is ProbeType.UPROBE:
        starts = _check_values(category, facts, build_id)
        _check_placed_offsets(category, facts, starts, build_id)
    elif category.type is ProbeType.USDT:
        _check_usdt_points(category, facts)


def _check_values(category: Category, facts: ElfFacts, build_id: str | None) -> dict[str, int]:
    """Return the value of each function that carries one, after finding it in the binary."""
    values = {name: symbol_value(name) for name in category.functions if ":0x" in name}
    starts = {name: value for name, value in values.items() if value is not None}
    wanted = frozenset(starts.values())
    known = facts.functions_at(wanted)
    if known != wanted:
        debug = _debug_file(facts, build_id)
        known |= debug.functions_at(wanted - known) if debug is not None else set()
    if known != wanted:
        stray = next(name for name, value in starts.items() if value not in known)
        raise SigningError(
            f"{facts.where}: {stray}: no function begins there",
            hint=_MAKE_AGAIN,
        )
    for name, value in starts.items():
        if facts.file_offset(value) is None:
            raise SigningError(f"{facts.where}: {name}: is not in code")
    return starts


def _debug_file(facts: ElfFacts, build_id: str | None) -> ElfFacts | None:
    """Return the separate debug file that the distribution installed, if it did."""
    if build_id is None:
        return None
    path = DEBUG_DIRECTORY / build_id[:2] / f"{build_id[2:]}.debug"
    try:
        data = path.read_bytes() if path.is_file() else b""
        # Only root's word counts: with a file of his own a user could name any place.
        if not data or path.stat().st_uid != 0:
            return None
    except OSError:
        return None
    return ElfFacts(data, f"{facts.where} (debug file)")


def _check_placed_offsets(
    category: Category, facts: ElfFacts, starts: dict[str, int], build_id: str | None
) -> None:
    unnamed = frozenset(_base_name(name) for name in category.placed_offsets if name not in starts)
    by_name = facts.addresses_of(unnamed) if unnamed else {}
    missing = unnamed - by_name.keys()
    debug = _debug_file(facts, build_id) if missing else None
    if debug is not None:
        by_name = {**debug.addresses_of(missing), **by_name}
    for name, offset in category.placed_offsets.items():
        addresses = {starts[name]} if name in starts else by_name.get(_base_name(name), set())
        if not any(_is_behind(facts, address, offset) for address in addresses):
            raise SigningError(
                f"{facts.where}: {name}: no instruction of its beginning is at offset {offset:#x}",
                hint=_MAKE_AGAIN,
            )


def _base_name(function: str) -> str:
    """Return the symbol of a function name without value and version."""
    return plain_symbol(function).partition("@")[0]


def _is_behind(facts: ElfFacts, address: int, offset: int) -> bool:
    """Return whether an instruction shortly after a function's first begins at an offset."""
    start = facts.file_offset(address)
    if start is None or not 0 <= offset - start <= MAX_PLACEMENT_BYTES:
        return False
    if offset == start:
        return True
    return facts.is_executable(offset) and _ends_with_an_instruction(
        facts.machine, facts.read(start, offset - start)
    )


@cache
def _ends_with_an_instruction(machine: int, code: bytes) -> bool:
    """Return whether code is a row of whole instructions; many functions begin alike."""
    if code == _ENDBR64:
        return machine == EM_X86_64
    if machine == EM_AARCH64:
        return len(code) % 4 == 0
    if machine != EM_X86_64:
        return False
    decoded = sum(size for _, size, _, _ in instruction_decoder().disasm_lite(code, 0))
    return bool(decoded == len(code))


@cache
def instruction_decoder() -> Any:
    """Return a decoder of x86-64 instructions.

    Raises:
        SigningError: capstone is not there.
    """
    try:
        import capstone  # type: ignore[import-untyped]
    except (ImportError, OSError) as error:
        raise SigningError(
            f"placed probes cannot be checked: capstone cannot be loaded with the user's rights: "
            f"{error}",
            hint="the administrator installs capstone where every user may read it",
        ) from None
    return capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)


def _check_usdt_points(category: Category, facts: ElfFacts) -> None:
    known = facts.usdt_places()
    if category.provider is None:
        known = frozenset(place._replace(provider="") for place in known)
    for place in _named_places(category):
        if place not in known:
            raise SigningError(
                f"{facts.where}: {place.name}: the binary has no such USDT probe at offset "
                f"{place.offset:#x} with a semaphore at {place.semaphore:#x}",
                hint=_MAKE_AGAIN,
            )


def _named_places(category: Category) -> Iterator[UsdtPlace]:
    for name, points in category.usdt_points.items():
        for point in points:
            yield UsdtPlace(category.provider or "", name, point.offset, point.semaphore)
