"""Where the daemon's log goes: standard error, or under a service manager a file of the run.

Whoever logs never waits: a file system that does not answer, or a terminal that nobody reads, must
hold no run.
"""

import logging
import os
import platform
import queue
import stat
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from datacrumbs_runtime.errors import ConfigurationError, SigningError
from datacrumbs_runtime.reading_rights import keep_for_reader
from datacrumbs_runtime.signing.accounts import account_of_uid, open_as_user
from datacrumbs_runtime.stop_signals import start_without_signals

logger = logging.getLogger(__name__)

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
MODE = 0o600
# More than a run with the most functions says when all of them fail.
MAX_WAITING_LINES = 20_000
# A name may have 16384 characters, a run as many functions, and all of them may fail.
MAX_LINE_CHARS = 500
_LEFT_OUT = " ... "
LAST_WAIT_S = 0.5
_LOOK_S = 0.002
_CONTROL_CHARACTERS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_FILE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_TERMINAL_FORMAT = "datacrumbs: %(levelname)s: %(message)s"


class _Unhurried(logging.Handler):
    """Writes to a descriptor, in a thread; what comes while too much waits is lost and counted."""

    def __init__(self, fd: int, formatter: logging.Formatter, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self.setFormatter(formatter)
        self._fd = fd
        self._lines: queue.Queue[bytes] = queue.Queue(MAX_WAITING_LINES)
        self._lost = 0
        self._has_thread = True
        try:
            start_without_signals(
                threading.Thread(target=self._write, name="datacrumbs-log", daemon=True)
            )
        except RuntimeError:
            # No room for a thread: then as everybody else does it.
            self._has_thread = False

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line."""
        # Names of files may hold anything, and each record is one line.
        text = self.format(record) + "\n"
        line = text.encode(errors="backslashreplace")
        if not self._has_thread:
            self._write_now(line)
            return
        if self._lost:
            text = f"{self._lost} lines of the log are missing here\n"
            with suppress(queue.Full):
                self._lines.put_nowait(text.encode())
                self._lost = 0
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._lost += 1

    def flush(self) -> None:
        """Wait for the lines so far, but not for ever."""
        end_s = time.monotonic() + LAST_WAIT_S
        while self._lines.unfinished_tasks and time.monotonic() < end_s:
            time.sleep(_LOOK_S)

    def _write(self) -> None:
        while True:
            self._write_now(self._lines.get())
            self._lines.task_done()

    def _write_now(self, line: bytes) -> None:
        view = memoryview(line)
        with suppress(OSError):
            while view:
                view = view[os.write(self._fd, view) :]


class _OneLine(logging.Formatter):
    """Formats a record so that nothing in it can look like another record."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """Return the record without its traceback, if it has one."""
        text = super().formatMessage(record)
        if len(text) > MAX_LINE_CHARS:
            # The middle goes: in front is what it is about, at the end what is wrong.
            half = (MAX_LINE_CHARS - len(_LEFT_OUT)) // 2
            text = f"{text[:half]}{_LEFT_OUT}{text[-half:]}"
        return text.translate(_CONTROL_CHARACTERS)


class _LowerCaseLevel(_OneLine):
    def format(self, record: logging.LogRecord) -> str:
        record.levelname = record.levelname.lower()
        return super().format(record)


def log_path(log_dir: Path, user: str, run_id: str) -> Path:
    """Return the log of a run that a service manager started."""
    return log_dir / f"datacrumbs_{user}_{run_id}_{platform.node()}.log"


def log_to_terminal(level: str) -> None:
    """Send the log to standard error."""
    handler = _Unhurried(2, _LowerCaseLevel(_TERMINAL_FORMAT))
    logging.basicConfig(level=LEVELS[level], handlers=[handler], force=True)


def log_to_file(path: Path, level: str, reader_uid: int | None, *, timeout_s: float) -> None:
    """Send the log, standard output and standard error to a file.

    Warnings and errors still reach the standard error of before as well, which under a service
    manager is the journal.

    Args:
        path: The file; it is appended to.
        level: What is logged.
        reader_uid: Who may read it besides root; None: nobody.
        timeout_s: How long its file system may take.

    Raises:
        ConfigurationError: It cannot be written.
    """
    account = account_of_uid(os.geteuid())
    try:
        fd = open_as_user(
            account,
            os.fspath(path),
            timeout_s=timeout_s,
            opener=lambda name: _open_log(Path(name), reader_uid),
        )
    except SigningError as error:
        raise ConfigurationError(str(error)) from error
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    journal = _Unhurried(os.dup(2), _LowerCaseLevel(_TERMINAL_FORMAT), logging.WARNING)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    handler = _Unhurried(2, _LowerCaseLevel(_FILE_FORMAT))
    logging.basicConfig(level=LEVELS[level], handlers=[handler, journal], force=True)
    sys.excepthook = _log_unexpected


def _open_log(path: Path, reader_uid: int | None) -> int:
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(path, flags | os.O_CLOEXEC, MODE)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            os.close(fd)
            raise SigningError(f"{path}: something else is there")
        keep_for_reader(fd, reader_uid, MODE)
    except OSError as error:
        raise SigningError(f"{path}: {error.strerror}") from error
    return fd


def settle() -> None:
    """Wait for the log so far, but not for ever."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def _log_unexpected(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    logger.critical("unexpected error", exc_info=(kind, error, trace))
