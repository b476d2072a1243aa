"""The registry: rows, targets and formats for what a probe file says."""

import ctypes
import ctypes.util
import subprocess
from pathlib import Path

import pytest

from datacrumbs_runtime.bpf import function_rows, layout, registry, tracepoint_rows
from datacrumbs_runtime.bpf.argument_formats import number_format
from datacrumbs_runtime.bpf.layout import FunctionFlag, Mode, SourceKind
from datacrumbs_runtime.bpf.values import number
from datacrumbs_runtime.schema.probe_file import (
    Argument,
    Category,
    ProbeFile,
    ProbeType,
    Span,
    Summary,
    UsdtPoint,
)

LIBC = Path("/lib/x86_64-linux-gnu/libc.so.6")
STREAM = Argument(3, 8, True, "stream", "FILE *")
SIZE = Argument(1, 8, False, "size", "size_t")
ITEMS = Argument(2, 8, False, "nmemb", "size_t")


def build(*categories: Category, mode: str = "trace", threshold_ns: int = 0) -> registry.Registry:
    return registry.build(
        ProbeFile(Summary("", "", "", "", ""), categories),
        mode=mode,
        threshold_ns=threshold_ns,
        machine="x86_64",
    )


def row(built: registry.Registry, index: int = 0) -> layout.Function:
    return layout.Function.from_buffer_copy(built.functions[index].row)


def sources(function: layout.Function) -> list[tuple[SourceKind, int]]:
    return [
        (SourceKind(source.kind), source.argument)
        for source in function.sources[: function.nr_sources]
    ]


def uprobes(*names: str, **fields: object) -> Category:
    placed = {name: 0x1000 + 16 * index for index, name in enumerate(names)}
    return Category(
        ProbeType.UPROBE,
        str(fields.pop("name", "lib")),
        names,
        binary_path="/lib/libx.so",
        placed_offsets=placed,
        **fields,  # type: ignore[arg-type]
    )


def test_rows_have_the_layout_that_the_programs_read() -> None:
    assert len(build(Category(ProbeType.SYSCALLS, "POSIX", ("read",))).functions[0].row) == (
        ctypes.sizeof(layout.Function)
    )
    value = function_rows.source_bytes(number("x", 3, "u32"))
    assert len(value) == ctypes.sizeof(layout.Source)
    assert layout.Source.from_buffer_copy(value).argument == 3
    header = tracepoint_rows._HEADER.size
    assert header + 3 * ctypes.sizeof(layout.Source) == ctypes.sizeof(layout.Tracepoint)


def test_a_system_call_is_shown_under_its_libc_name() -> None:
    built = build(Category(ProbeType.SYSCALLS, "POSIX", ("__x64_sys_openat", "read")))
    opened, read = built.functions
    assert opened.pump[:3] == ("POSIX", "open", '"syscall":"openat"')
    assert opened.pump.values == (("fhash", "f"), ("flags", "i32"), ("mode", "u16"))
    assert read.pump[:3] == ("POSIX", "read", "")
    assert built.syscalls == {257: 0, 0: 1}
    function = row(built, 1)
    assert sources(function) == [
        (SourceKind.FD, 0),
        (SourceKind.ARGUMENT, 0),
        (SourceKind.ARGUMENT, 2),
        (SourceKind.POSITION, 0),
    ]
    assert function.flags == (
        FunctionFlag.BYTES
        | FunctionFlag.ERRNO
        | FunctionFlag.ENTRY_VALUES
        | FunctionFlag.EXIT_VALUES
    )
    assert (function.nr_values, function.mode) == (4, Mode.TRACE)


def test_calls_that_only_take_their_path_at_the_end_skip_the_beginning() -> None:
    built = build(Category(ProbeType.SYSCALLS, "POSIX", ("unlink", "close", "sync")))
    unlink, close, sync = (row(built, index) for index in range(3))
    assert unlink.flags & FunctionFlag.EXIT_VALUES
    assert not close.flags & FunctionFlag.EXIT_VALUES
    assert close.flags & FunctionFlag.ENTRY_VALUES
    assert sync.nr_values == 0
    assert not sync.flags & (FunctionFlag.EXIT_VALUES | FunctionFlag.ENTRY_VALUES)


def test_renames_are_noticed_even_if_they_are_not_recorded() -> None:
    built = build(Category(ProbeType.SYSCALLS, "POSIX", ("read",)))
    assert built.renaming_syscalls >= {82, 264, 316}
    assert 1 not in built.renaming_syscalls


