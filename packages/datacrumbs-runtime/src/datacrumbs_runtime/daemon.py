"""The node daemon: one run, from a signed probe file to a closed trace.

What fails before the run is ready leaves nothing behind. What is attached vanishes with the
process, however that ends.
"""

import errno
import gc
import logging
import os
import platform
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from datacrumbs_runtime import __version__
from datacrumbs_runtime.admission import (
    FILE_LIMIT_SHARE,
    RunRequest,
    authentic_probe_file,
    check_all_processes,
)
from datacrumbs_runtime.afterwards import Afterwards
from datacrumbs_runtime.beside import Beside
from datacrumbs_runtime.bpf.attach_report import AttachReport
from datacrumbs_runtime.bpf.session_functions import are_older
from datacrumbs_runtime.bpf.soft_limits import raise_soft_limits
from datacrumbs_runtime.custom.attaching import split_off
from datacrumbs_runtime.errors import KernelError
from datacrumbs_runtime.pinned_binaries import PinnedBinaries
from datacrumbs_runtime.run_files import RunFiles, prepare_run_directory
from datacrumbs_runtime.schema.probe_file import ProbeFile
from datacrumbs_runtime.sd_notify import sd_notify
from datacrumbs_runtime.signing.accounts import Account, account_of_uid
from datacrumbs_runtime.stop_signals import StopSignals
from datacrumbs_runtime.time_limit import TimeLimit
from datacrumbs_runtime.trace_directory import TraceDirectory, trace_directory_path

if TYPE_CHECKING:
    from datacrumbs_runtime.run_preparation import Prepared

logger = logging.getLogger(__name__)

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


@contextmanager
def _without_collector() -> Iterator[None]:
    """Do not look for garbage: what a start makes lives as long as the run."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


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
    import tempfile

    _prepare_limits("the check")
    with _shortage_named("the check"), ExitStack() as stack:
        limit = stack.enter_context(TimeLimit(lambda: None))
        stack.enter_context(limit.within(request.config.start_timeout_s, "the check"))
        probe_file, account = authentic_probe_file(request)
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="datacrumbs-check-"))
        directory = TraceDirectory(Path(scratch), account_of_uid(_ROOT_UID))
        return probe_file, _prepare(request, probe_file, account, directory, stack).report


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
        with _shortage_named(starting), _without_collector():
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
                prepared = _prepare(request, probe_file, account, directory, stack)
                from datacrumbs_runtime.recording import Recording

                outcomes = Afterwards(prepared.keep_outcomes)
                recording = Recording(request, prepared, probe_file, account, files)
                files.announce()
        recording.say_ready()
        outcomes.begin()
        ended_by = recording.wait(signals)
        with (
            limit.within(STOP_LIMIT_S, f"stopping run {request.run_id}"),
            signals.calling(recording.hurry),
        ):
            end_s = time.monotonic() + OUTCOMES_LIMIT_S
            exit_status = recording.stop(ended_by)
            if not outcomes.is_done(max(end_s - time.monotonic(), 0.0)):
                logger.warning("results of attaching are not kept: the database does not answer")
            return exit_status


def _prepare(
    request: RunRequest,
    probe_file: ProbeFile,
    account: Account,
    directory: TraceDirectory,
    stack: ExitStack,
) -> "Prepared":
    config = request.config
    check_all_processes(config, account)
    native, custom = split_off(probe_file)
    limit_s = config.start_timeout_s * FILE_LIMIT_SHARE
    binaries = PinnedBinaries(native, account, timeout_s=limit_s)
    stack.callback(binaries.close)
    # While another process looks at the binaries, the kernel is asked and the rest is imported.
    Beside(are_older)
    from datacrumbs_runtime.run_preparation import prepare

    return prepare(request, custom, binaries, probe_file, account, directory, stack)


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
