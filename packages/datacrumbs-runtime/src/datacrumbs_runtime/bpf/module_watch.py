"""Whether the modules that a run's kernel functions belong to are still loaded.

Multi links, fentry and raw tracepoints keep a module from being unloaded. Events of tracefs and
perf do not: the kernel drops their probes with the module, says nothing, and does not put them back
when the module is loaded again.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from datacrumbs_runtime.bpf.kernel_symbols import KALLSYMS
from datacrumbs_runtime.bpf.targets import KprobeTarget

MODULES = Path("/sys/module")


class Unloaded(NamedTuple):
    """A module that is gone, and what was attached to its functions."""

    module: str
    targets: tuple[KprobeTarget, ...]


class ModuleWatch:
    """Notices that a module was unloaded, even if it was loaded again meanwhile.

    Args:
        targets: Functions that are attached, of modules or not.
        kallsyms: The kernel's symbols.
        modules: Directory with one entry for each loaded module.
    """

    def __init__(
        self,
        targets: Iterable[KprobeTarget],
        kallsyms: Path = KALLSYMS,
        modules: Path = MODULES,
    ) -> None:
        self._directory = modules
        self._targets: dict[str, list[KprobeTarget]] = defaultdict(list)
        by_symbol: dict[str, list[KprobeTarget]] = defaultdict(list)
        for target in targets:
            by_symbol[target.symbol].append(target)
        if by_symbol:
            with kallsyms.open() as lines:
                for line in lines:
                    # Symbols of the kernel itself have no module behind their name.
                    if line.endswith("]\n"):
                        _, _, symbol, module, *_ = line.split()
                        if symbol in by_symbol:
                            self._targets[module.strip("[]")] += by_symbol.pop(symbol)
        self._loaded = {module: self._identity(module) for module in self._targets}

    def unloaded(self) -> list[Unloaded]:
        """Return the modules that were unloaded since the last call."""
        gone = [name for name, seen in self._loaded.items() if self._identity(name) != seen]
        for name in gone:
            del self._loaded[name]
        return [Unloaded(name, tuple(self._targets[name])) for name in gone]

    def _identity(self, module: str) -> int | None:
        """Return what tells a loaded module from the same one loaded again; None: it is not."""
        try:
            return (self._directory / module).stat().st_ino
        except OSError:
            return None
