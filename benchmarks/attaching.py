"""How long it takes to attach to the functions of a library, to start, and to let go again."""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks import workloads
from benchmarks.rows import Row
from datacrumbs_runtime.schema.probe_document import document_from_probe_file
from datacrumbs_runtime.schema.probe_file import Category, ProbeFile, ProbeType, Summary
from datacrumbs_utils.discovery import elf

TITLE = "attaching, starting, stopping"
# The numbers of functions and the milliseconds that are published for an earlier implementation.
PUBLISHED_MS = {100: 0.448, 2489: 24.3, 3544: 33.0, 8723: 79.0}
MOST = max(PUBLISHED_MS)
BUDGETS = {
    "attach": ("<= 80 ms", 80.0),
    "detach": ("<= 150 ms", 150.0),
    "exec to ready": ("<= 300 ms", 300.0),
    "memory": ("<= 60 MiB", 60.0),
}
_CHILD = "benchmarks.attaching_child"


def many_functions(scratch: Path) -> dict[int, Category]:
    """Compile a library of many functions; return, by number, that many of them to probe."""
    library = workloads.many_functions(scratch, MOST)
    offsets = {
        each.symbol: each.file_offset
        for each in elf.functions(library)
        if each.symbol.startswith("dc_many_") and each.file_offset is not None
    }
    return {
        count: Category(
            ProbeType.UPROBE,
            "many",
            tuple(offsets)[:count],
            binary_path=str(library),
            placed_offsets=dict(itertools.islice(offsets.items(), count)),
        )
        for count in sorted(PUBLISHED_MS)
    }


def _probe_file(scratch: Path, category: Category) -> Path:
    summary = Summary("", "many.json", "localhost", "root", "root")
    path = scratch / f"many-{len(category.functions)}.json"
    path.write_text(json.dumps(document_from_probe_file(ProbeFile(summary, (category,)))))
    return path


def environment() -> dict[str, str]:
    """Return one in which modules are kept compiled, as an installation has them."""
    return {key: text for key, text in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def _run(probe_file: Path, scratch: Path) -> dict[str, float]:
    # The child prints CLOCK_MONOTONIC, which is the same in all processes.
    begin_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", _CHILD, str(probe_file), str(scratch / "many.pfw.gz")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment(),
    )
    if done.returncode:
        raise SystemExit(f"benchmarks: error: {done.stderr.strip()[-500:]}")
    measured: dict[str, float] = json.loads(done.stdout)
    measured["exec to ready"] = (measured.pop("ready_s") - begin_s) * 1e3
    return measured


def measure(scratch: Path, *, seconds: float, repeats: int) -> Iterator[Row]:
    """Yield the rows for all numbers of functions."""
    del seconds
    files = {
        count: _probe_file(scratch, category) for count, category in many_functions(scratch).items()
    }
    runs: dict[int, list[dict[str, float]]] = {count: [] for count in files}
    for _ in range(repeats + 1):
        for count, probe_file in files.items():
            runs[count].append(_run(probe_file, scratch))
    for count, measured in runs.items():
        # The first turn warms the caches of files.
        for key in ("attach", "detach", "exec to ready", "memory"):
            value = median([one[key] for one in measured[1:]])
            words, limit = BUDGETS[key] if count == MOST else ("", 0.0)
            published = PUBLISHED_MS[count] if key == "attach" else None
            yield Row(
                f"{count:,} functions",
                key,
                value,
                "MiB" if key == "memory" else "ms",
                ratio=value / published if published else None,
                compared_to=f"published {published} ms" if published else "",
                budget=words,
                kept=value <= limit if words else None,
            )
