"""The part of a run in which calls are recorded."""

import logging
import platform
import time
from contextlib import suppress

from datacrumbs_runtime.admission import RunRequest
from datacrumbs_runtime.cgroups import find_cgroup
from datacrumbs_runtime.errors import ConfigurationError, DatacrumbsError
from datacrumbs_runtime.lost_functions import LostFunctions
from datacrumbs_runtime.owned_processes import register_owned
from datacrumbs_runtime.run_files import RunFiles
from datacrumbs_runtime.run_preparation import Prepared
from datacrumbs_runtime.run_status import RunFacts, RunStatus
from datacrumbs_runtime.schema.probe_file import ProbeFile
from datacrumbs_runtime.sd_notify import sd_notify
from datacrumbs_runtime.signing.accounts import Account
from datacrumbs_runtime.stop_signals import StopSignals

logger = logging.getLogger(__name__)

STATUS_INTERVAL_S = 1.0


class Recording:
    """Records the calls of what is attached, and tells how it is going.

    It begins with the constructor.

    Args:
        request: What is asked for.
        prepared: What is attached.
        probe_file: The probe file as it was signed.
        account: Whose run it is.
        files: Where the status is told.

    Raises:
        DatacrumbsError: The status cannot be written, or a custom probe does not begin.
    """

    def __init__(
        self,
        request: RunRequest,
        prepared: Prepared,
        probe_file: ProbeFile,
        account: Account,
        files: RunFiles,
    ) -> None:
        self._run_id = request.run_id
        self._prepared = prepared
        self._engine = engine = prepared.engine
        self._files = files
        engine.start()
        if request.config.trace_all_processes:
            cgroup = None if request.cgroup is None else find_cgroup(request.cgroup).directory
            count = register_owned(engine, account.uid, cgroup)
            logger.info("run %s: %d processes of %s were there", self._run_id, count, account.user)
        for probe in prepared.custom:
            probe.start(engine.append_lines, engine.host_hash, engine.clock_offset_ns)
        report = prepared.report
        facts = RunFacts(
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
        self._status = RunStatus(engine, facts, prepared.custom)
        self._lost = LostFunctions(engine, report, self._status)
        self._write_status("recording")

    def _write_status(self, state: str) -> None:
        self._files.write_status(self._status.document(state), self._status.reader_uid)

    def say_ready(self) -> None:
        """Tell systemd and the log what is recorded."""
        report = self._prepared.report
        text = f"recording {report.attached} of {report.requested} functions"
        sd_notify("READY=1", f"STATUS={text}")
        for failure in report.failures:
            logger.warning("%s: %s: %s", failure.category, failure.function, failure.reason)
        logger.info("run %s: %s into %s", self._run_id, text, self._engine.trace_path)

    def wait(self, signals: StopSignals) -> str:
        """Wait for the end, telling the status every second; return what ended the run."""
        next_s = time.monotonic()
        while True:
            next_s = max(next_s + STATUS_INTERVAL_S, time.monotonic())
            received = signals.wait(next_s - time.monotonic())
            if received is not None:
                return received
            if self._engine.failure is not None:
                return f"an error: {self._engine.failure}"
            self._lost.check()
            # The run directory may be full: recording goes on without a status.
            with suppress(ConfigurationError):
                self._write_status("recording")

    def hurry(self) -> None:
        """Let :meth:`stop` not wait for the disk any more, from any thread."""
        self._engine.hurry()

    def stop(self, ended_by: str) -> int:
        """Detach and close the trace.

        Args:
            ended_by: What the log calls the cause.

        Returns:
            Exit status: 0, or 1 if the recording ended by itself or the end of the trace could not
            be written.
        """
        sd_notify("STOPPING=1", "STATUS=closing the trace")
        logger.info("run %s: ended by %s", self._run_id, ended_by)
        failed = self._engine.failure is not None
        with suppress(ConfigurationError):
            self._write_status("stopping")
        try:
            for probe in self._prepared.custom:
                probe.stop()
            summary = self._engine.stop()
        except (DatacrumbsError, OSError) as error:
            logger.error("run %s: %s", self._run_id, error)  # noqa: TRY400  not a bug of ours
            return 1
        losses = summary.statistics.losses
        sd_notify(f"STATUS={summary.events} events; {losses.summary()}")
        return 1 if failed or not summary.is_complete else 0
