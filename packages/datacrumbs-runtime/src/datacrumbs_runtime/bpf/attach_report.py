"""What came of attaching."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class AttachFailure(NamedTuple):
    """A function that is not recorded, and why."""

    category: str
    function: str
    reason: str


@dataclass(frozen=True, slots=True)
class AttachReport:
    """What came of attaching.

    Attributes:
        requested: How many functions the probe file names.
        attached: How many are recorded.
        failures: The others, and functions of client libraries through which nobody can register.
        tiers: The tier in use by kind of probe, such as ``uprobe.session`` for ``uprobe``; several
            with commas between them where one refused functions that the next took.
        duration_ns: How long it took.
    """

    requested: int
    attached: int
    failures: tuple[AttachFailure, ...] = ()
    tiers: Mapping[str, str] = field(default_factory=dict)
    duration_ns: int = 0
