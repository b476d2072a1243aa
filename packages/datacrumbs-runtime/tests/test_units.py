"""The systemd units: accepted by systemd, tight, and working under a real systemd."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_site import SYSCALLS
from systemd_container import HOSTNAME, LOG_DIR, RUN_DIR, Container, booted
from waiting import wait_until

from datacrumbs_runtime import __version__
from datacrumbs_runtime.installed_files import fill_template
from datacrumbs_runtime.schema.probe_file import Category, ProbeType
from datacrumbs_runtime.schema.site_config import SiteConfig

DATA = Path(__file__).resolve().parents[1] / "data"
TEMPLATES = sorted((DATA / "systemd").glob("*.service.in"))
# What systemd-analyze security said when this was written, and a little room for other versions.
MAX_EXPOSURE = 3.0


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


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    with booted() as made:
        yield made


@pytest.fixture(scope="module")
def probes(container: Container) -> Path:
    return container.probe_file("probes.json.gz", [SYSCALLS])


@pytest.fixture(scope="module")
def library_probes(container: Container) -> Path:
    library = (container.prefix / "lib/libdatacrumbs_client.so").resolve()
    function = Category(ProbeType.UPROBE, "CLIENT", ("datacrumbs_stop",), binary_path=str(library))
    return container.probe_file("library.json.gz", [function])


@pytest.mark.kernel
def test_service_records_from_start_to_stop(container: Container, probes: Path) -> None:
    container.start("j1", probes)
    assert container.property_of("j1", "ActiveState") == "active"
    # Start has returned, so the run is ready.
    assert container.run("cat", f"{RUN_DIR}/datacrumbs-j1.ready") == "ready\n"
    command = ["dd", "if=/dev/zero", "of=/tmp/x", "bs=1000", "count=123"]
    container.run(container.wrap, *command, user="alice")
    container.stop("j1")
    # Stop has returned, so the trace is closed.
    assert container.property_of("j1", "ActiveState") == "inactive"
    path = container.trace_of("j1")
    lines = [
        json.loads(line) for line in container.run("zcat", path).splitlines()[1:] if line != "]"
    ]
    hashes = [line["args"]["value"] for line in lines if line["args"].get("name") == "/tmp/x"]
    written = [
        line["args"]["ret"]
        for line in lines
        if line["ph"] == "X" and line["name"] == "write" and line["args"].get("fhash") in hashes
    ]
    assert written == [1000] * 123
    assert container.run("stat", "-c", "%U %a", path).strip() == "alice 600"
    log = container.run("cat", f"{LOG_DIR}/datacrumbs_alice_j1_{HOSTNAME}.log")
    assert "recording 9 of 9 functions" in log


@pytest.mark.kernel
def test_bad_probe_file_fails_at_once_and_the_journal_says_why(container: Container) -> None:
    container.put("/tmp/bad.json.gz", "nonsense")
    container.start("bad", Path("/tmp/bad.json.gz"))
    assert container.property_of("bad", "ActiveState") == "failed"
    journal = container.run("journalctl", "-u", "datacrumbs@bad", "--no-pager")
    assert "/tmp/bad.json.gz: not a probe file" in journal


@pytest.mark.kernel
def test_two_services_at_once_and_a_killed_one_leaves_no_ready_file(
    container: Container, probes: Path
) -> None:
    for run_id in ("a", "b"):
        container.start(run_id, probes)
    for run_id in ("a", "b"):
        assert container.property_of(run_id, "ActiveState") == "active"
    container.run("systemctl", "kill", "-s", "KILL", "datacrumbs@a")
    wait_until(lambda: container.property_of("a", "ActiveState") == "failed")
    listing = container.run("ls", RUN_DIR)
    assert "datacrumbs-a.ready" not in listing
    assert "datacrumbs-b.ready" in listing
    container.stop("b")
    assert container.property_of("b", "Result") == "success"


@pytest.mark.kernel
@pytest.mark.parametrize("tier", ["uprobe.session", "uprobe.tracefs", "uprobe.perf"])
def test_sandbox_lets_every_way_of_attaching_through(
    container: Container, library_probes: Path, tier: str
) -> None:
    run_id = tier.replace(".", "-")
    container.start(run_id, library_probes, DATACRUMBS_MAX_TIER=tier)
    status = container.run("cat", f"{RUN_DIR}/datacrumbs-{run_id}.json")
    container.stop(run_id)
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
