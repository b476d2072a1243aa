"""Print the system calls' prototypes as the running kernel's tracefs lists them.

    python tools/gen_syscall_prototypes.py > src/datacrumbs_utils/discovery/syscall_prototypes.txt

Needs root and CONFIG_FTRACE_SYSCALLS. Calls that this kernel was built without stay in the file.
"""

import re
import sys
from pathlib import Path

EVENTS = Path("/sys/kernel/tracing/events/syscalls")
OUTPUT = Path(__file__).parents[1] / "src/datacrumbs_utils/discovery/syscall_prototypes.txt"
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
    parameters = []
    for line in format_file.read_text().splitlines():
        match = FIELD.match(line)
        if match and int(match["offset"]) >= FIRST_ARGUMENT_OFFSET:
            c_type = re.sub(r"\s*\*\s*", " *", match["type"]).replace("* *", "**").strip()
            c_type = re.sub(r"\*const$", "*", c_type)
            parameters.append(f"{c_type}{'' if c_type.endswith('*') else ' '}{match['name']}")
    return ", ".join(parameters)


def main() -> int:
    calls = {}
    if OUTPUT.exists():
        calls = dict(line.rstrip(")").split("(", 1) for line in OUTPUT.read_text().splitlines())
    for directory in EVENTS.glob("sys_enter_*"):
        name = directory.name.removeprefix("sys_enter_")
        calls[UNISTD_NAMES.get(name, name)] = prototype(directory / "format")
    for name in sorted(calls):
        print(f"{name}({calls[name]})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