def test_a_system_call_without_a_description_takes_the_probe_files_arguments() -> None:
    built = build(
        Category(
            ProbeType.SYSCALLS,
            "sys",
            ("sys_futex",),
            {"sys_futex": (Argument(1, 4, False, "op", "int"),)},
        )
    )
    assert built.functions[0].pump.values == (("op", "i32"),)
    assert built.syscalls == {202: 0}


def test_unknown_and_repeated_system_calls_are_refused_with_the_reason() -> None:
    built = build(
        Category(ProbeType.SYSCALLS, "a", ("read", "raed")),
        Category(ProbeType.SYSCALLS, "b", ("read",)),
    )
    assert [tuple(each) for each in built.refused] == [
        ("a", "raed", "this architecture has no such system call"),
        ("b", "read", "already recorded as a"),
    ]
    assert len(built.functions) == 1


def test_mode_of_a_category_wins_over_the_mode_of_the_run() -> None:
    built = build(
        Category(ProbeType.SYSCALLS, "a", ("read",), mode="trace"),
        Category(ProbeType.SYSCALLS, "b", ("write",)),
        mode="profile",
        threshold_ns=500,
    )
    assert [row(built, index).mode for index in (0, 1)] == [Mode.TRACE, Mode.PROFILE]
    assert row(built).threshold_ns == 500


CAPTURED = {
    "text": (Argument(0, 8, True, "name", "const char *"), [("name", "s")]),
    "path": (
        Argument(0, 8, True, "__filename", "char *"),
        [("fhash", "f"), ("filename", "s")],
    ),
    "stream": (STREAM, [("fhash", "f")]),
    "descriptor": (Argument(0, 4, False, "__fd", "int"), [("fhash", "f"), ("fd", "i32")]),
    "a long called fd is no descriptor": (
        Argument(0, 8, False, "fd", "long"),
        [("fd", "i64")],
    ),
    "pointer": (Argument(0, 8, True, "buf", "void *"), [("buf", "x")]),
    "pointer to pointers": (Argument(0, 8, True, "argv", "char **"), [("argv", "x")]),
    "size_t": (SIZE, [("size", "u64")]),
    "ssize_t": (Argument(0, 8, False, "n", "ssize_t"), [("n", "i64")]),
    "mode_t": (Argument(0, 4, False, "mode", "mode_t"), [("mode", "u32")]),
    "pid_t": (Argument(0, 4, False, "pid", "pid_t"), [("pid", "i32")]),
    "uint16_t": (Argument(0, 2, False, "port", "uint16_t"), [("port", "u16")]),
    "unsigned char": (Argument(0, 1, False, "c", "unsigned char"), [("c", "u8")]),
    "bool": (Argument(0, 1, False, "sync", "bool"), [("sync", "b")]),
    "enum": (Argument(0, 4, False, "kind", "enum kind"), [("kind", "i32")]),
    "label of the trace's own": (Argument(0, 4, False, "ret", "int"), [("ret_", "i32")]),
    "too wide for a register": (Argument(0, 16, False, "x", "__int128"), []),
}


@pytest.mark.parametrize("case", CAPTURED)
def test_captured_value(case: str) -> None:
    argument, expected = CAPTURED[case]
    built = build(uprobes("f", arguments={"f": (argument,)}))
    assert list(built.functions[0].pump.values) == expected


def test_what_does_not_fit_into_a_record_is_named() -> None:
    arguments = tuple(
        Argument(index, 8, True, f"{label}name", "char *")
        for index, label in enumerate(["", "file", "path", "d", "e", "f"])
    )
    paths = (
        Argument(0, 8, True, "oldpath", "char *"),
        Argument(1, 8, True, "newpath", "char *"),
        Argument(2, 8, True, "path", "char *"),
    )
    built = build(uprobes("f", "g", arguments={"f": arguments, "g": paths}))
    assert len(built.functions[0].pump.values) == 8
    assert [tuple(each) for each in built.missing] == []
    many = (
        Argument(0, 8, True, "oldpath", "char *"),
        Argument(1, 8, True, "newpath", "char *"),
        *(Argument(index, 8, False, f"v{index}", "long") for index in range(2, 6)),
        Argument(5, 8, False, "v6", "long"),
    )
    built = build(uprobes("f", arguments={"f": many}))
    assert [tuple(each) for each in built.missing] == [("lib", "f", ("v6",))]
    labels = [
        label for label, _ in build(uprobes("g", arguments={"g": paths})).functions[0].pump.values
    ]
    assert labels == ["fhash", "fhash2", "oldpath", "newpath", "path"]


def test_equal_labels_get_different_keys() -> None:
    same = (Argument(0, 4, False, "x", "int"), Argument(1, 4, False, "_x", "int"))
    built = build(uprobes("f", arguments={"f": same}))
    assert built.functions[0].pump.values == (("x", "i32"), ("x_", "i32"))


