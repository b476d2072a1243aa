"""Programs that are measured, compiled into a scratch directory."""

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent


def _compiler(*names: str) -> str:
    for name in names:
        if found := shutil.which(name):
            return found
    raise SystemExit(f"benchmarks: error: none of {', '.join(names)} is installed")


def _run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, timeout=120)


def compile_program(scratch: Path, name: str, *extra: str | Path) -> Path:
    """Compile ``name.c`` to a program and return its path."""
    target = scratch / name
    _run(_compiler("cc", "gcc"), "-O2", "-o", target, HERE / f"{name}.c", *extra)
    return target


def compile_library(scratch: Path, name: str, source: Path | None = None) -> Path:
    """Compile ``name.c`` to a shared library and return its path."""
    target = scratch / f"lib{name}.so"
    source = source or HERE / f"{name}.c"
    # Functions begin with a nop, which the kernel emulates; so it does the push of most functions.
    flags = ("-O2", "-fpatchable-function-entry=1", "-shared", "-fPIC")
    _run(_compiler("cc", "gcc"), *flags, "-o", target, source)
    return target


def compile_floor(scratch: Path) -> Path:
    """Compile the BPF programs that do nothing and return the object's path."""
    target = scratch / "floor.bpf.o"
    machine = _machine_include()
    compiler = _compiler("clang", "clang-16")
    _run(compiler, "-g", "-O2", "-target", "bpf", machine, "-c", HERE / "floor.bpf.c", "-o", target)
    return target


def _machine_include() -> str:
    asked = subprocess.run(
        ["gcc", "-print-multiarch"], capture_output=True, text=True, check=False, timeout=10
    )
    return f"-I/usr/include/{asked.stdout.strip()}"


def many_functions(scratch: Path, count: int) -> Path:
    """Write and compile a library with ``count`` different functions."""
    source = scratch / "many.c"
    lines = [
        f'__attribute__((noinline)) int dc_many_{i}(int a) {{ __asm__ volatile(""); '
        f"return a + {i}; }}"
        for i in range(count)
    ]
    source.write_text("\n".join(lines) + "\n")
    return compile_library(scratch, "many", source)
