"""A custom probe: C source for bcc and, beside it, a small YAML file that declares its events.

Only the administrator provides them: both files and their directory belong to root alone.
"""

import os
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from datacrumbs_runtime.errors import ConfigurationError

SOURCE_SUFFIXES = (".bpf.c", ".c")
MAX_FILE_BYTES = 1 << 20
MAX_FIELDS = 32
KINDS = ("kprobe", "kretprobe", "tracepoint", "raw_tracepoint", "uprobe", "uretprobe")
_NUMBERS = {
    "u8": "B",
    "s8": "b",
    "u16": "H",
    "s16": "h",
    "u32": "I",
    "s32": "i",
    "u64": "Q",
    "s64": "q",
}
_TEXT = re.compile(r"char\[([1-9][0-9]{0,3})\]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLUGIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# struct datacrumbs_event of the prelude.
HEAD = struct.Struct("=QQqIIII")
_KEYS = {"output", "functions", "attach", "fields"}

PRELUDE = """
struct datacrumbs_event {
	u64 start_ns; /* bpf_ktime_get_ns() */
	u64 duration_ns;
	s64 ret;
	u32 process;
	u32 thread;
	u32 function; /* position in "functions" */
	u32 reserved;
};
BPF_TABLE_PINNED("hash", u32, u8, datacrumbs_processes, 65536, "@PROCESSES@");
/* Whether the current process is recorded: every program of a custom probe asks this first. */
static inline int datacrumbs_is_recorded(void)
{
	u32 process = bpf_get_current_pid_tgid() >> 32;

	return datacrumbs_processes.lookup(&process) != 0;
}
#line 1
"""


@dataclass(frozen=True, slots=True)
class Field:
    """One member of an event behind its head.

    Attributes:
        label: Its key in the trace.
        format: As in the struct module.
        is_text: Whether it is a text that ends at the first zero byte.
    """

    label: str
    format: str
    is_text: bool


@dataclass(frozen=True, slots=True)
class Attachment:
    """A program and what it is attached to.

    Attributes:
        kind: One of ``KINDS``.
        target: A function of the kernel, ``group:name`` of a tracepoint, ``/path:symbol``.
        program: The C function.
    """

    kind: str
    target: str
    program: str


@dataclass(frozen=True, slots=True)
class Plugin:
    """A custom probe.

    Attributes:
        name: Its name in probe files.
        source: The C source.
        output: Name of its BPF_PERF_OUTPUT.
        functions: What the number ``function`` of an event stands for.
        attachments: What is attached to what.
        fields: Members of an event behind its head, in order and without gaps.
    """

    name: str
    source: str
    output: str
    functions: tuple[str, ...]
    attachments: tuple[Attachment, ...]
    fields: tuple[Field, ...]

    @property
    def layout(self) -> struct.Struct:
        """The members of an event behind its head."""
        return struct.Struct("=" + "".join(field.format for field in self.fields))


def read_plugin(directory: Path, name: str) -> Plugin:
    """Read a custom probe.

    Args:
        directory: The administrator's plugin directory.
        name: The probe's name.

    Raises:
        ConfigurationError: It is missing, says something impossible, or others than root could
            have written it.
    """
    if not _PLUGIN_NAME.fullmatch(name):
        raise ConfigurationError(f"custom probe {name!r}: not a name")
    try:
        _check_owner(directory, os.lstat(directory))
    except OSError as error:
        raise ConfigurationError(f"{directory}: {error.strerror}") from error
    source = next(
        (path for suffix in SOURCE_SUFFIXES if (path := directory / f"{name}{suffix}").exists()),
        None,
    )
    if source is None:
        raise ConfigurationError(f"{directory}: no custom probe {name}")
    declaration = directory / f"{name}.yaml"
    return _plugin(name, _read(source), _read(declaration), str(declaration))


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid != 0 or status.st_mode & 0o022:
        raise ConfigurationError(
            f"{path}: others than root could have written it",
            hint=f"chown root {path}; chmod go-w {path}",
        )


def _read(path: Path) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as stream:  # noqa: PTH123  a descriptor
            status = os.fstat(fd)
            _check_owner(path, status)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
                raise ConfigurationError(f"{path}: not a file of reasonable size")
            return stream.read().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _plugin(name: str, source: str, declaration: str, where: str) -> Plugin:
    try:
        document = yaml.safe_load(declaration)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{where}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise ConfigurationError(f"{where}: not a mapping")
    unknown = set(document) - _KEYS
    if unknown:
        raise ConfigurationError(f"{where}: unknown key {sorted(map(str, unknown))[0]}")
    functions = _list(document, "functions", where)
    if not functions or not all(isinstance(item, str) and item.isprintable() for item in functions):
        raise ConfigurationError(f"{where}: functions: not a list of names")
    output = document.get("output")
    if not isinstance(output, str) or not _NAME.fullmatch(output):
        raise ConfigurationError(f"{where}: output: not the name of a BPF_PERF_OUTPUT")
    attachments = tuple(_attachment(item, where) for item in _list(document, "attach", where))
    if not attachments:
        raise ConfigurationError(f"{where}: attach: nothing is attached")
    fields = tuple(_field(item, where) for item in _list(document, "fields", where))
    if len(fields) > MAX_FIELDS:
        raise ConfigurationError(f"{where}: fields: more than {MAX_FIELDS}")
    return Plugin(name, source, output, tuple(functions), attachments, fields)


def _list(document: dict[str, Any], key: str, where: str) -> list[Any]:
    found = document.get(key, [])
    if not isinstance(found, list):
        raise ConfigurationError(f"{where}: {key}: not a list")
    return found


def _attachment(item: Any, where: str) -> Attachment:
    if not isinstance(item, dict) or set(item) != {"kind", "target", "program"}:
        raise ConfigurationError(f"{where}: attach: needs kind, target and program")
    kind, target, program = (str(item[key]) for key in ("kind", "target", "program"))
    if kind not in KINDS:
        raise ConfigurationError(f"{where}: attach: {kind}: none of {', '.join(KINDS)}")
    if not _NAME.fullmatch(program):
        raise ConfigurationError(f"{where}: attach: {program}: not a C function")
    return Attachment(kind, target, program)


def _field(item: Any, where: str) -> Field:
    if not isinstance(item, dict) or set(item) != {"label", "type"}:
        raise ConfigurationError(f"{where}: fields: needs label and type")
    label, kind = str(item["label"]), str(item["type"])
    text = _TEXT.fullmatch(kind)
    if text:
        return Field(label, f"{text[1]}s", is_text=True)
    if kind not in _NUMBERS:
        known = ", ".join(_NUMBERS)
        raise ConfigurationError(f"{where}: fields: {label}: {kind}: none of {known}, char[N]")
    return Field(label, _NUMBERS[kind], is_text=False)
