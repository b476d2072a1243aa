"""The systemd units: accepted by systemd, tight, and working under a real systemd."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_site import open_directory

from datacrumbs_runtime import __version__
from datacrumbs_runtime.installed_files import fill_template
from datacrumbs_runtime.schema.site_config import SiteConfig

DATA = Path(__file__).resolve().parents[1] / "data"
TEMPLATES = sorted((DATA / "systemd").glob("*.service.in"))
# What systemd-analyze security said when this was written, and a little room for other versions.
MAX_EXPOSURE = 3.0
BOOTSTRAP = "from datacrumbs_runtime.commands.datacrumbs_bootstrap import main; main()"
IMAGE = "datacrumbs-test-systemd"
DOCKERFILE = """\
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends \
    systemd systemd-sysv dbus procps libbpf1 python3 && rm -rf /var/lib/apt/lists/* && \
    systemctl mask getty.target console-getty.service systemd-logind.service \
    systemd-udevd.service systemd-udev-trigger.service systemd-modules-load.service \
    sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount \
    proc-sys-fs-binfmt_misc.automount systemd-networkd.service systemd-resolved.service && \
    useradd -m alice
ENV container=docker
STOPSIGNAL SIGRTMIN+3
CMD ["/sbin/init"]
"""
# Signs a probe file within the container, where the host name and the users are its own.
SIGN = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from daemon_site import SYSCALLS, Site
from datacrumbs_runtime.schema.probe_file import Category, ProbeType
site = Site.__new__(Site)
site.shared, site.data_dir = Path("/tmp"), Path({prefix!r}) / "share/datacrumbs/data"
site.probe_file("alice", [SYSCALLS])
library = Path({prefix!r}) / "lib/libdatacrumbs_client.so"
function = Category(
    ProbeType.UPROBE, "CLIENT", ("datacrumbs_stop",), binary_path=str(library.resolve())
)
site.probe_file("alice", [function], name="library.json.gz")
"""


def rendered(template: Path, prefix: Path) -> str:
    values = {"DATACRUMBS_INSTALL_PREFIX": str(prefix)}
    config = SiteConfig.from_values(values, "test")
    values = {
        **config.as_values(),
        "DATACRUMBS_VERSION": __version__,
        "DATACRUMBS_TRACE_BASE_DIR": str(config.trace_base_dir),
    }
    return fill_template(template.read_text(), values, template.name)


needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing"
)


@pytest.fixture(params=TEMPLATES, ids=[path.stem for path in TEMPLATES])
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    template: Path = request.param
    for name in ("datacrumbs", "datacrumbs_sign_probes"):
        program = tmp_path / "sbin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    path = tmp_path / template.stem
    path.write_text(rendered(template, tmp_path))
    return path


@needs_analyze
def test_unit_is_accepted_without_a_word(unit: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_analyze
def test_unit_is_exposed_no_more_than_it_was(unit: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    overall = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert overall, done.stdout
    assert float(overall[1]) <= MAX_EXPOSURE, done.stdout


def test_no_unit_uses_a_shell() -> None:
    for template in TEMPLATES:
        for line in template.read_text().splitlines():
            if line.startswith("Exec"):
                assert "sh -c" not in line


def docker(*arguments: str, stdin: str | None = None, check: bool = True) -> str:
    done = subprocess.run(
        ["docker", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def has_docker() -> bool:
    if shutil.which("docker") is None:
        return False
    done = subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=60)
    return done.returncode == 0


@pytest.fixture(scope="module")
def machine() -> Iterator[tuple[str, Path]]:
    """A container with systemd as its first process and an installation; its name and prefix."""
    if os.geteuid() != 0 or not has_docker():
        pytest.skip("needs root and a docker engine")
    docker("build", "-q", "-t", IMAGE, "-", stdin=DOCKERFILE)
    name = f"datacrumbs-test-{os.getpid()}"
    with open_directory() as root:
        prefix = root / "prefix"
        subprocess.run(
            [
                *(sys.executable, "-c", BOOTSTRAP, "--prefix", str(prefix), "--quiet"),
                *("--python", "/usr/bin/python3"),
            ],
            check=True,
            timeout=600,
        )
        mounts = [
            f"-v{path}:{path}"
            for path in ("/sys/kernel/tracing", "/sys/kernel/debug", "/sys/fs/bpf", str(root))
        ]
        tests = str(Path(__file__).parent)
        docker(
            *("run", "-d", "--name", name, "--hostname", "node1"),
            *("--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE"),
            *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
            *("--tmpfs", "/run", "--tmpfs", "/run/lock", "--cgroupns=host"),
            *("-v/sys/fs/cgroup:/sys/fs/cgroup:rw", *mounts, f"-v{tests}:{tests}:ro", IMAGE),
        )
        try:
            wait_for_boot(name)
            prepare(name, prefix, tests)
            yield name, prefix
        finally:
            docker("rm", "-f", name)


def wait_for_boot(name: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        state = docker("exec", name, "systemctl", "is-system-running", check=False).strip()
        if state in ("running", "degraded"):
            return
        time.sleep(0.2)
    pytest.fail("systemd did not start")


def prepare(name: str, prefix: Path, tests: str) -> None:
    unit = f"{prefix}/etc/datacrumbs/systemd/datacrumbs@.service"
    docker("exec", name, "ln", "-s", unit, "/etc/systemd/system/datacrumbs@.service")
    docker("exec", name, "mkdir", "-p", "/var/run/datacrumbs")
    docker("exec", name, "systemctl", "daemon-reload")
    (python,) = (prefix / "libexec/datacrumbs").glob("python-*/bin/python")
    code = SIGN.format(tests=tests, prefix=str(prefix))
    docker("exec", name, str(python), "-c", code)


