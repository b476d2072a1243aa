"""A site of its own for tests of signing: a prefix, real keys, the real relay, a real service."""

import gzip
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from waiting import HANG_S

from datacrumbs_runtime.schema.probe_document import document_from_probe_file
from datacrumbs_runtime.schema.probe_file import Category, ProbeFile, ProbeType, Summary
from datacrumbs_runtime.signing import keys
from datacrumbs_runtime.signing.installation import SigningPaths

# Two users who exist nowhere but here.
ALICE, BOB = 61001, 61002
HOSTNAME, SITE = "lead17", "lead"
SIGNED, FAILED, NO_SIGNER, REFUSED, TIMED_OUT = 0, 1, 3, 4, 5


def summary(**values: Any) -> Summary:
    texts = {"config_file_path": "/c.yaml", "probe_file_path": "/p.json.gz", "hostname": "x"}
    return Summary(**{**texts, "user": "x", "install_user": "x", **values})


def probe_file(*categories: Category) -> ProbeFile:
    return ProbeFile(summary(), categories or (syscalls(),))


def syscalls() -> Category:
    return Category(ProbeType.SYSCALLS, "sys", ("openat", "read", "write"))


def as_json(wanted: ProbeFile) -> bytes:
    return json.dumps(document_from_probe_file(wanted)).encode()


class Site:
    """An installation below a directory that everybody may enter."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.prefix = root / "prefix"
        self.paths = SigningPaths.of_prefix(self.prefix, root / "run")
        self.process: subprocess.Popen[str] | None = None
        self.paths.data_dir.mkdir(parents=True)
        self.paths.policy.parent.mkdir(parents=True)
        self.paths.relay.parent.mkdir(parents=True)
        keys.create_key(self.paths.data_dir)

    def install_relay(self, relay: Path) -> None:
        shutil.copy(relay, self.paths.relay)
        self.paths.relay.chmod(0o755)

    def write_policy(self, text: str) -> None:
        self.paths.policy.write_text(text)

    def command(self, *options: str) -> list[str]:
        module = "datacrumbs_runtime.commands.datacrumbs_sign_probes"
        places = ["--prefix", str(self.prefix), "--run-dir", str(self.paths.socket.parent)]
        return [sys.executable, "-m", module, *places, "--site", SITE, *options]

    def start(self, *options: str, descriptors: int | None = None) -> None:
        """Start the service and return when it says that it is ready."""
        notify = self.root / "notify"
        limit = [] if descriptors is None else ["prlimit", f"--nofile={descriptors}"]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(notify))
            with (self.root / "log").open("a") as log:
                self.process = subprocess.Popen(
                    [*limit, *self.command(*options)],
                    env={**os.environ, "NOTIFY_SOCKET": str(notify)},
                    stderr=log,
                    text=True,
                )
            ready, _, _ = select.select([manager], [], [], HANG_S)
            assert ready, self.log()
            assert b"READY=1" in manager.recv(4096)
        notify.unlink()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(HANG_S)
        self.process = None
        return status

    def log(self) -> str:
        return (self.root / "log").read_text()

    def audit(self) -> list[str]:
        return [line for line in self.log().splitlines() if line.startswith("audit ")]

    def ask(
        self,
        request: bytes | ProbeFile,
        uid: int = ALICE,
        *,
        groups: tuple[int, ...] = (),
        relay: Path | None = None,
        timeout_s: int = int(HANG_S),
    ) -> "subprocess.CompletedProcess[bytes]":
        """Hand a request to the signer as a user does."""
        return subprocess.run(
            self.relay_command(relay, timeout_s),
            input=request if isinstance(request, bytes) else as_json(request),
            capture_output=True,
            user=uid,
            group=uid,
            extra_groups=list(groups),
            cwd="/",
            check=False,
            timeout=2 * HANG_S,
        )

    def relay_command(self, relay: Path | None = None, timeout_s: int = int(HANG_S)) -> list[str]:
        socket_path = str(self.paths.socket)
        return [
            str(relay or self.paths.relay),
            "--socket",
            socket_path,
            "--timeout",
            f"{timeout_s}",
        ]

    def sign(self, wanted: ProbeFile, uid: int = ALICE) -> bytes:
        done = self.ask(wanted, uid)
        assert done.returncode == SIGNED, done.stderr
        return done.stdout

    def is_refused(self, request: bytes | ProbeFile, reason: str, uid: int = ALICE) -> None:
        """Check that nothing is signed, for this reason, and that others are still served."""
        done = self.ask(request, uid)
        assert (done.returncode, done.stdout) == (REFUSED, b""), done
        first = done.stderr.decode().splitlines()[0]
        assert reason in first, first
        assert self.audit()[-1].startswith('audit verdict="refused"')
        assert self.ask(probe_file(), BOB).returncode == SIGNED

    def write_signed(self, name: str, data: bytes) -> Path:
        path = self.root / name
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path
