"""Runs of the installed service in a virtual machine, and what their traces say."""

import gzip
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from virtual_machine import Done, VirtualMachine
from vm_image import installed_data
from vm_root import HOSTNAME, PREFIX

from datacrumbs_runtime.schema.probe_document import document_from_probe_file
from datacrumbs_runtime.schema.probe_file import Category, ProbeFile, Summary, canonical_bytes
from datacrumbs_runtime.schema.site_config import site_of
from datacrumbs_runtime.signing.keys import load_keys

RUN_DIR = Path("/var/run/datacrumbs")
LOG_DIR = Path("/var/log/datacrumbs")
WRAP = PREFIX / "bin/datacrumbs_wrap"
UNITS = Path("/etc/systemd/system")
# Of calls with these names the result is a number of bytes.
TRANSFERS = frozenset({"read", "write", "pread64", "pwrite64", "pread", "pwrite"})

Line = dict[str, Any]
Sums = dict[tuple[str, str], dict[str, int]]


def install_unit(machine: VirtualMachine) -> None:
    """Link the unit, as the documentation says."""
    name = "datacrumbs@.service"
    machine.run("ln", "-s", PREFIX / "etc/datacrumbs/systemd" / name, UNITS / name)
    machine.run("mkdir", "-p", RUN_DIR)
    machine.run("systemctl", "daemon-reload")


def probe_file(
    machine: VirtualMachine, user: str, categories: Sequence[Category], name: str
) -> Path:
    """Put a probe file into the machine that is signed for a user."""
    path = Path("/home", user, f"{name}.json.gz")
    summary = Summary(
        config_file_path="/etc/host.yaml",
        probe_file_path=str(path),
        hostname=HOSTNAME,
        user=user,
        install_user="root",
        uid=int(machine.run("id", "-u", user).stdout),
        site=site_of(HOSTNAME),
        created=int(time.time()),
        expires=int(time.time()) + 3600,
    )
    document = document_from_probe_file(ProbeFile(summary, tuple(categories)))
    key = load_keys(installed_data()).signing_key("hmac-sha256")
    document |= {"checksum_algorithm": key.algorithm, "key_id": key.key_id}
    document.pop("checksum", None)
    document["checksum"] = key.sign(canonical_bytes(document))
    machine.put(path, gzip.compress(json.dumps(document).encode()), "600")
    machine.run("chown", f"{user}:", path)
    return path


class Service:
    """A run of the service; its name is the run's id."""

    def __init__(self, machine: VirtualMachine, run_id: str) -> None:
        self.machine = machine
        self.run_id = run_id
        self.unit = f"datacrumbs@{run_id}.service"

    def start(self, probes: Path, *, user: str = "alice", **settings: str) -> Done:
        """Start it as a prolog does; its status is systemctl's."""
        values = {
            "DATACRUMBS_PROBE_FILE": str(probes),
            "DATACRUMBS_USER": user,
            "DATACRUMBS_SERVICE_RUN_ID": self.run_id,
            "DATACRUMBS_LOG_DIR": str(LOG_DIR),
            # An emulated processor is many times slower.
            "DATACRUMBS_START_TIMEOUT_S": "50",
            **settings,
        }
        text = "".join(f"{key}={value}\n" for key, value in values.items())
        self.machine.put(RUN_DIR / f"datacrumbs-{self.run_id}.env", text)
        return self.machine.run("systemctl", "start", self.unit, check=False)

    def stop(self) -> None:
        self.machine.run("systemctl", "stop", self.unit)

    def drop_in(self, text: str) -> None:
        """Change the unit of this run alone."""
        directory = UNITS / f"{self.unit}.d"
        self.machine.run("mkdir", "-p", directory)
        self.machine.put(directory / "test.conf", f"[Service]\n{text}\n")
        self.machine.run("systemctl", "daemon-reload")

    def property(self, name: str) -> str:
        return self.machine.run("systemctl", "show", "-P", name, self.unit).stdout.strip()

    def wait_until(self, state: str, limit_s: float = 60) -> None:
        """Wait for a state of the unit, such as failed."""
        deadline = time.monotonic() + limit_s
        while (now := self.property("ActiveState")) != state:
            assert time.monotonic() < deadline, (now, self.journal())
            time.sleep(0.3)

    def files(self) -> set[str]:
        """Return the names of its files in the run directory."""
        names = self.machine.run("ls", RUN_DIR).stdout.split()
        return {
            name.partition(".")[2]
            for name in names
            if name.startswith(f"datacrumbs-{self.run_id}.")
        }

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(
            self.machine.read(RUN_DIR / f"datacrumbs-{self.run_id}.json")
        )
        return document

    def journal(self) -> str:
        return self.machine.run("journalctl", "-u", self.unit, "--no-pager", "-o", "cat").stdout

    def log(self, user: str = "alice") -> str:
        return self.machine.read(LOG_DIR / f"datacrumbs_{user}_{self.run_id}_{HOSTNAME}.log")

    def trace_path(self) -> Path:
        pattern = f"trace-*-{self.run_id}-*.gz"
        (path,) = self.machine.run("find", LOG_DIR, "-name", pattern).stdout.split()
        return Path(path)

    def trace(self) -> list[Line]:
        """Return the lines of its trace, which must be a whole file of gzip."""
        text = self.machine.run("gzip", "-dc", self.trace_path()).stdout
        assert text.startswith("[\n")
        return [json.loads(line) for line in text.splitlines()[1:] if line != "]"]


def calls_in(lines: Sequence[Line], pid: int | None = None) -> list[Line]:
    """Return the calls of a process, or of all, in the order of the trace."""
    return [line for line in lines if line["ph"] == "X" and pid in (None, line["pid"])]


def sums_of_calls(lines: Sequence[Line], pid: int) -> Sums:
    """Return calls, errors and bytes of a process by category and function."""
    sums: Sums = defaultdict(lambda: {"count": 0, "errors": 0, "bytes": 0})
    for line in calls_in(lines, pid):
        result = line["args"].get("ret", 0)
        entry = sums[line["cat"], line["name"]]
        entry["count"] += 1
        entry["errors"] += isinstance(result, int) and result < 0
        # Of functions of libraries nobody knows which result is a number of bytes.
        if line["cat"] == "POSIX" and line["name"] in TRANSFERS:
            entry["bytes"] += max(result, 0)
    return dict(sums)


def sums_of_counters(lines: Sequence[Line], pid: int) -> Sums:
    """Return the same from the counters that profile mode writes."""
    sums: Sums = defaultdict(lambda: {"count": 0, "errors": 0, "bytes": 0})
    for line in lines:
        if line["ph"] == "C" and line["pid"] == pid:
            entry = sums[line["cat"], line["name"]]
            entry["count"] += line["args"]["count"]
            entry["errors"] += line["args"]["errors"]
            entry["bytes"] += line["args"].get("bytes", 0)
    return dict(sums)
