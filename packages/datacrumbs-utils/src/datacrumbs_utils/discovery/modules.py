"""Libraries of environment modules (Lmod and Environment Modules)."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_runtime.process import run
from datacrumbs_utils.discovery import package_libraries

_TIMEOUT_S = 60.0
# prepend-path [--delim :] LD_LIBRARY_PATH /opt/x/lib    setenv HDF5_DIR /opt/x
_TCL = re.compile(
    r"(?P<command>prepend-path|append-path|setenv|pushenv)\s+(?:--?\w+(?:\s+\S)?\s+)*"
    r"(?P<name>\w+)\s+(?P<value>.*)"
)
# prepend_path("LD_LIBRARY_PATH","/opt/x/lib")   prepend_path{"A","/b",priority="10"}
_LUA = re.compile(
    r"""(?P<command>prepend_path|append_path|setenv|pushenv)[({]\s*"(?P<name>\w+)"\s*,"""
    r"""\s*"(?P<value>(?:[^"\\]|\\.)*)".*"""
)
_LIBRARY_VARIABLES = ("LD_LIBRARY_PATH", "LIBRARY_PATH", "LD_RUN_PATH")
_PREFIX_VARIABLE = re.compile(r"\w*(?:_DIR|_ROOT|_HOME|_PREFIX|_PATH|_BASE|DIR|HOME)")


def library_path(name: str) -> Path:
    """Return the shared library of an environment module.

    Args:
        name: A module such as ``hdf5`` or ``hdf5/1.14.3``; one that is loaded counts before one
            that could be. ``hdf5:libhdf5_hl.so`` names one of its libraries.

    Raises:
        ConfigurationError: There are no environment modules, no such module, or no such library.
        ProcessError: The module program failed.
    """
    module, library = package_libraries.split_name(name)
    full_name = _loaded(module) or module
    variables = list(parse_show(show(full_name)))
    package = module.partition("/")[0]
    return package_libraries.find(package, library, _directories(variables), f"module:{module}")


def loaded() -> tuple[str, ...]:
    """Return the loaded modules in the order in which they were loaded."""
    return tuple(part for part in os.environ.get("LOADEDMODULES", "").split(":") if part)


def _loaded(module: str) -> str | None:
    names = [one for one in loaded() if one == module or one.startswith(f"{module}/")]
    return names[-1] if names else None


def show(module: str) -> str:
    """Return what ``module show`` prints.

    Raises:
        ConfigurationError: There are no environment modules, or no such module.
        ProcessError: The module program failed.
    """
    if module.startswith("-") or not re.fullmatch(r"[\w.+/@=-]+", module):
        raise ConfigurationError(f"module:{module}: not the name of a module")
    result = run([*_command(), "bash", "show", module], timeout_s=_TIMEOUT_S, check=False)
    text = result.stderr
    # Environment Modules ends with status 0 even so.
    if result.status != 0 or "ERROR" in text.split("\n", 1)[0] or not list(parse_show(text)):
        raise ConfigurationError(
            f"module:{module}: no such environment module",
            hint="module avail lists what there is; module use adds a directory",
        )
    return text


def _command() -> list[str]:
    """Return the program behind the shell function ``module``."""
    for variable in ("LMOD_CMD", "MODULES_CMD"):
        program = os.environ.get(variable, "")
        if program and Path(program).is_file():
            return [program]
    found = shutil.which("modulecmd") or shutil.which("modulecmd.tcl")
    if found is not None:
        return [found]
    raise ConfigurationError(
        "module: no environment modules on this machine",
        hint="initialise them first: LMOD_CMD or MODULES_CMD must be set, or give the path",
    )


def parse_show(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield command, variable and value of each environment variable that a module changes.

    Args:
        text: The output of ``module show``, in Tcl or in Lua.
    """
    for line in text.splitlines():
        match = _LUA.fullmatch(line.strip()) or _TCL.fullmatch(line.strip())
        if match:
            value = match["value"].strip()
            if value.startswith("{") and value.endswith("}"):
                value = value[1:-1]
            yield match["command"].replace("-", "_"), match["name"], value.replace('\\"', '"')


def _directories(variables: list[tuple[str, str, str]]) -> Iterator[Path]:
    for wanted in _LIBRARY_VARIABLES:
        for _, name, value in variables:
            if name == wanted:
                yield from (Path(part) for part in value.split(":") if part.startswith("/"))
    for command, name, value in variables:
        is_set = command in ("setenv", "pushenv") and _PREFIX_VARIABLE.fullmatch(name)
        if is_set and value.startswith("/") and ":" not in value:
            yield Path(value)
    for _, name, value in variables:
        if name == "PATH":
            # <prefix>/bin
            yield from (Path(part).parent for part in value.split(":") if part.startswith("/"))
