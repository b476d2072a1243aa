"""The software that recording, finding functions and building use: what is installed."""

import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from datacrumbs_runtime.engine import MachineFeatures
from datacrumbs_runtime.errors import ProcessError
from datacrumbs_runtime.process import run
from datacrumbs_utils.discovery.installation import prefix
from datacrumbs_utils.doctor.check import Check, State

_OURS = ("datacrumbs-runtime", "datacrumbs-utils")
_LIBRARIES = ("click", "rich", "isal", "PyYAML", "capstone", "libclang")
# Programs by what they are for. None of them is needed to record.
_PROGRAMS = {
    "clang": "compiles the BPF programs when DataCrumbs is built",
    "cc": "compiles the event pump when DataCrumbs is built",
    "cmake": "builds the client library",
    "bpftool": "shows loaded programs",
}
_CLIENT_LIBRARY = "libdatacrumbs_client.so"


def software_checks(features: MachineFeatures) -> Iterator[Check]:
    """Look at versions and at what is missing."""
    for name in _OURS:
        yield Check("software", name, State.FACT, _version(name) or "not installed by a package")
    yield Check("software", "Python", State.GOOD, platform.python_version())
    yield from _core(features)
    for name in _LIBRARIES:
        version = _version(name)
        yield Check(
            "software",
            name,
            State.GOOD if version else State.MISSING,
            version or "not installed",
            None if version else f"pip install {name}",
        )
    yield _client_library()
    yield Check(
        "software",
        "bcc",
        State.FACT,
        "installed" if importlib.util.find_spec("bcc") else "not installed (custom probes only)",
    )
    for name, purpose in _PROGRAMS.items():
        yield _program(name, purpose)


def _core(features: MachineFeatures) -> Iterator[Check]:
    yield Check(
        "software",
        "libbpf",
        State.GOOD if features.libbpf else State.MISSING,
        features.libbpf or str(features.libbpf_problem),
        None if features.libbpf else "install libbpf 1.0 or newer (Debian: libbpf1)",
    )
    yield Check(
        "software",
        "BPF programs",
        State.GOOD if features.has_object else State.MISSING,
        "compiled" if features.has_object else "not compiled",
        None if features.has_object else "install datacrumbs-runtime again, with clang at hand",
    )
    yield Check(
        "software",
        "system calls",
        State.GOOD if features.knows_system_calls else State.MISSING,
        platform.machine() if features.knows_system_calls else f"{platform.machine()}: unknown",
        None if features.knows_system_calls else "x86_64 or aarch64",
    )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _client_library() -> Check:
    # The commands of an installation run in an environment of their own below it.
    places = dict.fromkeys((prefix(), Path(sys.prefix)))
    for place in places:
        for directory in ("lib", "lib64"):
            path = place / directory / _CLIENT_LIBRARY
            if path.exists():
                return Check("software", "client library", State.GOOD, str(path))
    text = f"not in {' nor '.join(map(str, places))} (datacrumbs_record does without)"
    return Check("software", "client library", State.FACT, text)


def _program(name: str, purpose: str) -> Check:
    path = shutil.which(name)
    if path is None:
        return Check("software", name, State.FACT, f"not installed ({purpose})")
    try:
        lines = run([path, "--version"], timeout_s=10, check=False).stdout.strip().splitlines()
    except ProcessError as error:
        return Check("software", name, State.FACT, str(error))
    return Check("software", name, State.FACT, lines[0].strip() if lines else path)