def test_bytes_of_fread_are_items_times_their_size() -> None:
    built = build(
        uprobes(
            "__fread_unlocked_chk",
            "fread",
            name="STDIO",
            arguments={"fread": (SIZE, ITEMS, STREAM)},
        )
    )
    variant, fread = built.functions
    assert variant.pump[:3] == ("STDIO", "fread", '"symbol":"__fread_unlocked_chk"')
    assert fread.pump.values == (("fhash", "f"), ("size", "u64"), ("nmemb", "u64"))
    assert fread.pump.bytes_argument == row(built, 1).bytes_argument == 2
    assert row(built, 1).flags & FunctionFlag.BYTES


def test_variants_keep_their_name_outside_the_stream_category() -> None:
    built = build(uprobes("fread_unlocked", name="libc"))
    assert built.functions[0].pump[:3] == ("libc", "fread_unlocked", "")


RESULTS = {
    "int": FunctionFlag.RET_INT | FunctionFlag.MINUS_ERROR,
    "ssize_t": FunctionFlag.MINUS_ERROR,
    "void": FunctionFlag.NO_RETURN,
    "void *": FunctionFlag(0),
    "unsigned int": FunctionFlag(0),
}


@pytest.mark.parametrize("c_type", RESULTS)
def test_result_is_judged_by_its_type(c_type: str) -> None:
    built = build(uprobes("f", returns={"f": c_type}))
    assert row(built).flags == RESULTS[c_type]


def test_functions_with_the_same_name_as_a_stream_function_are_judged_as_one() -> None:
    built = build(uprobes("fopen64", "fgets", "setbuf"))
    assert [row(built, index).flags for index in range(3)] == [
        FunctionFlag.NULL_ERROR,
        0,
        FunctionFlag.NO_RETURN,
    ]


@pytest.mark.skipif(not LIBC.exists(), reason="no libc of Debian's at the usual place")
def test_symbols_without_a_placed_offset_are_looked_up_in_the_binary() -> None:
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", LIBC], capture_output=True, text=True, check=True
    ).stdout
    value = next(int(line.split()[0], 16) for line in listed.splitlines() if " fread@@" in line)
    named = Category(ProbeType.UPROBE, "c", ("fread", "nosuch"), binary_path=str(LIBC))
    built = build(named)
    assert [each.reason for each in built.refused] == [f"{LIBC} has no such function"]
    by_value = Category(
        ProbeType.UPROBE, "c", (f"fread:0x{value:x}",), binary_path=str(LIBC), include_offsets=True
    )
    again = build(by_value)
    assert built.uprobes[0].file_offset == again.uprobes[0].file_offset
    assert again.functions[0].pump.name == "fread"
    symbol = ctypes.CDLL(str(LIBC)).fread
    address = ctypes.cast(symbol, ctypes.c_void_p).value
    assert address is not None
    head = ctypes.string_at(address, 16)
    with LIBC.open("rb") as stream:
        stream.seek(built.uprobes[0].file_offset)
        assert stream.read(16) == head


