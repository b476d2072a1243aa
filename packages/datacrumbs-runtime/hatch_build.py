"""Compile the BPF object and the native event pump when the package is built or installed.

hatchling calls the hook for wheels and for editable installs. Developers run this file itself to
compile again after an edit: ``python hatch_build.py [--force]``.
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "src/datacrumbs_runtime"
BPF_SOURCE = "bpf/datacrumbs.bpf.c"
BPF_OBJECT = f"{PACKAGE}/bpf/datacrumbs.bpf.o"
PUMP_MODULE = f"{PACKAGE}/trace/_pump"
OLDEST_CLANG = 14
# Compilers differ in what the kernel's verifier makes of their code. The object is tested with this
# one; it is used where it is installed.
TESTED_CLANG = 16
# What the kernel's and libbpf's headers call a machine: __TARGET_ARCH_<name>.
BPF_ARCHITECTURES = {
    "x86_64": "x86",
    "aarch64": "arm64",
    "ppc64le": "powerpc",
    "riscv64": "riscv",
    "s390x": "s390",
}


class BuildError(Exception):
    """The native parts cannot be built; the text says what is missing, in one line."""


def is_current(target: Path, sources: Iterable[Path]) -> bool:
    """Return whether a target exists and no source is newer than it."""
    if not target.exists():
        return False
    built_at = target.stat().st_mtime_ns
    return all(source.stat().st_mtime_ns <= built_at for source in sources)


def run_compiler(argv: list[str], what: str) -> None:
    """Run a compiler and show what it says; raise if it fails."""
    completed = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL)
    if completed.returncode != 0:
        raise BuildError(f"{what}: the compiler failed: {shlex.join(argv)}")


def preprocesses(compiler: list[str], text: str) -> bool:
    """Return whether a compiler finds what a piece of C includes."""
    argv = [*compiler, "-E", "-x", "c", "-", "-o", os.devnull]
    return (
        subprocess.run(argv, input=text.encode(), capture_output=True, check=False).returncode == 0
    )


def clang_candidates() -> Iterator[str]:
    """Yield the clang to use: $CLANG if set, else those on PATH, the tested and newest first."""
    chosen = os.environ.get("CLANG")
    if chosen:
        yield chosen
        return
    found: dict[int, str] = {}
    for directory in os.get_exec_path():
        for path in sorted(Path(directory).glob("clang*")):
            if not re.fullmatch(r"clang(-\d+)?", path.name) or not os.access(path, os.X_OK):
                continue
            output = subprocess.run(
                [path, "--version"], capture_output=True, text=True, check=False
            )
            match = re.search(r"clang version (\d+)", output.stdout)
            if match and int(match[1]) >= OLDEST_CLANG:
                found.setdefault(int(match[1]), str(path))
    for version in sorted(found, key=lambda number: (number == TESTED_CLANG, number), reverse=True):
        yield found[version]


def bpf_compiler() -> list[str]:
    """Return the clang command up to the file names.

    Raises:
        BuildError: No clang that can compile for BPF, or no headers of libbpf or the kernel.
    """
    machine = platform.machine()
    if machine not in BPF_ARCHITECTURES:
        raise BuildError(f"no support for {machine}, only for {', '.join(BPF_ARCHITECTURES)}")
    flags = ["-g", "-O2", "-Wall", "-Werror", "-target", "bpf"]
    flags.append(f"-D__TARGET_ARCH_{BPF_ARCHITECTURES[machine]}")
    # Debian keeps asm/types.h, which clang looks for as for any machine, where only the host's
    # compiler searches.
    for triplet in (sysconfig.get_config_var("MULTIARCH"), f"{machine}-linux-gnu"):
        if triplet and Path("/usr/include", triplet, "asm").is_dir():
            flags.append(f"-I/usr/include/{triplet}")
            break
    for clang in clang_candidates():
        command = [*shlex.split(clang), *flags]
        if not preprocesses(command, ""):
            continue
        if not preprocesses(command, "#include <linux/types.h>\n"):
            raise BuildError(
                "the kernel's user-space headers are missing: install linux-libc-dev (Debian) "
                "or kernel-headers (Fedora) or linux-glibc-devel (SUSE)"
            )
        if not preprocesses(command, "#include <linux/bpf.h>\n#include <bpf/bpf_helper_defs.h>\n"):
            raise BuildError(
                "the headers of libbpf are missing: install libbpf-dev (Debian) "
                "or libbpf-devel (Fedora, SUSE)"
            )
        return command
    raise BuildError(f"clang {OLDEST_CLANG} or newer with the BPF target is missing: install clang")


def build_bpf(root: Path, *, force: bool) -> Path:
    """Compile the BPF object if its sources changed, and return its path."""
    source, target = root / BPF_SOURCE, root / BPF_OBJECT
    if not source.exists():
        raise BuildError(f"{source}: no such file")
    sources = [*source.parent.glob("*.[ch]"), Path(__file__)]
    if force or not is_current(target, sources):
        compiler = bpf_compiler()
        unfinished = target.with_suffix(f".{os.getpid()}.tmp")
        try:
            run_compiler([*compiler, "-c", str(source), "-o", str(unfinished)], BPF_SOURCE)
            # Debug sections are four fifths of the object; the loader needs only BTF, which stays.
            version = re.search(r"-\d+$", compiler[0])
            strip = shutil.which(f"llvm-strip{version[0]}") if version else None
            strip = strip or shutil.which("llvm-strip")
            if strip:
                run_compiler([strip, "-g", str(unfinished)], BPF_OBJECT)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
    return target


def build_pump(root: Path, *, force: bool) -> Path:
    """Compile the event pump if its sources changed, and return its path."""
    sources = sorted(root.glob("native/*.c"))
    if not sources:
        raise BuildError(f"{root / 'native'}: no C sources")
    target = root / f"{PUMP_MODULE}{sysconfig.get_config_var('EXT_SUFFIX')}"
    depends_on = [*sources, *root.glob("native/*.h"), root / "bpf/event.h", Path(__file__)]
    if force or not is_current(target, depends_on):
        compiler = next(
            (
                name
                for name in (os.environ.get("CC"), "cc", "gcc", "clang")
                if name and shutil.which(shlex.split(name)[0])
            ),
            None,
        )
        if compiler is None:
            raise BuildError("a C compiler is missing: install gcc")
        include = sysconfig.get_path("include")
        if not Path(include, "Python.h").exists():
            raise BuildError(
                f"the headers of Python are missing in {include}: install python3-dev (Debian) "
                "or python3-devel (Fedora, SUSE)"
            )
        command = [*shlex.split(compiler), "-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-fPIC"]
        command += ["-shared", "-fvisibility=hidden", f"-I{include}", f"-I{root / 'bpf'}"]
        unfinished = target.with_suffix(f".{os.getpid()}.tmp")
        try:
            run_compiler([*command, *map(str, sources), "-o", str(unfinished)], "native")
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
    return target


def build_all(root: Path, *, force: bool = False) -> list[Path]:
    """Build what is out of date and return all built files."""
    return [build_bpf(root, force=force), build_pump(root, force=force)]


class NativeBuildHook(BuildHookInterface[Any]):
    """Puts the compiled parts beside the Python modules that load them."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the files of a wheel are collected.

        Args:
            version: ``standard`` or ``editable``.
            build_data: hatchling's settings of this build; the built files are added to it.
        """
        if self.target_name != "wheel":
            return
        try:
            built = build_all(Path(self.root))
        except BuildError as error:
            sys.exit(f"datacrumbs-runtime: error: {error}")
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["artifacts"] += [str(path.relative_to(self.root)) for path in built]


if __name__ == "__main__":
    try:
        build_all(Path(__file__).resolve().parent, force="--force" in sys.argv[1:])
    except BuildError as error:
        sys.exit(f"datacrumbs-runtime: error: {error}")
