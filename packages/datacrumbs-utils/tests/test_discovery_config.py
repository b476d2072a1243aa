"""Host configurations: what they say, and everything that can be wrong with them, at its place."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_runtime.schema.probe_file import Argument, ProbeType
from datacrumbs_utils.discovery import config
from datacrumbs_utils.discovery.problems import raise_errors


def parsed(text: str, **variables: str) -> config.HostConfig:
    return config.parse(text, "host.yaml", variables)


def problems(text: str, **variables: str) -> list[str]:
    return [str(problem) for problem in parsed(text, **variables).problems]


PIECES = ("*a", "&a ", "- ", "{", "]", ": ", "@X@", "\n", "<<: *a", "!!python/name:os.x ", "? ")
ENTRY = "capture_probes:\n  - "


def test_a_whole_configuration_is_understood() -> None:
    found = parsed(
        """\
trace_log_dir: /scratch/traces
data_dir: /scratch/data
user: alice
inclusion_path: /scratch:/home
capture_probes:
  - name: sys
    probe: syscalls
    type: header
    file: @DATACRUMBS_KERNEL_HEADERS_PATH@/include/linux/syscalls.h
    regex: ^sys_(openat|read)$
  - name: libc
    category: C library
    probe: uprobe
    type: binary
    file: /lib64/libc.so.6
    include_offsets: false
    regex: (fopen|fclose)(@@?|$).*
    exclude: [fclose]
    mode: profile
    function_arguments:
      fopen: [const char *path, char *mode]
    function_returns:
      fopen: FILE *
  - name: off
    probe: nonsense
    enable_explorer: false
