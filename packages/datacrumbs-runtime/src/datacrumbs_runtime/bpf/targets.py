"""Where probes go: functions of programs, of the kernel, and places of USDT probes."""

from dataclasses import dataclass
from typing import NamedTuple


class UprobeTarget(NamedTuple):
    """A function of a program or library.

    Attributes:
        function: Its number in the map ``functions``.
        name: Name as in the probe file.
        binary_path: The ELF file.
        file_offset: Where the probe goes, in bytes.
        symbol: Its symbol, for messages.
    """

    function: int
    name: str
    binary_path: str
    file_offset: int
    symbol: str


@dataclass(frozen=True, slots=True)
class UsdtTarget:
    """A place of a USDT probe.

    Attributes:
        function: Its number in the map ``functions``.
        name: Name of the function in the probe file.
        binary_path: The ELF file.
        file_offset: Where the probe goes, in bytes.
        semaphore: File offset of its semaphore; 0: it has none.
        role: ``entry`` or ``return`` of a pair, or ``instant``.
    """

    function: int
    name: str
    binary_path: str
    file_offset: int
    semaphore: int
    role: str


@dataclass(frozen=True, slots=True)
class KprobeTarget:
    """A function of the kernel.

    Attributes:
        function: Its number in the map ``functions``.
        name: Name as in the probe file.
        symbol: The kernel's symbol.
        address: Where it is in this kernel, 0 if that is not known.
    """

    function: int
    name: str
    symbol: str
    address: int = 0
