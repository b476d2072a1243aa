"""Built-in probe sets: complete, loadable by name, by list and by include, and true to C."""

import re
from pathlib import Path

import pytest

from datacrumbs_runtime.errors import ConfigurationError, UsageError
from datacrumbs_runtime.schema.probe_document import (
    document_from_probe_file,
    probe_file_from_document,
)
from datacrumbs_runtime.schema.probe_file import ProbeFile, ProbeType, plain_symbol
from datacrumbs_utils.discovery import btf, sets
from datacrumbs_utils.discovery.select import select
from datacrumbs_utils.discovery.syscall_prototypes import prototypes


def selected(name: str) -> ProbeFile:
    return select(sets.load(name)).probe_file


def test_the_four_sets_are_there() -> None:
    assert sets.names() == ("all", "kernel-io", "posix", "stdio")


@pytest.mark.parametrize("name", ["posix", "stdio", "kernel-io", "all", "posix,stdio"])
def test_a_set_has_no_problem_and_is_a_valid_probe_file(name: str) -> None:
    config = sets.load(name)
    assert config.problems == ()
    probe_file = select(config).probe_file
    document = document_from_probe_file(probe_file)
    assert probe_file_from_document(document, name) == probe_file


def test_posix_has_the_io_system_calls_and_leaves_their_values_to_the_recorder() -> None:
    (category,) = selected("posix").categories
    assert (category.type, category.name) == (ProbeType.SYSCALLS, "POSIX")
    assert dict(category.arguments) == {}
    wanted = [
        "open",
        "openat",
        "openat2",
        "creat",
        "close",
        "read",
        "pread64",
        "readv",
        "preadv",
        "preadv2",
        "write",
        "pwrite64",
        "writev",
        "pwritev",
        "pwritev2",
        "lseek",
        "fsync",
        "fdatasync",
        "truncate",
        "ftruncate",
        "fallocate",
        "rename",
        "renameat",
        "renameat2",
        "unlink",
        "unlinkat",
        "link",
        "linkat",
        "mkdir",
        "mkdirat",
        "rmdir",
        "symlink",
        "symlinkat",
        "stat",
        "fstat",
        "lstat",
        "newfstatat",
        "statx",
        "getdents",
        "getdents64",
        "chmod",
        "fchmod",
        "fchmodat",
        "chown",
        "fchown",
        "lchown",
        "fchownat",
        "getxattr",
        "setxattr",
        "listxattr",
        "removexattr",
        "fadvise64",
        "readahead",
        "copy_file_range",
        "sendfile",
        "splice",
        "mmap",
        "munmap",
        "msync",
        "io_uring_enter",
        "io_setup",
        "io_submit",
        "io_getevents",
        "dup",
        "dup2",
        "dup3",
        "pipe",
        "pipe2",
        "flock",
        "fcntl",
    ]
    here = btf.syscall_signatures()
    assert [name for name in wanted if name in here and name not in category.functions] == []


def test_posix_names_only_system_calls_that_some_linux_has() -> None:
    known = set(prototypes()) | set(btf.syscall_signatures())
    (entry,) = sets.load("posix").entries
    assert [name for name in entry.functions if name not in known] == []
    assert len(set(entry.functions)) == len(entry.functions)


def test_stdio_resolves_streams_and_takes_no_data() -> None:
    (category,) = selected("stdio").categories
    arguments = {plain_symbol(name): found for name, found in category.arguments.items()}
    assert [(one.label, one.c_type) for one in arguments["fopen"]] == [
        ("path", "char *"),
        ("mode", "char *"),
    ]
    assert [(one.label, one.index, one.c_type) for one in arguments["fread"]] == [
        ("size", 1, "size_t"),
        ("nmemb", 2, "size_t"),
        ("stream", 3, "FILE *"),
    ]
    texts = {
        (name, one.label)
        for name, found in arguments.items()
        for one in found
        if one.c_type == "char *"
    }
    assert {label for _, label in texts} == {"path", "mode"}
    returns = {plain_symbol(name): c_type for name, c_type in category.returns.items()}
    assert returns["fopen"] == "FILE *"
    assert returns["rewind"] == "void"
    assert returns.keys() == {plain_symbol(name) for name in category.functions}


def test_stdio_agrees_with_the_c_library_s_own_header() -> None:
    header = Path("/usr/include/stdio.h")
    if not header.exists():
        pytest.skip("no stdio.h on this machine: install the C library's development files")
    text = re.sub(r"/\*.*?\*/", " ", header.read_text(), flags=re.DOTALL)
    (entry,) = sets.load("stdio").entries
    checked = 0
    for name, arguments in entry.function_arguments.items():
        match = re.search(rf"\b{name} \(([^;]*?)\)[^;()]*(?:__\w+ \(.*)?;", text, re.DOTALL)
        if match is None:
            continue
        parameters = [part.strip() for part in match[1].split(",")]
        checked += 1
        for argument in arguments:
            declared = parameters[argument.index]
            assert ("*" in declared) == argument.is_pointer, (name, declared)
            if argument.c_type == "FILE *":
                assert "FILE" in declared, (name, declared)
            if argument.c_type == "char *":
                assert "const char" in declared, (name, declared)
    assert checked >= 25


def test_what_a_set_names_and_the_machine_lacks_is_only_a_remark() -> None:
    selection = select(sets.load("kernel-io"))
    assert selection.report.warnings == ()
    known = {name for choice in selection.choices for name in choice.found}
    named = {name for choice in selection.choices for name in choice.entry.functions}
    remarks = " ".join(
        remark for category in selection.report.categories for remark in category.remarks
    )
    assert all(name in remarks for name in named - known)


def test_all_is_the_three_others_each_once() -> None:
    parts = [sets.load(name).entries for name in ("posix", "stdio", "kernel-io")]
    assert sets.load("all").entries == tuple(entry for part in parts for entry in part)
    assert sets.load("posix,all,posix").entries == sets.load("all").entries


def test_a_configuration_includes_sets_and_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text(
        "capture_probes: [{name: more, probe: syscalls, functions: [getpid]}]\nuser: bob\n"
    )
    main = tmp_path / "main.yaml"
    main.write_text(
        "include: [posix, more.yaml]\n"
        "capture_probes: [{name: own, probe: syscalls, functions: [getppid]}]\n"
        "user: alice\n"
    )
    config = sets.load(str(main))
    assert [entry.name for entry in config.entries] == ["POSIX", "more", "own"]
    assert config.user == "alice"


def test_a_configuration_that_includes_itself_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "loop.yaml"
    path.write_text("include: [loop.yaml]\n")
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        sets.load(str(path))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("posx", r"there is no probe set 'posx'.*\(did you mean posix\?\)"),
        ("posix,stdo", r"there is no probe set 'stdo'.*\(did you mean stdio\?\)"),
        (",", "no probe set is named"),
    ],
)
def test_an_unknown_set_names_the_nearest_and_all_known(name: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected) as error:
        sets.load(name)
    assert error.value.hint is not None
    assert "all, kernel-io, posix, stdio" in error.value.hint


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"/nowhere/x.yaml: No such file"):
        sets.load("/nowhere/x.yaml")
