"""Libraries of packages that Spack installed."""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_runtime.process import run
from datacrumbs_utils.discovery import package_libraries

# Spack is slow to start from a parallel file system.
_TIMEOUT_S = 180.0
_SPEC = re.compile(r"[\w.+~@%=/, ^-]+")


@dataclass(frozen=True, slots=True)
class Package:
    """An installed package: its name, version and the hash that tells builds apart."""

    name: str
    version: str
    hash: str
    external: str | None


def library_path(name: str) -> Path:
    """Return the shared library of a package that Spack installed.

    Args:
        name: A spec such as ``hdf5``, ``hdf5@1.14`` or ``hdf5/abcdefg``, looked for in the active
            environment if there is one. ``hdf5:libhdf5_hl.so`` names one of its libraries.

    Raises:
        ConfigurationError: There is no Spack, no such package, several, or no such library.
        ProcessError: Spack failed.
    """
    spec, library = package_libraries.split_name(name)
    found = find(spec)
    if not found:
        environment = os.environ.get("SPACK_ENV")
        place = f"in the environment {environment}" if environment else "in this Spack"
        raise ConfigurationError(
            f"spack:{spec}: not installed {place}", hint="spack find lists what is"
        )
    if len(found) > 1:
        choices = ", ".join(f"{one.name}@{one.version}/{one.hash[:7]}" for one in found[:5])
        raise ConfigurationError(
            f"spack:{spec}: {len(found)} installations match: {choices}",
            hint=f"say which, such as spack:{found[0].name}/{found[0].hash[:7]}",
        )
    (package,) = found
    prefix = prefix_of(package)
    return package_libraries.find(package.name, library, [prefix], f"spack:{spec}")


def find(spec: str) -> list[Package]:
    """Return the installed packages that match a spec.

    Raises:
        ConfigurationError: There is no Spack, or the spec is none.
        ProcessError: Spack failed.
    """
    if not _SPEC.fullmatch(spec) or spec.startswith("-"):
        raise ConfigurationError(f"spack:{spec}: not a spec")
    result = run([_program(), "find", "--json", spec], timeout_s=_TIMEOUT_S, check=False)
    try:
        # With nothing found some versions end with status 1 and print a sentence.
        rows = json.loads(result.stdout or "[]")
        return [_package(row) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        if result.status != 0:
            return []
        raise ConfigurationError(f"spack:{spec}: cannot understand spack find --json") from error


def _package(row: dict[str, object]) -> Package:
    external = row.get("external")
    path = external.get("path") if isinstance(external, dict) else None
    return Package(
        name=str(row["name"]),
        version=str(row.get("version", "")),
        hash=str(row["hash"]),
        external=str(path) if path else None,
    )


def prefix_of(package: Package) -> Path:
    """Return where a package is installed.

    Raises:
        ProcessError: Spack failed.
    """
    if package.external:
        return Path(package.external)
    output = run(
        [_program(), "location", "-i", f"/{package.hash}"], timeout_s=_TIMEOUT_S
    ).stdout.split("\n")
    return Path(next(line for line in reversed(output) if line.startswith("/")))


def _program() -> str:
    root = os.environ.get("SPACK_ROOT", "")
    own = Path(root) / "bin" / "spack"
    found = os.fspath(own) if root and own.is_file() else shutil.which("spack")
    if found is None:
        raise ConfigurationError(
            "spack: not on this machine",
            hint="source Spack's setup-env.sh first, or give the path of the library",
        )
    return found
