"""Files named by path, soname, environment module and Spack package."""

import os
import subprocess
from pathlib import Path

import pytest

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_utils.discovery import libraries, library_headers


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A prefix with a library and its header, as modules and Spack packages have them."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "dct.h").write_text("int dct(void);\n")
    (tmp_path / "dct.c").write_text("int dct(void) { return 1; }\n")
    real = tmp_path / "lib" / "libdct.so.1.2"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", real, tmp_path / "dct.c"], check=True)
    (tmp_path / "lib" / "libdct.so.1").symlink_to("libdct.so.1.2")
    (tmp_path / "lib" / "libdct.so").symlink_to("libdct.so.1")
    return tmp_path


def test_links_are_resolved(prefix: Path) -> None:
    assert libraries.locate(str(prefix / "lib" / "libdct.so")) == prefix / "lib" / "libdct.so.1.2"


def test_a_soname_is_what_the_dynamic_linker_takes() -> None:
    listing = subprocess.run(["ldd", "/bin/sh"], check=True, capture_output=True, text=True).stdout
    (line,) = [line for line in listing.splitlines() if "libc.so.6" in line]
    loaded = Path(line.split("=>")[1].split()[0]).resolve()
    assert libraries.locate("soname:libc.so.6") == loaded
    assert libraries.locate("libc.so.6") == loaded


def test_ld_library_path_comes_first(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere::{prefix / 'lib'}")
    assert libraries.locate("soname:libdct.so.1") == prefix / "lib" / "libdct.so.1.2"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/nowhere/libx.so", "No such file"),
        ("/etc", "not a regular file"),
        ("lib/libx.so", "give an absolute path, or soname:libx.so"),
        ("soname:libnothing.so.9", "neither LD_LIBRARY_PATH nor"),
        ("soname:", "needs a name"),
        ("soname:../libc.so.6", "a soname is a file name"),
        ("module:", "needs a name"),
        ("spack:", "needs a name"),
        ("module:--version", "module:--version"),
        ("spack:$(id)", "spack:"),
    ],
)
def test_what_cannot_be_found_says_why(
    name: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError) as error:
        libraries.locate(name)
    assert expected in str(error.value)


def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ConfigurationError, match=str(tmp_path)):
        libraries.locate(str(tmp_path / "a"))


def test_a_package_of_spack_is_its_library(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = prefix / "programs"
    programs.mkdir()
    spack = programs / "spack"
    spack.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        'find) echo \'[{"name": "dct", "version": "1.2", "hash": "abcdefg"}]\' ;;\n'
        f"location) echo {prefix} ;;\n"
        "esac\n"
    )
    spack.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.delenv("SPACK_ROOT", raising=False)
    assert libraries.locate("spack:dct") == prefix / "lib" / "libdct.so.1.2"


def test_headers_lie_beside_their_library(prefix: Path) -> None:
    found = library_headers.find("dct.h", prefix / "lib" / "libdct.so.1.2")
    assert found == prefix / "include" / "dct.h"
    assert library_headers.find("nothing.h", prefix / "lib" / "libdct.so.1.2") is None


def test_a_library_of_its_own_prefix_never_gets_the_system_s_headers(prefix: Path) -> None:
    assert library_headers.find("stdio.h", prefix / "lib" / "libc.so.6") is None


def test_usual_headers_are_those_of_well_known_libraries() -> None:
    path = libraries.locate("soname:libc.so.6")
    names = [header.name for header in library_headers.usual(path)]
    if not Path("/usr/include/stdio.h").exists():
        pytest.skip("no stdio.h on this machine: install the C library's development files")
    assert names[0] == "stdio.h"
    assert library_headers.usual(Path("/usr/lib/libunknown.so.1")) == []
