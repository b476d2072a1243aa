"""Functions of the running kernel from ``/proc/kallsyms``, and why some cannot be probed."""

import re
from collections import Counter
from pathlib import Path

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_utils.discovery import hazards, tracefs
from datacrumbs_utils.discovery.candidates import Candidate

KALLSYMS = Path("/proc/kallsyms")

# T and t as users know them from nm; weak functions are functions too. Left out: the padding before
# each function (__pfx_, __cfi_), and what comes and goes (BPF programs, trampolines of ftrace).
_LINE = re.compile(
    r"^\S+ [TtWw] (?!__(?:pfx|cfi)_)(\S+)(?:\t\[(?!bpf\]|__builtin__ftrace\])\S+\])?$",
    re.MULTILINE,
)

_NOT_FUNCTIONS = re.compile(
    r"""(?P<cold>.*\.cold(?:\.\d+)?)
      | (?P<thunk>__x86_(?:indirect|return)_.*|__SCT__.*|__SCK__.*|srso_.*|entry_untrain_ret)
      | (?P<stub>__(?:probestub|traceiter|bpf_trace)_.*|perf_trace_.*|trace_event_raw_event_.*)
      | (?P<init>__UNIQUE_ID_.*|__initcall_.*|\.L.*|__key\..*)
    """,
    re.VERBOSE,
)
_REASONS = {
    "cold": hazards.COLD,
    "thunk": "code that branches go through, not a function",
    "stub": "part of a tracepoint: record the tracepoint instead",
    "init": "label that the compiler made, not a function",
}
NOT_TRACEABLE = "the kernel does not allow tracing here (notrace, noinstr or start-up code)"
BLACKLISTED = "on the kernel's list of functions that must not be probed"
AMBIGUOUS = "several functions of the kernel have this name"
_SECTION_ENDS = ("__start___", "__stop___")


def functions(path: Path = KALLSYMS) -> list[Candidate]:
    """Return the kernel's functions, sorted by name, with the reason for those that are refused.

    Args:
        path: The symbol list; addresses in it may be hidden (0), only names and types are used.

    Raises:
        ConfigurationError: It cannot be read.
    """
    try:
        text = path.read_text("ascii", "replace")
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    counts = Counter(_LINE.findall(text))
    traceable = tracefs.traceable_functions()
    blacklist = tracefs.blacklisted_functions()
    return [
        Candidate(symbol=name, refused=_refusal(name, counts[name], traceable, blacklist))
        for name in sorted(counts)
    ]


def _refusal(
    name: str, count: int, traceable: frozenset[str] | None, blacklist: frozenset[str]
) -> str | None:
    match = _NOT_FUNCTIONS.fullmatch(name) if name[0] in "_.se" or ".cold" in name else None
    if match and match.lastgroup:
        return _REASONS[match.lastgroup]
    if name.startswith(_SECTION_ENDS):
        return _REASONS["init"]
    # Copies that the compiler made (pci_serr_error.part.0) are refused with their original.
    if name in blacklist or name.partition(".")[0] in blacklist:
        return BLACKLISTED
    if traceable is not None and name not in traceable:
        return NOT_TRACEABLE
    if count > 1:
        return AMBIGUOUS
    return None
