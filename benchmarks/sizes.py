"""How large traces are, and whether nothing is lost at full speed."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks import tracers, workloads
from benchmarks.rows import Row
from benchmarks.system_calls import FILE_DIRECTORY

TITLE = "size of traces, events lost"
BUDGET_BYTES = 10.0


def _record(scratch: Path, command: list[str]) -> dict[str, float]:
    output = scratch / "sizes.pfw.gz"
    output.unlink(missing_ok=True)
    done = subprocess.run(
        [
            *(tracers.beside("datacrumbs_record"), "--json", "--output", str(output), "--"),
            *command,
        ],
        capture_output=True,
        text=True,
        timeout=tracers.TIMEOUT_S,
        check=True,
    )
    summary = json.loads(done.stdout[done.stdout.index("{") :])
    return {
        "bytes": summary["trace_bytes"] / max(summary["events"], 1),
        "rate": summary["events"] / summary["duration_s"] / 1e6,
        "lost": float(summary["losses"]["offered"] - summary["losses"]["written"]),
    }


def measure(scratch: Path, *, seconds: float, repeats: int) -> Iterator[Row]:
    """Yield bytes per event of several programs, and the rate and losses of two at full speed."""
    program = str(workloads.compile_program(scratch, "system_calls"))
    target = str(FILE_DIRECTORY / f"{scratch.name}.data")
    length = str(max(seconds, 2.0))
    writers = f"{program} pwrite {length} {target} & {program} pwrite {length} {target}.2; wait"
    commands = {
        "pwrite at full speed": [program, "pwrite", length, target],
        "open and close at full speed": [program, "open", length, target],
        "two writers at full speed": ["sh", "-c", writers],
        "tar of /usr/include": ["tar", "cf", "/dev/null", "--checkpoint=100000", "/usr/include"],
    }
    try:
        for what, command in commands.items():
            runs = [_record(scratch, command) for _ in range(min(repeats, 3))]
            size = median([run["bytes"] for run in runs])
            rate = median([run["rate"] for run in runs])
            lost = max(run["lost"] for run in runs)
            yield Row(
                what,
                "datacrumbs",
                size,
                "B/event",
                budget=f"<= {BUDGET_BYTES:.0f} B",
                kept=size <= BUDGET_BYTES,
                note=f"{rate:.2f} M events/s, {lost:.0f} lost",
            )
    finally:
        for path in FILE_DIRECTORY.glob(f"{scratch.name}.data*"):
            path.unlink(missing_ok=True)
