"""A container with systemd as its first process, in which the software is installed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemon_site import Owner, open_directory, write_probe_file
from waiting import wait_until

from datacrumbs_runtime.schema.probe_file import Category

BOOTSTRAP = "from datacrumbs_runtime.commands.datacrumbs_bootstrap import main; main()"
IMAGE = "datacrumbs-test-systemd"
HOSTNAME = "node1"
# The user of the runs, as the image has it.
ALICE = Owner("alice", 1000, 1000)
RUN_DIR = "/var/run/datacrumbs"
LOG_DIR = "/var/log/datacrumbs"
DOCKERFILE = f"""\
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends \
    systemd systemd-sysv dbus procps libbpf1 python3 strace && rm -rf /var/lib/apt/lists/* && \
    systemctl mask getty.target console-getty.service systemd-logind.service \
    systemd-udevd.service systemd-udev-trigger.service systemd-modules-load.service \
    sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount \
    proc-sys-fs-binfmt_misc.automount systemd-networkd.service systemd-resolved.service && \
    useradd -m -u {ALICE.uid} {ALICE.user}
ENV container=docker
STOPSIGNAL SIGRTMIN+3
CMD ["/sbin/init"]
"""


def docker(*arguments: str, stdin: str | None = None, check: bool = True) -> str:
    """Run a command of the container engine and return what it printed."""
    done = subprocess.run(
        ["docker", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def has_docker() -> bool:
    if shutil.which("docker") is None:
        return False
    done = subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=60)
    return done.returncode == 0


class Container:
    """A container that has booted.

    Args:
        name: Its name.
        root: A directory that it shares with this machine, at the same place.
    """

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.prefix = root / "prefix"
        # Everybody may write there.
        self.shared = root / "shared"
        self.wrap = str(self.prefix / "bin/datacrumbs_wrap")

    def run(
        self,
        *argv: str,
        user: str = "root",
        cwd: Path | None = None,
        stdin: str | None = None,
        check: bool = True,
    ) -> str:
        """Run a command to its end and return what it printed."""
        interactive = ["-i"] if stdin is not None else []
        arguments = [*interactive, "-u", user, "-w", str(cwd or "/"), self.name, *argv]
        return docker("exec", *arguments, stdin=stdin, check=check)

    def put(self, path: str, text: str) -> None:
        self.run("tee", path, stdin=text)

    def probe_file(self, name: str, categories: Sequence[Category]) -> Path:
        """Sign a probe file for alice."""
        path = self.shared / name
        data_dir = self.prefix / "share/datacrumbs/data"
        write_probe_file(path, categories, data_dir, ALICE, HOSTNAME)
        return path

    def start(self, run_id: str, probe_file: Path, **settings: str) -> None:
        """Start a run of alice, as a prolog does."""
        environment = {
            "DATACRUMBS_PROBE_FILE": str(probe_file),
            "DATACRUMBS_USER": ALICE.user,
            "DATACRUMBS_SERVICE_RUN_ID": run_id,
            "DATACRUMBS_LOG_DIR": LOG_DIR,
            "DATACRUMBS_START_TIMEOUT_S": "20",
            **settings,
        }
        lines = "".join(f"{key}={value}\n" for key, value in environment.items())
        self.put(f"{RUN_DIR}/datacrumbs-{run_id}.env", lines)
        self.run("systemctl", "start", f"datacrumbs@{run_id}", check=False)

    def stop(self, run_id: str) -> None:
        self.run("systemctl", "stop", f"datacrumbs@{run_id}")

    def property_of(self, run_id: str, key: str) -> str:
        """Return what systemd says of a run."""
        return self.run("systemctl", "show", "-P", key, f"datacrumbs@{run_id}").strip()

    def trace_of(self, run_id: str) -> str:
        """Return the path of the one trace of a run, as the container has it."""
        (path,) = self.run("find", LOG_DIR, "-name", f"*-{run_id}-*.pfw.gz").split()
        return path


@contextmanager
def booted(*options: str, settings: Sequence[str] = ()) -> Iterator[Container]:
    """Have a container in a block; a test that asks for it is skipped where there can be none.

    Args:
        options: For the container engine, besides those that are always needed.
        settings: ``KEY=VALUE`` of the installation, where it differs from the defaults.
    """
    if os.geteuid() != 0 or not has_docker():
        pytest.skip("needs root and a docker engine")
    docker("build", "-q", "-t", IMAGE, "-", stdin=DOCKERFILE)
    name = f"datacrumbs-test-{os.getpid()}"
    with open_directory() as root:
        container = Container(name, root)
        container.shared.mkdir()
        container.shared.chmod(0o1777)
        subprocess.run(
            [
                *(sys.executable, "-c", BOOTSTRAP, "--prefix", str(container.prefix), "--quiet"),
                *("--python", "/usr/bin/python3"),
                *(f"--set={setting}" for setting in settings),
            ],
            check=True,
            timeout=600,
        )
        mounts = [
            f"-v{path}:{path}"
            for path in ("/sys/kernel/tracing", "/sys/kernel/debug", "/sys/fs/bpf", str(root))
        ]
        docker(
            *("run", "-d", "--name", name, "--hostname", HOSTNAME),
            *("--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE"),
            *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
            *options,
            *("--tmpfs", "/run", "--tmpfs", "/run/lock", "--cgroupns=host"),
            *("-v/sys/fs/cgroup:/sys/fs/cgroup:rw", *mounts, IMAGE),
        )
        try:
            _wait_for_boot(container)
            unit = f"{container.prefix}/etc/datacrumbs/systemd/datacrumbs@.service"
            container.run("ln", "-s", unit, "/etc/systemd/system/datacrumbs@.service")
            container.run("mkdir", "-p", RUN_DIR)
            container.run("systemctl", "daemon-reload")
            yield container
        finally:
            docker("rm", "-f", name)


def _wait_for_boot(container: Container) -> None:
    command = ("systemctl", "is-system-running")
    wait_until(lambda: container.run(*command, check=False).strip() in ("running", "degraded"))
