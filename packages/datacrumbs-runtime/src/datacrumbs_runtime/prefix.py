"""Where this installation lies, told by where the running program lies."""

import sys
from pathlib import Path

from datacrumbs_runtime.schema.system_configuration import DATA_SUBDIRECTORY


def find_prefix() -> Path:
    """Return the installation prefix of the running program.

    A command in ``<prefix>/bin`` or ``<prefix>/sbin`` belongs to that prefix; anything else to the
    Python environment it runs in.
    """
    program = Path(sys.argv[0])
    if program.is_absolute() or "/" in sys.argv[0]:
        program = program.resolve()
        prefix = program.parent.parent
        if program.parent.name in ("bin", "sbin") and (prefix / DATA_SUBDIRECTORY).is_dir():
            return prefix
    return Path(sys.prefix)