def test_a_binary_that_is_none_refuses_its_functions(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    missing = tmp_path / "missing"
    built = build(
        Category(ProbeType.UPROBE, "a", ("f",), binary_path=str(script)),
        Category(ProbeType.UPROBE, "b", ("f",), binary_path=str(missing)),
    )
    assert [each.reason for each in built.refused] == [
        f"{script}: not a 64-bit ELF file",
        f"{missing}: No such file or directory",
    ]


def test_usdt_pair_is_one_function() -> None:
    built = build(
        Category(
            ProbeType.USDT,
            "python",
            ("function", "line"),
            {
                "function": (
                    Argument(0, 8, True, "filename", "char *"),
                    Argument(1, 4, False, "lineno", "int"),
                    Argument(2, 8, True, "frame", "void *"),
                )
            },
            binary_path="/usr/bin/python3",
            usdt_points={
                "function__entry": (UsdtPoint(4096, 8192, "8@%rdi -4@%esi 8@16(%rbp)"),),
                "function__return": (UsdtPoint(4200, 0, ""), UsdtPoint(4300, 0, "")),
                "line": (UsdtPoint(5000, 0, "-4@%edx 8@$7"),),
            },
        )
    )
    assert [
        (each.function, each.file_offset, each.semaphore, each.role) for each in built.usdt
    ] == [
        (0, 4096, 8192, "entry"),
        (0, 4200, 0, "return"),
        (0, 4300, 0, "return"),
        (1, 5000, 0, "instant"),
    ]
    assert built.functions[0].pump.values == (("filename", "s"), ("lineno", "i32"))
    assert [tuple(each) for each in built.missing] == [
        ("python", "function", ("frame",)),
        ("python", "line", ("arg1",)),
    ]
    assert sources(row(built, 1)) == [(SourceKind.ARGUMENT, 2)]


@pytest.mark.parametrize(
    ("c_type", "flags"),
    [
        ("int", FunctionFlag.ERRNO | FunctionFlag.RET_INT),
        ("ssize_t", FunctionFlag.ERRNO),
        ("void", FunctionFlag.NO_RETURN),
        ("struct file *", 0),
        ("unsigned int", 0),
    ],
)
def test_negative_results_of_kernel_functions_are_errors(c_type: str, flags: int) -> None:
    built = build(Category(ProbeType.KPROBE, "vfs", ("f",), returns={"f": c_type}))
    of_result = ("ERRNO", "MINUS_ERROR", "RET_INT", "NO_RETURN", "NULL_ERROR")
    mask = sum(int(FunctionFlag[name]) for name in of_result)
    assert row(built).flags & mask == flags


def test_kernel_functions_take_files_of_the_kernel() -> None:
    built = build(
        Category(
            ProbeType.KPROBE,
            "vfs",
            ("vfs_read:0x0",),
            {"vfs_read:0x0": (Argument(0, 8, True, "file", "struct file *"),)},
            include_offsets=True,
        )
    )
    assert built.kprobes[0].symbol == "vfs_read"
    assert sources(row(built)) == [(SourceKind.FIELD_FILE, 0)]
    assert built.functions[0].pump.values == (("fhash", "f"),)
    # a library may have a structure of that name, too
    of_library = Argument(0, 8, True, "file", "struct file *")
    built = build(uprobes("f", arguments={"f": (of_library,)}))
    assert built.functions[0].pump.values == (("file", "x"),)


BTF = Path("/sys/kernel/btf/vmlinux")


@pytest.mark.skipif(not BTF.exists(), reason="this kernel has no type information")
def test_span_takes_values_at_both_ends_and_its_result_from_the_end() -> None:
    built = build(
        Category(
            ProbeType.TRACEPOINT,
            "block",
            ("block_rq", "block_bio_queue", "nosuch"),
            {
                "block_rq": (
                    Argument(0, 8, False, "sector", "sector_t", "->__sector"),
                    Argument(1, 1, False, "error", "u8", "end"),
                    Argument(2, 4, False, "ret", "unsigned int", "end"),
                    Argument(0, 8, False, "gone", "long", "->no_such_member"),
                ),
                "block_bio_queue": (
                    Argument(0, 4, False, "bytes", "unsigned int", "->bi_iter.bi_size"),
                ),
            },
            spans={"block_rq": Span("block_rq_issue", "block_rq_complete", "0", "0")},
        )
    )
    assert [target.name for target in built.tracepoints] == [
        "block_rq_issue",
        "block_rq_complete",
        "block_bio_queue",
    ]
    begin, end, bio = (layout.Tracepoint.from_buffer_copy(each.row) for each in built.tracepoints)
    assert [(each.function, each.role) for each in (begin, end, bio)] == [(0, 1), (0, 2), (1, 0)]
    assert begin.key_kind == end.key_kind == layout.KeyKind.FIELD
    # the request belongs to whoever queued its bio
    assert (begin.looks_up, begin.publishes) == (1, 0)
    assert (bio.looks_up, bio.publishes) == (0, 1)
    assert end.result.kind == SourceKind.FIELD
    assert end.result.argument == 2
    assert [each.arguments for each in built.tracepoints] == [1, 3, 1]
    function = row(built)
    assert [source.at_end for source in function.sources[: function.nr_sources]] == [0, 1]
    assert built.functions[0].pump.lanes
    assert not built.functions[1].pump.lanes
    assert function.flags == FunctionFlag.KERNEL_THREADS | FunctionFlag.ERRNO
    assert row(built, 1).flags == FunctionFlag.KERNEL_THREADS | FunctionFlag.NO_RETURN
    assert [tuple(each) for each in built.missing] == [("block", "block_rq", ("gone",))]
    assert [each.function for each in built.refused] == ["nosuch"]


def test_formats_of_awkward_types() -> None:
    assert number_format("const volatile unsigned  long", 8, is_pointer=False) == "u64"
    assert number_format("char const*", 8, is_pointer=False) == "x"
    assert number_format("struct timeval", 16, is_pointer=False) is None


def test_known_calls_that_an_architecture_never_had_are_left_out_without_a_word() -> None:
    category = Category(ProbeType.SYSCALLS, "POSIX", ("open", "openat"))
    built = registry.build(ProbeFile(Summary("", "", "", "", ""), (category,)), machine="aarch64")
    assert built.syscalls == {56: 0}
    assert built.refused == ()
