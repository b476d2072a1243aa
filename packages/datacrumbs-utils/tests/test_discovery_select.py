"""From a host configuration to a probe file, on a library that the test builds itself."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_runtime.schema.probe_document import (
    document_from_probe_file,
    probe_file_from_document,
)
from datacrumbs_runtime.schema.probe_file import Category, ProbeType, plain_symbol, symbol_value
from datacrumbs_utils.discovery import config, exclusions
from datacrumbs_utils.discovery.explanation import explain
from datacrumbs_utils.discovery.select import Selection, select

SOURCE = """
#include <stddef.h>
struct point { double x, y; };
int dct_open(const char *path, int flags) { return path[0] + flags; }
long dct_write(int fd, const void *buf, size_t count) { return fd + *(const char *)buf + count; }
void dct_close(int fd) { __asm__ volatile("" : : "r"(fd)); }
double dct_scale(double factor, int times) { return factor * times; }
int dct_same(int a) { return a + 1; }
int dct_alias(int a) __attribute__((alias("dct_same")));
static __attribute__((noinline, used)) int dct_hidden(char *name, size_t n) { return name[n]; }
int dct_read_hidden(char *name) { return dct_hidden(name, 1); }
int dct_read_twice(char *name) { return dct_hidden(name, 1) + dct_hidden(name, 2); }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("library")
    source = directory / "dct.c"
    source.write_text(SOURCE)
    path = directory / "libdct.so"
    flags = ["-g", "-O1", "-fcf-protection", "-fPIC", "-shared", "-Wl,--build-id"]
    subprocess.run(["gcc", *flags, "-o", path, source], check=True)
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def chosen(text: str, **options: object) -> Selection:
    return select(config.parse(text, "host.yaml", {}), **options)  # type: ignore[arg-type]


def entry(library: Path, more: str, name: str = "dct") -> str:
    return f"  - {{name: {name}, probe: uprobe, file: {library}{more}}}\n"


def category(library: Path, more: str, **options: object) -> Category:
    text = "capture_probes:\n" + entry(library, more)
    (found,) = chosen(text, **options).probe_file.categories
    return found


def names(found: Category) -> set[str]:
    return {plain_symbol(name) for name in found.functions}


def nm(library: Path) -> dict[str, int]:
    listing = subprocess.run(
        ["nm", "--defined-only", library], check=True, capture_output=True, text=True
    ).stdout
    rows = (line.split() for line in listing.splitlines())
    return {row[2]: int(row[0], 16) for row in rows if row[1] in "Tt"}


def test_an_expression_selects_what_nm_lists(library: Path) -> None:
    found = category(library, ", regex: dct_.*")
    symbols = nm(library)
    expected = {name for name in symbols if name.startswith("dct_")} - {"dct_alias"}
    # One address is one function, whatever it is called: one of the two names stays.
    assert names(found) - {"dct_alias"} | {"dct_same"} == expected
    for name in found.functions:
        assert symbol_value(name) == symbols[plain_symbol(name)]


def test_an_empty_expression_means_every_function(library: Path) -> None:
    found = category(library, "")
    assert {"dct_open", "dct_hidden"} <= names(found)
    assert not {"_init", "_fini", "_start"} & names(found)


def test_an_alias_is_recorded_under_the_name_that_was_asked_for(library: Path) -> None:
    assert names(category(library, ", regex: dct_alias")) == {"dct_alias"}
    assert names(category(library, ", functions: [dct_same]")) == {"dct_same"}


def test_the_probe_file_says_where_and_what(library: Path) -> None:
    found = category(library, ", functions: [dct_open]")
    assert (found.type, found.name, found.binary_path) == (ProbeType.UPROBE, "dct", str(library))
    assert found.include_offsets
    readelf = subprocess.run(["readelf", "-n", library], check=True, capture_output=True, text=True)
    assert found.build_id is not None
    assert found.build_id in readelf.stdout
    (name,) = found.functions
    assert [(one.label, one.index, one.c_type) for one in found.arguments[name]] == [
        ("path", 0, "char *"),
        ("flags", 1, "int"),
    ]
    assert found.returns == {name: "int"}


def test_buffers_are_addresses_and_void_is_said(library: Path) -> None:
    found = category(library, ", functions: [dct_write, dct_close, dct_hidden]")
    arguments = {plain_symbol(name): value for name, value in found.arguments.items()}
    assert [one.c_type for one in arguments["dct_write"]] == ["int", "void *", "size_t"]
    assert [one.c_type for one in arguments["dct_hidden"]] == ["void *", "size_t"]
    returns = {plain_symbol(name): value for name, value in found.returns.items()}
    assert returns["dct_close"] == "void"


