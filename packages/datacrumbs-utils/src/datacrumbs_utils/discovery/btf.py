"""Functions, tracepoints and system calls as the running kernel describes itself (BTF).

``/sys/kernel/btf`` can be read by every user; modules continue the kernel's own types there.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import takewhile
from pathlib import Path

from datacrumbs_runtime.schema.probe_file import Argument
from datacrumbs_utils.discovery.btf_types import (
    KIND_ARRAY,
    KIND_ENUM,
    KIND_FUNC,
    KIND_INT,
    KIND_STRUCT,
    KIND_TYPEDEF,
    BtfError,
    TypeTable,
)
from datacrumbs_utils.discovery.candidates import Candidate
from datacrumbs_utils.discovery.signatures import (
    EIGHTBYTE,
    CType,
    Kind,
    Parameter,
    Signature,
    captured_name,
    pointer_to,
)
from datacrumbs_utils.discovery.syscall_prototypes import kernel_name, prototypes
from datacrumbs_utils.discovery.tracefs import TracepointField

BTF_DIRECTORY = Path("/sys/kernel/btf")

_TRACEPOINT = "btf_trace_"
_RECORD = "trace_event_raw_"
_SURE = 2
_NAMED = ("__probestub_", "__traceiter_")
_PROGRAM = "__bpf_trace_"
LONG = CType("long", EIGHTBYTE, Kind.SIGNED, "long")
_DECLARATION = re.compile(r"(?P<type>.*?[\s*])(?P<label>\w+)")
_BTF_SPELLING = {
    "long": "long int",
    "unsigned": "unsigned int",
    "unsigned long": "long unsigned int",
}
_SYSTEM_CALL = re.compile(r"(?:__(?:x64|arm64|s390x|powerpc|riscv|se|do)_)?sys_(\w+)$")


def tables() -> tuple[TypeTable, ...]:
    """Return the kernel's types and those of the loaded modules, the kernel's first.

    Raises:
        BtfError: The kernel has no BTF (built without CONFIG_DEBUG_INFO_BTF).
    """
    try:
        names = sorted(path.name for path in BTF_DIRECTORY.iterdir())
    except OSError as error:
        raise _missing() from error
    if "vmlinux" not in names:
        raise _missing()
    kernel = _table("vmlinux", BTF_DIRECTORY, _stamp(BTF_DIRECTORY / "vmlinux"))
    modules = (name for name in names if name != "vmlinux")
    return kernel, *(_table(name, BTF_DIRECTORY, _stamp(BTF_DIRECTORY / name)) for name in modules)


def _missing() -> BtfError:
    return BtfError(
        f"{BTF_DIRECTORY / 'vmlinux'}: the kernel does not describe its types",
        hint="it needs CONFIG_DEBUG_INFO_BTF=y",
    )


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


@lru_cache(maxsize=512)
def _table(name: str, directory: Path, stamp: tuple[int, int, int]) -> TypeTable:
    # The stamp is part of the key only: a module may be unloaded and another one loaded.
    path = directory / name
    base = (
        None if name == "vmlinux" else _table("vmlinux", directory, _stamp(directory / "vmlinux"))
    )
    try:
        return TypeTable(path.read_bytes(), str(path), base)
    except OSError as error:
        raise BtfError(f"{path}: {error.strerror}") from error


def functions() -> list[Candidate]:
    """Return the functions of the kernel and its modules, sorted by name."""
    names: set[str] = set()
    for table in tables():
        names.update(table.names(KIND_FUNC))
    return [Candidate(symbol=name) for name in sorted(names)]


def signatures(names: Iterable[str]) -> dict[str, Signature]:
    """Return the signatures of kernel functions; a name that BTF does not know is missing."""
    found = {}
    all_tables = tables()
    for name in names:
        for table in all_tables:
            type_id = table.names(KIND_FUNC).get(name)
            if type_id is not None:
                found[name] = table.signature(table.target(type_id))
                break
    return found


def arguments(names: Iterable[str]) -> dict[str, tuple[Argument, ...]]:
    """Return the arguments of kernel functions; a name that BTF does not know is missing."""
    return {name: signature.arguments() for name, signature in signatures(names).items()}


def tracepoint_signatures() -> dict[str, Signature]:
    """Return what each tracepoint of the kernel and its modules hands to a program, by name."""
    found = {}
    for table in tables():
        for name, type_id in table.names(KIND_TYPEDEF).items():
            if name.startswith(_TRACEPOINT):
                event = name[len(_TRACEPOINT) :]
                prototype = _named_prototype(table, event, table.target(table.target(type_id)))
                signature = table.signature(prototype)
                # The first parameter (void *__data) is the tracer's own.
                found[event] = Signature(signature.returns, signature.parameters[1:])
    return found


def _named_prototype(table: TypeTable, event: str, unnamed: int) -> int:
    """Return the prototype of a tracepoint with names; that of its typedef has only types.

    ``__probestub_X`` came with Linux 6.6, ``__traceiter_X`` with 5.10; before, the class has them.
    """
    for prefix in _NAMED:
        function = table.names(KIND_FUNC).get(prefix + event)
        if function is not None:
            return table.target(function)
    return next((prototype for _, prototype in _classes(table, event, unnamed)), unnamed)


def _classes(table: TypeTable, event: str, prototype: int) -> list[tuple[str, int]]:
    """Return the classes that a tracepoint with this prototype may belong to, the likeliest first.

    A class is a function ``__bpf_trace_CLASS`` with the same parameters.
    """
    _, wanted = table.prototype(prototype)
    types = [type_id for _, type_id in wanted]
    same_types = [one for one in _programs(table) if [type_id for _, type_id in one[2]] == types]
    same_names = [one for one in same_types if one[2] == wanted]
    matching = [(name, candidate) for name, candidate, _ in same_names or same_types]
    matching.sort(key=lambda one: (-_likeness(one[0], event), one[0]))
    return matching


@lru_cache(maxsize=512)
def _programs(table: TypeTable) -> tuple[tuple[str, int, tuple[tuple[str, int], ...]], ...]:
    found = []
    for function, type_id in table.names(KIND_FUNC).items():
        if function.startswith(_PROGRAM):
            prototype = table.target(type_id)
            found.append((function[len(_PROGRAM) :], prototype, table.prototype(prototype)[1]))
    return tuple(found)


def tracepoints() -> dict[str, tuple[Argument, ...]]:
    """Return the arguments of each tracepoint by name; ``index`` counts its arguments from 0.

    Unlike a function's, all arguments of a tracepoint can be read, however many.
    """
    return {
        name: tuple(
            Argument(
                index,
                one.type.num_bytes,
                one.type.kind is Kind.POINTER,
                one.label or f"arg{index}",
                captured_name(one.type),
            )
            for index, one in enumerate(signature.parameters)
            if one.type.kind in (Kind.SIGNED, Kind.UNSIGNED, Kind.POINTER)
        )
        for name, signature in tracepoint_signatures().items()
    }


def tracepoint_fields(name: str) -> tuple[TracepointField, ...]:
    """Return the fields of the record that a tracepoint writes, or () if BTF does not tell.

    Several tracepoints may share one record (``DECLARE_EVENT_CLASS``). Which one belongs to which
    is found by equal parameters and by name; where both leave a doubt, nothing is returned.
    """
    for table in tables():
        type_id = table.names(KIND_TYPEDEF).get(_TRACEPOINT + name)
        if type_id is not None:
            record = _record(table, name, table.target(table.target(type_id)))
            return tuple(_fields(table, record)) if record else ()
    return ()


def _record(table: TypeTable, event: str, unnamed: int) -> int | None:
    own = table.find(KIND_STRUCT, _RECORD + event)
    if own is not None:
        return own
    prototype = _named_prototype(table, event, unnamed)
    records = {
        name: record
        for name, _ in _classes(table, event, prototype)
        # TRACE_EVENT(x) makes a class of its own called x, which no other tracepoint shares.
        if table.find(KIND_TYPEDEF, _TRACEPOINT + name) is None
        and (record := table.find(KIND_STRUCT, _RECORD + name)) is not None
    }
    if len(records) == 1:
        return next(iter(records.values()))
    # Several classes take the same parameters. The one that is called most like the tracepoint is
    # its class (mm_filemap_op_page_cache for mm_filemap_add_to_page_cache), if one stands out.
    ranked = sorted(((_likeness(name, event), name) for name in records), reverse=True)
    if len(ranked) > 1 and ranked[0][0] >= _SURE and ranked[0][0] > ranked[1][0]:
        return records[ranked[0][1]]
    return None


def _likeness(one: str, other: str) -> int:
    """Return how many words two names begin with alike."""
    pairs = zip(one.split("_"), other.split("_"), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _fields(table: TypeTable, record: int) -> Iterator[TracepointField]:
    for label, type_id, bits, _ in table.members(record):
        if label in ("ent", "__data"):
            continue
        size = table.size(type_id)
        if label.startswith("__data_loc_") or label.startswith("__rel_loc_"):
            prefix, label = label.split("_loc_", 1)
            yield TracepointField(label, f"{prefix}_loc", bits // 8, size)
            continue
        plain = table.plain(type_id)
        shown = table.c_type(type_id).name
        if table.kind(plain) == KIND_ARRAY:
            element, count = table.element(plain)
            shown = f"{table.c_type(element).name}[{count}]"
        yield TracepointField(label, shown, bits // 8, size)


def syscalls() -> dict[str, tuple[Argument, ...]]:
    """Return the system calls of this kernel by the name in ``unistd.h``, with their arguments.

    The kernel keeps only wrappers that take a register set, so names and types come from the table
    of prototypes; which of them the kernel has, BTF tells.
    """
    return {name: signature.arguments() for name, signature in syscall_signatures().items()}


def syscall_signatures() -> dict[str, Signature]:
    """Return the signatures of this kernel's system calls by the name in ``unistd.h``."""
    kernel = tables()[0]
    functions_by_name = kernel.names(KIND_FUNC)
    present = {
        match[1] for function in functions_by_name if (match := _SYSTEM_CALL.match(function))
    }
    found = {}
    for name, parameters in prototypes().items():
        if kernel_name(name) in present:
            found[name] = Signature(
                LONG, tuple(_parameter(kernel, declaration) for declaration in parameters)
            )
    return dict(sorted(found.items()))


def _parameter(kernel: TypeTable, declaration: str) -> Parameter:
    match = _DECLARATION.fullmatch(declaration)
    if match is None:
        raise BtfError(f"{declaration}: not a declaration")
    text = match["type"].strip()
    if text.endswith("*"):
        return Parameter(match["label"], pointer_to(text[:-1].strip()))
    text = text.removeprefix("const ")
    return Parameter(match["label"], _named_type(kernel, text))


def _named_type(kernel: TypeTable, name: str) -> CType:
    if name.startswith("enum "):
        type_id = kernel.find(KIND_ENUM, name.removeprefix("enum "))
        return kernel.c_type(type_id) if type_id else CType(name, 4, Kind.UNSIGNED, "unsigned int")
    for kind in (KIND_TYPEDEF, KIND_INT):
        type_id = kernel.find(kind, _BTF_SPELLING.get(name, name))
        if type_id is not None:
            return kernel.c_type(type_id)
    # A call that this kernel was built without the types of: every parameter fills a register.
    return CType(name, EIGHTBYTE, Kind.UNSIGNED, "unsigned long")
