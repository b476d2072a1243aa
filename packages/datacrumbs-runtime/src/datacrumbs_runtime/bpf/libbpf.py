"""The one door to libbpf: objects, their programs and maps, and type information.

libbpf opens the compiled object, relocates it for the running kernel and loads it. What an older
libbpf does not know (new attach types, new links) goes through
:mod:`datacrumbs_runtime.bpf.bpf_syscall`.
"""

import ctypes
import errno
import os
import re
import struct
from collections.abc import Iterator
from ctypes import c_size_t
from pathlib import Path

from datacrumbs_runtime.bpf.libbpf_calls import VERIFIER_LOG_END, OpenOptions, library
from datacrumbs_runtime.errors import KernelError, ProgramRefusedError

BTF_KIND_FUNC = 12
BTF_KIND_DATASEC = 15
_BTF_TYPE_BYTES = 12

_RIGHTS = "recording needs root, or the capabilities CAP_BPF and CAP_PERFMON"


def version() -> str:
    """Return the version of the installed library, such as ``v1.1``.

    Raises:
        KernelError: It is not installed.
    """
    return library().text("libbpf_version_string")


def possible_cpus() -> int:
    """Return how many CPUs this kernel may ever see: per-CPU maps have that many values."""
    return library().call("libbpf_num_possible_cpus")


class Btf:
    """Type information: of the kernel, of one of its modules, or of an object file."""

    def __init__(self, handle: int, *, owned: bool = True) -> None:
        self._handle = handle
        self._owned = owned

    @classmethod
    def of_kernel(cls) -> "Btf":
        """Read the kernel's types.

        Raises:
            KernelError: The kernel was built without them.
        """
        try:
            return cls(library().call("btf__load_vmlinux_btf"))
        except OSError as error:
            raise KernelError(
                f"/sys/kernel/btf/vmlinux: {error.strerror}",
                hint="recording needs a kernel that was built with CONFIG_DEBUG_INFO_BTF",
            ) from error

    def split(self, path: Path) -> "Btf":
        """Read the types of a kernel module; they continue those of this, the kernel's.

        Raises:
            OSError: The file cannot be read or is not BTF.
        """
        return Btf(library().call("btf__parse_split", os.fsencode(path), self._handle))

    def close(self) -> None:
        """Free the types. Those of modules go before the kernel's."""
        if self._handle and self._owned:
            library().ask("btf__free", self._handle)
        self._handle = 0

    @property
    def type_count(self) -> int:
        """The number of types with those that this continues; ids are smaller."""
        return library().call("btf__type_cnt", self._handle)

    def find(self, name: str, kind: int) -> int | None:
        """Return the id of a type, or None."""
        try:
            return library().call(
                "btf__find_by_name_kind", self._handle, name.encode(), ctypes.c_uint32(kind)
            )
        except OSError:
            return None

    def name(self, offset: int) -> str:
        """Return a string of the type information; offset 0 is the empty one."""
        return library().text("btf__name_by_offset", self._handle, offset)

    def type_words(self, type_id: int) -> tuple[int, int, int]:
        """Return a type's name_off, info and size-or-type."""
        words: tuple[int, int, int] = struct.unpack("=III", self._bytes(type_id, 0, 12))
        return words

    def records(self, type_id: int, layout: struct.Struct) -> Iterator[tuple[int, ...]]:
        """Yield what follows a type: its members, parameters or variables."""
        count = self.type_words(type_id)[1] & 0xFFFF
        data = self._bytes(type_id, _BTF_TYPE_BYTES, count * layout.size)
        return layout.iter_unpack(data)

    def integer_encoding(self, type_id: int) -> int:
        """Return the encoding of an integer type: 1 signed, 2 char, 4 bool."""
        (word,) = struct.unpack("=I", self._bytes(type_id, _BTF_TYPE_BYTES, 4))
        return int(word >> 24 & 0xF)

    def _bytes(self, type_id: int, offset: int, size: int) -> bytes:
        address = library().call("btf__type_by_id", self._handle, type_id)
        return ctypes.string_at(address + offset, size)


