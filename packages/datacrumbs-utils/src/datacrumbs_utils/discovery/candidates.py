"""What the sources of discovery hand over: functions that could be probed, and where.

Arguments are handed over as :class:`datacrumbs_runtime.schema.probe_file.Argument` with the C type
as declared, ``const`` included (``const char *path`` against ``char *buf``): the selection needs
it to tell texts from buffers, and drops it afterwards.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A function that a binary or the kernel contains.

    Attributes:
        symbol: Its name without version (``read``, not ``read@@GLIBC_2.2.5``).
        value: The symbol's value in the ELF symbol table, in bytes; None for kernel functions.
        file_offset: Where its first instruction lies in the file, in bytes; None for kernel
            functions and for symbols that no segment of the file holds.
        size: Its size in bytes; None if the symbol table does not say (0 there).
        aliases: Other names of the same address.
        refused: Why it cannot be probed, or None if it can as far as its source knows.
    """

    symbol: str
    value: int | None = None
    file_offset: int | None = None
    size: int | None = None
    aliases: tuple[str, ...] = ()
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a function of a binary is probed.

    Attributes:
        file_offset: File offset of the instruction that carries the probe, in bytes.
        cheap: Whether the kernel emulates that instruction instead of single-stepping it.
        refused: Why the function cannot be probed at all, or None.
        reason: Why this offset, in a few words, for people.
    """

    file_offset: int
    cheap: bool
    refused: str | None
    reason: str
