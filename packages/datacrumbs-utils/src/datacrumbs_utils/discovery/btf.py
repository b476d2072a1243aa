"""Functions and system calls as the running kernel describes itself (BTF).

``/sys/kernel/btf`` can be read by every user; modules continue the kernel's own types there.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from datacrumbs_utils.discovery.btf_types import (
    KIND_ENUM,
    KIND_FUNC,
    KIND_INT,
    KIND_TYPEDEF,
    BtfError,
    TypeTable,
)
from datacrumbs_utils.discovery.signatures import (
    EIGHTBYTE,
    CType,
    Kind,
    Parameter,
    Signature,
    pointer_to,
)
from datacrumbs_utils.discovery.syscall_prototypes import kernel_name, prototypes

BTF_DIRECTORY = Path("/sys/kernel/btf")

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


def functions() -> frozenset[str]:
    """Return the names of the functions of the kernel and its modules."""
    return frozenset(name for table in tables() for name in table.names(KIND_FUNC))


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


def syscall_signatures() -> dict[str, Signature]:
    """Return the signatures of this kernel's system calls by the name in ``unistd.h``.

    The kernel keeps only wrappers that take a register set, so names and types come from the table
    of prototypes; which of them the kernel has, BTF tells.
    """
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
