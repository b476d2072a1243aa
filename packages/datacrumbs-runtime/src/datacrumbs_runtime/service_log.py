"""Where the daemon's log goes: standard error, or under a service manager a file of the run."""

import logging
import os
import platform
import sys
from pathlib import Path
from types import TracebackType

from datacrumbs_runtime.errors import ConfigurationError

logger = logging.getLogger(__name__)

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
MODE = 0o600
_FILE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_TERMINAL_FORMAT = "datacrumbs: %(levelname)s: %(message)s"


class _LowerCaseLevel(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        record.levelname = record.levelname.lower()
        return super().format(record)


def log_path(log_dir: Path, user: str, run_id: str) -> Path:
    """Return the log of a run that a service manager started."""
    return log_dir / f"datacrumbs_{user}_{run_id}_{platform.node()}.log"


def log_to_terminal(level: str) -> None:
    """Send the log to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_LowerCaseLevel(_TERMINAL_FORMAT))
    logging.basicConfig(level=LEVELS[level], handlers=[handler], force=True)


def log_to_file(path: Path, level: str, reader_uid: int | None) -> None:
    """Send the log, standard output and standard error to a file.

    Warnings and errors still reach the standard error of before as well, which under a service
    manager is the journal.

    Args:
        path: The file; it is appended to.
        level: What is logged.
        reader_uid: Who may read it besides root; None: nobody.

    Raises:
        ConfigurationError: It cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, MODE)
        if reader_uid is not None and os.geteuid() == 0:
            os.fchown(fd, reader_uid, -1)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    journal = logging.StreamHandler(os.fdopen(os.dup(2), "w", errors="backslashreplace"))
    journal.setLevel(logging.WARNING)
    journal.setFormatter(_LowerCaseLevel(_TERMINAL_FORMAT))
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    handler = logging.StreamHandler()
    handler.setFormatter(_LowerCaseLevel(_FILE_FORMAT))
    logging.basicConfig(level=LEVELS[level], handlers=[handler, journal], force=True)
    sys.excepthook = _log_unexpected


def _log_unexpected(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    logger.critical("unexpected error", exc_info=(kind, error, trace))
