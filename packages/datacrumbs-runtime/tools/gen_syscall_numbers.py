#!/usr/bin/env python3
"""Write bpf/syscall_numbers.py: the number of every system call on the architectures we know.

The numbers come from the kernel's own headers as the C preprocessor sees them: asm/unistd_64.h for
x86_64, asm-generic/unistd.h with arm64's settings for aarch64. A compute node has no such headers,
and the kernel tells the numbers nowhere (tracefs has names and arguments, BTF has neither), so the
table is part of the package.

usage: gen_syscall_numbers.py [--check]    (--check: change nothing, fail if it is out of date)
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "src/datacrumbs_runtime/bpf/syscall_numbers.py"

X86_64 = "#include <asm/unistd_64.h>\n"
# What arch/arm64/include/uapi/asm/unistd.h defines before it includes the generic list.
AARCH64 = """
#define __BITS_PER_LONG 64
#define __ARCH_WANT_RENAMEAT
#define __ARCH_WANT_NEW_STAT
#define __ARCH_WANT_SET_GET_RLIMIT
#define __ARCH_WANT_TIME32_SYSCALLS
#define __ARCH_WANT_SYS_CLONE3
#define __ARCH_WANT_MEMFD_SECRET
#include <asm-generic/unistd.h>
"""

# Newer than the headers of the oldest distribution that we build on. System calls that came after
# 5.1 have one number on all architectures (scripts/syscall.tbl in the kernel).
NEWER = {
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
}
NOT_A_CALL = re.compile(r"(syscalls|syscall_max|arch_specific_syscall)$")


def numbers(source: str) -> dict[str, int]:
    """Return name -> number of what a C source defines as __NR_*."""
    output = subprocess.run(
        ["cc", "-E", "-dM", "-"], input=source, capture_output=True, text=True, check=True
    ).stdout
    macros = dict(re.findall(r"#define __NR(\w+) (\w+)", output))
    found = {}
    for macro, value in macros.items():
        if not macro.startswith("_") or NOT_A_CALL.search(macro):
            continue
        while value.startswith("__NR"):
            value = macros[value.removeprefix("__NR")]
        found[macro.removeprefix("_")] = int(value)
    return NEWER | found


def module(tables: dict[str, dict[str, int]]) -> str:
    """Return the text of the generated module."""
    lines = [
        '"""Generated from the kernel\'s headers by gen_syscall_numbers.py. Do not edit."""',
        "",
        "NUMBERS: dict[str, dict[str, int]] = {",
    ]
    for machine, table in tables.items():
        lines.append(f'    "{machine}": {{')
        ordered = sorted(table.items(), key=lambda item: item[1])
        lines += [f'        "{name}": {number},' for name, number in ordered]
        lines.append("    },")
    return "\n".join([*lines, "}", ""])


def main() -> int:
    """Write or check the module."""
    text = module({"x86_64": numbers(X86_64), "aarch64": numbers(AARCH64)})
    if "--check" in sys.argv[1:]:
        if TABLE.read_text() != text:
            print(f"{TABLE}: out of date: run {Path(__file__).name}", file=sys.stderr)
            return 1
        return 0
    TABLE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
