"""Where probes are put, on functions written for the purpose."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from datacrumbs_utils.discovery import elf, placement
from datacrumbs_utils.discovery.candidates import Placement
from datacrumbs_utils.discovery.instructions import Cost, classify

# (instructions, bytes from the start to the probe, cheap)
MOVED = {
    "endbr": ("endbr64\n push %rbp\n pop %rbp", 4, True),
    "plain_push": ("push %rbp\n pop %rbp", 0, True),
    "high_push": ("endbr64\n push %r15\n pop %r15", 4, True),
    "past_scratch": (
        "endbr64\n xor %eax,%eax\n mov %fs:0x28,%r11\n push %rbx\n pop %rbx",
        15,
        True,
    ),
    "past_load": ("endbr64\n mov (%rdi),%rax\n cmp $1,%esi\n je 1f\n1:", 10, True),
    "past_vector": ("endbr64\n pxor %xmm0,%xmm0\n movups %xmm0,-24(%rsp)\n jmp 1f\n1:", 13, True),
    "stack_first": ("endbr64\n sub $8,%rsp\n push %rbp\n pop %rbp\n add $8,%rsp", 0, False),
    "argument_changed": ("endbr64\n mov %rsi,%rdi\n push %rbp\n pop %rbp", 0, False),
    "count_changed": ("endbr64\n xor %ecx,%ecx\n push %rbp\n pop %rbp", 0, False),
    "store": ("endbr64\n movb $0,(%rdi)\n push %rbp\n pop %rbp", 0, False),
    "implicit_rdx": ("endbr64\n cqo\n push %rbp\n pop %rbp", 0, False),
    "multiply_rdx": ("endbr64\n mul %rax\n push %rbp\n pop %rbp", 0, False),
    "exchange": ("endbr64\n xchg %rax,%rdi\n push %rbp\n pop %rbp", 0, False),
    "string_store": ("endbr64\n stosb\n push %rbp\n pop %rbp", 0, False),
    "system_call": ("endbr64\n mov $39,%eax\n syscall", 0, False),
    "only_return": ("endbr64", 0, False),
    "loop_inside": ("endbr64\n1: inc %rax\n 2: cmp %rdi,%rax\n jb 1b\n", 0, False),
    "loop_to_probe": ("endbr64\n1: push %rbp\n pop %rbp\n dec %edi\n jnz 1b", 0, False),
    "loop_behind": ("endbr64\n push %rbp\n1: dec %edi\n jnz 1b\n pop %rbp", 4, True),
    "tail_call_to_itself": (
        "tail_entry: push %rbp\n pop %rbp\n dec %edi\n jnz tail_entry",
        0,
        True,
    ),
    "past_prefixed_vector": ("endbr64\n vpxor %xmm1,%xmm1,%xmm1\n push %rbp\n pop %rbp", 8, True),
    "vector_first": ("vpor %xmm0,%xmm1,%xmm2\n add $8,%rdi\n push %rbp\n pop %rbp", 4, False),
    "target_of_others": ("endbr64\n.globl inner\n inner_label: push %rbp\n pop %rbp", 0, False),
}
REFUSED = {
    "locked": ("lock incl (%rdi)", "lock prefix"),
    "breakpoint": ("int3", "not on the kernel's list"),
    "loop_head": ("1: inc %rax\n cmp %rdi,%rax\n jb 1b", "head of a loop"),
    "vector_then_return": ("vpor %xmm0,%xmm1,%xmm2", ""),
}
JUMPS_IN = "jumps_in: jmp inner_label"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("placement")
    parts = [".text", JUMPS_IN]
    for name, (code, *_) in {**MOVED, **REFUSED}.items():
        parts += [f".globl {name}", f".type {name},@function", ".p2align 4"]
        parts += [f"{name}: {code}", "ret", f".size {name},.-{name}"]
    source = directory / "heads.s"
    source.write_text("\n".join(parts) + "\n")
    path = directory / "libheads.so"
    subprocess.run(
        ["gcc", "-shared", "-nostdlib", "-Wl,--build-id", "-o", path, source], check=True
    )
    return path


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def place(path: Path, captured: dict[str, set[int]] | None = None) -> dict[str, Placement]:
    return placement.place(path, elf.functions(path), captured)


@pytest.mark.parametrize("name", MOVED)
def test_probe_is_moved_as_far_as_is_safe(library: Path, name: str) -> None:
    _, distance, cheap = MOVED[name]
    start = next(one.file_offset for one in elf.functions(library) if one.symbol == name)
    found = place(library)[name]
    assert found.refused is None
    assert start is not None
    assert (found.file_offset - start, found.cheap) == (distance, cheap), found.reason


@pytest.mark.parametrize("name", REFUSED)
def test_function_that_cannot_be_probed_says_why(library: Path, name: str) -> None:
    found = place(library)[name]
    if REFUSED[name][1]:
        assert REFUSED[name][1] in (found.refused or "")
    else:
        # Behind the vector instruction there is one that can carry the probe.
        assert found.refused is None
        assert not found.cheap


def test_registers_that_are_not_captured_may_change(library: Path) -> None:
    found = place(library, {"argument_changed": {1, 2}, "count_changed": {0, 3}})
    assert found["argument_changed"].cheap
    assert not found["count_changed"].cheap
    assert place(library, {})["count_changed"].cheap


def test_symbols_of_one_name_can_be_told_apart_by_their_address(library: Path) -> None:
    functions = [
        replace(one, symbol=f"{one.symbol}:{one.value:#x}") for one in elf.functions(library)
    ]
    found = placement.place(library, functions)
    assert set(found) == {one.symbol for one in functions}


def test_result_comes_from_the_cache_and_a_damaged_cache_is_ignored(
    library: Path, cache_home: Path
) -> None:
    first = place(library)
    (stored,) = (cache_home / "datacrumbs" / "placement").iterdir()
    assert stored.name == f"{elf.build_id(library)}.json"
    document = json.loads(stored.read_text())
    for row in document["results"].values():
        row[3] = "from the cache"
    stored.write_text(json.dumps(document))
    assert {one.reason for one in place(library).values()} == {"from the cache"}
    for damage in ("", "{", "[]", '{"version":1,"results":[]}', "\x00" * 100):
        stored.write_text(damage)
        assert place(library) == first
    document["results"] = {key: [1, "no", key] for key in document["results"]}
    stored.write_text(json.dumps(document))
    assert place(library) == first


@pytest.mark.parametrize(
    ("code", "cost"),
    {
        # Measured on Linux 6.18: emulated 0.6-1.2 us a hit, single-stepped 9-14 us.
        "f30f1efa": Cost.STEPPED,
        "90": Cost.EMULATED,
        "6690": Cost.EMULATED,
        "0f1f440000": Cost.EMULATED,
        "660f1f840000000000": Cost.STEPPED,
        "55": Cost.EMULATED,
        "4154": Cost.EMULATED,
        "4055": Cost.STEPPED,
        "6a01": Cost.STEPPED,
        "4883ec08": Cost.STEPPED,
        "31c0": Cost.STEPPED,
        "eb00": Cost.EMULATED,
        "e900000000": Cost.EMULATED,
        "7400": Cost.EMULATED,
        "0f8400000000": Cost.EMULATED,
        "e800000000": Cost.EMULATED,
        "f2e900000000": Cost.EMULATED,
        "ff2500000000": Cost.STEPPED,
        "c3": Cost.STEPPED,
        "f0830424": Cost.IMPOSSIBLE,
        "3e90": Cost.IMPOSSIBLE,
        "66e800000000": Cost.IMPOSSIBLE,
        "c5f877": Cost.IMPOSSIBLE,
        "c5e9ebd9": Cost.IMPOSSIBLE,
        "62f1fe486f0424": Cost.IMPOSSIBLE,
        "4990": Cost.IMPOSSIBLE,
        "cc": Cost.IMPOSSIBLE,
        "cd80": Cost.IMPOSSIBLE,
        "0f05": Cost.IMPOSSIBLE,
        "9c": Cost.IMPOSSIBLE,
        "f4": Cost.IMPOSSIBLE,
    }.items(),
)
def test_cost_of_an_instruction(code: str, cost: Cost) -> None:
    found, refused = classify(bytes.fromhex(code))
    assert found is cost
    assert (refused is not None) == (cost is Cost.IMPOSSIBLE)


@pytest.mark.parametrize("library_name", ["libstdc++.so.6", "libhdf5_serial.so.103", "libc.so.6"])
def test_most_functions_of_a_large_library_become_cheap(library_name: str) -> None:
    path = Path("/usr/lib/x86_64-linux-gnu") / library_name
    if not path.exists():
        pytest.skip(f"{path} is not installed")
    functions = [one for one in elf.functions(path) if one.refused is None]
    found = placement.place(path, functions)
    before = sum(classify_first(path, one.file_offset) is Cost.EMULATED for one in functions) / len(
        functions
    )
    after = sum(one.cheap for one in found.values()) / len(found)
    assert after > 0.55
    assert after > before + 0.1


def classify_first(path: Path, offset: int | None) -> Cost:
    from datacrumbs_utils.discovery.instructions import decode

    assert offset is not None
    with path.open("rb") as stream:
        stream.seek(offset)
        return next((one.cost for one in decode(stream.read(16), 0, 1)), Cost.IMPOSSIBLE)