def put(name: str, path: str, text: str) -> None:
    docker("exec", "-i", name, "tee", path, stdin=text)


def start(
    name: str, run_id: str, probe_file: str = "/tmp/alice-probes.json.gz", **settings: str
) -> str:
    environment = {
        "DATACRUMBS_PROBE_FILE": probe_file,
        "DATACRUMBS_USER": "alice",
        "DATACRUMBS_SERVICE_RUN_ID": run_id,
        "DATACRUMBS_LOG_DIR": "/var/log/datacrumbs",
        **settings,
    }
    lines = "".join(f"{key}={value}\n" for key, value in environment.items())
    put(name, f"/var/run/datacrumbs/datacrumbs-{run_id}.env", lines)
    return docker("exec", name, "systemctl", "start", f"datacrumbs@{run_id}", check=False)


def property_of(name: str, run_id: str, key: str) -> str:
    unit = f"datacrumbs@{run_id}"
    return docker("exec", name, "systemctl", "show", "-P", key, unit).strip()


@pytest.mark.kernel
def test_service_records_from_start_to_stop(machine: tuple[str, Path]) -> None:
    name, prefix = machine
    start(name, "j1")
    assert property_of(name, "j1", "ActiveState") == "active"
    # Start has returned, so the run is ready.
    assert docker("exec", name, "cat", "/var/run/datacrumbs/datacrumbs-j1.ready") == "ready\n"
    wrap = f"{prefix}/bin/datacrumbs_wrap"
    command = ["dd", "if=/dev/zero", "of=/tmp/x", "bs=1000", "count=123"]
    docker("exec", "-u", "alice", name, wrap, *command)
    docker("exec", name, "systemctl", "stop", "datacrumbs@j1")
    # Stop has returned, so the trace is closed.
    assert property_of(name, "j1", "ActiveState") == "inactive"
    (path,) = docker("exec", name, "find", "/var/log/datacrumbs", "-name", "*.gz").split()
    lines = [
        json.loads(line)
        for line in docker("exec", name, "zcat", path).splitlines()[1:]
        if line != "]"
    ]
    hashes = [line["args"]["value"] for line in lines if line["args"].get("name") == "/tmp/x"]
    written = [
        line["args"]["ret"]
        for line in lines
        if line["ph"] == "X" and line["name"] == "write" and line["args"].get("fhash") in hashes
    ]
    assert written == [1000] * 123
    owner = docker("exec", name, "stat", "-c", "%U %a", path).strip()
    assert owner == "alice 600"
    log = "/var/log/datacrumbs/datacrumbs_alice_j1_node1.log"
    assert "recording 9 of 9 functions" in docker("exec", name, "cat", log)


@pytest.mark.kernel
def test_bad_probe_file_fails_at_once_and_the_journal_says_why(machine: tuple[str, Path]) -> None:
    name, _ = machine
    put(name, "/tmp/bad.json.gz", "nonsense")
    begin = time.monotonic()
    start(name, "bad", "/tmp/bad.json.gz")
    assert time.monotonic() - begin < 30
    assert property_of(name, "bad", "ActiveState") == "failed"
    journal = docker("exec", name, "journalctl", "-u", "datacrumbs@bad", "--no-pager")
    assert "/tmp/bad.json.gz: not a probe file" in journal


@pytest.mark.kernel
def test_two_services_at_once_and_a_killed_one_leaves_no_ready_file(
    machine: tuple[str, Path],
) -> None:
    name, _ = machine
    start(name, "a")
    start(name, "b")
    assert (
        property_of(name, "a", "ActiveState") == property_of(name, "b", "ActiveState") == "active"
    )
    docker("exec", name, "systemctl", "kill", "-s", "KILL", "datacrumbs@a")
    deadline = time.monotonic() + 20
    while property_of(name, "a", "ActiveState") == "active" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert property_of(name, "a", "ActiveState") == "failed"
    listing = docker("exec", name, "ls", "/var/run/datacrumbs")
    assert "datacrumbs-a.ready" not in listing
    assert "datacrumbs-b.ready" in listing
    docker("exec", name, "systemctl", "stop", "datacrumbs@b")
    assert property_of(name, "b", "Result") == "success"


@pytest.mark.kernel
@pytest.mark.parametrize("tier", ["uprobe.session", "uprobe.tracefs", "uprobe.perf"])
def test_sandbox_lets_every_way_of_attaching_through(machine: tuple[str, Path], tier: str) -> None:
    name, _ = machine
    run_id = tier.replace(".", "-")
    start(name, run_id, "/tmp/alice-library.json.gz", DATACRUMBS_MAX_TIER=tier)
    status = docker("exec", name, "cat", f"/var/run/datacrumbs/datacrumbs-{run_id}.json")
    docker("exec", name, "systemctl", "stop", f"datacrumbs@{run_id}")
    document = json.loads(status)
    assert document["attached"] == document["requested"] == 1, document["failures"]
    assert document["tiers"]["uprobe"] == tier


def test_what_the_kernel_can_be_tuned_with_is_read_only_but_for_tracefs() -> None:
    (template,) = [path for path in TEMPLATES if path.name.startswith("datacrumbs@")]
    lines = template.read_text().splitlines()
    # systemd lets nothing make writable again what ProtectKernelTunables= makes read-only.
    assert "ProtectKernelTunables=no" in lines
    assert "ReadOnlyPaths=/sys /proc/sys" in lines
    assert "ReadWritePaths=-/sys/kernel/tracing" in lines
