"""What a recorded system call costs its caller."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks import tracers, workloads
from benchmarks.compare import interleaved, rows_of
from benchmarks.rows import Row

TITLE = "a system call, recorded with its file"
FILE_DIRECTORY = Path("/dev/shm")
OPERATIONS = {
    "pwrite": ("pwrite 4 KiB", ["pwrite64"]),
    "pread": ("pread 4 KiB", ["pread64"]),
    "open": ("open and close", ["openat", "close"]),
}
BUDGET_NS = 350.0


def measure(scratch: Path, *, seconds: float, repeats: int) -> Iterator[Row]:
    """Yield the rows of all operations and tracers."""
    program = workloads.compile_program(scratch, "system_calls")
    floor = workloads.compile_floor(scratch)
    target = FILE_DIRECTORY / f"{scratch.name}.data"
    try:
        for operation, (what, calls) in OPERATIONS.items():
            count = "".join(
                f"tracepoint:syscalls:sys_enter_{call} /pid == cpid/ {{ @n = count(); }} "
                for call in calls
            )
            histogram = "".join(
                f"tracepoint:syscalls:sys_enter_{call} /pid == cpid/ {{ @s[tid] = nsecs; }} "
                f"tracepoint:syscalls:sys_exit_{call} /@s[tid]/ "
                f"{{ @h = hist(nsecs - @s[tid]); delete(@s[tid]); }} "
                for call in calls
            )
            lines = "".join(
                f"tracepoint:syscalls:sys_exit_{call} /pid == cpid/ "
                f'{{ printf("%d %d %d\\n", tid, nsecs, args->ret); }} '
                for call in calls
            )
            candidates = [
                tracers.bare(),
                tracers.system_call_floor(floor),
                tracers.datacrumbs(scratch, "posix"),
                tracers.datacrumbs(
                    scratch, "posix", "--mode", "profile", name="datacrumbs profile"
                ),
                tracers.bpftrace("bpftrace count", count),
                tracers.bpftrace("bpftrace hist", histogram),
                tracers.bpftrace("bpftrace printf", lines),
                tracers.perf_trace(),
                tracers.dftracer(scratch),
                tracers.strace(*calls),
            ]
            command = [str(program), operation, str(seconds), str(target)]
            results = interleaved(candidates, command, repeats)
            limit = BUDGET_NS * len(calls)
            budgets = {"datacrumbs": (f"<= {limit:.0f} ns added", limit)}
            yield from rows_of(what, candidates, results, budgets=budgets)
    finally:
        target.unlink(missing_ok=True)
