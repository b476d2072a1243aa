#!/usr/bin/env python3
"""Write discovery/syscall_prototypes.txt from what the running kernel's tracefs has.

Needs root and CONFIG_FTRACE_SYSCALLS. Calls that this kernel was built without stay in the file.

usage: gen_syscall_prototypes.py
"""

import re
from pathlib import Path

EVENTS = Path("/sys/kernel/tracing/events/syscalls")
ROOT = Path(__file__).resolve().parents[1]
PROTOTYPES = ROOT / "src/datacrumbs_utils/discovery/syscall_prototypes.txt"
# unistd.h calls them otherwise than the kernel's functions.
UNISTD_NAMES = {
    "newstat": "stat",
    "newfstat": "fstat",
    "newlstat": "lstat",
    "newuname": "uname",
    "sendfile64": "sendfile",
    "umount": "umount2",
}
FIELD = re.compile(r"\s+field:(?P<type>.*?)(?P<name>\w+);\s+offset:(?P<offset>\d+)")
FIRST_ARGUMENT_OFFSET = 16


def prototype(format_file: Path) -> str:
    """Return the arguments in C that a tracepoint's format file lists."""
    parameters = []
    for line in format_file.read_text().splitlines():
        match = FIELD.match(line)
        if match and int(match["offset"]) >= FIRST_ARGUMENT_OFFSET:
            c_type = re.sub(r"\s*\*\s*", " *", match["type"]).replace("* *", "**").strip()
            c_type = re.sub(r"\*const$", "*", c_type)
            parameters.append(f"{c_type}{'' if c_type.endswith('*') else ' '}{match['name']}")
    return ", ".join(parameters)


def main() -> None:
    """Add what the running kernel has to the file."""
    lines = PROTOTYPES.read_text().splitlines()
    calls = dict(line.rstrip(")").split("(", 1) for line in lines)
    for directory in EVENTS.glob("sys_enter_*"):
        name = directory.name.removeprefix("sys_enter_")
        calls[UNISTD_NAMES.get(name, name)] = prototype(directory / "format")
    PROTOTYPES.write_text("".join(f"{name}({calls[name]})\n" for name in sorted(calls)))


if __name__ == "__main__":
    main()
