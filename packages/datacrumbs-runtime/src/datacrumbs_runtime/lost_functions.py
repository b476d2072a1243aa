"""Functions that a run cannot record any more while it lives, and who is told."""

import logging
import time

from datacrumbs_runtime.bpf.attach_report import AttachFailure, AttachReport
from datacrumbs_runtime.bpf.features import Tier
from datacrumbs_runtime.bpf.kernel_symbols import symbol_list
from datacrumbs_runtime.bpf.module_watch import ModuleWatch
from datacrumbs_runtime.engine import Engine
from datacrumbs_runtime.run_status import RunStatus
from datacrumbs_runtime.trace.trace_lines import metadata_line

logger = logging.getLogger(__name__)

# The ways of attaching that leave a module free to go.
WITHOUT_MODULE = frozenset({Tier.KPROBE_TRACEFS.value, Tier.KPROBE_PERF.value})


class LostFunctions:
    """Tells log, status and trace about functions whose module was unloaded.

    Args:
        engine: The run.
        report: What came of attaching.
        status: The run's status.
    """

    def __init__(self, engine: Engine, report: AttachReport, status: RunStatus) -> None:
        self._engine = engine
        self._status = status
        self._functions = engine.registry.functions
        if not WITHOUT_MODULE.intersection(report.tiers.get("kprobe", "").split(",")):
            self._watch = ModuleWatch((), b"")
            return
        failed = {(failure.category, failure.function) for failure in report.failures}
        attached = (
            target
            for target in engine.registry.kprobes
            if (self._functions[target.function].category, target.name) not in failed
        )
        self._watch = ModuleWatch(attached, symbol_list())

    def check(self) -> None:
        """Look whether there are any since the last call."""
        for module, targets in self._watch.unloaded():
            reason = f"the module {module} was unloaded; not recorded any more in this run"
            lost = [
                AttachFailure(self._functions[target.function].category, target.name, reason)
                for target in targets
            ]
            self._status.add_failures(lost)
            for failure in lost:
                logger.warning("%s: %s: %s", *failure)
                line = metadata_line(
                    "datacrumbs_detached",
                    {
                        "at": time.time_ns() // 1000,
                        "category": failure.category,
                        "function": failure.function,
                        "reason": reason,
                    },
                    host_hash=self._engine.host_hash,
                )
                self._engine.append_lines(line)
