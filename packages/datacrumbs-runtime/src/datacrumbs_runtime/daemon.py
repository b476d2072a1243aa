"""The node daemon: one run, from a signed probe file to a closed trace.

What fails before the run is ready leaves nothing behind. What is attached vanishes with the
process, however that ends.
"""

import errno
import logging
import os
import platform
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from datacrumbs_runtime import __version__
from datacrumbs_runtime.afterwards import Afterwards
from datacrumbs_runtime.bpf.attach_report import AttachReport
from datacrumbs_runtime.bpf.loader import raise_soft_limits
from datacrumbs_runtime.cgroups import find_cgroup
from datacrumbs_runtime.engine import Engine
from datacrumbs_runtime.errors import ConfigurationError, DatacrumbsError, KernelError
from datacrumbs_runtime.lost_functions import LostFunctions
from datacrumbs_runtime.owned_processes import register_owned
from datacrumbs_runtime.run_files import RunFiles, prepare_run_directory
from datacrumbs_runtime.run_preparation import Prepared, RunRequest, authentic_probe_file, prepare
from datacrumbs_runtime.run_status import RunFacts, RunStatus
from datacrumbs_runtime.schema.probe_file import ProbeFile
from datacrumbs_runtime.sd_notify import sd_notify
from datacrumbs_runtime.signing.accounts import Account, account_of_uid
from datacrumbs_runtime.stop_signals import StopSignals
from datacrumbs_runtime.time_limit import TimeLimit
from datacrumbs_runtime.trace_directory import TraceDirectory, trace_directory_path

logger = logging.getLogger(__name__)

STATUS_INTERVAL_S = 1.0
_SHORTAGE_HINT = "the limits of the service or the process table of the node are exhausted"
# Nothing is known that takes so long; a node must not be kept from its next job.
STOP_LIMIT_S = 10.0
# Programs, maps and a ring for each processor, whatever is attached.
LEAST_DESCRIPTORS = 64
OUTCOMES_LIMIT_S = 1.5
_ROOT_UID = 0
# What the kernel says when it has no more processes, memory or descriptors for us.
_NO_ROOM = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})


