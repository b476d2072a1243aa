"""Libraries named by environment module and by Spack package, with programs as real ones answer."""

import json
import os
from pathlib import Path

import pytest

from datacrumbs_runtime.errors import ConfigurationError, DatacrumbsError
from datacrumbs_utils.discovery import libraries, modules, package_libraries, spack

# As Environment Modules 5.2 and Lmod 8.6 print them.
TCL = """\
-------------------------------------------------------------------
/sw/modulefiles/hdf5/1.10.8:

module-whatis\t{HDF5 library}
conflict\thdf5-mpi
prepend-path\tPATH PREFIX/bin
prepend-path\t--delim : LD_LIBRARY_PATH PREFIX/lib
prepend-path\tLIBRARY_PATH PREFIX/lib:PREFIX/lib64
append-path\tMANPATH PREFIX/share/man
setenv\t\tHDF5_DIR PREFIX
setenv\t\tHDF5_NOTE {a b {c}}
-------------------------------------------------------------------
"""
LUA = """\
----------------------------------------------------------------------------
   /sw/modulefiles/hdf5/1.12.lua:
----------------------------------------------------------------------------
whatis("HDF5")
prepend_path("PATH","PREFIX/bin")
prepend_path{"LD_LIBRARY_PATH","PREFIX/lib",priority="10"}
prepend_path("LIBRARY_PATH","PREFIX/lib")
setenv("HDF5_ROOT","PREFIX")
pushenv("CC","mpicc")

"""
SPACK_ROW: dict[str, object] = {
    "name": "hdf5",
    "version": "1.14.3",
    "arch": {"platform": "linux", "platform_os": "debian12", "target": "zen3"},
    "compiler": {"name": "gcc", "version": "12.2.0"},
    "namespace": "builtin",
    "parameters": {"mpi": True},
    "package_hash": "x",
    "hash": "abcdefgh12345678",
}


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """An installed package."""
    directory = tmp_path / "sw" / "hdf5"
    (directory / "lib").mkdir(parents=True)
    for name in ("libhdf5.so.103.3.1", "libhdf5_hl.so.100"):
        (directory / "lib" / name).write_bytes(b"\x7fELF")
    (directory / "lib" / "libhdf5.so").symlink_to("libhdf5.so.103.3.1")
    return directory


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return path


