"""Where a C header's own includes are found: compilers, MPI wrappers and pkg-config know."""

import os
import shutil
from functools import lru_cache
from pathlib import Path

from datacrumbs_runtime.errors import ProcessError
from datacrumbs_runtime.process import run

# Package names by what a missing header is called.
_PACKAGES = {
    "mpi.h": ("mpi", "ompi", "ompi-c", "mpich"),
    "hdf5.h": ("hdf5", "hdf5-serial", "hdf5-openmpi"),
    "netcdf.h": ("netcdf",),
    "zlib.h": ("zlib",),
}
_TIMEOUT_S = 10.0


@lru_cache(maxsize=1)
def compiler_headers() -> Path | None:
    """Return the directory with a compiler's own headers (``stddef.h``), or None without one."""
    found = [
        *Path("/usr/lib").glob("llvm-*/lib/clang/*/include"),
        *Path("/usr/lib64/clang").glob("*/include"),
        *Path("/usr/lib/clang").glob("*/include"),
        *Path("/usr/lib/gcc").glob("*/*/include"),
    ]
    usable = sorted(path for path in found if (path / "stddef.h").is_file())
    if usable:
        # clang's understand each other best; the newest of them.
        clangs = [path for path in usable if "clang" in path.parts]
        return (clangs or usable)[-1]
    for compiler in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        program = shutil.which(compiler) if compiler else None
        if program is None:
            continue
        try:
            answer = run([program, "-print-file-name=include"], timeout_s=_TIMEOUT_S).stdout.strip()
        except ProcessError:
            continue
        if (Path(answer) / "stddef.h").is_file():
            return Path(answer)
    return None


def for_missing(header: str) -> tuple[Path, ...]:
    """Return the directories in which an include that was not found may be."""
    name = header.rpartition("/")[2]
    directories = [*from_environment(), *_from_mpi_wrapper()]
    for package in _PACKAGES.get(name, (name.removesuffix(".h"),)):
        directories += _from_pkg_config(package)
    return tuple(dict.fromkeys(path for path in directories if path.is_dir()))


def from_environment() -> list[Path]:
    """Return the directories in which compilers look because the user says so."""
    variables = ("CPATH", "C_INCLUDE_PATH")
    parts = [part for name in variables for part in os.environ.get(name, "").split(":")]
    return [Path(part) for part in parts if part]


@lru_cache(maxsize=1)
def _from_mpi_wrapper() -> list[Path]:
    wrapper = shutil.which("mpicc")
    if wrapper is None:
        return []
    # Open MPI answers with bare directories; MPICH and its relatives with a command line.
    for option in ("--showme:incdirs", "-show"):
        try:
            words = run([wrapper, option], timeout_s=_TIMEOUT_S).stdout.split()
        except ProcessError:
            continue
        named = [word.removeprefix("-I") for word in words if word.startswith("-I")]
        paths = named or [word for word in words if word.startswith("/")]
        if paths:
            return [Path(path) for path in paths]
    return []


@lru_cache(maxsize=64)
def _from_pkg_config(package: str) -> list[Path]:
    program = shutil.which("pkg-config")
    if program is None:
        return []
    try:
        words = run([program, "--cflags-only-I", package], timeout_s=_TIMEOUT_S).stdout.split()
    except ProcessError:
        return []
    return [Path(word.removeprefix("-I")) for word in words if word.startswith("-I")]
