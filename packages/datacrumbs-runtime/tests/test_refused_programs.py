"""A kernel that refuses some of the programs: the next way of attaching is used, and said."""

import ctypes
import logging
import os
import struct
from pathlib import Path

import pytest
from test_bpf_attach import build, library
from test_bpf_stack import sections_of, symbols_of

from datacrumbs_runtime.bpf import attacher, features, registry
from datacrumbs_runtime.bpf.features import Tier
from datacrumbs_runtime.bpf.layout import Loss
from datacrumbs_runtime.bpf.links import Links
from datacrumbs_runtime.bpf.loader import OBJECT_PATH, Loaded, LoadSettings
from datacrumbs_runtime.errors import ProgramRefusedError

pytestmark = pytest.mark.kernel

__all__ = ["library"]
# exit, without a result.
_EXIT = struct.pack("<BBhi", 0x95, 0, 0, 0)


def refused_programs(directory: Path, *names: str) -> Path:
    """Return a copy of the programs, of which some begin with what no verifier accepts."""
    whole = OBJECT_PATH.read_bytes()
    data = bytearray(whole)
    sections = sections_of(OBJECT_PATH)
    for symbol in symbols_of(sections):
        if symbol.name in names:
            place = whole.index(sections[symbol.section].data) + symbol.value
            data[place : place + len(_EXIT)] = _EXIT
    path = directory / "refused.bpf.o"
    path.write_bytes(data)
    return path


def settings_for(built: registry.Registry, chosen: attacher.Plan) -> LoadSettings:
    return LoadSettings(
        functions=[row.row for row in built.functions],
        programs=chosen.programs,
        places=chosen.places,
        ring_buffer_bytes=64 << 10,
    )


def load(
    built: registry.Registry, programs: Path, max_tier: str | None = None
) -> tuple[attacher.Plan, Loaded]:
    return attacher.load(built, (), max_tier, lambda plan: settings_for(built, plan), programs)


def test_the_next_tier_takes_over(
    tmp_path: Path, library: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if features.refusal(Tier.UPROBE_SESSION) is not None:
        pytest.skip("this kernel has no uprobe.session")
    built = build(library, ("f20", "f21"))
    with caplog.at_level(logging.WARNING):
        chosen, loaded = load(built, refused_programs(tmp_path, "dc_uprobe_session"))
    links = Links()
    try:
        report = attacher.attach(loaded, links, chosen)
        assert report.failures == ()
        assert report.tiers == {"uprobe": "uprobe.multi"}
        (warning,) = caplog.messages
        assert warning.startswith("uprobe.session is not used: ")
        assert "prog 'dc_uprobe_session'" in warning
        loaded.register(os.getpid())
        loaded.recording = True
        calls = ctypes.CDLL(str(library))
        assert (calls.f20(2), calls.f21(2)) == (40, 42)
        loaded.recording = False
        assert loaded.losses()[Loss.OFFERED] == 2
    finally:
        links.close()
        loaded.close()


def test_a_kind_without_programs_is_refused_with_the_reason_of_each_tier(
    tmp_path: Path, library: Path
) -> None:
    programs = refused_programs(
        tmp_path, "dc_uprobe_session", "dc_uprobe_entry", "dc_uprobe_return"
    )
    built = build(library, ("f20",))
    chosen, loaded = load(built, programs)
    links = Links()
    try:
        (failure,) = attacher.attach(loaded, links, chosen).failures
    finally:
        links.close()
        loaded.close()
    assert (failure.category, failure.function) == ("MANY", "f20")
    assert failure.reason.startswith("this kernel cannot attach any uprobe (uprobe.session: ")
    assert "prog 'dc_uprobe_" in failure.reason


def test_what_every_run_needs_is_an_error(tmp_path: Path, library: Path) -> None:
    built = build(library, ("f20",))
    with pytest.raises(ProgramRefusedError, match="prog 'dc_exit'") as caught:
        load(built, refused_programs(tmp_path, "dc_exit"))
    assert caught.value.program == "dc_exit"
