"""A child for whose mark the kernel had no memory at its fork is marked when it is first seen.

That happens where the kernel preempts programs. Here the children are forked before anybody looks,
and their parent's mark is made to know of one, as if it had happened.
"""

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_bpf_attach import Attached, attached, build, library

from datacrumbs_runtime.bpf import bpf_syscall
from datacrumbs_runtime.bpf.layout import Loss

pytestmark = pytest.mark.kernel

__all__ = ["library"]
# Of struct dc_thread in bpf/maps.bpf.h.
LOST_CHILD_OFFSET = 16
PARENT = """
import ctypes, os, sys
call = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).f20(1)"
child = os.fork()
if child == 0:
    os.read(0, 1)
    if sys.argv[2] == "exec":
        os.execv(sys.executable, [sys.executable, "-c", call, sys.argv[1]])
    exec(call)
    os._exit(0)
print(child, flush=True)
os.waitpid(child, 0)
"""


@contextmanager
def waiting_child(library: Path, what: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Have a parent and a child of it that calls a function, or a program that does, when told."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, library, what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        yield parent, child


def lose(made: Attached, parent: int, child: int) -> None:
    """Let a registered parent know of a child that has no mark."""
    threads = made.loaded._object.maps["threads"]
    process = os.pidfd_open(parent)
    try:
        key = struct.pack("=i", process)
        mark = bytearray(bpf_syscall.map_lookup(threads.fd, key, threads.value_bytes))
        struct.pack_into("=I", mark, LOST_CHILD_OFFSET, child)
        bpf_syscall.map_update(threads.fd, key, bytes(mark))
    finally:
        os.close(process)
    _, offset, _ = made.loaded._object.variables["dc_lost_children"]
    struct.pack_into("=I", made.loaded._memory["control"], offset, 1)


@pytest.mark.parametrize("what", ["call", "exec"])
@pytest.mark.parametrize("whose", ["own", "another's", "nobody's"])
def test_a_lost_child_is_recorded_and_no_other(library: Path, what: str, whose: str) -> None:
    with (
        waiting_child(library, what) as (parent, child),
        attached(build(library, ("f20",))) as made,
    ):
        made.loaded.register(parent.pid)
        made.loaded.recording = True
        if whose != "nobody's":
            lose(made, parent.pid, child if whose == "own" else child + 1)
        parent.communicate(b"\n")
        assert parent.returncode == 0
        assert made.losses()[Loss.ENTERED] == (whose == "own")
        assert made.losses()[Loss.STATE] == 0