""",
        DATACRUMBS_KERNEL_HEADERS_PATH="/usr/src/linux",
    )
    assert found.problems == ()
    assert found.inclusion_path == ("/scratch", "/home")
    assert (found.trace_log_dir, found.data_dir, found.user) == (
        "/scratch/traces",
        "/scratch/data",
        "alice",
    )
    sys, libc = found.entries
    assert sys.file == "/usr/src/linux/include/linux/syscalls.h"
    assert (sys.probe, sys.type, sys.category) == (ProbeType.SYSCALLS, "header", "sys")
    assert (libc.category, libc.mode, libc.include_offsets) == ("C library", "profile", False)
    assert [regex.source for regex in libc.exclude] == ["fclose"]
    assert libc.function_arguments == {
        "fopen": (
            Argument(0, 8, True, "path", "char *"),
            Argument(1, 8, True, "mode", "char *"),
        )
    }
    assert libc.function_returns == {"fopen": "FILE *"}


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        ("probe: syscalls", "btf"),
        ("probe: uprobe, file: /x", "binary"),
        ("probe: usdt, binary_path: /x, provider: p", "usdt"),
        ("probe: tracepoint", "btf"),
        ("probe: custom, file: /x, probes: /y", "custom"),
    ],
)
def test_a_missing_type_is_the_only_sensible_one(probe: str, expected: str) -> None:
    found = parsed(f"capture_probes: [{{name: a, {probe}}}]")
    assert found.problems == ()
    assert found.entries[0].type == expected


def test_a_kprobe_needs_its_type() -> None:
    assert problems(ENTRY + "{name: a, probe: kprobe, regex: x}") == [
        "host.yaml:2:5: type is missing, one of header, binary, ksym, btf"
    ]


@pytest.mark.parametrize(
    ("probe", "possible"),
    [
        ("syscalls", {"btf", "header", "ksym"}),
        ("kprobe", {"header", "binary", "ksym", "btf"}),
        ("uprobe", {"binary", "header"}),
        ("usdt", {"usdt"}),
        ("tracepoint", {"btf"}),
        ("custom", {"custom"}),
    ],
)
def test_impossible_pairs_of_probe_and_type_are_refused(probe: str, possible: set[str]) -> None:
    rest = "file: /x, regex: x, binary_path: /x, provider: p, probes: /y"
    for type_word in ("header", "binary", "ksym", "usdt", "btf", "custom"):
        text = ENTRY + f"{{name: a, probe: {probe}, type: {type_word}, {rest}}}"
        errors = [problem for problem in parsed(text).problems if problem.is_error]
        if type_word in possible:
            assert errors == []
        else:
            assert f"type {type_word} is impossible for probe {probe}" in str(errors[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "host.yaml:1:1: the file is empty, it needs capture_probes"),
        ("- a\n", "host.yaml:1:1: the top level must be a mapping with capture_probes"),
        ("user: x\n", "host.yaml:1:1: capture_probes is missing"),
        ("capture_probes: []\n", "host.yaml:1:17: capture_probes is empty"),
        ("capture_probes: x\n", "host.yaml:1:17: capture_probes must be a list of entries"),
        (ENTRY + "x", "host.yaml:2:5: an entry must be a mapping with name and probe"),
        (ENTRY + "{probe: syscalls}", "host.yaml:2:5: name is missing"),
        (
            ENTRY + "{name: a}",
            "host.yaml:2:5: probe is missing, known are syscalls, kprobe, uprobe, usdt, "
            "tracepoint, custom",
        ),
        (
            ENTRY + "{name: a, probe: uprob}",
            "host.yaml:2:22: unknown probe 'uprob' (did you mean uprobe?), known are syscalls, "
            "kprobe, uprobe, usdt, tracepoint, custom",
        ),
        (
            ENTRY + "{name: a, probe: syscalls, regx: x}",
            "host.yaml:2:32: unknown key regx (did you mean regex?)",
        ),
        (
            ENTRY + "{name: a, probe: syscalls, regex: '(['}",
            "host.yaml:2:39: regex '([': [ at character 2 is never closed",
        ),
        (
            ENTRY + "{name: a, probe: syscalls, exclude: ['x', '(']}",
            "host.yaml:2:41: regex '(': missing ), unterminated subpattern at position 0",
        ),
        (ENTRY + "{name: a, probe: uprobe}", "host.yaml:2:5: file is missing, uprobe/binary needs"),
        (
            ENTRY + "{name: a, probe: usdt, provider: p}",
            "host.yaml:2:5: binary_path is missing, usdt/usdt needs it",
        ),
        (
            ENTRY + "{name: a, probe: syscalls, enable_explorer: maybe}",
            "host.yaml:2:49: enable_explorer must be true or false, not 'maybe'",
        ),
        (
            ENTRY + "{name: a, probe: syscalls, regex: x, functions: [y]}",
            "host.yaml:2:53: give either regex or functions, not both",
        ),
        (
            ENTRY + "{name: a, probe: syscalls, mode: loud}",
            "host.yaml:2:38: unknown mode 'loud', known are trace, profile",
        ),
        (
            ENTRY + '{name: "a\\nb", probe: syscalls}',
            "host.yaml:2:12: a value must be one line without zero bytes",
        ),
        (
            ENTRY + '{name: a, probe: uprobe, file: "/x\\0y"}',
            "host.yaml:2:36: a value must be one line without zero bytes",
        ),
        (
            ENTRY + "{name: a, probe: syscalls, function_arguments: {open: [foo_t x]}}",
            "host.yaml:2:60: the size of type 'foo_t' is not known",
        ),
        (
            ENTRY + "{name: a, probe: syscalls, function_arguments: {open: [{label: x}]}}",
            "host.yaml:2:60: an argument needs label and c_type",
        ),
        ("capture_probes: []\ntrace_dir: x\n", "unknown key trace_dir (did you mean trace_log_dir"),
    ],
)
def test_what_is_wrong_is_named_with_line_and_column(text: str, expected: str) -> None:
    assert any(problem.startswith(expected) or expected in problem for problem in problems(text))


def test_a_key_without_meaning_is_only_a_warning() -> None:
    found = parsed(ENTRY + "{name: a, probe: syscalls, provider: p}")
    assert [str(problem) for problem in found.problems] == [
        "host.yaml:2:32: provider means nothing for syscalls/btf"
    ]
    assert not any(problem.is_error for problem in found.problems)
    assert len(found.entries) == 1


def test_files_of_older_versions_keep_working() -> None:
    found = parsed(
        "name: corona\ninstall_dir: /x\nmode: tracer\ntrace_file_path: /y\n"
        "profiling_interval: 0.0001\ncapture_probes: [{name: sys, probe: syscalls}]\n"
    )
    assert len(found.entries) == 1
    assert len(found.problems) == 5
    assert not any(problem.is_error for problem in found.problems)


def test_all_problems_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "host.yaml"
    path.write_text(
        "capture_probes:\n"
        "  - {name: a, probe: syscals}\n"
        "  - {name: b, probe: uprobe, type: ksym, file: /x, regex: '['}\n"
        "  - {name: c, probe: uprobe, file: @NOWHERE@/x}\n"
        "oops: 1\n"
    )
    with pytest.raises(ConfigurationError) as error:
        raise_errors(config.read(path, {}).problems)
    lines = str(error.value).splitlines()
    assert lines[0] == "5 problems"
    places = [line.removeprefix(str(path)).split(": ")[0] for line in lines[1:]]
    assert places == [":2:22", ":3:36", ":3:59", ":4:36", ":5:1"]


def test_templates_name_the_variable_and_its_place() -> None:
    text = "capture_probes:\n- name: a\n  probe: uprobe\n  file: @LIB@/lib@VERSION@.so\n"
    assert problems(text, LIBS="/x", LIB="/lib") == [
        "host.yaml:4:18: variable @VERSION@ has no value; give it with --define VERSION=..."
    ]
    assert parsed(text, LIB="/lib", VERSION="6").entries[0].file == "/lib/lib6.so"


def test_a_comment_may_mention_a_variable() -> None:
    assert problems("# file: @NOWHERE@\ncapture_probes: [{name: a, probe: syscalls}]\n") == []


def test_a_template_value_never_becomes_yaml() -> None:
    found = parsed(ENTRY + "{name: a, probe: uprobe, file: @F@}", F="x], y: {z: 1} # no")
    assert found.problems == ()
    assert found.entries[0].file == "x], y: {z: 1} # no"


def test_variables_come_from_definition_then_environment_then_installation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from datacrumbs_utils.discovery import templates

    monkeypatch.setenv("B_VARIABLE", "environment")
    monkeypatch.setenv("C_VARIABLE", "environment")
    found = templates.variables(
        {"C_VARIABLE": "definition"}, {"A_VARIABLE": "installation", "B_VARIABLE": "installation"}
    )
    assert [found[f"{letter}_VARIABLE"] for letter in "ABC"] == [
        "installation",
        "environment",
        "definition",
    ]


@pytest.mark.parametrize("kind", ["missing", "directory", "latin-1", "fifo"])
def test_an_unreadable_file_is_an_error_that_names_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "host.yaml"
    if kind == "directory":
        path.mkdir()
    elif kind == "latin-1":
        path.write_bytes(b"user: x\nname: caf\xe9\n")
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(ConfigurationError, match=str(path)):
        config.read(path)


@settings(max_examples=300, deadline=None)
@given(
    data=st.data(),
    text=st.sampled_from(sorted((Path(config.__file__).parents[1] / "data").glob("*/*.yaml"))),
)
def test_any_damaged_file_is_understood_or_refused(data: st.DataObject, text: Path) -> None:
    damaged = text.read_text()
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(damaged)))
        cut = data.draw(st.integers(0, 9))
        piece = data.draw(st.one_of(st.text(max_size=5), st.sampled_from(PIECES)))
        damaged = damaged[:place] + piece + damaged[place + cut :]
    found = config.parse(damaged, "f", {})
    assert found.entries or found.problems or found.include
