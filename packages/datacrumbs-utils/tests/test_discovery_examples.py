"""The shipped examples, the JSON schema for editors, and the page that documents every key."""

import json
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_runtime.schema.probe_document import (
    document_from_probe_file,
    probe_file_from_document,
)
from datacrumbs_runtime.schema.probe_file import plain_symbol
from datacrumbs_utils.discovery import argument_lists, config, entries, libraries, sets, templates
from datacrumbs_utils.discovery.problems import raise_errors
from datacrumbs_utils.discovery.select import Selection, select

DATA = Path(str(resources.files("datacrumbs_utils") / "data"))
EXAMPLES = sorted((DATA / "examples").glob("*.yaml"))
SETS = sorted((DATA / "probe-sets").glob("*.yaml"))
PAGE = Path(__file__).parents[3] / "docs" / "user" / "host-configuration.md"
PYTHON = Path("/usr/bin/python3.11")


@pytest.fixture(scope="module")
def schema() -> Any:
    return json.loads((DATA / "host-config.schema.json").read_text())


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def document(path: Path) -> Any:
    """Read a file as an editor sees it: templates are texts like others."""
    return yaml.safe_load(path.read_text().replace("@DATACRUMBS_", "DATACRUMBS_"))


def selected(name: str, **defines: str) -> Selection:
    path = DATA / "examples" / f"{name}.yaml"
    loaded = sets.load(str(path), templates.variables(defines))
    assert [str(problem) for problem in loaded.problems] == []
    selection = select(loaded)
    stored = document_from_probe_file(selection.probe_file)
    assert probe_file_from_document(stored, name) == selection.probe_file
    return selection


def functions(selection: Selection, category: str) -> set[str]:
    return {
        plain_symbol(function)
        for one in selection.probe_file.categories
        if one.name == category
        for function in one.functions
    }


def library(soname: str) -> Path:
    try:
        return libraries.locate(soname)
    except ConfigurationError:
        pytest.skip(f"{soname} is not on this machine")


def test_there_is_an_example_for_each_use() -> None:
    assert [path.stem for path in EXAMPLES] == [
        "hdf5",
        "kernel-storage-stack",
        "laptop",
        "libc-and-system-calls",
        "lustre",
        "mpi-io",
        "python-usdt",
    ]


def test_laptop_records_every_layer() -> None:
    selection = selected("laptop")
    names = {category.name for category in selection.probe_file.categories}
    assert {"POSIX", "STDIO", "block", "page_cache"} <= names


def test_libc_and_system_calls_shows_both_sides_of_a_call() -> None:
    selection = selected("libc-and-system-calls")
    assert {"openat", "read", "pwrite64", "writev"} <= functions(selection, "sys")
    assert {"fopen", "fread", "read", "write"} <= functions(selection, "libc")


def test_mpi_io_has_the_file_functions_and_counts_the_collective_ones() -> None:
    library("soname:libmpi.so.40")
    selection = selected("mpi-io")
    found = functions(selection, "MPI-IO")
    assert {"MPI_File_open", "MPI_File_write_all", "MPI_File_read_at"} <= found
    assert not {"MPI_File_c2f", "MPI_File_f2c"} & found
    modes = {category.name: category.mode for category in selection.probe_file.categories}
    assert (modes["MPI"], modes["MPI-IO"]) == ("profile", None)
    assert "MPI_Allreduce" in functions(selection, "MPI")


def test_hdf5_has_one_category_per_part() -> None:
    library("soname:libhdf5_serial.so.103")
    selection = selected("hdf5", DATACRUMBS_HDF5_LIB="soname:libhdf5_serial.so.103")
    assert {"H5Fopen", "H5Fcreate", "H5Fclose"} <= functions(selection, "h5f")
    assert {"H5Dopen2", "H5Dread", "H5Dwrite"} <= functions(selection, "h5d")
    assert {"H5Aopen", "H5Acreate2", "H5Aclose"} <= functions(selection, "h5a")
    for category in ("h5f", "h5d", "h5a", "h5s"):
        listed = functions(selection, category)
        assert not [name for name in listed if name[3] in "_ABCDEFGHIJKLMNOPQRSTUVWXYZ"]


def test_kernel_storage_stack_needs_no_headers(tmp_path: Path) -> None:
    selection = selected("kernel-storage-stack", DATACRUMBS_KERNEL_HEADERS_PATH=str(tmp_path))
    assert "filemap_add_folio" in functions(selection, "os_page_cache")
    assert "shmem_file_setup" in functions(selection, "shm")
    assert "submit_bio" in functions(selection, "block")
    assert "block_rq" in functions(selection, "block")


