"""All that is known of this machine, as a table and as JSON."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from datacrumbs_runtime.engine import machine_features
from datacrumbs_utils.doctor.check import Check, State
from datacrumbs_utils.doctor.kernel import kernel_checks, place_checks, tier_checks
from datacrumbs_utils.doctor.software import software_checks
from datacrumbs_utils.doctor.trial import trial
from datacrumbs_utils.recording import requirements

_MARKS = {
    State.GOOD: ("ok", "green"),
    State.LESS: ("less", "yellow"),
    State.MISSING: ("no", "bold red"),
    State.FACT: ("", ""),
}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found on this machine.

    Attributes:
        checks: Everything that was looked at.
    """

    checks: tuple[Check, ...]

    @property
    def can_record(self) -> bool:
        """Whether a recording was made, just now."""
        return any(
            check.section == "recording" and check.state is State.GOOD for check in self.checks
        )


def diagnose() -> Diagnosis:
    """Look at everything, and record a small command."""
    return Diagnosis(tuple(_checks()))


def _checks() -> Iterator[Check]:
    features = machine_features()
    yield from kernel_checks()
    if requirements.missing():
        yield Check(
            "probes",
            "ways to attach",
            State.MISSING,
            "cannot be tried without the capabilities above",
            "run datacrumbs_doctor as root",
        )
    else:
        yield from tier_checks(features)
    yield from place_checks()
    yield from software_checks(features)
    yield trial()


def document(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return a diagnosis for programs."""
    return {
        "can_record": diagnosis.can_record,
        "checks": [
            {
                "section": check.section,
                "name": check.name,
                "state": check.state.value,
                "value": check.value,
                "remedy": check.remedy,
            }
            for check in diagnosis.checks
        ],
    }


def print_diagnosis(console: Console, diagnosis: Diagnosis) -> None:
    """Print a diagnosis for people: a table, and what to do about what is missing."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, min_width=4)
    table.add_column(overflow="fold")
    section = None
    for check in diagnosis.checks:
        if check.section != section:
            section = check.section
            table.add_row(Text(section, style="bold"))
        mark, style = _MARKS[check.state]
        table.add_row(f"  {check.name}", Text(mark, style=style), Text(check.value))
    console.print(table)
    console.print()
    for check in diagnosis.checks:
        if check.remedy and check.state in (State.MISSING, State.LESS):
            console.print(Text(f"{check.name}: {check.remedy}", style=_MARKS[check.state][1]))
    verdict = "recording works here" if diagnosis.can_record else "recording does not work here"
    console.print(Text(verdict, style="bold green" if diagnosis.can_record else "bold red"))
