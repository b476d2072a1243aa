"""Where the trace goes."""

import os
from pathlib import Path

from datacrumbs_runtime.errors import TraceError

SUFFIX = ".pfw.gz"


def trace_path(output: Path | None, user: str, run_id: str, hostname: str, probes: str) -> Path:
    """Return the path of the trace.

    Args:
        output: A file, a directory, or None for the working directory.
        user: Whose processes are recorded.
        run_id: Name of the run.
        hostname: This node.
        probes: Name of what is recorded.

    Raises:
        TraceError: The directory is not there or cannot be written to.
    """
    name = f"trace-{user}-{run_id}-{hostname}-{probes}{SUFFIX}"
    if output is None:
        path = Path.cwd() / name
    elif output.is_dir() or str(output).endswith(os.sep):
        path = output / name
    else:
        path = output
    directory = path.parent
    if not directory.exists():
        raise TraceError(
            f"{directory}: no such directory", hint="make it first, or choose another --output"
        )
    if not directory.is_dir():
        raise TraceError(f"{directory}: not a directory")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise TraceError(f"{directory}: not writable", hint="choose another place with --output")
    return path.absolute()
