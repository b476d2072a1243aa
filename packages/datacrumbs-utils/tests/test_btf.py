"""Kernel types, against bpftool, pahole and tracefs."""

import re
import subprocess
from pathlib import Path

import pytest

from datacrumbs_utils.discovery import btf
from datacrumbs_utils.discovery.btf_types import KIND_FUNC, BtfError, TypeTable
from datacrumbs_utils.discovery.signatures import Kind

VMLINUX = Path("/sys/kernel/btf/vmlinux")
EVENTS = Path("/sys/kernel/tracing/events")
# Type and name of a field of a record, without the four that all records begin with.
FIELD = re.compile(r"field:(?!.*\bcommon_)(.*?)(\w+);")

pytestmark = pytest.mark.skipif(not VMLINUX.exists(), reason="this kernel has no BTF")


@pytest.fixture(scope="module")
def dump() -> str:
    return subprocess.run(
        ["bpftool", "btf", "dump", "file", VMLINUX], capture_output=True, text=True, check=True
    ).stdout


def test_functions_are_those_of_bpftool(dump: str) -> None:
    expected = set(re.findall(r"^\[\d+\] FUNC '(\S+)'", dump, re.MULTILINE))
    assert len(expected) > 10_000
    assert btf.functions() == expected


def test_parameters_are_those_of_bpftool(dump: str) -> None:
    prototypes = {}
    for block in re.split(r"\n(?=\[)", dump):
        head = re.match(r"\[(\d+)\] FUNC_PROTO ", block)
        if head:
            prototypes[int(head[1])] = re.findall(r"^\t'(\S+)' type_id", block, re.MULTILINE)
    functions = re.findall(r"^\[\d+\] FUNC '(\S+)' type_id=(\d+)", dump, re.MULTILINE)
    once = {name: int(number) for name, number in functions}
    table = btf.tables()[0]
    sample = sorted(once)[:: len(once) // 2000]
    for name, signature in btf.signatures(sample).items():
        number = table.target(table.names(KIND_FUNC)[name])
        labels = [one.label or "(anon)" for one in signature.parameters]
        assert labels + ["(anon)"] * signature.variadic == prototypes[number], name


@pytest.mark.parametrize(
    ("function", "text"),
    {
        "vfs_read": "ssize_t vfs_read(struct file *file, char *buf, size_t count, loff_t *pos)",
        "vfs_fsync": "int vfs_fsync(struct file *file, int datasync)",
        "ksys_write": "ssize_t ksys_write(unsigned int fd, const char *buf, size_t count)",
    }.items(),
)
def test_signature_is_spelled_as_the_kernel_declares_it(function: str, text: str) -> None:
    assert btf.signatures([function])[function].text(function) == text


@pytest.mark.skipif(not (EVENTS / "syscalls").is_dir(), reason="tracefs lists no system calls")
def test_system_calls_are_those_of_tracefs() -> None:
    found = btf.syscall_signatures()
    kernel_names = {"stat": "newstat", "fstat": "newfstat", "lstat": "newlstat"}
    kernel_names |= {"uname": "newuname", "sendfile": "sendfile64", "umount2": "umount"}
    checked = 0
    for name, signature in found.items():
        path = EVENTS / "syscalls" / f"sys_enter_{kernel_names.get(name, name)}" / "format"
        if path.exists():
            # The first field of its own is the system call's number.
            _, *fields = FIELD.findall(path.read_text())
            assert [one.label for one in signature.parameters] == [label for _, label in fields]
            pointers = [one.type.kind is Kind.POINTER for one in signature.parameters]
            handles = ("cap_user_header_t", "cap_user_data_t")
            assert pointers == [
                "*" in c_type or c_type.strip().endswith(handles) for c_type, _ in fields
            ], name
            checked += 1
    assert checked > 300


def test_sizes_and_signs_of_system_call_arguments() -> None:
    found = btf.syscall_signatures()
    openat = {one.label: one.type for one in found["openat"].parameters}
    assert (openat["dfd"].num_bytes, openat["dfd"].kind) == (4, Kind.SIGNED)
    assert (openat["mode"].num_bytes, openat["mode"].kind) == (2, Kind.UNSIGNED)
    assert openat["filename"].name == "const char *"
    lseek = {one.label: one.type for one in found["lseek"].parameters}
    assert (lseek["offset"].num_bytes, lseek["offset"].kind) == (8, Kind.SIGNED)


def test_module_types_continue_those_of_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "module.c").write_text(
        "struct file; struct of_module { long own; };\n"
        "int module_write(struct file *file, struct of_module *what, unsigned int flags)\n"
        "{ return flags; }\n"
    )
    module = tmp_path / "module.o"
    subprocess.run(["gcc", "-g", "-c", "-o", module, tmp_path / "module.c"], check=True)
    subprocess.run(["pahole", "-J", f"--btf_base={VMLINUX}", module], check=True)
    raw = tmp_path / "module.btf"
    subprocess.run(["objcopy", "-O", "binary", "--only-section=.BTF", module, raw], check=True)
    if not raw.exists() or raw.stat().st_size == 0:
        subprocess.run(
            ["objcopy", "--dump-section", f".BTF={raw}", module, tmp_path / "copy.o"], check=True
        )
    table = TypeTable(raw.read_bytes(), "module", btf.tables()[0])
    signature = table.signature(table.target(table.names(KIND_FUNC)["module_write"]))
    assert signature.text("module_write") == (
        "int module_write(struct file *file, struct of_module *what, unsigned int flags)"
    )


@pytest.mark.parametrize("size", [0, 7, 20, 24, 1000, 5000])
def test_damaged_btf_is_an_error(size: int) -> None:
    blob = VMLINUX.read_bytes()[:size]
    with pytest.raises(BtfError, match="test"):
        TypeTable(blob, "test")
