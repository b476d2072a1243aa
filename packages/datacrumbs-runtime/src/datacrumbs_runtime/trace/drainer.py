"""The thread of a run that does the work: rings to lines, lines to the file, losses said.

It wakes up by itself every few milliseconds: waking it would cost the recorded application more
than the recording itself.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from datacrumbs_runtime.bpf.layout import Loss, Mode
from datacrumbs_runtime.bpf.loader import Loaded
from datacrumbs_runtime.bpf.skipped_runs import SkippedRuns
from datacrumbs_runtime.trace.aggregator import Aggregator, NamedFunction
from datacrumbs_runtime.trace.clock import clock_offset_ns
from datacrumbs_runtime.trace.losses import Losses, LossesInTrace, losses_from_counters
from datacrumbs_runtime.trace.pump import FunctionStatistics, Pump
from datacrumbs_runtime.trace.throttle import Throttle
from datacrumbs_runtime.trace.trace_lines import metadata_line
from datacrumbs_runtime.trace.writer import TraceWriter

logger = logging.getLogger(__name__)

# The pause between two drains: longer while nothing comes, none while rings fill faster than this.
SHORTEST_PAUSE_SHARE = 0.7
LONGEST_PAUSE_SHARE = 1.7
BUSY_RECORDS = 2048
LOSSES_INTERVAL_S = 1.0
THROTTLE_INTERVAL_S = 1.0
# The kernel's sums are taken before they have filled this share of their room, for which it must be
# known how fast they do; lines are written once an interval, or when there are so many.
PROFILE_FILL_SHARE = 0.25
PROFILE_LONGEST_PAUSE_S = 0.2
PROFILE_PENDING_LINES = 16384
CLOCK_INTERVAL_S = 10.0
# Below this the clock is left alone, so that calls keep nesting.
CLOCK_TOLERANCE_NS = 50_000
LAST_DRAINS = 100
LAST_DRAIN_PAUSE_S = 0.002


@dataclass(frozen=True, slots=True)
class DrainerSettings:
    """How often the thread does what.

    Attributes:
        poll_interval_s: Pause between two drains of the rings, in seconds.
        profile_interval_s: Interval of the counter lines of profile mode, in seconds.
        profile_entries: How many sums of profile mode the kernel has room for.
        text_bytes: A drain is cut short at this much text: the ``buffer_bytes`` of the pump.
        throttle_calls_per_s: Functions that are called more often are counted for a while; 0:
            never.
    """

    poll_interval_s: float = 0.003
    profile_interval_s: float = 1.0
    profile_entries: int = 65536
    text_bytes: int = 1 << 20
    throttle_calls_per_s: int = 0


class Drainer:
    """Moves what the programs record into the trace file until it is told to finish.

    Args:
        loaded: The programs.
        skipped: What the kernel left out of them.
        pump: Formats the records; only this thread drains it.
        writer: The trace file; only this thread writes it.
        functions: What the index of a function stands for.
        clock_offset: What the pump was given, in nanoseconds.
        settings: How often what is done.
    """

    def __init__(
        self,
        loaded: Loaded,
        skipped: SkippedRuns,
        pump: Pump,
        writer: TraceWriter,
        functions: Sequence[NamedFunction],
        clock_offset: int,
        settings: DrainerSettings,
    ) -> None:
        self._loaded = loaded
        self._skipped = skipped
        self._functions = functions
        self._throttle = Throttle(
            settings.throttle_calls_per_s,
            (index for index, mode in enumerate(loaded.modes()) if mode == Mode.TRACE),
        )
        self._pump = pump
        self._writer = writer
        self._settings = settings
        self._clock_offset_ns = clock_offset
        self._in_trace = LossesInTrace(pump.host_hash)
        self._aggregator = Aggregator(functions, pump.host_hash)
        self._summed = 0
        now_s = time.monotonic()
        self._losses_at_s = now_s + LOSSES_INTERVAL_S
        self._clock_at_s = now_s + CLOCK_INTERVAL_S
        self._throttle_at_s = now_s + THROTTLE_INTERVAL_S
        self._throttled_at_s = now_s
        self._throttle_seen = (0, 0)
        self._profile_at_s = now_s + settings.profile_interval_s
        self._profile_taken_s = now_s
        self._profile_due_s = now_s
        self._profile_begin_us = self._now_us()
        self._lock = threading.Lock()
        self._finish = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="datacrumbs-drain", daemon=True)

    def start(self) -> None:
        """Begin to drain."""
        self._thread.start()

    @property
    def failure(self) -> BaseException | None:
        """What ended the thread before its time, or None."""
        return self._failure

    def finish(self) -> Losses:
        """Drain the rest, say what is missing, and end the thread. Nothing is attached any more.

        Returns:
            The final counters.
        """
        self._finish.set()
        if self._thread.is_alive():
            self._thread.join()
        for _ in range(LAST_DRAINS):
            while self._drain():
                pass
            if not self.losses().unaccounted:
                break
            time.sleep(LAST_DRAIN_PAUSE_S)
        self._take_profile()
        self._write_profile()
        self._say_losses(is_last=True)
        self._write_lines()
        self._writer.close()
        return self.losses()

    def losses(self) -> Losses:
        """Return the counters of what was recorded and lost so far."""
        # Before the kernel's: what is written meanwhile was offered earlier.
        written = self._pump.counters()
        return losses_from_counters(
            self._loaded.losses(),
            written=written.events,
            bad_records=written.bad_records,
            unknown_ids=written.unknown_ids,
            excluded=written.excluded,
            unwritten=self._writer.counters().dropped_events,
            skipped=self._skipped.count(),
        )

    def function_statistics(self) -> list[FunctionStatistics]:
        """Return the sums of all functions that were called, traced and counted ones."""
        with self._lock:
            counted = {each.index: each for each in self._aggregator.function_statistics()}
        traced = {each.index: each for each in self._pump.function_statistics()}
        return [
            _sum(traced[index], counted[index])
            if index in traced and index in counted
            else traced.get(index) or counted[index]
            for index in sorted(traced.keys() | counted.keys())
        ]

    def _run(self) -> None:
        pause_s = self._settings.poll_interval_s
        try:
            while not self._finish.wait(pause_s):
                records = self._drain()
                self._do_what_is_due()
                pause_s = self._pause_s(records)
        except BaseException as error:
            self._failure = error
            self._loaded.recording = False
            logger.exception("the trace ends early")

    def _pause_s(self, records: int) -> float:
        interval_s = self._settings.poll_interval_s
        if self._was_cut_short:
            return 0.0
        if records == 0:
            return interval_s * LONGEST_PAUSE_SHARE
        if records > BUSY_RECORDS:
            return interval_s * SHORTEST_PAUSE_SHARE
        return interval_s

    _was_cut_short = False

    def _drain(self) -> int:
        records = self._pump.drain()
        self._was_cut_short = self._pump.pending >= self._settings.text_bytes
        self._write_lines()
        return records

    def _write_lines(self) -> None:
        if self._pump.pending:
            self._writer.write(self._pump.take())

    def _do_what_is_due(self) -> None:
        self._writer.poll()
        now_s = time.monotonic()
        if now_s >= self._losses_at_s:
            self._losses_at_s = now_s + LOSSES_INTERVAL_S
            self._say_losses(is_last=False)
        if now_s >= self._profile_due_s:
            self._take_profile()
        if now_s >= self._profile_at_s or self._aggregator.pending > PROFILE_PENDING_LINES:
            self._profile_at_s = now_s + self._settings.profile_interval_s
            self._write_profile()
        if now_s >= self._throttle_at_s:
            self._throttle_at_s = now_s + THROTTLE_INTERVAL_S
            self._throttle_functions()
        if now_s >= self._clock_at_s:
            self._clock_at_s = now_s + CLOCK_INTERVAL_S
            self._follow_clock()

    def _say_losses(self, *, is_last: bool) -> None:
        line = self._in_trace.line(self.losses(), self._now_us(), is_last=is_last)
        if line is not None:
            self._pump.append(line)

    def _take_profile(self) -> None:
        """Move the sums of profile mode out of the kernel, where their room is limited."""
        taken = 0
        counters = self._loaded.losses()
        summed = counters[Loss.COUNTED] + counters[Loss.BELOW_THRESHOLD]
        # Emptying the profile waits for the kernel: not when nothing was counted.
        if summed != self._summed:
            self._summed = summed
            entries = self._loaded.take_profile()
            taken = len(entries)
            with self._lock:
                self._aggregator.add(
                    (entry.key.function, entry.key.process, entry.sums) for entry in entries
                )
        now_s = time.monotonic()
        rate = taken / (now_s - self._profile_taken_s)
        self._profile_taken_s = now_s
        pause_s = min(PROFILE_LONGEST_PAUSE_S, self._settings.profile_interval_s)
        if rate:
            pause_s = min(pause_s, PROFILE_FILL_SHARE * self._settings.profile_entries / rate)
        self._profile_due_s = now_s + pause_s

    def _write_profile(self) -> None:
        # The clock may have been put back.
        end_us = max(self._now_us(), self._profile_begin_us)
        with self._lock:
            lines = self._aggregator.take_lines(self._profile_begin_us, end_us)
        if lines:
            self._pump.append(lines)
        self._profile_begin_us = end_us

    def _throttle_functions(self) -> None:
        limit = self._settings.throttle_calls_per_s
        now_s = time.monotonic()
        elapsed_s, self._throttled_at_s = now_s - self._throttled_at_s, now_s
        all_written = self._pump.counters().events
        all_offered = self._loaded.losses()[Loss.OFFERED]
        seen, self._throttle_seen = self._throttle_seen, (all_offered, all_written)
        offered, written = all_offered - seen[0], all_written - seen[1]
        # Looking at each function costs something: only if one of them can be above the limit.
        if not limit or (offered < limit * elapsed_s and not self._throttle.counted):
            return
        calls = {each.index: each.calls for each in self.function_statistics()}
        loss = max(1.0, offered / written) if written else 1.0
        for function, is_counted, rate in self._throttle.check(calls, elapsed_s, loss):
            mode = Mode.PROFILE if is_counted else Mode.TRACE
            self._loaded.set_mode(function, mode)
            named = self._functions[function]
            logger.warning(
                "%s: %s: %.0f calls/s: %s from now on",
                named.category,
                named.name,
                rate,
                "counted instead of traced" if is_counted else "traced again",
            )
            line = metadata_line(
                "datacrumbs_mode",
                {
                    "at": self._now_us(),
                    "category": named.category,
                    "function": named.name,
                    "mode": "profile" if is_counted else "trace",
                    "calls_per_s": round(rate),
                    "limit_calls_per_s": limit,
                },
                host_hash=self._pump.host_hash,
            )
            self._pump.append(line)

    def _follow_clock(self) -> None:
        offset_ns = clock_offset_ns()
        if abs(offset_ns - self._clock_offset_ns) > CLOCK_TOLERANCE_NS:
            logger.info("the clock moved by %d ns", offset_ns - self._clock_offset_ns)
            self._clock_offset_ns = offset_ns
            self._pump.set_clock_offset(offset_ns)

    def _now_us(self) -> int:
        return (time.monotonic_ns() + self._clock_offset_ns) // 1000


def _sum(traced: FunctionStatistics, counted: FunctionStatistics) -> FunctionStatistics:
    """Add what was counted to what was traced; percentiles are those of the greater part."""
    greater = traced if traced.calls >= counted.calls else counted
    return FunctionStatistics(
        index=traced.index,
        calls=traced.calls + counted.calls,
        errors=traced.errors + counted.errors,
        time_ns=traced.time_ns + counted.time_ns,
        min_ns=min(traced.min_ns, counted.min_ns),
        max_ns=max(traced.max_ns, counted.max_ns),
        bytes=traced.bytes + counted.bytes,
        p50_ns=greater.p50_ns,
        p99_ns=greater.p99_ns,
        histogram=tuple(map(sum, zip(traced.histogram, counted.histogram, strict=True))),
    )
