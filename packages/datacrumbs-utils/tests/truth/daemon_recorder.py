"""Recording a command with the daemon, or with several that record the same differently."""

import os
import pwd
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import trace_file
from daemon_site import RunningDaemon, Site
from recordings import Recorder, Recording

from datacrumbs_runtime.engine import Losses
from datacrumbs_runtime.schema.probe_file import Category

# Several intervals even in the shortest workload.
PROFILE_INTERVAL_S = "0.2"


@dataclass(frozen=True, slots=True)
class DaemonRun:
    """A daemon of a recording.

    Attributes:
        name: What its trace is called.
        categories: What it records.
        mode: For categories that do not say.
    """

    name: str
    categories: tuple[Category, ...]
    mode: str = "trace"


class DaemonRecorder(Recorder):
    """Has several daemons watch the same processes of a user.

    Args:
        site: The installation.
        user: Whose processes they are.
        runs: The daemons; the trace of the first is that of the recording.
    """

    def __init__(self, site: Site, user: str, runs: Sequence[DaemonRun]) -> None:
        directory = site.shared / f"{user}-traces"
        directory.mkdir(exist_ok=True)
        super().__init__(directory)
        give(directory, user)
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
            give(cwd, self._user)
        with self._daemons(name, options):
            done = self._site.wrapped(self._user, *command, cwd=cwd, env=env)
        traces = {
            run.name: trace_file.read(self._trace(f"{name}-{run.name}"))
            for run in self._daemon_runs
        }
        for trace in traces.values():
            assert report_of(trace)["complete"], report_of(trace)
        (_, first), *others = traces.items()
        return Recording(first, report_of(first), done.returncode, done.stdout, [], dict(others))

    @contextmanager
    def _daemons(self, name: str, options: Sequence[str]) -> Iterator[None]:
        with ExitStack() as undo:
            daemons: list[RunningDaemon] = []
            for run in self._daemon_runs:
                daemon = self._site.daemon(
                    f"{name}-{run.name}",
                    self._probe_files[run.name],
                    *("--mode", run.mode, "--profile-interval-s", PROFILE_INTERVAL_S),
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


def give(directory: Path, user: str) -> None:
    """Make a directory with all that is in it a user's own."""
    entry = pwd.getpwnam(user)
    for path in (directory, *directory.rglob("*")):
        os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)


def report_of(trace: trace_file.Trace) -> dict[str, object]:
    """Return what ``datacrumbs_record --json`` says of losses, from the end of a trace."""
    (last,) = [each for each in trace.metadata["datacrumbs_losses"] if each["final"]]
    losses = Losses(**{field.name: last[field.name] for field in fields(Losses)})
    ended = losses.offered + losses.below_threshold + losses.counted + losses.filtered
    return {
        "losses": losses.to_dict(),
        "complete": losses.is_complete,
        "in_flight": losses.entered - ended - losses.profile_full,
    }