def test_floating_point_takes_no_integer_register(library: Path) -> None:
    found = category(library, ", functions: [dct_scale]")
    (arguments,) = found.arguments.values()
    assert [(one.label, one.index) for one in arguments] == [("times", 0)]


def test_probes_step_over_the_first_instruction_of_a_cet_build(library: Path) -> None:
    found = category(library, ", functions: [dct_read_twice]")
    (offset,) = found.placed_offsets.values()
    assert offset == nm(library)["dct_read_twice"] + len(b"\xf3\x0f\x1e\xfa")  # endbr64


def test_overrides_win_over_debugging_information(library: Path) -> None:
    more = ", functions: [dct_read_hidden], function_arguments: {dct_read_hidden: [char *title]}"
    (arguments,) = category(library, more).arguments.values()
    assert [(one.label, one.c_type) for one in arguments] == [("title", "char *")]


def test_what_a_probe_cannot_read_is_said(library: Path) -> None:
    text = "capture_probes:\n" + entry(library, ", functions: [dct_scale]")
    (line,) = explain(chosen(text), "dct_scale")
    assert "double dct_scale(double factor, int times)" in line
    assert line.endswith("not captured: factor: floating point (double)")


def test_arguments_can_be_left_out(library: Path) -> None:
    assert dict(category(library, ", functions: [dct_open], arguments: false").arguments) == {}


def test_names_without_offsets_are_as_old_files_had_them(library: Path) -> None:
    found = category(library, ", functions: [dct_open], include_offsets: false")
    assert found.functions == ("dct_open",)
    assert not found.include_offsets


def test_excluded_functions_are_left_out_and_counted(library: Path) -> None:
    text = "capture_probes:\n" + entry(library, ", regex: dct_.*, exclude: [.*open, dct_alias]")
    selection = chosen(text)
    (found,) = selection.probe_file.categories
    assert not {"dct_open", "dct_same", "dct_alias"} & names(found)
    assert sum(selection.report.categories[0].excluded.values()) == 2


def test_an_exclusion_file_works_by_type_and_name(library: Path, tmp_path: Path) -> None:
    path = tmp_path / "probes-exclusion-root-test.json"
    path.write_text(
        json.dumps(
            [
                {"type": 2, "name": "dct", "functions": ["dct_open", "dct_close@@V1"], "x": 1},
                {"type": 2, "name": "other", "functions": ["dct_write"]},
                {"type": 1, "name": "dct", "functions": ["dct_write"]},
            ]
        )
    )
    found = category(library, ", regex: dct_.*", exclusions=exclusions.load(path))
    assert not {"dct_open", "dct_close"} & names(found)
    assert "dct_write" in names(found)


