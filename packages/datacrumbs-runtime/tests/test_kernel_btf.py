"""Fields of tracepoints, found in the running kernel's types."""

import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from datacrumbs_runtime.bpf.kernel_btf import Field, KernelTypes
from datacrumbs_runtime.errors import KernelError

pytestmark = pytest.mark.kernel

# Types that no kernel has are made by clang, and continue the kernel's as those of a module do.
FIELDS = """
struct inner { int before; unsigned long long wanted; };
struct outer {
    unsigned char first;
    struct { short hidden; union { unsigned int as_word; float as_float; }; };
    struct inner embedded;
    struct inner *pointer;
    unsigned int narrow : 3;
    char text[16];
    enum { SMALL = 1 } state;
};
typedef void (*btf_trace_of_ours)(void *data, const struct outer *volatile one, signed char two,
                                  void *three, struct inner four);
btf_trace_of_ours keep;
"""


@pytest.fixture(scope="module")
def module_types(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelTypes]:
    directory = tmp_path_factory.mktemp("btf")
    (directory / "types.c").write_text(FIELDS)
    subprocess.run(
        ["clang", "-g", "-target", "bpf", "-c", "types.c", "-o", "types.o"],
        cwd=directory,
        check=True,
    )
    modules = directory / "modules"
    modules.mkdir()
    subprocess.run(
        ["llvm-objcopy", "--dump-section", ".BTF=types.btf", "types.o"], cwd=directory, check=True
    )
    split = _as_split((directory / "types.btf").read_bytes())
    (modules / "ours").write_bytes(split)
    with KernelTypes(modules) as types:
        yield types


def _as_split(data: bytes) -> bytes:
    """Renumber types and strings as those of a module, which continue the kernel's."""
    kernel = Path("/sys/kernel/btf/vmlinux").read_bytes()
    _, _, _, _, _, _, _, kernel_strings = struct.unpack_from("=HBBIIIII", kernel)
    with KernelTypes() as types:
        first = types._kernel.type_count - 1
    header = struct.unpack_from("=HBBIIIII", data)
    begin, size = header[3] + header[4], header[5]
    words = bytearray(data[begin : begin + size])
    # kind: 32-bit words after the common three, and which of them are strings and types
    extra = {1: "w", 3: "ttw", 15: "tww", 14: "w", 17: "w"}
    lists = {4: "stw", 5: "stw", 6: "sw", 13: "st", 19: "sww"}

    def move(at: int, what: str) -> None:
        (value,) = struct.unpack_from("=I", words, at)
        if value and what in "st":
            struct.pack_into("=I", words, at, value + (kernel_strings if what == "s" else first))

    at = 0
    while at < len(words):
        move(at, "s")
        (info,) = struct.unpack_from("=I", words, at + 4)
        kind, count = info >> 24 & 0x1F, info & 0xFFFF
        if kind in {2, 8, 9, 10, 11, 12, 13, 14, 17, 18}:
            move(at + 8, "t")
        at += 12
        following = extra.get(kind, "") + lists.get(kind, "") * (count if kind in lists else 0)
        for what in following:
            move(at, what)
            at += 4
    return data[:begin] + bytes(words) + data[begin + size :]


@pytest.mark.parametrize(
    ("argument", "path", "expected"),
    [
        (0, "->first", Field((0,), 1, False, False)),
        (0, "->hidden", Field((4,), 2, True, False)),
        (0, "->as_word", Field((8,), 4, False, False)),
        (0, "->embedded.wanted", Field((24,), 8, False, False)),
        (0, "->pointer->wanted", Field((32, 8), 8, False, False)),
        (0, "->pointer", Field((32,), 8, False, True, "inner")),
        (0, "->state", Field((60,), 4, False, False)),
        (0, "", Field((), 8, False, True, "outer")),
        (2, "", Field((), 8, False, True)),
        (1, "", Field((), 1, True, False)),
        (2, ":inner->wanted", Field((8,), 8, False, False)),
        (2, ":outer->pointer:outer->first", Field((32, 0), 1, False, False)),
    ],
)
def test_member_paths_become_offsets(
    module_types: KernelTypes, argument: int, path: str, expected: Field
) -> None:
    assert module_types.resolve("of_ours", argument, path) == expected


@pytest.mark.parametrize(
    ("argument", "path", "reason"),
    [
        (0, "->narrow", "narrow is a bit field"),
        (0, "->text", "an array does not fit into one integer"),
        (0, "->as_float", "float does not fit into one integer"),
        (0, "->embedded", "struct inner does not fit into one integer"),
        (0, "->missing", "struct outer has no member missing on this kernel"),
        (0, ".first", ".first: not a structure"),
        (1, "->first", "->first: not a pointer"),
        (2, "->first", "void has no member first on this kernel"),
        (2, ":nothing->first", "this kernel has no struct nothing"),
        (2, ":outer", "nothing follows the type"),
        (0, "first", "not a member path"),
        (1, ":outer->first", ":outer: not a pointer"),
        (0, "->as_word:outer->first", ":outer: not a pointer"),
        (4, "", "no argument 4, it has 4"),
    ],
)
def test_impossible_paths_are_refused_with_the_reason(
    module_types: KernelTypes, argument: int, path: str, reason: str
) -> None:
    with pytest.raises(KernelError, match="tracepoint of_ours: ") as caught:
        module_types.resolve("of_ours", argument, path)
    assert str(caught.value).endswith(reason)


def test_tracepoints_of_the_kernel_and_of_modules_are_found(module_types: KernelTypes) -> None:
    assert module_types.has_tracepoint("sched_process_exec")
    assert module_types.has_tracepoint("of_ours")
    assert not module_types.has_tracepoint("of_nobody")


def test_an_unknown_tracepoint_is_named() -> None:
    with (
        KernelTypes() as types,
        pytest.raises(KernelError, match="tracepoint of_nobody: this kernel has none"),
    ):
        types.resolve("of_nobody", 0, "")


def test_offsets_are_those_that_the_kernel_uses() -> None:
    # The kernel's own words: its event formats name size and signedness of the same members.
    with KernelTypes() as types:
        pid = types.resolve("sched_process_exit", 0, "->pid")
        comm = types.resolve("sched_process_exec", 1, "")
    assert (pid.size, pid.is_signed) == (4, True)
    assert (comm.size, comm.is_signed, comm.is_pointer) == (4, True, False)


def test_sixty_paths_take_less_than_a_blink() -> None:
    begin_s = time.process_time()
    with KernelTypes() as types:
        for _ in range(20):
            types.resolve("sched_process_exec", 0, "->mm->exe_file->f_inode->i_ino")
            types.resolve("sched_process_fork", 1, "->group_leader->tgid")
            types.resolve("sched_process_exit", 0, "->real_parent->pid")
    # 100 ms are wanted. Of the processor alone: the machine may be busy with something else.
    assert time.process_time() - begin_s < 1