@contextmanager
def _shortage_named(what: str) -> Iterator[None]:
    """Turn a lack of processes, memory or descriptors into an error that names it."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise KernelError(f"{what}: {error.strerror}", hint=_SHORTAGE_HINT) from error
    except RuntimeError as error:
        # What the interpreter makes of a thread that the kernel refuses.
        if "new thread" not in str(error):
            raise
        raise KernelError(f"{what}: {error}", hint=_SHORTAGE_HINT) from error


def _prepare_limits(what: str) -> None:
    """Raise the limits of this process, and refuse what cannot be enough descriptors.

    Kernel and libbpf name other reasons when they run out of descriptors.
    """
    raise_soft_limits()
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < LEAST_DESCRIPTORS:
        reason = f"{os.strerror(errno.EMFILE)}: only {most} are allowed"
        raise KernelError(f"{what}: {reason}", hint=_SHORTAGE_HINT)


def check(request: RunRequest) -> tuple[ProbeFile, AttachReport]:
    """Do everything up to attaching, detach again, and tell what came of it.

    Raises:
        DatacrumbsError: A run would not begin either.
    """
    _prepare_limits("the check")
    with _shortage_named("the check"), ExitStack() as stack:
        limit = stack.enter_context(TimeLimit(lambda: None))
        stack.enter_context(limit.within(request.config.start_timeout_s, "the check"))
        probe_file, account = authentic_probe_file(request)
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="datacrumbs-check-"))
        directory = TraceDirectory(Path(scratch), account_of_uid(_ROOT_UID))
        prepared = prepare(request, probe_file, account, directory, stack)
        return probe_file, prepared.report


def run(request: RunRequest) -> int:
    """Record until SIGTERM, SIGINT or SIGHUP.

    A second signal ends the waiting for a slow disk; the trace is valid all the same.

    Returns:
        Exit status: 0, or 1 if the recording ended by itself or the end of the trace could not be
        written in time.

    Raises:
        DatacrumbsError: The run could not begin.
    """
    starting = f"starting run {request.run_id}"
    _prepare_limits(starting)
    run_dir, run_id_file = request.config.server_run_dir, request.config.server_run_id_file
    files = RunFiles(run_dir, run_id_file, request.run_id)
    with StopSignals() as signals, ExitStack() as stack:
        with _shortage_named(starting):
            limit = stack.enter_context(TimeLimit(files.remove))
            with limit.within(request.config.start_timeout_s, starting):
                signals.start()
                sd_notify("STATUS=starting")
                probe_file, account = authentic_probe_file(request)
                logger.info(
                    "run %s of %s: datacrumbs %s on Linux %s, %s",
                    request.run_id,
                    account.user,
                    __version__,
                    platform.release(),
                    request.probe_file,
                )
                prepare_run_directory(run_dir)
                stack.callback(files.remove)
                files.claim()
                files.write_environment(_environment(request, account))
                directory = _trace_directory(request, account)
                prepared = prepare(request, probe_file, account, directory, stack)
                outcomes = Afterwards(prepared.keep_outcomes)
                engine = prepared.engine
                engine.start()
                if request.config.trace_all_processes:
                    _record_all(request, engine, account)
                for probe in prepared.custom:
                    probe.start(engine.append_lines, engine.host_hash, engine.clock_offset_ns)
                status = RunStatus(engine, _facts(request, probe_file, account, prepared.report))
                lost = LostFunctions(engine, prepared.report, status)
                files.write_status(status.document("recording"), status.reader_uid)
                files.announce()
        _say_ready(request, prepared)
        outcomes.begin()
        ended_by = _record(engine, signals, files, status, lost)
        with (
            limit.within(STOP_LIMIT_S, f"stopping run {request.run_id}"),
            signals.calling(engine.hurry),
        ):
            end_s = time.monotonic() + OUTCOMES_LIMIT_S
            exit_status = _stop(request, prepared, files, status, ended_by)
            if not outcomes.is_done(max(end_s - time.monotonic(), 0.0)):
                logger.warning("results of attaching are not kept: the database does not answer")
            return exit_status


def _record_all(request: RunRequest, engine: Engine, account: Account) -> None:
    cgroup = None if request.cgroup is None else find_cgroup(request.cgroup).directory
    count = register_owned(engine, account.uid, cgroup)
    logger.info("run %s: %d processes of %s were there", request.run_id, count, account.user)


def _trace_directory(request: RunRequest, account: Account) -> TraceDirectory:
    path = trace_directory_path(
        request.config.trace_dir_pattern,
        now=datetime.now().astimezone(),
        user=account.user,
        run_id=request.run_id,
        host=platform.node().partition(".")[0],
    )
    return TraceDirectory(path, account)


def _environment(request: RunRequest, account: Account) -> Mapping[str, str]:
    return {
        "DATACRUMBS_PROBE_FILE": str(Path(request.probe_file).absolute()),
        "DATACRUMBS_USER": account.user,
        "DATACRUMBS_SERVICE_RUN_ID": request.run_id,
        "DATACRUMBS_LOG_DIR": str(request.config.log_dir),
    }


def _facts(
    request: RunRequest, probe_file: ProbeFile, account: Account, report: AttachReport
) -> RunFacts:
    return RunFacts(
        run_id=request.run_id,
        user=account.user,
        uid=account.uid,
        hostname=platform.node(),
        probe_file=request.probe_file,
        mode=request.config.mode,
        since=time.time(),
        requested=report.requested,
        attached=report.attached,
        failures=report.failures,
        tiers=report.tiers,
        cgroup=None if request.cgroup is None else str(request.cgroup),
    )


def _say_ready(request: RunRequest, prepared: Prepared) -> None:
    report = prepared.report
    text = f"recording {report.attached} of {report.requested} functions"
    sd_notify("READY=1", f"STATUS={text}")
    logger.info("run %s: %s into %s", request.run_id, text, prepared.engine.trace_path)


def _record(
    engine: Engine,
    signals: StopSignals,
    files: RunFiles,
    status: RunStatus,
    lost: LostFunctions,
) -> str:
    """Wait for the end, telling the status every second; return what ended the run."""
    next_s = time.monotonic()
    while True:
        next_s = max(next_s + STATUS_INTERVAL_S, time.monotonic())
        received = signals.wait(next_s - time.monotonic())
        if received is not None:
            return received
        if engine.failure is not None:
            return f"an error: {engine.failure}"
        lost.check()
        # The run directory may be full: recording goes on without a status.
        with suppress(ConfigurationError):
            files.write_status(status.document("recording"), status.reader_uid)


def _stop(
    request: RunRequest, prepared: Prepared, files: RunFiles, status: RunStatus, ended_by: str
) -> int:
    engine = prepared.engine
    sd_notify("STOPPING=1", "STATUS=closing the trace")
    logger.info("run %s: ended by %s", request.run_id, ended_by)
    failed = engine.failure is not None
    with suppress(ConfigurationError):
        files.write_status(status.document("stopping"), status.reader_uid)
    try:
        for probe in prepared.custom:
            probe.stop()
        summary = engine.stop()
    except (DatacrumbsError, OSError) as error:
        logger.error("run %s: %s", request.run_id, error)  # noqa: TRY400  not a bug of ours
        return 1
    losses = summary.statistics.losses
    sd_notify(f"STATUS={summary.events} events; {losses.summary()}")
    return 1 if failed or not summary.is_complete else 0
