"""What a run is given, and what it returns."""

from dataclasses import dataclass, field
from pathlib import Path

from datacrumbs_runtime.trace.losses import Losses
from datacrumbs_runtime.trace.pump import BusiestFiles, FunctionStatistics
from datacrumbs_runtime.trace.writer import WriterSettings

FILES_IN_SUMMARY = 20


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How a run records.

    Attributes:
        mode: ``trace`` or ``profile``, for categories of the probe file that do not say.
        ring_buffer_bytes: Size of the event ring of each CPU.
        ring_buffers_total_bytes: All event rings together have at most this size.
        strings_buffer_bytes: Size of the ring of names and texts.
        poll_interval_s: Pause between two drains of the rings, in seconds.
        threshold_ns: Shorter calls are summed, not traced.
        string_capture_bytes: Longest captured text.
        inclusion_paths: Only calls about files below these directories are traced, and calls of
            functions that are not about files; empty: all. Counted calls are counted for all files.
        profile_interval_s: Interval of the counters of profile mode, in seconds.
        throttle_calls_per_s: A function that is called more often is counted instead of traced
            until it calms down; 0: never.
        profile_entries: How many functions of processes on CPUs can be counted in one interval.
        owner_uid: Only processes of this user can register; None: of anybody.
        owner_cgroup: Only processes in this cgroup (its id) can register; None: anywhere.
        owner_hierarchy: The hierarchy of that cgroup; 0: the unified one (v2).
        all_processes: Whether processes of the owner register when they execute a program.
        publish_processes: Whether :meth:`Engine.pin_processes` will be used.
        include_kernel_threads: Whether tracepoints also record threads of the kernel.
        client_libraries: Files with ``datacrumbs_start`` and ``datacrumbs_stop``, by which
            processes register themselves.
        max_tier: Tiers of attaching above which nothing is tried, separated by commas.
        writer: Sizes and times of the trace file.
    """

    mode: str = "trace"
    ring_buffer_bytes: int = 16 << 20
    ring_buffers_total_bytes: int = 1 << 30
    strings_buffer_bytes: int = 8 << 20
    poll_interval_s: float = 0.003
    threshold_ns: int = 0
    string_capture_bytes: int = 64
    inclusion_paths: tuple[Path, ...] = ()
    profile_interval_s: float = 1.0
    throttle_calls_per_s: int = 2_000_000
    profile_entries: int = 65536
    owner_uid: int | None = None
    owner_cgroup: int | None = None
    owner_hierarchy: int = 0
    publish_processes: bool = False
    all_processes: bool = False
    include_kernel_threads: bool = False
    client_libraries: tuple[Path, ...] = ()
    max_tier: str | None = None
    writer: WriterSettings = field(default_factory=WriterSettings)


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose run it is, and where.

    Attributes:
        user: Name of the user.
        uid: Whose the trace file is.
        gid: Its group.
        run_id: Name of the run.
        hostname: Name of this node in the trace.
    """

    user: str
    uid: int
    gid: int
    run_id: str
    hostname: str


@dataclass(frozen=True, slots=True)
class FunctionSummary:
    """The calls of one function.

    Attributes:
        category: Its category in the trace.
        name: Its name in the trace.
        probe_name: Its name in the probe file.
        statistics: Sums of its calls.
    """

    category: str
    name: str
    probe_name: str
    statistics: FunctionStatistics


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a run has recorded so far.

    Attributes:
        functions: The functions that were called.
        files: The busiest files.
        losses: What was offered, written and lost.
        file_bytes: Size of the trace file.
        text_bytes: Size of the trace before compression.
        waiting_bytes: How much of it waits in memory, compressed.
        trouble: Why the disk does not take it, or None.
    """

    functions: tuple[FunctionSummary, ...]
    files: BusiestFiles
    losses: Losses
    file_bytes: int
    text_bytes: int
    waiting_bytes: int = 0
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run recorded.

    Attributes:
        trace_path: The trace file.
        duration_ns: From start to stop.
        statistics: Functions, files, losses, sizes.
        detach_ns: How long detaching took.
        is_complete: Whether the file system took the end of the trace in time; if not, another
            process still tries to write it.
    """

    trace_path: Path
    duration_ns: int
    statistics: Statistics
    detach_ns: int
    is_complete: bool = True

    @property
    def events(self) -> int:
        """Calls in the trace."""
        return self.statistics.losses.written - self.statistics.losses.unwritten

    @property
    def in_flight(self) -> int:
        """Calls that began and had not ended when the run did, or never return."""
        losses = self.statistics.losses
        ended = losses.offered + losses.below_threshold + losses.counted + losses.filtered
        return losses.entered - ended - losses.profile_full
