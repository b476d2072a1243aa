"""Whether the modules that a run's kernel functions belong to are still loaded.

Multi links, fentry and raw tracepoints keep a module from being unloaded. Events of tracefs and
perf do not: the kernel drops their probes with the module, says nothing, and does not put them back
when the module is loaded again.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from datacrumbs_runtime.bpf.targets import KprobeTarget

MODULES = Path("/sys/module")

# Symbols of the kernel itself have no module behind their name.
_OF_MODULE = re.compile(rb"^[0-9a-f]+ [tTwW] (\S+)\t\[(\S+)\]$", re.MULTILINE)


class Unloaded(NamedTuple):
    """A module that is gone, and what was attached to its functions."""

    module: str
    targets: tuple[KprobeTarget, ...]


class ModuleWatch:
    """Notices that a module was unloaded, even if it was loaded again meanwhile.

    Args:
        targets: Functions that are attached, of modules or not.
        symbols: The kernel's list of its symbols.
        modules: Directory with one entry for each loaded module.
    """

    def __init__(
        self, targets: Iterable[KprobeTarget], symbols: bytes, modules: Path = MODULES
    ) -> None:
        self._directory = modules
        module_of = {
            symbol.decode(): module.decode() for symbol, module in _OF_MODULE.findall(symbols)
        }
        self._targets: dict[str, list[KprobeTarget]] = defaultdict(list)
        for target in targets:
            if target.symbol in module_of:
                self._targets[module_of[target.symbol]].append(target)
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
