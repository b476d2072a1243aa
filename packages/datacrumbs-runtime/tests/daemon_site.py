"""A small installation for tests of the daemon: settings, secret, client library, users."""

import gzip
import json
import os
import platform
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from growing_trace import lines_so_far
from waiting import HANG_S, wait_until

from datacrumbs_runtime.schema.probe_document import document_from_probe_file
from datacrumbs_runtime.schema.probe_file import (
    Category,
    ProbeFile,
    ProbeType,
    Summary,
    canonical_bytes,
)
from datacrumbs_runtime.schema.site_config import site_of
from datacrumbs_runtime.signing.keys import create_key, load_keys
from datacrumbs_runtime.system_config import create_system_configuration, planned_configuration

CLIENT_SOURCE = Path(__file__).resolve().parents[2] / "datacrumbs-client-c"
COMMAND = "from datacrumbs_runtime.commands.{0} import main; main()"
SYSCALLS = Category(
    ProbeType.SYSCALLS,
    "POSIX",
    ("openat", "close", "read", "write", "pread64", "pwrite64", "lseek", "fsync", "unlink"),
)
# Users that every Debian has; they own the runs of the tests.
ALICE, BOB, EVE = "daemon", "games", "nobody"
SYSTEM_PYTHON = "/usr/bin/python3"

# Writes and reads a file of its own and tells what it did.
WORKLOAD = """
import json, os, sys
path, calls, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
done = {"pwrite64": [0, 0], "pread64": [0, 0]}
for number in range(calls):
    done["pwrite64"][0] += 1
    done["pwrite64"][1] += os.pwrite(fd, b"x" * size, number * size)
for number in range(0, calls, 2):
    done["pread64"][0] += 1
    done["pread64"][1] += len(os.pread(fd, size, number * size))
os.fsync(fd)
os.close(fd)
print(json.dumps({"pid": os.getpid(), "done": done}))
"""


@cache
def client_build() -> Path:
    """Build the client once and return the directory with bin/ and lib/."""
    directory = Path(tempfile.mkdtemp(prefix="datacrumbs-test-client-"))
    configure = ["cmake", "-S", str(CLIENT_SOURCE), "-B", str(directory), "-DBUILD_TESTING=OFF"]
    for arguments in (configure, ["cmake", "--build", str(directory)]):
        subprocess.run(arguments, check=True, capture_output=True, timeout=300)
    return directory


class RunningDaemon:
    """A daemon that was started."""

    def __init__(self, site: "Site", run_id: str, process: subprocess.Popen[bytes]) -> None:
        self.site = site
        self.run_id = run_id
        self.process = process
        self.output_path = site.root / f"{run_id}-{process.pid}.err"

    def wait_ready(self) -> None:
        assert self.becomes_ready(), self.output()

    def becomes_ready(self) -> bool:
        """Wait until the daemon is ready, or has ended instead."""
        ready = self.site.run_dir / f"datacrumbs-{self.run_id}.ready"
        pid_file = ready.with_suffix(".pid")
        own = f"{self.process.pid}\n"

        # A daemon that was killed may have left its files, which the next one removes.
        def is_ready() -> bool:
            with suppress(FileNotFoundError):
                return ready.exists() and pid_file.read_text() == own and ready.exists()
            return False

        wait_until(lambda: self.process.poll() is not None or is_ready(), self.output)
        return self.process.poll() is None

    def stop(self, number: int = 15) -> float:
        """End it with a signal and return how long that took, in seconds."""
        begin = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(HANG_S)
        return time.monotonic() - begin

    def exit_status(self) -> int:
        """Wait for its end."""
        return self.process.wait(HANG_S)

    def wait_to_say(self, text: str) -> None:
        """Wait until it has said something on standard error."""
        wait_until(lambda: text in self.output(), self.output)

    def output(self) -> str:
        """Return what it wrote to standard error so far."""
        return self.output_path.read_text()

    def status(self) -> dict[str, Any]:
        path = self.site.run_dir / f"datacrumbs-{self.run_id}.json"
        document: dict[str, Any] = json.loads(path.read_text())
        return document


