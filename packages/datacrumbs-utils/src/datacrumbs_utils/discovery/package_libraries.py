"""Which shared library of an installed package somebody means who only names the package."""

import re
from collections.abc import Iterable
from pathlib import Path

from datacrumbs_runtime.errors import ConfigurationError

# Packages whose library is called otherwise.
LIBRARIES = {
    "openmpi": ("libmpi.so",),
    "mpich": ("libmpi.so", "libmpich.so"),
    "mvapich": ("libmpi.so", "libmpich.so"),
    "mvapich2": ("libmpi.so", "libmpich.so"),
    "cray-mpich": ("libmpi_cray.so", "libmpi_gnu.so", "libmpi.so", "libmpich.so"),
    "intel-mpi": ("libmpi.so",),
    "intel-oneapi-mpi": ("libmpi.so",),
    "impi": ("libmpi.so",),
    "spectrum-mpi": ("libmpi_ibm.so", "libmpi.so"),
    "cray-hdf5": ("libhdf5.so",),
    "cray-hdf5-parallel": ("libhdf5.so", "libhdf5_parallel.so"),
    "netcdf-c": ("libnetcdf.so",),
    "parallel-netcdf": ("libpnetcdf.so",),
    "adios2": ("libadios2_c.so", "libadios2_core.so"),
    "zlib-ng": ("libz.so",),
    "zlib": ("libz.so",),
    "sqlite": ("libsqlite3.so",),
    "libc": ("libc.so",),
    "glibc": ("libc.so",),
}
_DIRECTORIES = ("lib", "lib64", ".")


def split_name(name: str) -> tuple[str, str | None]:
    """Split ``hdf5:libhdf5_hl.so`` into the package and the library, None if none is named."""
    package, _, library = name.partition(":")
    return package, library or None


def find(package: str, library: str | None, directories: Iterable[Path], where: str) -> Path:
    """Return a package's shared library.

    Args:
        package: What it is called, without version: ``hdf5``.
        library: File name of the library, or how it begins; None: the package's main one.
        directories: Prefixes and library directories of the package, the likeliest first.
        where: What errors call the package.

    Raises:
        ConfigurationError: It has none of that name.
    """
    names = (library,) if library else _names(package)
    places = [
        place
        for directory in dict.fromkeys(directories)
        for place in (directory / part for part in _DIRECTORIES)
        if place.is_dir()
    ]
    for name in names:
        for place in places:
            found = _in_directory(place, name)
            if found is not None:
                return found
    present = sorted({path.name for place in places for path in place.glob("lib*.so")})
    raise ConfigurationError(
        f"{where}: has no {' or '.join(names)}",
        hint=(
            f"name one of its libraries, such as {where}:{present[0]}"
            if present
            else "it has no shared libraries in lib or lib64"
        ),
    )


def _names(package: str) -> tuple[str, ...]:
    plain = package.lower()
    if plain in LIBRARIES:
        return LIBRARIES[plain]
    stem = plain.removeprefix("lib")
    names = [f"lib{stem}.so", f"lib{stem.replace('-', '_')}.so"]
    names += [f"lib{re.split(r'[-_]', stem)[0]}.so"]
    return tuple(dict.fromkeys(names))


def _in_directory(directory: Path, name: str) -> Path | None:
    exact = directory / name
    if exact.is_file():
        return exact
    # Only the versioned file is there where nothing is developed: libhdf5.so.103.
    versioned = sorted(directory.glob(f"{name}.*"), key=lambda path: len(path.name))
    if versioned:
        return versioned[0]
    # python: libpython3.11.so
    stem = name.removesuffix(".so")
    pattern = re.compile(rf"{re.escape(stem)}[\d.]+\.so(\.\d+)*")
    numbered = [path for path in sorted(directory.iterdir()) if pattern.fullmatch(path.name)]
    return numbered[0] if numbered else None
