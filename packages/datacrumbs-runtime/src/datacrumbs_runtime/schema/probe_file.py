"""Probe files: which functions are recorded, how each is probed, and who signed that.

On disk a probe file is gzip (or plain) JSON. This module turns its bytes into frozen classes and
back; it neither verifies signatures nor opens binaries.
"""

import gzip
import io
import json
import os
import stat
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from datacrumbs_runtime.errors import ProbeFileError

FORMAT_VERSION = 1
MAX_DOCUMENT_BYTES = 64 << 20
# Decoded, an empty list takes 30 times the room of its two bytes. 16384 functions of which all have
# six arguments are 750,000 values.
MAX_DOCUMENT_VALUES = 2_000_000
MAX_ARGUMENTS = 6
# Of a tracepoint, whose values do not travel in registers: what one record of a call has room for,
# and the result of a span.
MAX_TRACEPOINT_VALUES = 9
DEFAULT_MAX_FUNCTIONS = 16384


class ProbeType(IntEnum):
    """How the functions of a category are probed. The numbers are part of the file format."""

    SYSCALLS = 0
    KPROBE = 1
    UPROBE = 2
    USDT = 3
    CUSTOM = 4
    TRACEPOINT = 5


@dataclass(frozen=True, slots=True)
class Argument:
    """One captured argument of a function.

    Attributes:
        index: Position among the integer argument registers, from 0; for a tracepoint the position
            among its arguments.
        num_bytes: Size of the value in bytes.
        is_pointer: Whether the value is an address.
        label: The key under which the trace shows it.
        c_type: The C type as declared, without qualifiers that do not matter (``int``, ``char *``,
            ``FILE *``, ``unsigned long``). It decides how the value is read and printed.
        path: For tracepoints: how to get from the argument to the value, as a BTF member path
            (``->bio->bi_iter.bi_sector``); empty: the argument itself. ``:io_rw->kiocb.ki_pos``
            takes the pointer as one to that structure. A span takes its values when it begins,
            those whose path begins with ``end`` (``end``, ``end->res``) from the arguments of the
            tracepoint that ends it; the one with the label ``ret`` is its result. A value of the
            type ``struct file *`` or ``struct inode *`` is shown as the file that it stands for.
    """

    index: int
    num_bytes: int
    is_pointer: bool
    label: str
    c_type: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class UsdtPoint:
    """One place in a binary where a USDT probe fires.

    Attributes:
        offset: File offset of the probe instruction, in bytes.
        semaphore: File offset of the probe's semaphore, in bytes; 0: it has none.
        arguments: The argument specification of the note, such as ``-4@%edi 8@%rsi``.
    """

    offset: int
    semaphore: int
    arguments: str


@dataclass(frozen=True, slots=True)
class Span:
    """Two tracepoints of the kernel that begin and end one piece of work.

    Attributes:
        begin: Name of the tracepoint at which the work begins, without its group.
        end: Name of the tracepoint at which it ends.
        begin_key: What tells one piece of work from others at its begin: ``thread``, or a position
            and member path among the arguments, such as ``0`` or ``1->req``.
        end_key: The same at its end.
    """

    begin: str
    end: str
    begin_key: str = "thread"
    end_key: str = "thread"


