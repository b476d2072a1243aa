"""One start and stop of the engine, in a process of its own: ``attaching_child PROBES TRACE``."""

import sys
import time
from pathlib import Path

from datacrumbs_runtime.engine import Engine, Identity
from datacrumbs_runtime.schema.probe_document import probe_file_from_document
from datacrumbs_runtime.schema.probe_file import read_document


def _memory_mib() -> float:
    # The rings are mapped pages of BPF maps, and twice: they are the run's setting, not its cost.
    total_kib, counts = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            counts = "anon_inode:bpf-map" not in rest
        elif first == "Rss:" and counts:
            total_kib += int(rest[0])
    return total_kib / 1024


def main() -> None:
    """Attach, say how long it took, stop."""
    probes, trace = sys.argv[1:]
    probe_file = probe_file_from_document(read_document(Path(probes)), probes)
    identity = Identity("root", 0, 0, "bench", "localhost")
    with Engine(probe_file, Path(trace), identity) as engine:
        begin_s = time.monotonic()
        report = engine.attach()
        attach_s = time.monotonic() - begin_s
        engine.start()
        ready_s = time.monotonic()
        memory_mib = _memory_mib()
        summary = engine.stop()
    Path(trace).unlink(missing_ok=True)
    if report.attached != report.requested:
        raise SystemExit(f"attaching_child: error: {report.attached} of {report.requested}")
    sys.stdout.write(
        f'{{"attach": {attach_s * 1e3}, "detach": {summary.detach_ns / 1e6}, '
        f'"ready_s": {ready_s}, "memory": {memory_mib}}}\n'
    )


if __name__ == "__main__":
    main()
