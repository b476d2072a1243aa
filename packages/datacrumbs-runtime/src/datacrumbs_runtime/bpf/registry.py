"""From a probe file to what the programs, the pump and the attacher work with.

Every function of the probe file becomes a row of the map ``functions``; its number is the cookie
that attached probes carry. Nothing here needs privileges or changes the kernel.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from datacrumbs_runtime.bpf import aio_table, c_files, c_streams, usdt_arguments
from datacrumbs_runtime.bpf.argument_formats import (
    FILE_POINTER,
    function_values,
    plain_type,
    return_flags,
)
from datacrumbs_runtime.bpf.attach_report import AttachFailure
from datacrumbs_runtime.bpf.elf_file import ElfFile
from datacrumbs_runtime.bpf.function_rows import FunctionRow, function_row, unit_index
from datacrumbs_runtime.bpf.kernel_btf import KernelTypes
from datacrumbs_runtime.bpf.layout import FunctionFlag, Mode
from datacrumbs_runtime.bpf.syscall_table import RENAMING, SYSTEM_CALLS, numbers, plain_name
from datacrumbs_runtime.bpf.targets import KprobeTarget, UprobeTarget, UsdtTarget
from datacrumbs_runtime.bpf.tracepoint_rows import (
    TracepointTarget,
    tracepoint_targets,
    tracepoint_values,
)
from datacrumbs_runtime.bpf.values import Value
from datacrumbs_runtime.errors import DatacrumbsError, ProbeFileError
from datacrumbs_runtime.schema.probe_file import (
    Argument,
    Category,
    ProbeFile,
    ProbeType,
    plain_symbol,
    symbol_value,
)

STREAM_CATEGORY = "STDIO"
_MODES = {"trace": int(Mode.TRACE), "profile": int(Mode.PROFILE)}
_USDT_ENTRY = "__entry"
_USDT_RETURN = "__return"


class Missing(NamedTuple):
    """Values of a function that are not captured: no room, or not on this kernel."""

    category: str
    function: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Registry:
    """What is recorded.

    Attributes:
        functions: The rows, in the order of their numbers.
        syscalls: Row by system call number.
        aio: Row by opcode of the requests within ``io_submit``.
        renaming_syscalls: Numbers of the system calls that give files other names, recorded or not.
        uprobes: Functions of programs and libraries.
        usdt: Places of USDT probes.
        kprobes: Functions of the kernel.
        tracepoints: Tracepoints, in the order of their rows.
        refused: What is not recorded.
        missing: Functions of which some values are not captured.
    """

    functions: tuple[FunctionRow, ...]
    syscalls: dict[int, int]
    aio: dict[int, int]
    renaming_syscalls: frozenset[int]
    uprobes: tuple[UprobeTarget, ...]
    usdt: tuple[UsdtTarget, ...]
    kprobes: tuple[KprobeTarget, ...]
    tracepoints: tuple[TracepointTarget, ...]
    refused: tuple[AttachFailure, ...]
    missing: tuple[Missing, ...]


def build(
    probe_file: ProbeFile,
    mode: str = "trace",
    threshold_ns: int = 0,
    *,
    machine: str | None = None,
    types: KernelTypes | None = None,
    for_root: bool = True,
) -> Registry:
    """Turn a probe file into rows and targets.

    Args:
        probe_file: What is to be recorded; its binaries are opened for symbols without an offset.
        mode: ``trace`` or ``profile``, for categories that do not say.
        threshold_ns: Shorter calls are only summed.
        machine: Architecture of the system calls; None: this machine's.
        types: The kernel's types; None: they are read if they are needed.
        for_root: Whether who reads the trace may know where the kernel keeps what.

    Raises:
        KernelError: This architecture's system calls are not known.
    """
    with ExitStack() as stack:
        builder = _Builder(mode, threshold_ns, machine, types, stack, for_root=for_root)
        for category in probe_file.categories:
            builder.add(category)
        return builder.result()


class _Builder:
    def __init__(
        self,
        mode: str,
        threshold_ns: int,
        machine: str | None,
        types: KernelTypes | None,
        stack: ExitStack,
        *,
        for_root: bool,
    ) -> None:
        self._mode = mode
        self._threshold_ns = threshold_ns
        self._numbers = numbers(machine)
        self._types = types
        self._stack = stack
        self._for_root = for_root
        self._kernel_flags = FunctionFlag(0) if for_root else FunctionFlag.HIDES_ADDRESSES
        self._functions: list[FunctionRow] = []
        self._syscalls: dict[int, int] = {}
        self._aio: dict[int, int] = {}
        self._uprobes: list[UprobeTarget] = []
        self._usdt: list[UsdtTarget] = []
        self._kprobes: list[KprobeTarget] = []
        self._tracepoints: list[TracepointTarget] = []
        self._refused: list[AttachFailure] = []
        self._missing: list[Missing] = []

    def result(self) -> Registry:
        renaming = (self._numbers.get(name) for name in RENAMING)
        return Registry(
            tuple(self._functions),
            self._syscalls,
            self._aio,
            frozenset(one for one in renaming if one is not None),
            tuple(self._uprobes),
            tuple(self._usdt),
            tuple(self._kprobes),
            tuple(self._tracepoints),
            tuple(self._refused),
            tuple(self._missing),
        )

    def add(self, category: Category) -> None:
        add_all = {
            ProbeType.SYSCALLS: self._add_syscalls,
            ProbeType.KPROBE: self._add_kprobes,
            ProbeType.UPROBE: self._add_uprobes,
            ProbeType.USDT: self._add_usdt,
            ProbeType.TRACEPOINT: self._add_tracepoints,
        }.get(category.type)
        if add_all is not None:
            add_all(category)

    def _refuse(self, category: Category, function: str, reason: str) -> None:
        self._refused.append(AttachFailure(category.name, function, reason))

    def _note_missing(self, category: Category, function: str, labels: tuple[str, ...]) -> None:
        if labels:
            self._missing.append(Missing(category.name, function, labels))

    def _add_row(
        self,
        category: Category,
        name: str,
        values: tuple[Value, ...],
        shown_as: str,
        flags: int,
        extra: str = "",
        bytes_argument: int = 0,
        lanes: bool = False,
    ) -> int:
        index = len(self._functions)
        self._functions.append(
            function_row(
                category.name,
                name,
                values,
                shown_as=shown_as,
                flags=flags,
                mode=_MODES[category.mode or self._mode],
                threshold_ns=self._threshold_ns,
                extra=extra,
                lanes=lanes,
                bytes_argument=bytes_argument,
            )
        )
        return index

    def _add_syscalls(self, category: Category) -> None:
        for name in category.functions:
            plain = plain_name(name)
            system_call = self._numbers.get(plain)
            if system_call is None:
                # Sets list all names that a call has anywhere: aarch64 has openat, but no open.
                if plain not in SYSTEM_CALLS:
                    self._refuse(category, name, "this architecture has no such system call")
                continue
            if system_call in self._syscalls:
                other = self._functions[self._syscalls[system_call]].category
                self._refuse(category, name, f"already recorded as {other}")
                continue
            known = SYSTEM_CALLS.get(plain)
            if known is not None:
                values, shown_as, flags = known.values, known.shown_as, int(known.flags)
            else:
                values, cut = function_values(tuple(category.arguments.get(name, ())))
                self._note_missing(category, name, cut)
                shown_as, flags = plain, int(FunctionFlag.ERRNO)
            extra = "" if shown_as == plain else f'"syscall":"{plain}"'
            self._syscalls[system_call] = self._add_row(
                category, name, values, shown_as, flags | _aio_flags(plain), extra
            )
        names = {plain_name(name) for name in category.functions}
        if aio_table.SUBMIT in names and not names.isdisjoint(aio_table.FETCH):
            self._add_aio_requests(category)

    def _add_aio_requests(self, category: Category) -> None:
        for request in aio_table.REQUESTS:
            self._aio[request.opcode] = self._add_row(
                category,
                request.shown_as,
                aio_table.VALUES,
                request.shown_as,
                int(request.flags),
                lanes=True,
            )

    def _add_kprobes(self, category: Category) -> None:
        for name in category.functions:
            symbol = plain_symbol(name)
            arguments = tuple(category.arguments.get(name, ()))
            if not self._for_root:
                arguments = tuple(self._as_the_kernel_says(symbol, one) for one in arguments)
            values, cut = function_values(arguments, of_kernel=True)
            self._note_missing(category, name, cut)
            flags = return_flags(category.returns.get(name)) | self._kernel_flags
            if flags & FunctionFlag.MINUS_ERROR:
                # The kernel's own functions return what is wrong as a negative number.
                flags = flags & ~FunctionFlag.MINUS_ERROR | FunctionFlag.ERRNO
            index = self._add_row(category, name, values, symbol, int(flags))
            self._kprobes.append(KprobeTarget(index, name, symbol))

    def _as_the_kernel_says(self, symbol: str, argument: Argument) -> Argument:
        """Take nothing for a file that is none: whatever it points to would be read as a name."""
        if plain_type(argument.c_type) != FILE_POINTER:
            return argument
        function = symbol.rpartition(":")[2]
        if self._kernel_types().points_to(function, argument.index) == "file":
            return argument
        return replace(argument, c_type="void *", is_pointer=True)

    def _kernel_types(self) -> KernelTypes:
        if self._types is None:
            self._types = self._stack.enter_context(KernelTypes())
        return self._types

    def _add_uprobes(self, category: Category) -> None:
        path = category.binary_path or ""
        placed, arguments, returns = category.placed_offsets, category.arguments, category.returns
        elf: ElfFile | None = None
        none: tuple[Argument, ...] = ()
        files = c_files.files if self._is_c_library(path) else _no_files
        for name in category.functions:
            symbol = plain_symbol(name)
            offset = placed.get(name)
            if offset is None:
                try:
                    elf = elf or self._stack.enter_context(ElfFile(Path(path)))
                    offset = _function_offset(elf, name, symbol)
                except DatacrumbsError as error:
                    self._refuse(category, name, str(error))
                    continue
                if offset is None:
                    self._refuse(category, name, f"{path} has no such function")
                    continue
            values, cut = function_values(arguments.get(name, none), known_files=files(symbol))
            if cut:
                self._note_missing(category, name, cut)
            shown_as, flags, extra, unit = _function_result(
                category.name, symbol, returns.get(name)
            )
            index = self._add_row(
                category, name, values, shown_as, flags, extra, unit_index(values, unit)
            )
            self._uprobes.append(UprobeTarget(index, name, path, offset, symbol))

    def _is_c_library(self, path: str) -> bool:
        try:
            with ElfFile(Path(path)) as elf:
                return c_files.is_c_library(elf.soname())
        except ProbeFileError:
            # The same is said of its functions.
            return False

    def _add_usdt(self, category: Category) -> None:
        path = category.binary_path or ""
        for name in category.functions:
            pair = category.usdt_points.get(name + _USDT_ENTRY)
            points = category.usdt_points.get(name) or pair
            if not points:
                self._refuse(category, name, "the probe file does not say where it is")
                continue
            values, missing = usdt_arguments.usdt_values(
                category.arguments.get(name, ()), points[0].arguments
            )
            self._note_missing(category, name, missing)
            index = self._add_row(category, name, values, name, int(FunctionFlag.NO_RETURN))
            role = "entry" if points is pair else "instant"
            self._usdt += [
                UsdtTarget(index, name, path, point.offset, point.semaphore, role)
                for point in points
            ]
            if points is pair:
                self._usdt += [
                    UsdtTarget(index, name, path, point.offset, point.semaphore, "return")
                    for point in category.usdt_points.get(name + _USDT_RETURN, ())
                ]

    def _add_tracepoints(self, category: Category) -> None:
        for name in category.functions:
            span = category.spans.get(name)
            arguments = category.arguments.get(name, ())
            try:
                types = self._kernel_types()
                found = tracepoint_values(types, name, arguments, span)
                targets = tracepoint_targets(
                    types,
                    name,
                    len(self._functions),
                    len(self._tracepoints),
                    arguments,
                    span,
                    found.values,
                )
            except DatacrumbsError as error:
                self._refuse(category, name, str(error))
                continue
            self._note_missing(category, name, found.missing)
            flags = FunctionFlag.KERNEL_THREADS | self._kernel_flags
            flags |= FunctionFlag.ERRNO if found.has_result else FunctionFlag.NO_RETURN
            self._add_row(category, name, found.values, name, int(flags), lanes=found.overlaps)
            self._tracepoints += targets


def _no_files(_symbol: str) -> None:
    return None


def _aio_flags(system_call: str) -> FunctionFlag:
    if system_call == aio_table.SUBMIT:
        return FunctionFlag.AIO_SUBMIT
    return FunctionFlag.AIO_EVENTS if system_call in aio_table.FETCH else FunctionFlag(0)


def _function_offset(elf: ElfFile, name: str, symbol: str) -> int | None:
    value = symbol_value(name)
    if value is None:
        value = elf.symbol_value(symbol)
    return None if value is None else elf.file_offset(value)


def _function_result(
    category: str, symbol: str, returns: str | None
) -> tuple[str, int, str, str | None]:
    """Return name in the trace, flags, extra members, and the label that the result counts in."""
    stream = c_streams.stream_function(symbol)
    if stream is None:
        return symbol, return_flags(returns), "", None
    shown_as = symbol
    if category == STREAM_CATEGORY:
        shown_as = c_streams.plain_name(symbol) or symbol
    extra = "" if shown_as == symbol else f'"symbol":"{symbol}"'
    return shown_as, int(stream.flags), extra, stream.unit