class Site:
    """An installation below one directory that every user can enter."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.daemons: list[RunningDaemon] = []
        self.prefix = root / "prefix"
        self.run_dir = root / "run"
        self.log_dir = root / "log"
        self.traces = root / "traces"
        self.shared = root / "shared"
        for directory in (self.prefix, self.traces, self.shared):
            directory.mkdir()
            directory.chmod(0o755)
        self.shared.chmod(0o1777)
        self.changes = {
            "DATACRUMBS_SERVER_RUN_DIR": str(self.run_dir),
            "DATACRUMBS_LOG_DIR": str(self.log_dir),
            "DATACRUMBS_TRACE_DIR_PATTERN": f"{self.traces}/%YY%/%MM%/%DD%",
            "DATACRUMBS_START_TIMEOUT_S": "60",
        }
        self.configuration, config = planned_configuration(self.prefix, self.changes)
        create_system_configuration(self.configuration, config)
        self.data_dir = self.configuration.parent
        create_key(self.data_dir)
        for name in ("bin", "lib"):
            shutil.copytree(client_build() / name, self.prefix / name, symlinks=True)
        for path in self.prefix.rglob("*"):
            if not path.is_symlink() and (path.is_dir() or path.parent.name in ("bin", "lib")):
                path.chmod(0o755)

    def set(self, **values: str) -> None:
        arguments = [item for key, value in values.items() for item in ("--set", f"{key}={value}")]
        self.run("datacrumbs_system_configurator", "--prefix", str(self.prefix), *arguments)

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", COMMAND.format(command), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=_environment(),
        )

    def probe_file(
        self,
        user: str,
        categories: Sequence[Category] = (SYSCALLS,),
        *,
        name: str = "probes.json.gz",
        is_signed: bool = True,
        **summary: Any,
    ) -> Path:
        """Write a probe file that belongs to a user and is signed for him."""
        path = self.shared / f"{user}-{name}"
        key_directory = self.data_dir if is_signed else None
        write_probe_file(
            path, categories, key_directory, Owner.named(user), platform.node(), **summary
        )
        return path

    def daemon(
        self,
        run_id: str,
        probe_file: Path | str,
        *options: str,
        launcher: Sequence[str] = (),
        **environment: str,
    ) -> RunningDaemon:
        """Start a daemon without waiting for it.

        Args:
            run_id: Its run.
            probe_file: What it records.
            options: More of its command line.
            launcher: A command that changes itself and becomes the daemon.
            environment: More of its environment.
        """
        arguments = ["--prefix", str(self.prefix), *options, str(probe_file), run_id]
        output = self.root / "daemon.err"
        with output.open("wb") as stream:
            process = subprocess.Popen(
                [*launcher, sys.executable, "-c", COMMAND.format("datacrumbs"), *arguments],
                stdout=stream,
                stderr=stream,
                env=_environment() | environment,
                # As the unit has it.
                umask=0o077,
            )
        daemon = RunningDaemon(self, run_id, process)
        output.rename(daemon.output_path)
        self.daemons.append(daemon)
        return daemon

    @contextmanager
    def running(
        self, run_id: str, probe_file: Path, *options: str, **environment: str
    ) -> Iterator[RunningDaemon]:
        """Have a ready daemon in a block, which is stopped at its end if it still runs."""
        daemon = self.daemon(run_id, probe_file, *options, **environment)
        try:
            daemon.wait_ready()
            yield daemon
            if daemon.process.poll() is None:
                daemon.stop()
        finally:
            daemon.process.kill()
            daemon.process.wait()

    def wrapped(
        self,
        user: str,
        *command: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command through datacrumbs_wrap as a user, to its end."""
        return subprocess.run(
            [self.prefix / "bin/datacrumbs_wrap", *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={"PATH": "/usr/bin:/bin"} if env is None else dict(env),
            cwd=cwd or "/",
            **as_user(user),
        )

    def workload(self, user: str, calls: int = 100, size: int = 64) -> dict[str, Any]:
        """Run the workload as a user; return what it says that it did, with its file."""
        path = self.shared / f"{user}-{time.monotonic_ns()}.out"
        done = self.wrapped(user, SYSTEM_PYTHON, "-c", WORKLOAD, str(path), str(calls), str(size))
        assert done.returncode == 0, done.stderr
        return {**json.loads(done.stdout), "path": str(path)}

    def trace_paths(self) -> list[Path]:
        return sorted(self.traces.rglob("*.pfw.gz"))

    def trace(self, run_id: str) -> list[dict[str, Any]]:
        """Return the lines of the one trace of a run."""
        (path,) = [path for path in self.trace_paths() if f"-{run_id}-" in path.name]
        return lines_of(path)

    def trace_so_far(self, run_id: str) -> list[dict[str, Any]]:
        """Return the lines of the one trace of a run that goes on, none if it has none yet."""
        paths = [path for path in self.trace_paths() if f"-{run_id}-" in path.name]
        return lines_so_far(paths[0]) if paths else []

    def wait_until_written(self, run_id: str, did: Mapping[str, Any]) -> None:
        """Wait until all that a workload did is in the one trace of a run that goes on."""

        def is_written() -> bool:
            found = calls_on(self.trace_so_far(run_id), did["pid"], did["path"])
            return all(found.get(name) == sums for name, sums in did["done"].items())

        wait_until(is_written)


class Owner(NamedTuple):
    """Whose a probe file is."""

    user: str
    uid: int
    gid: int

    @classmethod
    def named(cls, user: str) -> "Owner":
        entry = pwd.getpwnam(user)
        return cls(user, entry.pw_uid, entry.pw_gid)


def write_probe_file(
    path: Path,
    categories: Sequence[Category],
    key_directory: Path | None,
    owner: Owner,
    hostname: str,
    **summary: Any,
) -> None:
    """Write a probe file for a user of a host; without a directory of keys it is not signed."""
    values = {
        "config_file_path": "/etc/host.yaml",
        "probe_file_path": str(path),
        "hostname": hostname,
        "user": owner.user,
        "install_user": "root",
        "uid": owner.uid,
        "site": site_of(hostname),
        "created": int(time.time()),
        "expires": int(time.time()) + 3600,
    }
    document = document_from_probe_file(
        ProbeFile(Summary(**{**values, **summary}), tuple(categories))
    )
    if key_directory is not None:
        key = load_keys(key_directory).signing_key("hmac-sha256")
        document |= {"checksum_algorithm": key.algorithm, "key_id": key.key_id}
        document.pop("checksum", None)
        document["checksum"] = key.sign(canonical_bytes(document))
    path.write_bytes(gzip.compress(json.dumps(document).encode()))
    os.chown(path, owner.uid, owner.gid)
    path.chmod(0o600)


def joining(group: Path) -> tuple[str, ...]:
    """Return a launcher for a daemon that belongs to a control group from its beginning."""
    return ("sh", "-c", 'echo 0 >"$0/cgroup.procs" && exec "$@"', str(group))


def as_user(user: str) -> dict[str, Any]:
    """Return the arguments with which subprocess acts as a user."""
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def uid_of(user: str) -> int:
    return pwd.getpwnam(user).pw_uid


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return {"HOME": "/root", **kept}


@contextmanager
def new_site() -> Iterator[Site]:
    """Have an installation in a block, and nothing of it afterwards."""
    with open_directory() as root:
        site = Site(root)
        try:
            yield site
        finally:
            for daemon in site.daemons:
                daemon.process.kill()
                daemon.process.wait()


@contextmanager
def open_directory() -> Iterator[Path]:
    """Make a directory that every user can enter, which pytest's own are not."""
    root = Path(tempfile.mkdtemp(prefix="datacrumbs-test-"))
    root.chmod(0o755)
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def lines_of(path: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes()).decode()
    assert text.startswith("[\n")
    return [json.loads(line) for line in text.splitlines()[1:] if line != "]"]


def calls_on(lines: list[dict[str, Any]], pid: int, path: str) -> dict[str, list[int]]:
    """Return calls and bytes by system call of one process on one file."""
    hashes = {
        line["args"]["value"]
        for line in lines
        if line["name"] == "FH" and line["args"]["name"] == path
    }
    found: dict[str, list[int]] = {}
    for line in lines:
        if line["ph"] == "X" and line["pid"] == pid and line["args"].get("fhash") in hashes:
            name = line["args"].get("syscall", line["name"])
            sums = found.setdefault(name, [0, 0])
            sums[0] += 1
            sums[1] += max(line["args"].get("ret", 0), 0)
    return found


def processes_in(lines: list[dict[str, Any]]) -> set[int]:
    return {line["pid"] for line in lines if line["ph"] in ("X", "C")}
