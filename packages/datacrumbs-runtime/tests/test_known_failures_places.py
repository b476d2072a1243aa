"""A function that could not be probed at one place is not given up at another."""

import os
from contextlib import closing
from pathlib import Path

import pytest

from datacrumbs_runtime.bpf.attach_report import AttachFailure
from datacrumbs_runtime.bpf.elf_file import ElfFile
from datacrumbs_runtime.known_failures import KnownFailures
from datacrumbs_runtime.pinned_binaries import PinnedBinaries
from datacrumbs_runtime.schema.probe_file import Category, ProbeFile, ProbeType, Summary
from datacrumbs_runtime.signing.accounts import account_of_uid
from datacrumbs_runtime.signing.binaries import instruction_decoder
from datacrumbs_runtime.status_db import StatusDatabase

FUNCTION = "malloc"
REASON = "an instruction that no probe can be on"


@pytest.fixture(scope="module")
def library() -> Path:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return Path(next(line.split()[-1] for line in lines if "libc.so" in line))


def places(library: Path) -> tuple[int, int]:
    """Return where the first two instructions of the function are."""
    with ElfFile(library) as elf:
        value = elf.symbol_value(FUNCTION)
        assert value is not None
        first = elf.file_offset(value)
    assert first is not None
    code = library.read_bytes()[first : first + 16]
    _, size, _, _ = next(instruction_decoder().disasm_lite(code, 0))
    return first, first + size


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="decodes instructions of x86-64")
def test_failure_counts_only_for_the_place_that_was_tried(library: Path, tmp_path: Path) -> None:
    first, second = places(library)
    summary = Summary("/c.yaml", "/p.json.gz", "node1", "anna", "root")

    def known(offset: int) -> tuple[KnownFailures, ProbeFile, PinnedBinaries]:
        category = Category(
            ProbeType.UPROBE,
            "libc",
            (FUNCTION,),
            binary_path=str(library),
            placed_offsets={FUNCTION: offset},
        )
        probe_file = ProbeFile(summary, (category,))
        binaries = PinnedBinaries(probe_file, account_of_uid(os.geteuid()), timeout_s=30)
        database = StatusDatabase(tmp_path / "status.sqlite", "root", "6.1")
        return KnownFailures(database, binaries), binaries.usable()[0], binaries

    failures, tried, binaries = known(second)
    with closing(binaries):
        failures.record(tried, [AttachFailure("libc", FUNCTION, REASON)])
    for offset, is_left_out in ((second, True), (first, False)):
        failures, tried, binaries = known(offset)
        with closing(binaries):
            kept, left_out = failures.without(tried)
        assert [item.reason.endswith(REASON) for item in left_out] == [True] * is_left_out
        assert len(kept.categories) == (not is_left_out)
