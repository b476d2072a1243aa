"""A recording run: what the daemon and ``datacrumbs_record`` share.

Load, attach, record, stop::

    with Engine(probe_file, trace_path, identity, settings) as engine:
        report = engine.attach()
        engine.register_process(pid)
        engine.start()
        ...
        summary = engine.stop()

Leaving the ``with`` detaches whatever happened. Nothing here prints, and nothing catches signals.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path

from datacrumbs_runtime import __version__
from datacrumbs_runtime.bpf import attacher, registry
from datacrumbs_runtime.bpf.attach_report import AttachFailure, AttachReport
from datacrumbs_runtime.bpf.links import Links
from datacrumbs_runtime.bpf.loader import LoadSettings
from datacrumbs_runtime.bpf.machine import MachineFeatures, TierFeature, machine_features
from datacrumbs_runtime.bpf.process_tree import descendants
from datacrumbs_runtime.bpf.skipped_runs import SkippedRuns
from datacrumbs_runtime.errors import AttachError, KernelError, TraceError
from datacrumbs_runtime.run import (
    FILES_IN_SUMMARY,
    FunctionSummary,
    Identity,
    RunSettings,
    RunSummary,
    Statistics,
)
from datacrumbs_runtime.schema.probe_document import document_from_probe_file
from datacrumbs_runtime.schema.probe_file import ProbeFile, canonical_bytes
from datacrumbs_runtime.trace.clock import clock_offset_ns
from datacrumbs_runtime.trace.drainer import Drainer, DrainerSettings
from datacrumbs_runtime.trace.losses import Losses
from datacrumbs_runtime.trace.pump import BusiestFiles, FileStatistics, FunctionStatistics, Pump
from datacrumbs_runtime.trace.trace_lines import metadata_line
from datacrumbs_runtime.trace.writer import Owner, Place, TraceWriter, WriterSettings

__all__ = [
    "AttachFailure",
    "AttachReport",
    "BusiestFiles",
    "Engine",
    "FileStatistics",
    "FunctionStatistics",
    "FunctionSummary",
    "Identity",
    "Losses",
    "MachineFeatures",
    "RunSettings",
    "RunSummary",
    "Statistics",
    "TierFeature",
    "WriterSettings",
    "machine_features",
]

logger = logging.getLogger(__name__)

# Processes that appear while their parents are being registered are found by looking again.
_REGISTER_ROUNDS = 5


class Engine:
    """One run, from loading the programs to the closed trace file.

    Args:
        probe_file: What is recorded.
        trace_path: The trace file; an existing one is not touched, a number is added.
        identity: Whose run it is.
        settings: How it records.
        described_as: The probe file that the trace names, if what is recorded is only a part of it.
        place: Where the trace goes, for directories that only their owner may enter; must be that
            of ``trace_path``.

    Raises:
        KernelError: The kernel refused the programs.
        TraceError: The trace file cannot be created.
        ProbeFileError: The probe file says something impossible.
    """

    def __init__(
        self,
        probe_file: ProbeFile,
        trace_path: Path,
        identity: Identity,
        settings: RunSettings | None = None,
        *,
        described_as: ProbeFile | None = None,
        place: Place | None = None,
    ) -> None:
        self._settings = settings = settings or RunSettings()
        self._identity = identity
        self._described_as = described_as or probe_file
        self._links = Links()
        self._lock = threading.RLock()
        self._is_stopped = False
        self._summary: RunSummary | None = None
        self._report: AttachReport | None = None
        self._started_ns: int | None = None
        self._registry = registry.build(
            probe_file, settings.mode, settings.threshold_ns, for_root=not settings.owner_uid
        )
        with ExitStack() as undo:
            self._directory = trace_path.parent
            if place is None:
                directory = os.fspath(self._directory.absolute())
                place = Place(directory, trace_path.name, Owner(identity.uid, identity.gid))
            # The file is made while the programs are loaded.
            self._writer = TraceWriter(place, settings=settings.writer)
            undo.callback(self._close_writer)
            undo.callback(self._links.close)
            libraries = tuple(map(os.fspath, settings.client_libraries))
            self._plan, self._loaded = attacher.load(
                self._registry, libraries, settings.max_tier, self._load_settings
            )
            undo.callback(self._loaded.close)
            offset_ns = clock_offset_ns()
            drainer_settings = DrainerSettings(
                settings.poll_interval_s,
                settings.profile_interval_s,
                settings.profile_entries,
                throttle_calls_per_s=settings.throttle_calls_per_s,
            )
            self._pump = Pump(
                [(ring.fd, ring.size_bytes) for ring in self._loaded.events],
                (self._loaded.strings.fd, self._loaded.strings.size_bytes),
                [function.pump for function in self._registry.functions],
                identity.hostname,
                offset_ns,
                buffer_bytes=drainer_settings.text_bytes,
                included=tuple(map(os.fsencode, settings.inclusion_paths)),
            )
            undo.callback(self._pump.close)
            self._writer.opened()
            self._skipped = SkippedRuns(self._loaded, self._links)
            self._drainer = Drainer(
                self._loaded,
                self._skipped,
                self._pump,
                self._writer,
                [function.pump for function in self._registry.functions],
                offset_ns,
                drainer_settings,
            )
            self._clock_offset_ns = offset_ns
            self._undo = undo.pop_all()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_stopped:
            self.stop()

    @property
    def trace_path(self) -> Path:
        """The trace file."""
        return self._directory / self._writer.name

    @property
    def registry(self) -> registry.Registry:
        """What is recorded, and what is not."""
        return self._registry

    def attach(self) -> AttachReport:
        """Attach everything. Nothing is recorded until :meth:`start`.

        Raises:
            AttachError: What every run needs cannot be attached, or nothing at all could.
        """
        report = attacher.attach(self._loaded, self._links, self._plan)
        if report.requested and not report.attached:
            first = report.failures[0]
            raise AttachError(
                f"none of {report.requested} functions can be recorded: "
                f"{first.function}: {first.reason}"
            )
        self._report = report
        return report

    def register_process(self, pid: int, *, descendants_too: bool = True) -> int:
        """Record a process, and what it starts from now on.

        Args:
            pid: The process.
            descendants_too: Also record those that it has started before.

        Returns:
            How many processes are recorded that were not before.

        Raises:
            KernelError: There is no such process.
        """
        try:
            added = int(self._register(pid))
        except OSError as error:
            raise KernelError(f"process {pid}: {error.strerror}") from error
        for _ in range(_REGISTER_ROUNDS if descendants_too else 0):
            found = sum(self._register_if_alive(child) for child in descendants(pid))
            added += found
            if not found:
                break
        return added

    def unregister_process(self, pid: int) -> None:
        """Record a process no longer; one that is gone is nobody's concern."""
        with suppress(OSError):
            self._loaded.unregister(pid)

    def _register(self, pid: int) -> bool:
        if not self._loaded.register(pid):
            return False
        status = Path(f"/proc/{pid}/comm")
        try:
            name = os.fsdecode(status.read_bytes().rstrip(b"\n"))
        except OSError:
            return True
        self._append("process_name", {"name": name}, pid)
        return True

    def _register_if_alive(self, pid: int) -> bool:
        try:
            return self._register(pid)
        except OSError:
            return False

    def start(self) -> None:
        """Record from now on."""
        self._append("datacrumbs", self._description())
        self._drainer.start()
        self._skipped.begin()
        self._started_ns = time.monotonic_ns()
        self._loaded.recording = True

    def statistics(self, files: int = FILES_IN_SUMMARY) -> Statistics:
        """Return what was recorded so far.

        Args:
            files: How many of the busiest files to name.
        """
        with self._lock:
            if self._summary is not None:
                return self._summary.statistics
            functions = self._registry.functions
            counters = self._writer.counters()
            return Statistics(
                functions=tuple(
                    FunctionSummary(
                        functions[each.index].pump.category,
                        functions[each.index].pump.name,
                        functions[each.index].name,
                        each,
                    )
                    for each in self._drainer.function_statistics()
                ),
                files=self._pump.file_statistics(files),
                losses=self._drainer.losses(),
                file_bytes=counters.file_bytes,
                text_bytes=counters.text_bytes,
                waiting_bytes=counters.waiting_bytes,
                trouble=counters.trouble,
            )

    def pin_processes(self, path: Path) -> None:
        """Let custom probes see which processes are recorded, see ``publish_processes``.

        Raises:
            KernelError: The name cannot be made.
        """
        try:
            self._loaded.pin_processes(path)
        except OSError as error:
            raise KernelError(f"{path}: {error.strerror}") from error

    @property
    def host_hash(self) -> str:
        """The ``hhash`` of all lines of the trace."""
        return self._pump.host_hash

    @property
    def clock_offset_ns(self) -> int:
        """What CLOCK_MONOTONIC lacked to nanoseconds since the epoch when the run began."""
        return self._clock_offset_ns

    def append_lines(self, lines: bytes) -> None:
        """Add lines of others to the trace, from any thread until :meth:`stop`."""
        self._pump.append(lines)

    @property
    def failure(self) -> BaseException | None:
        """Why the trace ended before its time, or None: nothing more is recorded then."""
        return self._drainer.failure

    def hurry(self) -> None:
        """Let :meth:`stop` not wait for the disk any more, from any thread."""
        self._writer.hurry()

    def stop(self) -> RunSummary:
        """Detach, write what is left, and close everything. Later calls return the same.

        Nothing stays in the kernel, whatever fails. A run that was never started leaves no file.
        """
        with self._lock:
            if self._summary is None:
                if self._is_stopped:
                    raise TraceError(f"{self.trace_path}: the run ended with an error before")
                self._is_stopped = True
                with self._undo:
                    self._summary = self._finish()
            return self._summary

    def _finish(self) -> RunSummary:
        stopped_ns = time.monotonic_ns()
        # What was recorded is worth more than an error here; the end of the process detaches.
        with suppress(OSError):
            self._links.close()
        # What is running now may still write into the rings.
        self._loaded.wait_for_programs()
        self._loaded.recording = False
        detach_ns = time.monotonic_ns() - stopped_ns
        if self._started_ns is None:
            self._close_writer()
        self._drainer.finish()
        summary = RunSummary(
            self.trace_path,
            stopped_ns - (self._started_ns or stopped_ns),
            self.statistics(),
            detach_ns,
            is_complete=not self._writer.is_left_behind,
        )
        if self._started_ns is not None:
            losses = summary.statistics.losses
            log = logger.warning if losses.lost_calls or losses.unaccounted else logger.info
            counted = f" and {losses.counted} that were counted" if losses.counted else ""
            calls, lost = summary.events, losses.summary()
            log("%s: %d calls%s, %s", summary.trace_path, calls, counted, lost)
        return summary

    def _close_writer(self) -> None:
        # A run that was never started leaves no trace.
        (self._writer.discard if self._started_ns is None else self._writer.close)()

    def _load_settings(self, plan: attacher.Plan) -> LoadSettings:
        settings, built = self._settings, self._registry
        return LoadSettings(
            functions=[function.row for function in built.functions],
            programs=plan.programs,
            tracepoints=[target.row for target in built.tracepoints],
            syscalls=built.syscalls,
            aio=built.aio,
            renaming_syscalls=built.renaming_syscalls,
            owner_uid=settings.owner_uid,
            owner_cgroup=settings.owner_cgroup,
            owner_hierarchy=settings.owner_hierarchy,
            publish_processes=settings.publish_processes,
            all_processes=settings.all_processes,
            string_bytes=settings.string_capture_bytes,
            include_kernel_threads=settings.include_kernel_threads,
            ring_buffer_bytes=settings.ring_buffer_bytes,
            ring_buffers_total_bytes=settings.ring_buffers_total_bytes,
            strings_buffer_bytes=settings.strings_buffer_bytes,
            profile_entries=settings.profile_entries,
            places=plan.places,
        )

    def _description(self) -> dict[str, str | int]:
        document = canonical_bytes(document_from_probe_file(self._described_as))
        report = self._report or AttachReport(0, 0)
        tiers: Mapping[str, str] = report.tiers
        return {
            "run_id": self._identity.run_id,
            "user": self._identity.user,
            "uid": self._identity.uid,
            "version": __version__,
            "kernel": os.uname().release,
            "machine": os.uname().machine,
            "mode": self._settings.mode,
            "threshold_ns": self._settings.threshold_ns,
            "probe_file": self._described_as.summary.probe_file_path,
            "probe_file_sha256": sha256(document).hexdigest(),
            "requested": report.requested,
            "attached": report.attached,
            "clock_offset_ns": self._clock_offset_ns,
            "cpus": len(self._loaded.events),
            **{f"tier_{kind}": tier for kind, tier in tiers.items()},
        }

    def _append(
        self, name: str, arguments: Mapping[str, str | int], process: int | None = None
    ) -> None:
        self._pump.append(
            metadata_line(name, arguments, host_hash=self._pump.host_hash, process=process)
        )
