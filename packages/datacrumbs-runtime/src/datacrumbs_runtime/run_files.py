"""The files by which a run is known on its node, all below the run directory."""

import errno
import fcntl
import json
import os
import secrets
import stat
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from datacrumbs_runtime.errors import ConfigurationError, DatacrumbsError
from datacrumbs_runtime.reading_rights import keep_for_reader

READY_TEXT = "ready\n"
_OWN_ENVIRONMENT = "# written by the daemon\n"
_LOCK_ATTEMPTS = 5
_LOCK_PAUSE_S = 0.02
_PRIVATE = 0o400


class RunningError(DatacrumbsError):
    """A run of this id is active already."""


def run_file(run_dir: Path, run_id: str, kind: str) -> Path:
    """Return the path of a file of a run.

    Args:
        run_dir: The run directory.
        run_id: The run.
        kind: ``pid``, ``ready``, ``json`` (status), ``env``, ``runid`` or ``lock``.
    """
    return run_dir / f"datacrumbs-{run_id}.{kind}"


def prepare_run_directory(run_dir: Path) -> None:
    """Make the run directory if it is missing, and check that nobody else writes there.

    Raises:
        ConfigurationError: It cannot be made, or others could put files there.
    """
    try:
        run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        status = run_dir.stat()
    except OSError as error:
        raise ConfigurationError(f"{run_dir}: {error.strerror}") from error
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise ConfigurationError(
            f"{run_dir}: may be written by others",
            hint=f"chown root {run_dir}; chmod 755 {run_dir}",
        )


class RunFiles:
    """Claims a run id on this node and keeps its files.

    The lock file is locked as long as the run lives: a daemon that was killed leaves files but no
    lock, and the next run of that id takes over.

    :meth:`remove` may be called from another thread at any time; afterwards nothing is made any
    more.

    Args:
        run_dir: The run directory, prepared.
        run_id_file: Holds the id of the newest run.
        run_id: This run.
    """

    def __init__(self, run_dir: Path, run_id_file: Path, run_id: str) -> None:
        self._run_dir = run_dir
        self._run_id_file = run_id_file
        self._run_id = run_id
        self._made: list[Path] = []
        self._lock_fd = -1
        self._mutex = threading.RLock()
        self._is_over = False

    def claim(self) -> None:
        """Take the run id.

        Raises:
            RunningError: The id is in use.
            ConfigurationError: A file cannot be written.
        """
        with self._mutex:
            if self._is_over:
                return
            try:
                self._lock_fd = self._lock()
                self._made.append(self.path("lock"))
                # A daemon that was killed leaves these.
                for kind in ("ready", "json", "runid"):
                    self.path(kind).unlink(missing_ok=True)
            except OSError as error:
                path = error.filename or self.path("lock")
                raise ConfigurationError(f"{path}: {error.strerror}") from error
            self._replace(self.path("pid"), f"{os.getpid()}\n".encode(), 0o644)

    def path(self, kind: str) -> Path:
        """Return the path of one of this run's files."""
        return run_file(self._run_dir, self._run_id, kind)

    def _lock(self) -> int:
        # Nobody else can open the lock, and so nobody else can hold it.
        path = self.path("lock")
        attempts = 0
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever held it may have removed it in between.
                if path.exists() and os.path.samestat(os.fstat(fd), path.stat()):
                    return fd
            except BlockingIOError:
                attempts += 1
                if attempts > _LOCK_ATTEMPTS:
                    os.close(fd)
                    raise RunningError(
                        f"run {self._run_id}: is active on this node already",
                        hint=f"stop it, or choose another run id; see datacrumbs_status "
                        f"{self._run_id}",
                    ) from None
                # It may only be datacrumbs_status that looks.
                time.sleep(_LOCK_PAUSE_S)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def write_environment(self, values: Mapping[str, str]) -> None:
        """Write what the service unit would read, unless whoever started the unit wrote it."""
        path = self.path("env")
        if not path.exists() or path.read_text(errors="replace").startswith(_OWN_ENVIRONMENT):
            lines = [f"{key}={_quoted(value)}\n" for key, value in values.items()]
            self._replace(path, "".join([_OWN_ENVIRONMENT, *lines]).encode(), 0o644)

    def announce(self) -> None:
        """Say that the run is ready: run-id files, then the ready file."""
        self._replace(self.path("runid"), self._run_id.encode(), 0o644)
        self._replace(self._run_id_file, self._run_id.encode(), 0o644)
        self._replace(self.path("ready"), READY_TEXT.encode(), 0o644)

    def write_status(self, status: Mapping[str, object], reader_uid: int) -> None:
        """Replace the status, which only root and this user may read."""
        text = json.dumps(status, separators=(",", ":"))
        self._replace(self.path("json"), text.encode(), _PRIVATE, reader_uid)

    def _replace(
        self, path: Path, content: bytes, mode: int, reader_uid: int | None = None
    ) -> None:
        with self._mutex:
            if not self._is_over:
                self._replace_now(path, content, mode, reader_uid)

    def _replace_now(self, path: Path, content: bytes, mode: int, reader_uid: int | None) -> None:
        temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                if os.write(fd, content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if reader_uid is None:
                    os.fchmod(fd, mode)
                else:
                    keep_for_reader(fd, reader_uid, mode)
            finally:
                os.close(fd)
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise ConfigurationError(f"{path}: {error.strerror}") from error
        if path not in self._made:
            self._made.append(path)

    def remove(self) -> None:
        """Remove all files of the run, the ready file first, and give the id back."""
        with self._mutex:
            if self._lock_fd >= 0 and not self._is_over:
                with suppress(OSError):
                    self.path("ready").unlink()
                self._pass_on_run_id()
                self._is_over = True
                for path in reversed(self._made):
                    if path != self._run_id_file:
                        with suppress(OSError):
                            path.unlink()
                # A child that hangs may still have the file.
                fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
                os.close(self._lock_fd)
            self._is_over = True

    def _pass_on_run_id(self) -> None:
        """Let the run-id file name the newest of the other runs, or remove it."""
        try:
            if self._run_id_file.read_text() != self._run_id:
                return
            others = list(self._run_dir.glob("datacrumbs-*.ready"))
        except OSError:
            return
        begun_ns = {}
        for path in others:
            # Another run may end at the same time.
            with suppress(OSError):
                begun_ns[path.name] = path.stat().st_mtime_ns
        if begun_ns:
            newest = (
                max(begun_ns, key=begun_ns.__getitem__)
                .removeprefix("datacrumbs-")
                .removesuffix(".ready")
            )
            self._replace(self._run_id_file, newest.encode(), 0o644)
        else:
            self._run_id_file.unlink(missing_ok=True)


def _quoted(value: str) -> str:
    """Return a value as EnvironmentFile= of systemd reads it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'
