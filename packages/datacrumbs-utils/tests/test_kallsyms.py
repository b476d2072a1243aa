"""Functions of the running kernel."""

from pathlib import Path

import pytest

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_utils.discovery import kallsyms

LIST = """\
0000000000000000 T vfs_read
0000000000000000 t ext4_file_write_iter
0000000000000000 T __pfx_vfs_read
0000000000000000 t vfs_read.cold
0000000000000000 D some_data
0000000000000000 t twice
0000000000000000 t twice
0000000000000000 t ll_file_read	[lustre]
0000000000000000 t bpf_prog_1234	[bpf]
0000000000000000 T __traceiter_block_rq_issue
0000000000000000 t iomap_dio_rw.isra.0
0000000000000000 t nmi_handle.part.0
"""


def test_functions_are_text_symbols_with_reasons_for_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datacrumbs_utils.discovery.tracefs.DIRECTORIES", (tmp_path,))
    path = tmp_path / "kallsyms"
    path.write_text(LIST)
    found = {one.symbol: one.refused for one in kallsyms.functions(path)}
    accepted = {name for name, refused in found.items() if refused is None}
    assert accepted == {
        "vfs_read",
        "ext4_file_write_iter",
        "ll_file_read",
        "iomap_dio_rw.isra.0",
        "nmi_handle.part.0",
    }
    assert "some_data" not in found
    assert "bpf_prog_1234" not in found
    assert found["twice"] == kallsyms.AMBIGUOUS
    assert "jumped to" in (found["vfs_read.cold"] or "")
    assert "__pfx_vfs_read" not in found
    assert "tracepoint" in (found["__traceiter_block_rq_issue"] or "")


def test_functions_that_ftrace_does_not_list_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "available_filter_functions").write_text("vfs_read\nll_file_read [lustre]\n")
    (tmp_path / "blacklist").write_text(
        "0x0000-0x0000\text4_file_write_iter\n0x0000-0x0000\tnmi_handle\n"
    )
    monkeypatch.setattr("datacrumbs_utils.discovery.tracefs.DIRECTORIES", (tmp_path,))
    monkeypatch.setattr(
        "datacrumbs_utils.discovery.tracefs.KPROBES_BLACKLIST", tmp_path / "blacklist"
    )
    (tmp_path / "kallsyms").write_text(LIST)
    found = {one.symbol: one.refused for one in kallsyms.functions(tmp_path / "kallsyms")}
    assert found["vfs_read"] is None
    assert found["ll_file_read"] is None
    assert found["iomap_dio_rw.isra.0"] == kallsyms.NOT_TRACEABLE
    assert found["ext4_file_write_iter"] == kallsyms.BLACKLISTED
    assert found["nmi_handle.part.0"] == kallsyms.BLACKLISTED


def test_this_kernel_has_functions() -> None:
    found = kallsyms.functions()
    assert sum(one.refused is None for one in found) > 10_000


def test_missing_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        kallsyms.functions(tmp_path / "absent")
