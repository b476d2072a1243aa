"""Recording a command in a container with the daemon as a service of its systemd."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import comparison
from daemon_recorder import PROFILE_INTERVAL_S, give, recording_of
from recordings import Recorder, Recording
from strace_log import Call
from systemd_container import ALICE, LOG_DIR, Container
from three_modes import Run
from trace_file import Trace

from datacrumbs_runtime.bpf.syscall_table import SYSTEM_CALLS

PID_MAX = Path("/proc/sys/kernel/pid_max")


class ServiceRecorder(Recorder):
    """Has several services watch the same processes of alice.

    Args:
        container: Where they run.
        runs: The services; the trace of the first is that of the recording.
    """

    def __init__(self, container: Container, runs: Sequence[Run]) -> None:
        directory = container.shared / "traces"
        directory.mkdir()
        super().__init__(directory)
        give(directory, ALICE)
        self._container = container
        self._services = runs
        self._probe_files = {
            run.name: container.probe_file(f"{run.name}.json.gz", run.categories) for run in runs
        }

    def record(
        self,
        name: str,
        command: Sequence[str],
        options: Sequence[str],
        cwd: Path | None,
        env: Mapping[str, str] | None,
    ) -> Recording:
        assert not options
        assert env is None
        if cwd is not None:
            give(cwd, ALICE)
        container = self._container
        run_ids = {run.name: f"{name}-{run.name}" for run in self._services}
        for run in self._services:
            container.start(
                run_ids[run.name],
                self._probe_files[run.name],
                DATACRUMBS_MODE=run.mode,
                DATACRUMBS_PROFILE_INTERVAL_S=PROFILE_INTERVAL_S,
                DATACRUMBS_THRESHOLD_NS=str(run.threshold_ns),
            )
            assert container.property_of(run_ids[run.name], "ActiveState") == "active"
        stdout = container.run(container.wrap, *command, user=ALICE.user, cwd=cwd)
        for run_id in run_ids.values():
            container.stop(run_id)
            assert container.property_of(run_id, "Result") == "success"
        container.run("cp", "-r", LOG_DIR, str(self.directory / name))
        copied = self.directory / name
        paths = {key: _trace_of(copied, run_id) for key, run_id in run_ids.items()}
        return recording_of(paths, 0, stdout)

    def as_in_trace(self, calls: list[Call], trace: Trace) -> list[Call]:
        """Return the calls with the kernel's thread ids instead of the container's.

        In both, ids are given in the order in which threads are made.
        """
        theirs = {call.thread for call in comparison.recorded(calls)}
        ours = {
            event.thread
            for event in trace.events
            if event.system_call in SYSTEM_CALLS
            and not comparison.is_mapping_call(event.system_call)
        }
        pairs = zip(
            _in_order(theirs, calls[0].thread),
            _in_order(ours, _command_of_strace(trace)),
            strict=True,
        )
        known = dict(pairs)
        return [replace(call, thread=known[call.thread]) for call in calls if call.thread in known]


def _command_of_strace(trace: Trace) -> int:
    """Return the process that strace began to watch: the one child that became something else."""
    names: dict[int, set[str]] = defaultdict(set)
    parents: dict[int, int] = {}
    for each in trace.metadata["process_name"]:
        names[each["pid"]].add(each["name"])
        parents.setdefault(each["pid"], each["ppid"])
    (found,) = [
        process
        for process, parent in parents.items()
        if "strace" in names[parent] and names[process] > {"strace"}
    ]
    return found


def _in_order(threads: Iterable[int], first: int) -> list[int]:
    """Return threads in the order in which they were made, without those before the first.

    Ids may have begun anew meanwhile.
    """
    number_of_ids = int(PID_MAX.read_text())
    since = {thread: (thread - first) % number_of_ids for thread in threads}
    return sorted((one for one in since if since[one] < number_of_ids // 2), key=since.__getitem__)


def _trace_of(directory: Path, run_id: str) -> Path:
    (path,) = directory.rglob(f"*-{run_id}-*.pfw.gz")
    return path
