"""Files named in a host configuration: paths, sonames, environment modules and Spack packages."""

import os
import re
from pathlib import Path

from datacrumbs_runtime import process
from datacrumbs_runtime.errors import ConfigurationError, DatacrumbsError

PREFIXES = ("module:", "spack:", "soname:")
# Where a loader looks when neither its cache nor the environment knows a name.
USUAL_DIRECTORIES = ("/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib")
_CACHE_LINE = re.compile(r"\s*(\S+) \(.*\) => (.+)")


def locate(name: str) -> Path:
    """Find the file that a configuration names.

    Args:
        name: A path; ``soname:libmpi.so.40`` for what the dynamic linker would take;
            ``module:hdf5`` or ``spack:hdf5`` for the library of a loaded environment module or of
            the active Spack environment. A bare file name counts as a soname.

    Returns:
        The absolute path with links resolved.

    Raises:
        ConfigurationError: There is no such file; says where was looked.
    """
    kind, colon, rest = name.partition(":")
    if colon and f"{kind}:" in PREFIXES:
        try:
            return _resolved(_by_kind(kind, rest))
        except ConfigurationError:
            raise
        except DatacrumbsError as error:
            raise ConfigurationError(f"{name}: {error}", hint=error.hint) from error
    if "/" not in name:
        return _resolved(soname_path(name))
    path = Path(name).expanduser()
    if not path.is_absolute():
        raise ConfigurationError(f"{name}: give an absolute path, or soname:{path.name}")
    return _resolved(path)


def _by_kind(kind: str, name: str) -> Path:
    if not name:
        raise ConfigurationError(f"{kind}: needs a name, such as {kind}:hdf5")
    if kind == "soname":
        return soname_path(name)
    if kind == "module":
        from datacrumbs_utils.discovery import modules

        return Path(modules.library_path(name))
    from datacrumbs_utils.discovery import spack

    return Path(spack.library_path(name))


def _resolved(path: Path) -> Path:
    try:
        resolved = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(f"{path}: {reason}") from error
    if not resolved.is_file():
        raise ConfigurationError(f"{path}: not a regular file")
    return resolved


def soname_path(soname: str) -> Path:
    """Return the library that the dynamic linker would load by this name.

    Raises:
        ConfigurationError: It would find none.
    """
    if "/" in soname or not soname:
        raise ConfigurationError(f"soname:{soname}: a soname is a file name such as libmpi.so.40")
    for directory in os.environ.get("LD_LIBRARY_PATH", "").split(":"):
        if directory and (Path(directory) / soname).is_file():
            return Path(directory) / soname
    cached = _linker_cache().get(soname)
    if cached is not None:
        return cached
    multiarch = (f"/lib/{os.uname().machine}-linux-gnu", f"/usr/lib/{os.uname().machine}-linux-gnu")
    for directory in (*multiarch, *USUAL_DIRECTORIES):
        if (Path(directory) / soname).is_file():
            return Path(directory) / soname
    raise ConfigurationError(
        f"soname:{soname}: neither LD_LIBRARY_PATH nor the dynamic linker's cache has it"
    )


def _linker_cache() -> dict[str, Path]:
    for program in ("/sbin/ldconfig", "/usr/sbin/ldconfig"):
        if not Path(program).exists():
            continue
        try:
            listing = process.run([program, "-p"], timeout_s=10, env={"LC_ALL": "C"}).stdout
        except DatacrumbsError:
            return {}
        found: dict[str, Path] = {}
        for line in listing.splitlines():
            match = _CACHE_LINE.match(line)
            # 32-bit libraries stand in the same list; probes are for this machine's own words.
            if match and "i386" not in match[2] and "/lib32/" not in match[2]:
                found.setdefault(match[1], Path(match[2]))
        return found
    return {}
