"""A function that two categories name: recorded in both, or once, and never mixed up."""

import ctypes
import os
from pathlib import Path

import pytest
from test_bpf_attach import attached, library
from test_engine import probe_file

from datacrumbs_runtime.bpf import features, registry
from datacrumbs_runtime.bpf.features import Tier
from datacrumbs_runtime.bpf.layout import Loss
from datacrumbs_runtime.schema.probe_file import Category, ProbeType

pytestmark = pytest.mark.kernel

__all__ = ["library"]


def need(tier: Tier) -> None:
    if (reason := features.refusal(tier)) is not None:
        pytest.skip(f"this kernel has no {tier.value}: {reason}")


@pytest.mark.parametrize("tier", features.tiers_of("uprobe"), ids=lambda tier: tier.value)
def test_a_function_of_two_categories_is_recorded_in_both_or_refused(
    library: Path, tier: Tier
) -> None:
    need(tier)
    is_in_both = tier in {Tier.UPROBE_SESSION, Tier.UPROBE_TRACEFS}
    categories = tuple(
        Category(ProbeType.UPROBE, name, ("f20",), binary_path=str(library))
        for name in ("ONE", "OTHER")
    )
    built = registry.build(probe_file(*categories))
    with attached(built, tier.value) as made:
        reason = "recorded as f20: the same function"
        assert made.report.failures == (() if is_in_both else (("OTHER", "f20", reason),))
        made.loaded.register(os.getpid())
        made.loaded.recording = True
        calls = ctypes.CDLL(str(library))
        for _ in range(5):
            assert calls.f20(1) == 20
        made.loaded.recording = False
        assert made.losses()[Loss.OFFERED] == (10 if is_in_both else 5)
        assert made.losses()[Loss.MISSED_BEGIN] == 0


@pytest.mark.parametrize("tier", features.tiers_of("kprobe"), ids=lambda tier: tier.value)
def test_a_kernel_function_of_two_categories_is_recorded_in_both_or_refused(tier: Tier) -> None:
    need(tier)
    is_in_both = tier is Tier.KPROBE_SESSION
    names = ("noop_fsync", "vfs_fallocate")
    one = Category(ProbeType.KPROBE, "ONE", names)
    other = Category(ProbeType.KPROBE, "OTHER", names[:1])
    built = registry.build(probe_file(one, other))
    with os.fdopen(os.memfd_create("test"), "wb") as stream, attached(built, tier.value) as made:
        reason = "recorded as noop_fsync: the same function"
        refused = () if is_in_both else (("OTHER", "noop_fsync", reason),)
        assert made.report.failures == refused
        made.loaded.register(os.getpid())
        made.loaded.recording = True
        for _ in range(5):
            os.fsync(stream.fileno())
        made.loaded.recording = False
        wanted = 10 if is_in_both else 5
        assert 0 <= wanted - made.losses()[Loss.OFFERED] <= made.loaded.skipped()
