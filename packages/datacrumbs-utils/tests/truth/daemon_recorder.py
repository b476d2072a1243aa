"""Recording a command with the daemon, or with several that record the same differently."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import trace_file
from daemon_site import Owner, RunningDaemon, Site
from recordings import Recorder, Recording
from three_modes import Run

from datacrumbs_runtime.engine import Losses

# Several intervals even in the shortest workload.
PROFILE_INTERVAL_S = "0.2"


class DaemonRecorder(Recorder):
    """Has several daemons watch the same processes of a user.

    Args:
        site: The installation.
        user: Whose processes they are.
        runs: The daemons; the trace of the first is that of the recording.
    """

    def __init__(self, site: Site, user: str, runs: Sequence[Run]) -> None:
        directory = site.shared / f"{user}-traces"
        directory.mkdir(exist_ok=True)
        super().__init__(directory)
        give(directory, Owner.named(user))
        self._site = site
        self._user = user
        self._daemon_runs = runs
        self._probe_files = {
            run.name: site.probe_file(user, run.categories, name=f"{run.name}.json.gz")
            for run in runs
        }

    def record(
        self,
        name: str,
        command: Sequence[str],
        options: Sequence[str],
        cwd: Path | None,
        env: Mapping[str, str] | None,
    ) -> Recording:
        if cwd is not None:
            give(cwd, Owner.named(self._user))
        with self._daemons(name, options):
            done = self._site.wrapped(self._user, *command, cwd=cwd, env=env)
        paths = {run.name: self._trace(f"{name}-{run.name}") for run in self._daemon_runs}
        return recording_of(paths, done.returncode, done.stdout)

    @contextmanager
    def _daemons(self, name: str, options: Sequence[str]) -> Iterator[None]:
        with ExitStack() as undo:
            daemons: list[RunningDaemon] = []
            for run in self._daemon_runs:
                daemon = self._site.daemon(
                    f"{name}-{run.name}",
                    self._probe_files[run.name],
                    *("--mode", run.mode, "--profile-interval-s", PROFILE_INTERVAL_S),
                    *("--threshold-ns", str(run.threshold_ns)),
                    *options,
                )
                undo.callback(daemon.process.wait)
                undo.callback(daemon.process.kill)
                daemons.append(daemon)
            for daemon in daemons:
                daemon.wait_ready()
            yield
            for daemon in daemons:
                daemon.stop()
                assert daemon.process.returncode == 0, daemon.output()

    def _trace(self, run_id: str) -> Path:
        (path,) = self._site.traces.rglob(f"*-{run_id}-*.pfw.gz")
        return path


def give(directory: Path, owner: Owner) -> None:
    """Make a directory with all that is in it a user's own."""
    for path in (directory, *directory.rglob("*")):
        os.chown(path, owner.uid, owner.gid, follow_symlinks=False)


def recording_of(paths: Mapping[str, Path], status: int, stdout: str) -> Recording:
    """Read the traces of the runs of one recording, which must be complete.

    Args:
        paths: Where they are, by the names of the runs.
        status: Exit status of the command.
        stdout: What the command printed.
    """
    traces = {name: trace_file.read(path) for name, path in paths.items()}
    for trace in traces.values():
        assert report_of(trace)["complete"], report_of(trace)
    (_, first), *others = traces.items()
    return Recording(first, report_of(first), status, stdout, [], dict(others))


def report_of(trace: trace_file.Trace) -> dict[str, Any]:
    """Return what ``datacrumbs_record --json`` says of losses, from the end of a trace."""
    (last,) = [each for each in trace.metadata["datacrumbs_losses"] if each["final"]]
    losses = Losses(**{field.name: last[field.name] for field in fields(Losses)})
    ended = losses.offered + losses.below_threshold + losses.counted + losses.filtered
    return {
        "losses": losses.to_dict(),
        "complete": losses.is_complete,
        "in_flight": losses.entered - ended - losses.profile_full,
    }
