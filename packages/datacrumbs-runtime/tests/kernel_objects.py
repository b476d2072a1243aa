"""The BPF objects that a process has open, and whether they are still in the kernel."""

import ctypes
import os
from pathlib import Path

KINDS = frozenset({"prog_id", "map_id", "link_id"})


def open_ids(process: int | str = "self") -> set[tuple[str, int]]:
    """Return kind and the kernel's id of the BPF objects that a process has open."""
    found = set()
    for entry in Path(f"/proc/{process}/fdinfo").iterdir():
        try:
            lines = entry.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(":")
            if name in KINDS:
                found.add((name.removesuffix("_id"), int(value)))
    return found


def still_there(ids: set[tuple[str, int]]) -> set[tuple[str, int]]:
    """Return those of the objects that the kernel has not freed."""
    library = ctypes.CDLL("libbpf.so.1")
    alive = set()
    for kind, number in ids:
        descriptor = getattr(library, f"bpf_{kind}_get_fd_by_id")(ctypes.c_uint(number))
        if descriptor >= 0:
            os.close(descriptor)
            alive.add((kind, number))
    return alive
