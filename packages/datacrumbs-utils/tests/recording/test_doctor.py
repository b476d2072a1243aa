"""datacrumbs_doctor: what it says, and that its exit status can be relied on."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.kernel

DOCTOR = (
    sys.executable,
    "-c",
    "from datacrumbs_utils.commands.datacrumbs_doctor import main; main()",
)
WITHOUT_TYPES = 'mount -t tmpfs none /sys/kernel/btf && exec "$@"'


def diagnose(*prefix: str) -> tuple[int, dict[str, Any], dict[str, dict[str, Any]]]:
    """Run the doctor; return its exit status, its document, and its checks by name."""
    done = subprocess.run(
        [*prefix, *DOCTOR, "--json"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    document = json.loads(done.stdout)
    return done.returncode, document, {check["name"]: check for check in document["checks"]}


def test_a_machine_that_records_is_told_so() -> None:
    status, document, checks = diagnose()
    assert status == 0
    assert document["can_record"]
    assert checks["a recording"]["state"] == "good"
    assert checks["type information (BTF)"]["state"] == "good"
    assert checks["libbpf"]["value"].startswith("v1.")
    assert {"uprobe", "kprobe", "tracepoint", "tracefs", "open files", "clang"} <= set(checks)
    assert "block" in checks["storage tracepoints"]["value"]


def test_everything_that_is_missing_comes_with_a_remedy() -> None:
    _, document, _ = diagnose()
    for check in document["checks"]:
        if check["state"] in ("less", "missing"):
            assert check["remedy"], check


def test_without_the_right_to_record_it_says_which_capabilities_are_missing() -> None:
    status, document, checks = diagnose("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    assert status == 1
    assert not document["can_record"]
    assert "CAP_BPF and CAP_PERFMON" in checks["capabilities"]["remedy"]
    assert checks["ways to attach"]["state"] == "missing"
    assert checks["a recording"]["state"] == "missing"


def test_without_kernel_types_it_says_what_the_kernel_needs() -> None:
    status, document, checks = diagnose("unshare", "-m", "sh", "-c", WITHOUT_TYPES, "sh")
    assert status == 1
    assert not document["can_record"]
    assert "CONFIG_DEBUG_INFO_BTF" in checks["type information (BTF)"]["remedy"]


def test_the_table_ends_with_the_verdict() -> None:
    done = subprocess.run(DOCTOR, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "recording works here"
    assert "\x1b" not in done.stdout


def test_client_library_of_the_installation_is_found(tmp_path: Path) -> None:
    command = tmp_path / "bin/datacrumbs_doctor"
    library = tmp_path / "lib/libdatacrumbs_client.so"
    for path in (command, library):
        path.parent.mkdir()
    command.write_text(DOCTOR[2])
    # The environment that the tests run in may have one as well.
    for is_there in (False, True):
        done = subprocess.run(
            [sys.executable, command, "--json"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
        assert checks["client library"]["value"].startswith(str(library)) == is_there
        assert not is_there or checks["client library"]["state"] == "good"
        library.touch()
