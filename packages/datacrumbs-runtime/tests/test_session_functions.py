"""The kernel's session functions are declared in the programs as this kernel declares them."""

import re
import subprocess
from pathlib import Path

import pytest

from datacrumbs_runtime.bpf.loader import OBJECT_PATH
from datacrumbs_runtime.bpf.session_functions import object_for_this_kernel

pytestmark = pytest.mark.kernel

KERNEL_TYPES = Path("/sys/kernel/btf/vmlinux")
FUNCTIONS = ("bpf_session_cookie", "bpf_session_is_return")


def parameters(path: Path) -> dict[str, int]:
    """Return how many parameters the session functions have, as bpftool reads the types."""
    run = subprocess.run(
        ["bpftool", "btf", "dump", "file", path], capture_output=True, text=True, check=True
    )
    counts = dict(re.findall(r"^\[(\d+)\] FUNC_PROTO .* vlen=(\d+)", run.stdout, re.MULTILINE))
    found = re.findall(r"^\[\d+\] FUNC '(\w+)' type_id=(\d+)", run.stdout, re.MULTILINE)
    return {name: int(counts[prototype]) for name, prototype in found if name in FUNCTIONS}


def test_declarations_are_those_of_this_kernel(tmp_path: Path) -> None:
    wanted = parameters(KERNEL_TYPES)
    if not wanted:
        pytest.skip("this kernel has no sessions")
    changed = object_for_this_kernel(OBJECT_PATH)
    path = tmp_path / "programs.bpf.o"
    path.write_bytes(OBJECT_PATH.read_bytes() if changed is None else changed)
    assert parameters(path) == wanted


def test_everything_else_stays_as_it_was() -> None:
    original = OBJECT_PATH.read_bytes()
    changed = object_for_this_kernel(OBJECT_PATH) or original
    assert len(changed) == len(original)
    different = sum(one != other for one, other in zip(changed, original, strict=True))
    assert different <= len(FUNCTIONS) * 4


@pytest.mark.parametrize("content", [b"", b"text", b"\x7fELF" + bytes(60), b"\x7fELF" * 40])
def test_what_is_no_object_is_left_to_libbpf(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.o"
    path.write_bytes(content)
    assert object_for_this_kernel(path) is None
    assert object_for_this_kernel(tmp_path / "missing.o") is None
