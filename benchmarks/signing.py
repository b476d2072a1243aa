"""How long it takes to have a probe file signed, and to verify one."""

import gzip
import itertools
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks import tracers
from benchmarks.rows import Row
from datacrumbs_runtime.schema.probe_document import document_from_probe_file
from datacrumbs_runtime.schema.probe_file import (
    DEFAULT_MAX_FUNCTIONS,
    Argument,
    Category,
    ProbeFile,
    ProbeType,
    Summary,
)
from datacrumbs_runtime.signing import keys
from datacrumbs_runtime.signing.elf_facts import ElfFacts
from datacrumbs_runtime.signing.installation import SigningPaths
from datacrumbs_runtime.signing.request import signed_bytes
from datacrumbs_runtime.signing.verify import Expectation, verify_bytes

TITLE = "signing and verifying probe files"
SIGNING_BUDGET_MS = 50.0
VERIFYING_BUDGET_MS = 200.0
LIBRARIES = ("libc.so.6", "libmpi.so.40", "libhdf5_serial.so.103", "libstdc++.so.6")
LIBRARY_DIRECTORY = Path("/usr/lib/x86_64-linux-gnu")
ARGUMENTS = tuple(
    Argument(index, 8, index == 1, f"argument{index}", "char *" if index == 1 else "long")
    for index in range(3)
)
SUMMARY = Summary("/c.yaml", "/p.json.gz", "host", "user", "root", uid=1, expires=1 << 40)


def _library(path: Path, most: int) -> Category:
    """Return functions of a library, each with three arguments, past their endbr64."""
    with path.open("rb") as stream:
        facts = ElfFacts(stream.fileno(), str(path))
        offsets = {
            f"{name.decode()}:{value:#x}": facts.file_offset(value)
            for value, name in itertools.islice(facts.named_functions(), most)
        }
        placed = {
            name: offset + 4
            for name, offset in offsets.items()
            if offset is not None and facts.read(offset, 4) == b"\xf3\x0f\x1e\xfa"
        }
        return Category(
            ProbeType.UPROBE,
            path.name,
            tuple(offsets),
            dict.fromkeys(offsets, ARGUMENTS),
            binary_path=str(path),
            include_offsets=True,
            build_id=facts.build_id(),
            placed_offsets=placed,
        )


def _start(prefix: Path, paths: SigningPaths) -> "subprocess.Popen[bytes]":
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(prefix / "notify"))
        service = subprocess.Popen(
            [
                *(sys.executable, "-m", "datacrumbs_runtime.commands.datacrumbs_sign_probes"),
                *("--prefix", str(prefix), "--run-dir", str(paths.socket.parent)),
            ],
            env={**os.environ, "NOTIFY_SOCKET": str(prefix / "notify")},
            stderr=subprocess.DEVNULL,
        )
        select.select([manager], [], [], tracers.TIMEOUT_S)
    return service


def _sign(relay: Path, socket_path: Path, document: Path) -> float:
    with document.open("rb") as stream:
        started = time.perf_counter()
        subprocess.run(
            [relay, "--socket", socket_path],
            stdin=stream,
            # Not DEVNULL: without a pipe to watch, run() sleeps in steps of up to 50 ms.
            stdout=subprocess.PIPE,
            timeout=tracers.TIMEOUT_S,
            check=True,
        )
        return (time.perf_counter() - started) * 1e3


def _signing(scratch: Path, repeats: int) -> Iterator[Row]:
    installed = Path(tracers.beside("datacrumbs_probe_configurator_exec"))
    if not installed.exists():
        yield Row("sign", "", None, "ms", note=f"{installed} is not installed")
        return
    prefix = scratch / "prefix"
    paths = SigningPaths.of_prefix(prefix, prefix / "run")
    paths.data_dir.mkdir(parents=True)
    paths.relay.parent.mkdir()
    keys.create_key(paths.data_dir)
    shutil.copy(installed, paths.relay)
    libraries = [path for name in LIBRARIES if (path := LIBRARY_DIRECTORY / name).exists()]
    wanted = {
        "three system calls": (Category(ProbeType.SYSCALLS, "sys", ("openat", "read", "write")),),
        "a part of each library": tuple(_library(path, 700) for path in libraries),
        "all of each library": tuple(_library(path, 4000) for path in libraries),
    }
    service = _start(prefix, paths)
    try:
        for what, categories in wanted.items():
            probe_file = ProbeFile(SUMMARY, categories)
            document = scratch / "unsigned.json"
            document.write_text(json.dumps(document_from_probe_file(probe_file)))
            took_ms = median(
                [_sign(paths.relay, paths.socket, document) for _ in range(max(repeats, 5))]
            )
            yield Row(
                f"sign {what}",
                f"{probe_file.function_count} functions",
                took_ms,
                "ms",
                budget=f"<= {SIGNING_BUDGET_MS:.0f} ms",
                kept=took_ms <= SIGNING_BUDGET_MS,
                note=f"{document.stat().st_size / 1e6:.1f} MB, relay's start included",
            )
    finally:
        service.terminate()
        service.wait(tracers.TIMEOUT_S)


def _verifying(repeats: int) -> Iterator[Row]:
    names = tuple(f"a_function_{number}:{number:#x}" for number in range(DEFAULT_MAX_FUNCTIONS))
    category = Category(
        ProbeType.UPROBE,
        "library",
        names,
        dict.fromkeys(names, ARGUMENTS),
        binary_path="/usr/lib/library.so",
        include_offsets=True,
    )
    for key in (keys.hmac_key(bytes(32)), keys.ed25519_key(bytes(32))):
        signed = signed_bytes(ProbeFile(SUMMARY, (category,)), key)
        data = gzip.compress(signed)
        ring = keys.KeyRing((key,))
        times_ms = []
        for _ in range(max(repeats, 5)):
            started = time.perf_counter()
            verify_bytes(data, "benchmark", ring, Expectation("host"))
            times_ms.append((time.perf_counter() - started) * 1e3)
        yield Row(
            f"verify {DEFAULT_MAX_FUNCTIONS} functions",
            key.algorithm,
            median(times_ms),
            "ms",
            budget=f"<= {VERIFYING_BUDGET_MS:.0f} ms",
            kept=median(times_ms) <= VERIFYING_BUDGET_MS,
            note=f"{len(data) / 1e6:.1f} MB, three arguments each",
        )


def measure(scratch: Path, *, seconds: float, repeats: int) -> Iterator[Row]:
    """Yield how long signing takes a user, and verifying the daemon."""
    del seconds  # each measurement is as long as what it measures
    yield from _signing(scratch, repeats)
    yield from _verifying(repeats)
