"""How often the kernel left out the programs of a run since it began to record."""

from datacrumbs_runtime.bpf.links import Links
from datacrumbs_runtime.bpf.loader import Loaded


class SkippedRuns:
    """What programs and links missed, each counted by the kernel, from :meth:`begin` on.

    Args:
        loaded: The programs.
        links: What they are attached by.
    """

    def __init__(self, loaded: Loaded, links: Links) -> None:
        self._loaded = loaded
        self._links = links
        self._before: int | None = None

    def begin(self) -> None:
        """Leave out what was missed until now."""
        self._before = self._loaded.skipped() + self._links.missed(of_events=True)

    def count(self) -> int:
        """Return how often a program was not run, whoever's call it was.

        Events of tracefs count when the links are closed: asking could take the kernel seconds.
        """
        if self._before is None:
            return 0
        return self._loaded.skipped() + self._links.missed() - self._before