@pytest.fixture(params=["tcl", "lua"])
def module_program(
    request: pytest.FixtureRequest, tmp_path: Path, prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A program that answers ``show hdf5`` on stderr and nothing else, as the real ones do."""
    answer = tmp_path / "answer"
    text = TCL if request.param == "tcl" else LUA
    answer.write_text(text.replace("PREFIX", os.fspath(prefix)))
    monkeypatch.delenv("LMOD_CMD", raising=False)
    monkeypatch.delenv("MODULES_CMD", raising=False)
    failure = "echo \"ERROR: Unable to locate a modulefile for '$3'\" >&2; exit 0"
    if request.param == "lua":
        failure = "echo 'Lmod Warning: Failed to find the following module(s)' >&2; exit 1"
    path = program(
        tmp_path / "modulecmd",
        f'[ "$1 $2" = "bash show" ] || exit 9\n'
        f'case "$3" in hdf5|hdf5/1.1*) cat {answer} >&2;; *) {failure};; esac\n',
    )
    monkeypatch.setenv("LMOD_CMD" if request.param == "lua" else "MODULES_CMD", str(path))
    return path


def test_library_of_a_module(module_program: Path, prefix: Path) -> None:
    assert modules.library_path("hdf5") == prefix / "lib" / "libhdf5.so"
    assert libraries.locate("module:hdf5") == prefix / "lib" / "libhdf5.so.103.3.1"


def test_another_library_of_a_module(module_program: Path, prefix: Path) -> None:
    found = modules.library_path("hdf5:libhdf5_hl.so")
    assert found == prefix / "lib" / "libhdf5_hl.so.100"


def test_unknown_module_and_library_say_what_to_do(module_program: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such environment module"):
        modules.library_path("absent")
    with pytest.raises(ConfigurationError, match=r"has no libother\.so") as caught:
        modules.library_path("hdf5:libother.so")
    assert "libhdf5.so" in (caught.value.hint or "")


def test_loaded_version_of_a_module_counts_first(
    module_program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = module_program.read_text().replace("hdf5|hdf5/1.1*)", "hdf5/1.12)")
    module_program.write_text(text)
    monkeypatch.setenv("LOADEDMODULES", "gcc/12.2:hdf5/1.12:openmpi/4.1")
    assert modules.library_path("hdf5").name == "libhdf5.so"


@pytest.mark.parametrize("name", ["--help", "a;b", "$(id)", "a b", "a\nb", ""])
def test_module_names_are_names(module_program: Path, name: str) -> None:
    with pytest.raises(ConfigurationError):
        modules.show(name)


def test_machine_without_modules_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LMOD_CMD", raising=False)
    monkeypatch.delenv("MODULES_CMD", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="no environment modules on this machine"):
        modules.library_path("hdf5")


def spack_program(directory: Path, rows: list[dict[str, object]], prefix: Path) -> None:
    answer = directory / "found.json"
    answer.write_text(json.dumps(rows))
    program(
        directory / "spack",
        f'case "$*" in "find --json hdf5"*) cat {answer};;\n'
        f'"location -i /abcdefgh12345678") echo {prefix};;\n'
        '*) echo "==> No package matches the query: $3"; exit 1;; esac\n',
    )


@pytest.fixture
def spack_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.delenv("SPACK_ROOT", raising=False)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return directory


def test_library_of_a_spack_package(spack_path: Path, prefix: Path) -> None:
    spack_program(spack_path, [SPACK_ROW], prefix)
    assert spack.library_path("hdf5@1.14") == prefix / "lib" / "libhdf5.so"
    assert libraries.locate("spack:hdf5") == prefix / "lib" / "libhdf5.so.103.3.1"


def test_external_spack_package_is_where_its_owner_put_it(spack_path: Path, prefix: Path) -> None:
    external = {**SPACK_ROW, "hash": "other", "external": {"path": str(prefix), "module": None}}
    spack_program(spack_path, [external], Path("/nowhere"))
    assert spack.library_path("hdf5") == prefix / "lib" / "libhdf5.so"


def test_several_spack_packages_are_named(spack_path: Path, prefix: Path) -> None:
    spack_program(spack_path, [SPACK_ROW, {**SPACK_ROW, "hash": "zyxw9876"}], prefix)
    with pytest.raises(ConfigurationError, match="2 installations match") as caught:
        spack.library_path("hdf5")
    assert "abcdefg" in str(caught.value)
    assert "zyxw987" in str(caught.value)


def test_package_that_spack_does_not_have(spack_path: Path, prefix: Path) -> None:
    spack_program(spack_path, [SPACK_ROW], prefix)
    with pytest.raises(ConfigurationError, match="not installed"):
        spack.library_path("netcdf-c")
    for name in ("--help", "a;b", "$(id)", ""):
        with pytest.raises(DatacrumbsError):
            spack.library_path(name)


def test_machine_without_spack_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACK_ROOT", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="spack: not on this machine"):
        spack.library_path("hdf5")


@pytest.mark.parametrize(
    ("package", "file"),
    {
        "openmpi": "libmpi.so.40",
        "python": "libpython3.11.so.1.0",
        "netcdf-c": "libnetcdf.so.19",
        "zlib": "libz.so.1",
        "libaio": "libaio.so.1",
        "my-own_lib": "libmy_own_lib.so",
        "hdf5-parallel": "libhdf5.so.200",
    }.items(),
)
def test_library_that_a_package_name_stands_for(tmp_path: Path, package: str, file: str) -> None:
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64" / file).write_bytes(b"")
    (tmp_path / "lib64" / "libzz_other.so").write_bytes(b"")
    assert package_libraries.find(package, None, [tmp_path], package).name == file