def test_lustre_takes_its_modules_from_variables(tmp_path: Path) -> None:
    defines = {}
    for name, function in (("LLITE", "ll_file_open"), ("OSC", "osc_io_read_start")):
        source = tmp_path / f"{name}.c"
        source.write_text(f"int {function}(void *a, int b) {{ return a != 0 && b; }}\n")
        module = tmp_path / f"{name.lower()}.ko"
        subprocess.run(["gcc", "-g", "-c", "-o", module, source], check=True)
        defines[f"DATACRUMBS_LUSTRE_{name}_KO"] = str(module)
    selection = selected("lustre", **defines)
    assert functions(selection, "llite") == {"ll_file_open"}
    assert functions(selection, "osc") == {"osc_io_read_start"}


@pytest.mark.skipif(not PYTHON.exists(), reason="this machine has no Python with USDT probes")
def test_python_usdt_has_functions_imports_and_collections() -> None:
    selection = selected("python-usdt", DATACRUMBS_PYTHON_LIB=str(PYTHON))
    assert {"function", "gc__start", "import__find__load__start"} <= functions(selection, "python")


@pytest.mark.parametrize("name", ["hdf5", "lustre", "python-usdt"])
def test_an_example_that_needs_a_variable_names_it_in_a_comment(name: str) -> None:
    text = (DATA / "examples" / f"{name}.yaml").read_text()
    wanted = {match for match in text.split("@") if match.startswith("DATACRUMBS_")}
    comments = " ".join(line for line in text.splitlines() if line.startswith("#"))
    assert any(variable in comments for variable in wanted)
    with pytest.raises(ConfigurationError, match="has no value; give it with --define"):
        raise_errors(config.read(DATA / "examples" / f"{name}.yaml", {}).problems)


@pytest.mark.parametrize("path", [*EXAMPLES, *SETS], ids=lambda path: path.stem)
def test_the_schema_accepts_what_is_shipped(path: Path, schema: Any) -> None:
    jsonschema.Draft202012Validator(schema).validate(document(path))


@pytest.mark.parametrize(
    "entry",
    [
        {"probe": "syscalls"},
        {"name": "a"},
        {"name": "a", "probe": "syscall"},
        {"name": "a", "probe": "syscalls", "regx": "x"},
        {"name": "a", "probe": "uprobe", "type": "ksym", "file": "/x"},
        {"name": "a", "probe": "uprobe"},
        {"name": "a", "probe": "uprobe", "type": "header", "file": "/x.h"},
        {"name": "a", "probe": "kprobe", "regex": "x"},
        {"name": "a", "probe": "kprobe", "type": "binary"},
        {"name": "a", "probe": "usdt", "provider": "p"},
        {"name": "a", "probe": "custom", "file": "/x"},
        {"name": "a", "probe": "syscalls", "mode": "loud"},
        {"name": "a", "probe": "syscalls", "regex": "x", "functions": ["y"]},
        {"name": "a", "probe": "syscalls", "function_arguments": {"open": [{"label": "x"}]}},
    ],
    ids=str,
)
def test_schema_and_parser_refuse_the_same(entry: dict[str, Any], schema: Any) -> None:
    whole = {"capture_probes": [entry]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(whole)
    with pytest.raises(ConfigurationError):
        raise_errors(config.parse(json.dumps(whole), "x", {}).problems)


def test_the_schema_knows_exactly_the_keys_of_the_parser(schema: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    known = {*config.TOP_LEVEL_KEYS, *config.OLD_TOP_LEVEL_KEYS}
    assert set(schema["properties"]) == known
    entry = schema["properties"]["capture_probes"]["items"]["else"]["properties"]
    assert set(entry) == set(entries.ALL_KEYS)
    argument = entry["function_arguments"]["additionalProperties"]["items"]["oneOf"][1]
    assert set(argument["properties"]) == set(argument_lists.ARGUMENT_KEYS)
    assert set(entry["probe"]["enum"]) == set(entries.PROBES)
    assert set(entry["type"]["enum"]) == set(entries.TYPES)


def test_the_page_documents_every_key() -> None:
    text = PAGE.read_text()
    keys = {*config.TOP_LEVEL_KEYS, *entries.ALL_KEYS, *argument_lists.ARGUMENT_KEYS}
    assert sorted(key for key in keys if f"`{key}`" not in text) == []
    assert (
        sorted(word for word in (*entries.PROBES, *entries.TYPES) if f"`{word}`" not in text) == []
    )
    assert [path.name for path in EXAMPLES if path.name not in text] == []


def test_every_example_on_the_page_is_valid() -> None:
    blocks = PAGE.read_text().split("```yaml\n")[1:]
    checked = 0
    for block in blocks:
        text = block.split("```", maxsplit=1)[0]
        if not text.startswith(("capture_probes:", "include:")):
            continue
        found = config.parse(text, "page", {})
        assert [str(problem) for problem in found.problems] == []
        checked += 1
    assert checked >= 2
