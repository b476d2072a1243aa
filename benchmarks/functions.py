"""What a recorded function of a library costs its caller, and what it costs everybody else."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks import tracers, workloads
from benchmarks.compare import interleaved, rows_of
from benchmarks.rows import Row
from datacrumbs_utils.discovery import elf

TITLE = "an empty function of a library"
CALLS = 10_000_000
FUNCTION = "dc_bench_empty"
TRACED_BUDGET = 1.15
BYSTANDER_BUDGET = 1.10


def function_offset(library: Path, symbol: str) -> int:
    """Return the file offset of a function."""
    found = next(each for each in elf.functions(library) if each.symbol == symbol)
    if found.file_offset is None:
        raise SystemExit(f"benchmarks: error: {library}: {symbol} has no place in the file")
    return found.file_offset


def probes_of(scratch: Path, library: Path, regex: str) -> Path:
    """Write a host configuration that selects functions of a library."""
    path = scratch / f"{library.stem}.yaml"
    path.write_text(
        "capture_probes:\n"
        f"- name: bench\n  probe: uprobe\n  type: binary\n  file: {library}\n  regex: '{regex}'\n"
    )
    return path


def _bystander(scratch: Path, probes: Path) -> tracers.Tracer:
    # Somebody else is recorded with the same probes; the measured program is not.
    def run(command: tracers.Command) -> float:
        output = scratch / "bystander.pfw.gz"
        output.unlink(missing_ok=True)
        recorder = subprocess.Popen(
            [
                *(tracers.beside("datacrumbs_record"), "--quiet", "--probes", str(probes)),
                *("--output", str(output), "--", "sh", "-c", "echo ready; cat"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert recorder.stdout is not None
        try:
            if not recorder.stdout.readline():
                raise RuntimeError("datacrumbs_record did not start")
            return tracers.ns_per_call(command)
        finally:
            recorder.communicate(timeout=30)

    return tracers.Tracer("datacrumbs, not recorded", run)


def measure(scratch: Path, *, seconds: float, repeats: int) -> Iterator[Row]:
    """Yield the rows of all tracers."""
    library = workloads.compile_library(scratch, "library")
    program = workloads.compile_program(scratch, "function_calls", library, f"-Wl,-rpath,{scratch}")
    floor = workloads.compile_floor(scratch)
    offset = function_offset(library, FUNCTION)
    probes = probes_of(scratch, library, FUNCTION)
    probe = f"{library}:{FUNCTION}"
    histogram = (
        f"uprobe:{probe} {{ @s[tid] = nsecs; }} "
        f"uretprobe:{probe} /@s[tid]/ {{ @h = hist(nsecs - @s[tid]); delete(@s[tid]); }}"
    )
    session = tracers.function_floor(floor, library, offset, session=True)
    traced = [
        tracers.bare(),
        session,
        tracers.datacrumbs(scratch, str(probes)),
        tracers.datacrumbs(scratch, str(probes), "--mode", "profile", name="datacrumbs profile"),
        tracers.bpftrace("bpftrace count", f"uprobe:{probe} {{ @n = count(); }}"),
        tracers.bpftrace("bpftrace hist", histogram),
        tracers.bpftrace("bpftrace printf", f'uretprobe:{probe} {{ printf("%d\\n", nsecs); }}'),
    ]
    command = [str(program), str(CALLS), str(seconds)]
    results = interleaved(traced, command, repeats)
    bare = results["bare"][0]
    limit = TRACED_BUDGET * (results[session.name][0] - bare)
    budgets = {"datacrumbs": (f"<= {TRACED_BUDGET} x floor", limit)}
    yield from rows_of("recorded", traced, results, floor=session.name, budgets=budgets)

    entry = tracers.function_floor(floor, library, offset, session=False)
    others = [tracers.bare(), entry, _bystander(scratch, probes)]
    results = interleaved(others, command, repeats)
    limit = BYSTANDER_BUDGET * (results[entry.name][0] - results["bare"][0])
    budgets = {"datacrumbs, not recorded": (f"<= {BYSTANDER_BUDGET} x floor", limit)}
    yield from rows_of("not recorded", others, results, floor=entry.name, budgets=budgets)