class Program:
    """One program of an object; only settings until the object is loaded."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self.name = library().text("bpf_program__name", handle)

    @property
    def fd(self) -> int:
        """The loaded program. It belongs to the object."""
        return library().call("bpf_program__fd", self._handle)

    def set_autoload(self, wanted: bool) -> None:
        """Choose whether the program is loaded with its object."""
        library().call("bpf_program__set_autoload", self._handle, wanted)

    def set_attach_type(self, attach_type: int, program_type: int | None = None) -> None:
        """Choose what the program will be attached as; the library need not know the number."""
        if program_type is not None:
            library().call("bpf_program__set_type", self._handle, program_type)
        library().call("bpf_program__set_expected_attach_type", self._handle, attach_type)

    def set_target(self, function: str) -> None:
        """Choose the kernel function or tracepoint of a program that is loaded for one.

        Raises:
            KernelError: The kernel has no such function.
        """
        try:
            library().call("bpf_program__set_attach_target", self._handle, 0, function.encode())
        except OSError as error:
            raise KernelError(f"this kernel has no function {function}") from error


class Map:
    """One map of an object; only settings until the object is loaded."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self.name = library().text("bpf_map__name", handle)

    @property
    def fd(self) -> int:
        """The map. It belongs to the object."""
        return library().call("bpf_map__fd", self._handle)

    @property
    def key_bytes(self) -> int:
        """Size of a key in bytes."""
        return library().call("bpf_map__key_size", self._handle)

    @property
    def value_bytes(self) -> int:
        """Size of a value in bytes; of a per-CPU map that of one CPU."""
        return library().call("bpf_map__value_size", self._handle)

    @property
    def max_entries(self) -> int:
        """How many elements it can hold."""
        return library().call("bpf_map__max_entries", self._handle)

    def set_max_entries(self, count: int) -> None:
        """Choose how many elements it can hold."""
        library().call("bpf_map__set_max_entries", self._handle, count)

    def reuse(self, map_fd: int) -> None:
        """Use an existing map instead of making one. The descriptor stays the caller's."""
        library().call("bpf_map__reuse_fd", self._handle, map_fd)

    def set_initial(self, offset: int, data: bytes) -> None:
        """Change a part of the initial value of a map of global variables."""
        size = c_size_t()
        address = library().call("bpf_map__initial_value", self._handle, ctypes.byref(size))
        if offset + len(data) > size.value:
            raise OSError(errno.ENOSPC, f"{self.name}: {offset + len(data)} > {size.value} bytes")
        ctypes.memmove(address + offset, data, len(data))


class Object:
    """A compiled BPF object: opened, changed, then loaded once."""

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        """Open an object file.

        Args:
            path: The file.
            data: What to take for its content, if it was changed for this kernel.

        Raises:
            KernelError: It does not exist or is no BPF object.
        """
        self.path = path
        self._handle = 0
        calls = library()
        calls.lines = []
        try:
            if data is None:
                self._handle = calls.call("bpf_object__open_file", os.fsencode(path), None)
            else:
                # As libbpf names the objects that it opens by path.
                options = OpenOptions(path.name.partition(".")[0])
                self._handle = calls.call(
                    "bpf_object__open_mem", data, len(data), ctypes.byref(options)
                )
        except OSError as error:
            raise KernelError(f"{path}: {error.strerror}{_last_line(calls.lines)}") from error
        self._btf = Btf(calls.call("bpf_object__btf", self._handle), owned=False)
        self.programs = {
            program.name: program
            for program in map(Program, self._each("bpf_object__next_program"))
        }
        self.maps = {each.name: each for each in map(Map, self._each("bpf_object__next_map"))}
        self.variables = dict(self._variables())

    def _each(self, function: str) -> Iterator[int]:
        handle = library().ask(function, self._handle, None)
        while handle:
            yield handle
            handle = library().ask(function, self._handle, handle)

    def _variables(self) -> Iterator[tuple[str, tuple[Map, int, int]]]:
        # The maps of global variables are called <start of the file's name>.rodata and so on.
        for name, section_map in self.maps.items():
            section = name[name.find(".") :] if "." in name else ""
            type_id = self._btf.find(section, BTF_KIND_DATASEC) if section else None
            if type_id is None:
                continue
            for variable_id, offset, size in self._btf.records(type_id, struct.Struct("=III")):
                variable = self._btf.name(self._btf.type_words(variable_id)[0])
                yield variable, (section_map, offset, size)

    def set_variable(self, name: str, value: bytes) -> None:
        """Set a global variable before loading.

        Raises:
            KernelError: There is no such variable, or it has another size.
        """
        if name not in self.variables:
            raise KernelError(f"{self.path}: no variable {name}")
        section_map, offset, size = self.variables[name]
        if len(value) != size:
            raise KernelError(f"{self.path}: {name} has {size} bytes, not {len(value)}")
        section_map.set_initial(offset, value)

    def load(self) -> None:
        """Create the maps and load the programs that are wanted.

        Raises:
            ProgramRefusedError: The kernel refused one; the message ends with its reason.
        """
        calls = library()
        calls.lines = []
        try:
            calls.call("bpf_object__load", self._handle)
        except OSError as error:
            what = f"{error.strerror}{_last_line(calls.lines)}"
            forbidden = error.errno == errno.EPERM
            raise ProgramRefusedError(
                f"{self.path.name}: the kernel refused the programs: {what}",
                "" if forbidden else _failed_program(calls.lines),
                hint=_RIGHTS if forbidden else None,
            ) from error

    def close(self) -> None:
        """Free the object with its programs and maps; what is attached keeps its programs."""
        if self._handle:
            library().ask("bpf_object__close", self._handle)
            self._handle = 0


def _failed_program(lines: list[str]) -> str:
    found = re.search(r"prog '(\w+)': BPF program load failed", "\n".join(lines))
    return found[1] if found else ""


def _last_line(lines: list[str]) -> str:
    """Return the line of the library's log that names the cause, with a separator."""
    end = next((at for at, line in enumerate(lines) if VERIFIER_LOG_END in line), None)
    if end is None:
        return f": {lines[-1].removeprefix('libbpf: ')}" if lines else ""
    # The verifier ends with a count of what it did; the line before it is the reason.
    told = [line for line in lines[:end] if line.strip() and not line.startswith("processed ")]
    return f": prog '{_failed_program(lines)}': {told[-1].strip()}"
