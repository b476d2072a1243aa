"""Where the kernel keeps what: in root's traces only. What is read as a file's name is a file's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pump_rings import call
from test_pump_lines import Bench, bench_of

from datacrumbs_runtime.bpf import registry
from datacrumbs_runtime.bpf.kernel_btf import KernelTypes
from datacrumbs_runtime.bpf.layout import FunctionFlag
from datacrumbs_runtime.schema.probe_file import Argument, Category, ProbeFile, ProbeType, Summary
from datacrumbs_runtime.trace.pump import FunctionFormat, Value

HIDES = int(FunctionFlag.HIDES_ADDRESSES)
ADDRESS = 0xFFFF_8881_1234_5678
CODE = 0xFFFF_FFFF_8120_AA20
BTF = Path("/sys/kernel/btf/vmlinux")
needs_types = pytest.mark.skipif(not BTF.exists(), reason="this kernel has no type information")


@pytest.fixture
def benches() -> Iterator[list[Bench]]:
    made: list[Bench] = []
    yield made
    for bench in made:
        bench.close()


def arguments_of(
    benches: list[Bench], flags: int, formats: str, *values: int, ret: int = 0
) -> list[dict[str, Any]]:
    """Return ``args`` of two calls with the same values."""
    named = tuple(Value(f"v{i}", name) for i, name in enumerate(formats.split()))
    bench = bench_of(benches, FunctionFormat("KERNEL", "f", flags=flags, values=named))
    for _ in range(2):
        bench.events.put(call(values=values, ret=ret))
    return [line["args"] for line in bench.calls()]


def test_addresses_of_the_kernel_are_shown_to_root(benches: list[Bench]) -> None:
    first, _ = arguments_of(benches, 0, "x u64", ADDRESS, CODE)
    assert first["v0"] == hex(ADDRESS)
    assert first["v1"] == CODE


def test_addresses_of_the_kernel_are_numbers_for_others(benches: list[Bench]) -> None:
    first, second = arguments_of(benches, HIDES, "x x", ADDRESS, CODE)
    assert first["v0"] == second["v0"] != hex(ADDRESS)
    assert first["v0"] != first["v1"]
    assert max(int(first[name], 16) for name in ("v0", "v1")) < 1 << 32
    # Whoever knows one address cannot tell others from what he saw elsewhere.
    again, _ = arguments_of(benches, HIDES, "x x", ADDRESS, CODE)
    assert again["v0"] != first["v0"]


@pytest.mark.parametrize("number_format", ["i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64"])
def test_address_that_is_called_a_number_is_left_out(
    benches: list[Bench], number_format: str
) -> None:
    for value in (ADDRESS, CODE, 0xFF11_0000_0000_0000, 0xFFFF_0000_0800_0000):
        first, _ = arguments_of(benches, HIDES, f"{number_format} i32", value, 7)
        assert "v0" not in first
        assert first["v1"] == 7


@pytest.mark.parametrize("flags", [HIDES, HIDES | int(FunctionFlag.RET_INT)])
def test_address_that_is_returned_is_a_number(benches: list[Bench], flags: int) -> None:
    for address in (ADDRESS, CODE):
        first, second = arguments_of(benches, flags, "", ret=address - (1 << 64))
        assert first["ret"] == second["ret"]
        assert 0 <= first["ret"] < 1 << 32
        assert first["ret"] != address & 0xFFFF_FFFF


@pytest.mark.parametrize("value", [0, 1, 1 << 47, (1 << 63) - 1, -1, -4095, -(1 << 23)])
def test_other_numbers_are_shown_as_they_are(benches: list[Bench], value: int) -> None:
    first, _ = arguments_of(benches, HIDES, "i64", value, ret=value)
    assert (first["v0"], first["ret"]) == (value, value)


def build(category: Category, *, for_root: bool) -> registry.Registry:
    summary = Summary("/c.yaml", "/p.json.gz", "node1", "anna", "root")
    return registry.build(ProbeFile(summary, (category,)), for_root=for_root)


def kernel_function(name: str, index: int) -> Category:
    """A function of which one argument is said to be a file."""
    said = Argument(index, 8, True, "file", "struct file *")
    return Category(ProbeType.KPROBE, "vfs", (name,), arguments={name: (said,)})


@needs_types
def test_only_what_the_kernel_calls_a_file_is_read_as_one() -> None:
    """The third argument of ksys_write() is what the caller of write() says."""
    built = build(kernel_function("ksys_write", 2), for_root=False)
    assert built.functions[0].pump.values == (("file", "x"),)
    built = build(kernel_function("vfs_fsync", 0), for_root=False)
    assert built.functions[0].pump.values == (("fhash", "f"),)
    # A function that the kernel's types do not know may have anything there.
    built = build(kernel_function("no_such_function_here", 0), for_root=False)
    assert built.functions[0].pump.values == (("file", "x"),)


@needs_types
def test_functions_of_the_kernel_hide_addresses_from_users() -> None:
    tracepoint = Category(ProbeType.TRACEPOINT, "SCHED", ("sched_switch",))
    for category in (kernel_function("vfs_fsync", 0), tracepoint):
        for for_root in (True, False):
            flags = build(category, for_root=for_root).functions[0].pump.flags
            assert bool(flags & HIDES) != for_root
    calls = Category(ProbeType.SYSCALLS, "POSIX", ("read",))
    assert not build(calls, for_root=False).functions[0].pump.flags & HIDES


@needs_types
def test_tracepoint_value_is_a_file_only_where_the_kernel_says_so() -> None:
    said = Argument(0, 8, True, "file", "struct file *", "->di")
    category = Category(ProbeType.TRACEPOINT, "X", ("sys_enter",), arguments={"sys_enter": (said,)})
    assert build(category, for_root=False).functions[0].pump.values == (("file", "u64"),)


@needs_types
def test_kernel_types_name_the_structure_behind_an_argument() -> None:
    with KernelTypes() as types:
        assert types.points_to("vfs_fsync", 0) == "file"
        assert types.points_to("vfs_fsync", 1) == ""
        assert types.points_to("vfs_fsync", 9) == ""
        assert types.points_to("vfs_unlink", 2) == "dentry"
        assert types.points_to("no_such_function_here", 0) == ""
