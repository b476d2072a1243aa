"""The tracers that are compared, each as a way to run one program."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from datacrumbs_runtime.bpf import bpf_syscall
from datacrumbs_runtime.bpf.libbpf import Object

TIMEOUT_S = 300
_RESULT = re.compile(r"^([0-9.]+) [0-9]+$", re.MULTILINE)

Command = list[str]


@dataclass(frozen=True, slots=True)
class Tracer:
    """A way to run a program.

    Attributes:
        name: How the table calls it.
        run: Runs a measured program and returns nanoseconds per call.
        missing: Why it cannot be used here; empty: it can.
    """

    name: str
    run: Callable[[Command], float]
    missing: str = ""


def ns_per_call(command: Command, env: dict[str, str] | None = None) -> float:
    """Run a command and return the nanoseconds per call that the measured program printed.

    Raises:
        RuntimeError: It failed or printed no such line.
    """
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, env=env, check=False
    )
    found = _RESULT.search(done.stdout)
    if not found:
        raise RuntimeError(f"{command[0]}: {(done.stderr or done.stdout).strip()[-300:]}")
    return float(found[1])


def beside(name: str) -> str:
    """Return the path of a program that lies beside this interpreter, or on PATH."""
    here = Path(sys.executable).with_name(name)
    return str(here) if here.exists() else shutil.which(name) or name


def bare() -> Tracer:
    """No tracer at all."""
    return Tracer("bare", ns_per_call)


def _wrapped(name: str, prefix: Command, program: str) -> Tracer:
    missing = "" if shutil.which(program) else f"{program} is not installed"
    return Tracer(name, lambda command: ns_per_call([*prefix, *command]), missing)


def datacrumbs(scratch: Path, probes: str, *options: str, name: str = "datacrumbs") -> Tracer:
    """``datacrumbs_record``, writing its trace to the scratch directory."""
    record = beside("datacrumbs_record")

    def run(command: Command) -> float:
        output = scratch / "datacrumbs.pfw.gz"
        output.unlink(missing_ok=True)
        prefix = [record, "--quiet", "--probes", probes, "--output", str(output), *options]
        return ns_per_call([*prefix, "--", *command])

    return Tracer(name, run)


def bpftrace(name: str, script: str) -> Tracer:
    """Bpftrace with a script; ``cpid`` in it is the measured program."""
    missing = "" if shutil.which("bpftrace") else "bpftrace is not installed"

    def run(command: Command) -> float:
        return ns_per_call(["bpftrace", "-e", script, "-c", " ".join(command)])

    return Tracer(name, run, missing)


def strace(*calls: str) -> Tracer:
    """Strace of the given system calls, writing nowhere."""
    prefix = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={','.join(calls)}"]
    return _wrapped("strace", prefix, "strace")


def perf_trace() -> Tracer:
    """``perf trace``, writing nowhere."""
    return _wrapped("perf trace", ["perf", "trace", "-o", "/dev/null"], "perf")


def dftracer(scratch: Path) -> Tracer:
    """DFTracer's preloaded library, with all files and with metadata."""
    found = importlib.util.find_spec("dftracer")
    library = None
    if found and found.submodule_search_locations:
        folder = Path(found.submodule_search_locations[0])
        library = next(folder.rglob("libdftracer_preload.so"), None)

    def run(command: Command) -> float:
        environment = dict(
            os.environ,
            LD_PRELOAD=str(library),
            DFTRACER_ENABLE="1",
            DFTRACER_INIT="PRELOAD",
            DFTRACER_LOG_FILE=str(scratch / "dftracer"),
            DFTRACER_DATA_DIR="all",
            DFTRACER_INC_METADATA="1",
        )
        return ns_per_call(command, environment)

    return Tracer("dftracer preload", run, "" if library else "dftracer is not installed (PyPI)")


@contextmanager
def _floor(object_path: Path, attach: Callable[[Object], list[int]]) -> Iterator[None]:
    floor = Object(object_path)
    floor.programs["floor_uprobe_session"].set_attach_type(bpf_syscall.ATTACH_UPROBE_SESSION)
    floor.programs["floor_uprobe_entry"].set_attach_type(bpf_syscall.ATTACH_UPROBE_MULTI)
    floor.load()
    links = attach(floor)
    try:
        yield
    finally:
        for link in links:
            os.close(link)
        floor.close()


def system_call_floor(object_path: Path) -> Tracer:
    """Empty programs at the entry and the exit of all system calls."""

    def attach(floor: Object) -> list[int]:
        names = ("floor_sys_enter", "floor_sys_exit")
        return [bpf_syscall.raw_tracepoint_open(floor.programs[name].fd, None) for name in names]

    def run(command: Command) -> float:
        with _floor(object_path, attach):
            return ns_per_call(command)

    return Tracer("empty programs", run)


def function_floor(object_path: Path, library: Path, offset: int, *, session: bool) -> Tracer:
    """An empty program at a function: as a session (entry and return), or at its entry alone."""
    program = "floor_uprobe_session" if session else "floor_uprobe_entry"

    def attach(floor: Object) -> list[int]:
        link = bpf_syscall.link_create_uprobe_multi(
            floor.programs[program].fd, os.fsencode(library), [offset], [0], session=session
        )
        return [link]

    def run(command: Command) -> float:
        with _floor(object_path, attach):
            return ns_per_call(command)

    return Tracer("empty session" if session else "empty entry probe", run)