@dataclass(frozen=True, slots=True)
class Category:
    """Functions that are probed in the same way and share a trace category.

    Attributes:
        type: How they are probed.
        name: The trace category, ``cat`` in the trace.
        functions: Names as in the file. With ``include_offsets`` a name is ``symbol:0xVALUE`` where
            VALUE is the symbol's value in the ELF symbol table.
        arguments: Captured arguments by function name; a function that is missing has none.
        returns: C type of what a function returns, by function name (``int``, ``FILE *``,
            ``void``). A function that is missing returns whatever the register holds.
        binary_path: The ELF file (uprobe, usdt), or None.
        include_offsets: Whether the names of ``functions`` carry the symbol's value.
        build_id: GNU build id of ``binary_path`` in hex, or None if it has none.
        placed_offsets: File offset at which a function is probed, by function name. A function that
            is missing is probed at its first instruction.
        provider: USDT provider, or None.
        usdt_points: The places of each USDT probe, by probe name. A function with probes
            ``NAME__entry`` and ``NAME__return`` is recorded as one call named NAME.
        spans: Begin and end of tracepoint functions that are spans, by function name. A tracepoint
            function that is missing is an instant.
        mode: ``trace``, ``profile``, or None for the mode of the run.
        plugin: Name of the custom probe (custom), or None.
    """

    type: ProbeType
    name: str
    functions: tuple[str, ...]
    arguments: Mapping[str, tuple[Argument, ...]] = field(default_factory=dict)
    returns: Mapping[str, str] = field(default_factory=dict)
    binary_path: str | None = None
    include_offsets: bool = False
    build_id: str | None = None
    placed_offsets: Mapping[str, int] = field(default_factory=dict)
    provider: str | None = None
    usdt_points: Mapping[str, tuple[UsdtPoint, ...]] = field(default_factory=dict)
    spans: Mapping[str, Span] = field(default_factory=dict)
    mode: str | None = None
    plugin: str | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """Where a probe file came from and for whom it is valid.

    Attributes:
        config_file_path: The host configuration it was made from.
        probe_file_path: Where it was written to.
        hostname: The host it was made on.
        user: Name of the user it belongs to.
        install_user: Name of the user who installed DataCrumbs.
        uid: Numeric id of ``user``; None in files that are older than this field.
        site: Host name without digits: hosts of one site share probe files.
        created: Seconds since the epoch; None if unknown.
        expires: Seconds since the epoch after which it is refused; None: never.
    """

    config_file_path: str
    probe_file_path: str
    hostname: str
    user: str
    install_user: str
    uid: int | None = None
    site: str | None = None
    created: int | None = None
    expires: int | None = None


@dataclass(frozen=True, slots=True)
class ProbeFile:
    """A whole probe file.

    Attributes:
        summary: Where it came from.
        categories: What it probes.
        format_version: Version of the format.
        checksum_algorithm: ``hmac-sha256``, ``ed25519``, or None while it is unsigned.
        checksum: The signature in hex, or None while it is unsigned.
        key_id: Which key signed it, or None.
    """

    summary: Summary
    categories: tuple[Category, ...]
    format_version: int = FORMAT_VERSION
    checksum_algorithm: str | None = None
    checksum: str | None = None
    key_id: str | None = None

    @property
    def function_count(self) -> int:
        """The number of functions in all categories."""
        return sum(len(category.functions) for category in self.categories)


def plain_symbol(function_name: str) -> str:
    """Return the symbol of a function name without its ``:0xVALUE``."""
    return function_name.partition(":0x")[0]


def symbol_value(function_name: str) -> int | None:
    """Return the symbol's value that a function name carries, or None."""
    digits = function_name.partition(":0x")[2]
    return int(digits, 16) if digits else None


def canonical_bytes(document: Mapping[str, Any]) -> bytes:
    """Return the bytes that are signed: canonical JSON of everything but the checksum.

    Raises:
        ValueError: It holds what no JSON of ours can: NaN, lone surrogates.
        RecursionError: It is nested too deeply.
    """
    signed = {key: value for key, value in document.items() if key != "checksum"}
    return json.dumps(
        signed, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def document_from_bytes(
    data: bytes, where: str, max_bytes: int = MAX_DOCUMENT_BYTES
) -> dict[str, Any]:
    """Decompress and decode a probe file.

    Args:
        data: The file's bytes, gzip or plain JSON.
        where: What errors call it, usually the path.
        max_bytes: How large it may be once it is unpacked.

    Raises:
        ProbeFileError: It is not a JSON object, or too large.
    """
    try:
        if data[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
                data = stream.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise ProbeFileError(f"{where}: larger than {max_bytes >> 20} MiB")
        if sum(map(data.count, (b",", b"{", b"["))) > MAX_DOCUMENT_VALUES:
            raise ProbeFileError(f"{where}: more than {MAX_DOCUMENT_VALUES} values")
        document = json.loads(data)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise ProbeFileError(
            f"{where}: not a probe file: {error}",
            hint="make one with datacrumbs_probe_configurator",
        ) from error
    if not isinstance(document, dict):
        raise ProbeFileError(f"{where}: not a probe file: the top level is not an object")
    return document


def read_document(path: Path) -> dict[str, Any]:
    """Read a probe file's JSON document; see :func:`document_from_bytes`."""
    try:
        # Not open(): that would wait for a writer if it is a FIFO.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with open(fd, "rb") as stream:  # noqa: PTH123  a descriptor, not a path
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ProbeFileError(f"{path}: not a regular file")
            data = stream.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise ProbeFileError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ProbeFileError(f"{str(path)!a}: {error}") from error
    return document_from_bytes(data, str(path))
