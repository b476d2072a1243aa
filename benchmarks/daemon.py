"""The node daemon: how fast it is ready and gone, and what its modes cost recorded programs."""

import gzip
import os
import platform
import pwd
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks import attaching
from benchmarks.rows import Row
from datacrumbs_runtime.schema.probe_file import Category, ProbeFile, ProbeType, Summary
from datacrumbs_runtime.schema.site_config import site_of
from datacrumbs_runtime.signing.keys import create_key, load_keys
from datacrumbs_runtime.signing.request import signed_bytes
from datacrumbs_runtime.system_config import create_system_configuration, planned_configuration

TITLE = "the node daemon"
CLIENT = Path(__file__).resolve().parents[1] / "packages/datacrumbs-client-c"
COMMAND = "from datacrumbs_runtime.commands.datacrumbs import main; main()"
READY_BUDGET_MS = 300.0
MIB = 1 << 20
SYSCALLS = Category(
    ProbeType.SYSCALLS,
    "POSIX",
    ("openat", "close", "read", "write", "pread64", "pwrite64", "fsync"),
)
# Writes a file in pieces of one size and prints the nanoseconds that it took.
WRITE = """
import os, sys, time
path, size, calls = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
data = bytes(size)
write = os.pwrite
begin = time.perf_counter_ns()
for number in range(calls):
    write(fd, data, (number % 64) * size)
print(time.perf_counter_ns() - begin)
"""


class _Site:
    """A small installation."""

    def __init__(self, root: Path) -> None:
        self.prefix = root / "prefix"
        self.run_dir = root / "run"
        changes = {
            "DATACRUMBS_SERVER_RUN_DIR": str(self.run_dir),
            "DATACRUMBS_TRACE_DIR_PATTERN": f"{root}/traces",
            "DATACRUMBS_START_TIMEOUT_S": "60",
        }
        path, config = planned_configuration(self.prefix, changes)
        create_system_configuration(path, config)
        self.data_dir = path.parent
        create_key(self.data_dir)
        build = root / "client"
        for arguments in (
            ["cmake", "-S", str(CLIENT), "-B", str(build), "-DBUILD_TESTING=OFF"],
            ["cmake", "--build", str(build)],
        ):
            subprocess.run(arguments, check=True, capture_output=True)
        for name in ("bin", "lib"):
            (self.prefix / name).symlink_to(build / name)

    def signed(self, category: Category, path: Path) -> Path:
        host = platform.node()
        user = pwd.getpwuid(os.geteuid()).pw_name
        summary = Summary(
            "/bench.yaml", str(path), host, user, user, os.geteuid(), site_of(host), 1, 1 << 40
        )
        key = load_keys(self.data_dir).signing_key("hmac-sha256")
        path.write_bytes(gzip.compress(signed_bytes(ProbeFile(summary, (category,)), key), 1))
        return path

    @contextmanager
    def running(self, probe_file: Path, *options: str) -> Iterator[dict[str, float]]:
        """Run a daemon; what it needed is in the dictionary when the block has ended."""
        ready = self.run_dir / "datacrumbs-bench.ready"
        figures: dict[str, float] = {}
        arguments = ["--prefix", str(self.prefix), "--log-level", "error", *options]
        begin = time.perf_counter()
        daemon = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments, str(probe_file), "bench"],
            env=attaching.environment(),
        )
        try:
            while not ready.exists():
                if daemon.poll() is not None:
                    raise SystemExit("benchmarks: error: the daemon did not start")
                time.sleep(0.0005)
            figures["ready_ms"] = (time.perf_counter() - begin) * 1e3
            status = Path(f"/proc/{daemon.pid}/status").read_text()
            figures["anonymous_mib"] = _kib(status, "RssAnon") / 1024
            figures["rss_mib"] = _kib(status, "VmRSS") / 1024
            yield figures
            begin = time.perf_counter()
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(60)
            figures["stop_ms"] = (time.perf_counter() - begin) * 1e3
        finally:
            daemon.kill()
            daemon.wait()


def _kib(status: str, name: str) -> float:
    return next(float(line.split()[1]) for line in status.splitlines() if line.startswith(name))


def measure(scratch: Path, *, seconds: float, repeats: int) -> Iterator[Row]:
    """Yield the rows for start and stop, then those for the costs of the modes."""
    site = _Site(scratch)
    yield from _starts(site, scratch, repeats)
    yield from _modes(site, scratch, seconds, repeats)


def _starts(site: _Site, scratch: Path, repeats: int) -> Iterator[Row]:
    files = {
        count: site.signed(category, scratch / f"many-{count}.json.gz")
        for count, category in attaching.many_functions(scratch).items()
    }
    runs: dict[int, list[dict[str, float]]] = {count: [] for count in files}
    for _ in range(repeats + 1):
        for count, path in files.items():
            with site.running(path) as figures:
                pass
            runs[count].append(figures)
    for count, measured in runs.items():
        most = count == attaching.MOST
        for key, unit in (
            ("ready_ms", "ms"),
            ("stop_ms", "ms"),
            ("rss_mib", "MiB"),
            ("anonymous_mib", "MiB"),
        ):
            value = median([one[key] for one in measured[1:]])
            budget = key == "ready_ms" and most
            published = attaching.PUBLISHED_MS[count] if key == "ready_ms" else None
            yield Row(
                f"{count:,} functions",
                {
                    "ready_ms": "exec to ready",
                    "stop_ms": "signal to end",
                    "rss_mib": "memory, with rings",
                    "anonymous_mib": "memory of its own",
                }[key],
                value,
                unit,
                note=f"published {published} ms, attaching alone" if published else "",
                budget=f"<= {READY_BUDGET_MS:.0f} ms" if budget else "",
                kept=value <= READY_BUDGET_MS if budget else None,
            )


def _modes(site: _Site, scratch: Path, seconds: float, repeats: int) -> Iterator[Row]:
    probes = site.signed(SYSCALLS, scratch / "syscalls.json.gz")
    modes: dict[str, tuple[str, ...] | None] = {
        "no daemon": None,
        "trace": ("--mode", "trace", "--throttle-calls-per-s", "0"),
        "profile": ("--mode", "profile"),
    }
    wrap = str(site.prefix / "bin/datacrumbs_wrap")
    for size, text in ((MIB, "1 MiB pwrite"), (4096, "4 KiB pwrite")):
        calls = max(int(seconds * (4_000 if size == MIB else 400_000)), 100)
        times: dict[str, list[float]] = {mode: [] for mode in modes}
        for _ in range(repeats):
            for mode, options in modes.items():
                if options is None:
                    times[mode].append(_per_call_ns([], size, calls))
                else:
                    with site.running(probes, *options):
                        times[mode].append(_per_call_ns([wrap], size, calls))
        bare = median(times["no daemon"])
        for mode, measured in times.items():
            value = median(measured)
            yield Row(
                text,
                mode,
                value,
                "ns",
                added=None if mode == "no daemon" else value - bare,
                ratio=None if mode == "no daemon" else value / bare,
                compared_to="no daemon",
            )


def _per_call_ns(wrap: list[str], size: int, calls: int) -> float:
    # In memory: the disk would be measured otherwise.
    directory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        done = subprocess.run(
            [*wrap, sys.executable, "-c", WRITE, file.name, str(size), str(calls)],
            capture_output=True,
            text=True,
            check=True,
        )
    return int(done.stdout) / calls
