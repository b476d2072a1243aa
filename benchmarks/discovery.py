"""How long finding functions takes, and how many probes are cheap where they are placed."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks import tracers
from benchmarks.rows import Row
from datacrumbs_runtime.errors import DatacrumbsError
from datacrumbs_utils.discovery import elf, libraries, placement

TITLE = "finding functions and placing probes"
COLD_BUDGET_S = 5.0
CACHED_BUDGET_S = 1.0
KERNEL = "(ext4|xfs|vfs|iomap|blk|bio|jbd2|nfs|fuse)_.*"
LIBRARIES = {
    "libc": "soname:libc.so.6",
    "libmpi": "soname:libmpi.so.40",
    "libhdf5": "soname:libhdf5_serial.so.103",
}
PLACED = {**LIBRARIES, "libstdc++": "soname:libstdc++.so.6"}
COMMAND = "datacrumbs_utils.commands.datacrumbs_probe_configurator"


def _configuration(scratch: Path) -> Path:
    entries = [
        {"name": name, "probe": "uprobe", "file": file, "optional": True}
        for name, file in LIBRARIES.items()
    ]
    kernel = {"name": "kernel", "probe": "kprobe", "type": "btf", "regex": KERNEL}
    path = scratch / "host.yaml"
    path.write_text(json.dumps({"capture_probes": [*entries, {**kernel, "optional": True}]}))
    return path


def _run(path: Path, cache: Path) -> tuple[float, dict[str, object]]:
    """Return how long the command took, its start included, and its report."""
    started = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-m", COMMAND, str(path), "--dry-run", "--json"],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        check=True,
        timeout=tracers.TIMEOUT_S,
    )
    took_s = time.perf_counter() - started
    report: dict[str, object] = json.loads(result.stdout)
    return took_s, report


def _finding(scratch: Path, repeats: int) -> Iterator[Row]:
    path, cache = _configuration(scratch), scratch / "cache"
    cold, cached = [], []
    report: dict[str, object] = {}
    for _ in range(max(repeats, 3)):
        shutil.rmtree(cache, ignore_errors=True)
        took_s, report = _run(path, cache)
        cold.append(took_s)
        took_s, report = _run(path, cache)
        cached.append(took_s)
    who = f"{report['functions']} functions"
    for what, times_s, budget_s in (
        ("find, nothing cached", cold, COLD_BUDGET_S),
        ("find, cached by build id", cached, CACHED_BUDGET_S),
    ):
        yield Row(
            what,
            who,
            median(times_s),
            "s",
            budget=f"<= {budget_s:.0f} s",
            kept=median(times_s) <= budget_s,
            note="libc, MPI, HDF5 and kernel, with arguments; the command's start included",
        )


def _placing() -> Iterator[Row]:
    for name, file in PLACED.items():
        try:
            path = libraries.locate(file)
        except DatacrumbsError as error:
            yield Row(f"cheap probes in {name}", "", None, "%", note=str(error))
            continue
        candidates = [one for one in elf.functions(path) if one.refused is None]
        first = {one.symbol: one.file_offset for one in candidates}
        places = placement.place(path, candidates)
        probed = {symbol: one for symbol, one in places.items() if one.refused is None}
        before = sum(one.cheap and one.file_offset == first[name] for name, one in probed.items())
        after = sum(one.cheap for one in probed.values())
        for who, count in (("first instruction", before), ("placed", after)):
            yield Row(
                f"cheap probes in {name}",
                who,
                100.0 * count / max(len(probed), 1),
                "%",
                note=f"{count} of {len(probed)}, all six argument registers kept",
            )


def measure(scratch: Path, *, seconds: float, repeats: int) -> Iterator[Row]:
    """Yield how long a selection takes, and what placement gains."""
    del seconds  # each measurement is as long as what it measures
    yield from _finding(scratch, repeats)
    yield from _placing()
