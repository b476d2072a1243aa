"""One thing that was looked at on this machine."""

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """What a check found."""

    GOOD = "good"
    # Something is slower, or a kind of probe is missing; recording works.
    LESS = "less"
    MISSING = "missing"
    # Nothing to judge.
    FACT = "fact"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        section: What it belongs to, for the report.
        name: What it is.
        state: What was found.
        value: What was found, in words.
        remedy: What can be done about it, or None.
    """

    section: str
    name: str
    state: State
    value: str
    remedy: str | None = None