def test_a_missing_exclusion_file_becomes_a_template(library: Path, tmp_path: Path) -> None:
    path = tmp_path / "data" / exclusions.file_name("root", "node")
    assert exclusions.load(path).functions == {}
    entries = config.parse("capture_probes:\n" + entry(library, ""), "x", {}).entries
    exclusions.write_template(path, entries)
    assert json.loads(path.read_text()) == [{"type": 2, "name": "dct", "functions": []}]
    path.write_text("[]")
    exclusions.write_template(path, entries)
    assert path.read_text() == "[]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", r"x.json:1:2: "),
        ("{}", "not a list of groups"),
        ("[1]", "element 1: not a group"),
        ('[{"type": 9, "name": "a", "functions": []}]', "element 1: unknown type 9"),
        ('[{"type": 2, "functions": []}]', "element 1: needs a name"),
        ('[{"type": 2, "name": "a", "functions": [1]}]', "element 1: a function is not a string"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_broken_exclusion_file_is_an_error(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=expected):
        exclusions.load(path)


def test_a_function_belongs_to_the_first_entry_that_means_it(library: Path) -> None:
    text = "capture_probes:\n" + entry(library, ", regex: dct_(open|close)", "first")
    text += entry(library, ", regex: dct_.*", "second")
    selection = chosen(text)
    first, second = selection.probe_file.categories
    assert names(first) == {"dct_open", "dct_close"}
    assert names(second).isdisjoint(names(first))
    assert selection.report.categories[1].excluded == {"already in first": 2}


def test_an_empty_match_is_an_error_at_its_expression(library: Path) -> None:
    text = "capture_probes:\n" + entry(library, ", regex: nothing_.*")
    with pytest.raises(ConfigurationError) as error:
        chosen(text)
    column = text.splitlines()[1].index("nothing") + 1
    assert str(error.value).startswith(f"host.yaml:2:{column}: dct: regex nothing_.* matches none")


def test_a_missing_file_is_an_error_at_its_path() -> None:
    text = "capture_probes:\n" + entry(Path("/nowhere/libx.so"), "")
    with pytest.raises(ConfigurationError, match=r"^host.yaml:2:38: dct: /nowhere/libx.so: No s"):
        chosen(text)


def test_mistakes_of_every_kind_are_told_at_once(library: Path) -> None:
    text = (
        "capture_probes:\n"
        + entry(library, ", regex: nothing_.*")
        + entry(Path("/nowhere/libx.so"), "")
        + entry(library, ", regx: x")
        + "  - {name: f, probe: usdt, binary_path: /etc/passwd, provider: p}\n"
    )
    with pytest.raises(ConfigurationError) as error:
        chosen(text)
    lines = str(error.value).splitlines()
    assert lines[0] == "4 problems"
    assert [line.split(":")[1] for line in lines[1:]] == ["2", "3", "4", "5"]


def test_one_entry_may_be_wrong_in_several_ways() -> None:
    text = "capture_probes:\n" + entry(Path("/nowhere/libx.so"), ", regx: x, mode: loud")
    with pytest.raises(ConfigurationError) as error:
        chosen(text)
    message = str(error.value)
    assert message.startswith("3 problems\n")
    for part in ("/nowhere/libx.so: No such file", "unknown key regx", "unknown mode 'loud'"):
        assert part in message


def test_what_is_optional_may_be_missing(library: Path) -> None:
    text = "capture_probes:\n" + entry(library, ", regex: dct_.*")
    text += entry(Path("/nowhere/libx.so"), ", optional: true", "gone")
    text += entry(library, ", regex: nothing, optional: true", "none")
    selection = chosen(text)
    assert [one.name for one in selection.probe_file.categories] == ["dct"]
    assert all(one.remarks for one in selection.report.categories[1:])


def test_nothing_at_all_is_an_error(library: Path) -> None:
    text = "capture_probes:\n" + entry(library, ", regex: nothing, optional: true")
    with pytest.raises(ConfigurationError, match="none of its functions is on this machine"):
        chosen(text)


def test_a_name_that_is_missing_is_a_warning_with_the_nearest(library: Path) -> None:
    text = "capture_probes:\n" + entry(library, ", functions: [dct_open, dct_clos]")
    selection = chosen(text)
    assert len(selection.report.warnings) == 1
    assert "no function dct_clos (did you mean dct_close?)" in selection.report.warnings[0]


def test_too_many_functions_name_the_biggest_entries(library: Path) -> None:
    text = "capture_probes:\n" + entry(library, ", regex: dct_open", "small")
    text += entry(library, ", regex: dct_.*", "big")
    with pytest.raises(ConfigurationError, match=r"selected, 3 are allowed.*: big \d+, small 1"):
        chosen(text, max_functions=3)


def test_ninety_percent_of_the_limit_is_a_warning(library: Path) -> None:
    text = "capture_probes:\n" + entry(library, ", functions: [dct_open]")
    assert chosen(text, max_functions=1).report.warnings
    assert not chosen(text, max_functions=2).report.warnings


def test_the_limit_is_checked_before_any_slow_work(library: Path, tmp_path: Path) -> None:
    text = "capture_probes:\n" + entry(library, "")
    with pytest.raises(ConfigurationError):
        chosen(text, max_functions=1)
    assert not (tmp_path / "cache").exists()


def test_the_result_survives_writing_and_reading(library: Path) -> None:
    probe_file = chosen("capture_probes:\n" + entry(library, "")).probe_file
    document = json.loads(json.dumps(document_from_probe_file(probe_file)))
    assert probe_file_from_document(document, "x") == probe_file


def test_the_summary_says_who_where_and_from_what(library: Path, tmp_path: Path) -> None:
    path = tmp_path / "host.yaml"
    path.write_text("capture_probes:\n" + entry(library, ""))
    selection = select(config.read(path, {}), output_path=Path("out.json.gz"), install_user="adm")
    summary = selection.probe_file.summary
    assert summary.config_file_path == str(path)
    assert summary.probe_file_path == str(Path.cwd() / "out.json.gz")
    assert (summary.uid, summary.install_user) == (os.getuid(), "adm")
    assert summary.site is not None
    assert not any(character.isdigit() for character in summary.site)


def test_progress_goes_from_nothing_to_all(library: Path) -> None:
    steps: list[tuple[int, int]] = []
    chosen(
        "capture_probes:\n" + entry(library, ""),
        progress=lambda what, done, total: steps.append((done, total)),
    )
    assert steps == [(0, 2), (1, 2), (2, 2)]
