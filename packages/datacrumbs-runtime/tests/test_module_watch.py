"""A module that goes away takes the probes of its functions with it."""

from pathlib import Path

import pytest

from datacrumbs_runtime.bpf.module_watch import ModuleWatch, Unloaded
from datacrumbs_runtime.bpf.targets import KprobeTarget

OPEN, CLOSE, READ = (
    KprobeTarget(index, symbol, symbol)
    for index, symbol in enumerate(("tun_chr_open", "tun_chr_close", "vfs_read"))
)
SYMBOLS = b"""\
0000000000000000 T vfs_read
0000000000000000 t tun_chr_open\t[tun]
0000000000000000 t tun_chr_close\t[tun]
0000000000000000 t bpf_prog_1\t[bpf]
"""


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    (tmp_path / "modules/tun").mkdir(parents=True)
    return tmp_path / "modules"


def watch(modules: Path, *targets: KprobeTarget) -> ModuleWatch:
    return ModuleWatch(targets, SYMBOLS, modules)


def test_unloaded_module_is_named_once_with_its_functions(modules: Path) -> None:
    seen = watch(modules, READ, OPEN, CLOSE)
    assert seen.unloaded() == []
    (modules / "tun").rmdir()
    assert seen.unloaded() == [Unloaded("tun", (OPEN, CLOSE))]
    assert seen.unloaded() == []


def test_module_that_was_loaded_again_is_not_the_same(modules: Path) -> None:
    seen = watch(modules, OPEN)
    (modules / "old").mkdir()
    (modules / "tun").rename(modules / "gone")
    (modules / "old").rename(modules / "tun")
    assert seen.unloaded() == [Unloaded("tun", (OPEN,))]


def test_functions_of_the_kernel_itself_stay(modules: Path) -> None:
    seen = watch(modules, READ)
    (modules / "tun").rmdir()
    assert seen.unloaded() == []
    assert watch(modules).unloaded() == []
