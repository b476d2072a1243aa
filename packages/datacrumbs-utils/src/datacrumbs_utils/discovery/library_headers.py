"""Headers of well-known libraries, which have prototypes where a library has no debugging info."""

import os
from collections.abc import Iterator
from pathlib import Path

from datacrumbs_utils.discovery import include_directories

_LIBC = (
    "stdio.h",
    "unistd.h",
    "fcntl.h",
    "stdlib.h",
    "string.h",
    "dirent.h",
    "sys/stat.h",
    "sys/mman.h",
    "sys/uio.h",
    "sys/sendfile.h",
    "sys/xattr.h",
)
# First match counts; the name is the start of the library's file name.
USUAL = {
    "libc.so": _LIBC,
    "libc-": _LIBC,
    "libm.so": ("math.h",),
    "libmpi.so": ("mpi.h",),
    "libhdf5_hl": ("hdf5_hl.h",),
    "libhdf5_serial_hl": ("hdf5_hl.h",),
    "libhdf5": ("hdf5.h",),
    "libnetcdf": ("netcdf.h",),
    "libpnetcdf": ("pnetcdf.h",),
    "libz.so": ("zlib.h",),
    "libaio.so": ("libaio.h",),
    "liburing.so": ("liburing.h",),
    "libsqlite3.so": ("sqlite3.h",),
    "libadios2_c": ("adios2_c.h",),
}


def usual(library: Path) -> list[Path]:
    """Return the headers of a well-known library that are on this machine."""
    for start, names in USUAL.items():
        if library.name.startswith(start):
            return [path for name in names if (path := find(name, library)) is not None]
    return []


def find(header: str, library: Path) -> Path | None:
    """Find a header by absolute path, or by name where the library's headers would be."""
    given = Path(header)
    if given.is_absolute():
        return given if given.is_file() else None
    for directory in _directories(library):
        if (directory / header).is_file():
            return directory / header
    return None


def _directories(library: Path) -> Iterator[Path]:
    yield from include_directories.from_environment()
    # <prefix>/lib/libx.so and <prefix>/lib/<machine>/<flavour>/libx.so alike.
    for parent in list(library.parents)[:4]:
        yield parent / "include"
        if parent.name in ("lib", "lib64"):
            yield parent.parent / "include"
    # The system's headers describe the system's libraries; those of a module or of Spack may be of
    # another version, with other types.
    if library.is_relative_to("/usr") or library.is_relative_to("/lib"):
        yield from _system_directories(library)


def _system_directories(library: Path) -> Iterator[Path]:
    multiarch = f"{os.uname().machine}-linux-gnu"
    for system in (Path("/usr/local/include"), Path("/usr/include")):
        yield system
        yield system / multiarch
        yield system / multiarch / "mpi"
        yield from sorted((system / multiarch).glob("*mpi*"))
        flavour = "openmpi" if "openmpi" in str(library) else "serial"
        yield system / "hdf5" / flavour
        yield from sorted((system / "hdf5").glob("*"))
    yield from sorted(Path("/usr/lib").glob(f"{multiarch}/*mpi*/include"))
