"""What tracefs and debugfs say about the kernel, where this user may read them (root, usually)."""

from pathlib import Path

DIRECTORIES = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
KPROBES_BLACKLIST = Path("/sys/kernel/debug/kprobes/blacklist")


def traceable_functions() -> frozenset[str] | None:
    """Return the functions that ftrace can trace, or None where that cannot be read."""
    for directory in DIRECTORIES:
        try:
            text = (directory / "available_filter_functions").read_text("ascii", "replace")
        except OSError:
            continue
        # A function of a module is followed by the module's name in brackets.
        return frozenset(line.split(maxsplit=1)[0] for line in text.splitlines() if line)
    return None


def blacklisted_functions() -> frozenset[str]:
    """Return the functions on which no kprobe may be set; none where that cannot be read."""
    try:
        text = KPROBES_BLACKLIST.read_text("ascii", "replace")
    except OSError:
        return frozenset()
    return frozenset(parts[1] for line in text.splitlines() if len(parts := line.split()) > 1)
