"""What this machine can do, for people who ask: every tier of attaching, tried one by one."""

import platform
from dataclasses import dataclass

from datacrumbs_runtime.bpf import features, libbpf
from datacrumbs_runtime.bpf.kernel_btf import KernelTypes
from datacrumbs_runtime.bpf.loader import OBJECT_PATH
from datacrumbs_runtime.bpf.syscall_numbers import NUMBERS
from datacrumbs_runtime.errors import KernelError

# One tracepoint of each part of the storage stack that built-in sets record.
_STORAGE_TRACEPOINTS = {
    "block": "block_rq_issue",
    "page cache": "mm_filemap_add_to_page_cache",
    "writeback": "writeback_start",
    "ext4": "ext4_sync_file_enter",
    "xfs": "xfs_file_buffered_write",
    "jbd2": "jbd2_start_commit",
    "iomap": "iomap_dio_rw_begin",
    "io_uring": "io_uring_submit_req",
    "fuse": "fuse_request_send",
    "nfs": "nfs_initiate_read",
}


@dataclass(frozen=True, slots=True)
class TierFeature:
    """One way to attach one kind of probe.

    Attributes:
        kind: ``uprobe``, ``kprobe`` or ``tracepoint``.
        tier: Its name, such as ``uprobe.session``.
        refusal: Why this kernel does not have it, or None if it does.
    """

    kind: str
    tier: str
    refusal: str | None


@dataclass(frozen=True, slots=True)
class MachineFeatures:
    """What recording meets on this machine.

    Attributes:
        tiers: Every tier, best first within its kind.
        libbpf: Version of the system's libbpf, or None if there is none.
        libbpf_problem: Why it cannot be used, or None.
        has_object: Whether the compiled programs are installed.
        knows_system_calls: Whether the system calls of this architecture are known.
        storage: Whether the kernel has tracepoints of a part of the storage stack, by part; empty
            where its types cannot be read. Modules that are not loaded have none.
    """

    tiers: tuple[TierFeature, ...]
    libbpf: str | None
    libbpf_problem: str | None
    has_object: bool
    knows_system_calls: bool
    storage: dict[str, bool]


def machine_features() -> MachineFeatures:
    """Try everything that attaching may use. Changes nothing; needs the right to record."""
    version, problem = None, None
    try:
        version = libbpf.version()
    except KernelError as error:
        problem = str(error)
    return MachineFeatures(
        tiers=tuple(
            TierFeature(tier.kind, tier.value, features.refusal(tier)) for tier in features.Tier
        ),
        libbpf=version,
        libbpf_problem=problem,
        has_object=OBJECT_PATH.exists(),
        knows_system_calls=platform.machine() in NUMBERS,
        storage=_storage(),
    )


def _storage() -> dict[str, bool]:
    try:
        with KernelTypes() as types:
            return {part: types.has_tracepoint(name) for part, name in _STORAGE_TRACEPOINTS.items()}
    except (KernelError, OSError):
        return {}
