"""The map "profile": what was counted, taken out of the kernel."""

import ctypes
import struct
from collections.abc import Iterator
from typing import NamedTuple

from datacrumbs_runtime.bpf import bpf_syscall, layout
from datacrumbs_runtime.bpf.libbpf import Map

_BATCH = 4096
# The last member of struct dc_profile_key.
_EPOCH = struct.Struct(f"={ctypes.sizeof(layout.ProfileKey) - 4}xI")


class ProfileEntry(NamedTuple):
    """Sums of one function, process and CPU: a key and a value of the map."""

    key: layout.ProfileKey
    sums: layout.Profile


def take(profile: Map, epoch: int) -> list[ProfileEntry]:
    """Return the sums of an epoch that no program adds to any more, and remove them.

    Raises:
        OSError: The kernel did not hand them over.
    """
    found: list[tuple[memoryview, memoryview]] = []
    for keys, values in _batches(profile):
        key_view, value_view = memoryview(keys), memoryview(values)
        found += [
            (
                key_view[index * profile.key_bytes : (index + 1) * profile.key_bytes],
                value_view[index * profile.value_bytes : (index + 1) * profile.value_bytes],
            )
            for index, (its_epoch,) in enumerate(_EPOCH.iter_unpack(keys))
            if its_epoch == epoch
        ]
    # Their room is needed soon; what they say can wait.
    if found:
        bpf_syscall.map_delete_batch(profile.fd, b"".join(key for key, _ in found), len(found))
    return [
        ProfileEntry(
            layout.ProfileKey.from_buffer_copy(key), layout.Profile.from_buffer_copy(value)
        )
        for key, value in found
    ]


def _batches(profile: Map) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values, many at a time."""
    keys = bytearray(profile.key_bytes * _BATCH)
    values = bytearray(profile.value_bytes * _BATCH)
    position: bytes | None = None
    while True:
        taken, position = bpf_syscall.map_lookup_batch(profile.fd, position, keys, values, _BATCH)
        yield bytes(keys[: taken * profile.key_bytes]), bytes(values[: taken * profile.value_bytes])
        if position is None:
            return
