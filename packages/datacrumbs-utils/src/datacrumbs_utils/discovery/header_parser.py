"""C headers as libclang sees them, turned into signatures."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_utils.discovery import include_directories
from datacrumbs_utils.discovery.signatures import (
    EIGHTBYTE,
    MAX_REGISTER_STRUCTURE_BYTES,
    UNKNOWN,
    VOID,
    CType,
    Kind,
    Parameter,
    Signature,
    function_pointer,
    integer,
    pointer_to,
    structure,
    typedef,
)

_SKIP_FUNCTION_BODIES, _KEEP_GOING = 0x40, 0x200
_MAX_DEPTH = 16
# What a compiler brings along, for machines without one.
_OWN_HEADERS = {
    "stddef.h": (
        "#pragma once\ntypedef __SIZE_TYPE__ size_t;\ntypedef __PTRDIFF_TYPE__ ptrdiff_t;\n"
        "typedef __WCHAR_TYPE__ wchar_t;\ntypedef __WINT_TYPE__ wint_t;\n"
        "#define NULL ((void *)0)\n#define offsetof(t, m) __builtin_offsetof(t, m)\n"
    ),
    "stdarg.h": (
        "#pragma once\ntypedef __builtin_va_list va_list;\n"
        "typedef __builtin_va_list __gnuc_va_list;\n"
    ),
    "stdbool.h": "#pragma once\n#define bool _Bool\n#define true 1\n#define false 0\n",
    "float.h": "#pragma once\n",
    "limits.h": "#pragma once\n#define INT_MAX __INT_MAX__\n#define LONG_MAX __LONG_MAX__\n",
}
_OWN_DIRECTORY = "/datacrumbs-own-headers"


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a header says.

    Attributes:
        functions: Signature and declaring file by name of the function.
        files: All files that were read.
        missing: An include that was not found, or None.
    """

    functions: dict[str, tuple[Signature, str]]
    files: list[str]
    missing: str | None


def parse(header: Path, directories: list[str]) -> Parsed:
    """Read a header.

    Args:
        header: Its path.
        directories: Where its includes are looked for, besides the header's own directory.

    Raises:
        ConfigurationError: libclang is missing or cannot make sense of the file.
    """
    cindex = _libclang(header)
    index = cindex.Index.create()
    own = include_directories.compiler_headers()
    options = ["-x", "c", "-std=gnu11", "-D_GNU_SOURCE", "-w", "-ferror-limit=0"]
    options += ["-isystem", os.fspath(own) if own else _OWN_DIRECTORY]
    options += [f"-I{directory}" for directory in (header.parent, *directories)]
    options += _kernel_options(header)
    virtual = [] if own else [(f"{_OWN_DIRECTORY}/{name}", t) for name, t in _OWN_HEADERS.items()]
    try:
        unit = index.parse(
            os.fspath(header),
            options,
            unsaved_files=virtual,
            options=_SKIP_FUNCTION_BODIES | _KEEP_GOING,
        )
    except cindex.TranslationUnitLoadError as error:
        raise ConfigurationError(f"{header}: not a C header that libclang can read") from error
    files = [os.fspath(header), *(one.include.name for one in unit.get_includes())]
    missing = next(
        (
            diagnostic.spelling.split("'")[1]
            for diagnostic in unit.diagnostics
            if "file not found" in diagnostic.spelling
        ),
        None,
    )
    reader = _Reader(cindex)
    return Parsed(reader.functions(unit), list(dict.fromkeys(files)), missing)


def _libclang(header: Path) -> Any:
    try:
        from clang import cindex  # type: ignore[import-untyped]
    except ImportError as error:
        raise _without_libclang(header, str(error)) from error
    try:
        cindex.conf.lib  # noqa: B018 (loads the shared library)
    except cindex.LibclangError as error:
        raise _without_libclang(header, str(error).splitlines()[0]) from error
    return cindex


def _without_libclang(header: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"{header}: headers are read by libclang: {reason}",
        hint="install the Python package libclang",
    )


def _kernel_options(header: Path) -> list[str]:
    """Return what the kernel's own headers need: they lie below ``include`` beside ``arch``."""
    for parent in header.parents:
        if parent.name == "include" and (parent.parent / "Kconfig").exists():
            machine = {"x86_64": "x86", "aarch64": "arm64"}.get(os.uname().machine, "generic")
            root = parent.parent
            arch = root / "arch" / machine / "include"
            places = [arch, arch / "generated", parent, arch / "uapi", parent / "uapi"]
            places += [arch / "generated" / "uapi", parent / "generated" / "uapi"]
            config = parent / "linux" / "kconfig.h"
            options = ["-nostdinc", "-D__KERNEL__", *(f"-I{place}" for place in places)]
            return [*options, "-include", os.fspath(config)] if config.exists() else options
    return []


class _Reader:
    """Turns libclang's cursors into signatures."""

    def __init__(self, cindex: Any) -> None:
        kind = cindex.TypeKind
        self._function = cindex.CursorKind.FUNCTION_DECL
        self._static = cindex.StorageClass.STATIC
        self._kind = kind
        self._signed = {
            kind.CHAR_S,
            kind.SCHAR,
            kind.SHORT,
            kind.INT,
            kind.LONG,
            kind.LONGLONG,
            kind.INT128,
            kind.WCHAR,
        }
        self._unsigned = {
            kind.CHAR_U,
            kind.UCHAR,
            kind.USHORT,
            kind.UINT,
            kind.ULONG,
            kind.ULONGLONG,
            kind.UINT128,
            kind.CHAR16,
            kind.CHAR32,
        }
        self._floats = {kind.FLOAT, kind.DOUBLE, kind.HALF, kind.FLOAT128, kind.VECTOR}
        self._arrays = {kind.CONSTANTARRAY, kind.INCOMPLETEARRAY, kind.VARIABLEARRAY}
        self._prototypes = {kind.FUNCTIONPROTO, kind.FUNCTIONNOPROTO}

    def functions(self, unit: Any) -> dict[str, tuple[Signature, str]]:
        found: dict[str, tuple[Signature, str]] = {}
        for cursor in unit.cursor.get_children():
            if cursor.kind != self._function or cursor.storage_class == self._static:
                continue
            location = cursor.location.file
            row = self.signature(cursor), location.name if location else ""
            found[cursor.spelling] = row
            # Some headers give a function another symbol: fscanf is __isoc99_fscanf.
            symbol = cursor.mangled_name
            if symbol and symbol != cursor.spelling:
                found.setdefault(symbol, row)
        return found

    def signature(self, cursor: Any) -> Signature:
        c_type = cursor.type
        variadic = c_type.kind == self._kind.FUNCTIONPROTO and c_type.is_function_variadic()
        # Headers of the C library write __fd, which no caller would.
        labels = [one.spelling.strip("_") for one in cursor.get_arguments()]
        types = list(c_type.argument_types()) if c_type.kind == self._kind.FUNCTIONPROTO else []
        return Signature(
            self.c_type(c_type.get_result()),
            tuple(
                Parameter(label, self.c_type(one))
                for label, one in zip(labels, types, strict=False)
            ),
            variadic,
        )

    def c_type(self, found: Any, depth: int = 0) -> CType:
        kind = self._kind
        this = found.kind
        if depth > _MAX_DEPTH:
            return UNKNOWN
        if this == kind.VOID:
            return VOID
        if this == kind.POINTER:
            return self._pointer(found.get_pointee(), depth)
        if this in self._arrays:
            return self._pointer(found.element_type, depth)
        if this == kind.TYPEDEF:
            declared = found.get_declaration()
            return typedef(
                declared.spelling, self.c_type(declared.underlying_typedef_type, depth + 1)
            )
        if this == kind.ELABORATED:
            return self.c_type(found.get_named_type(), depth + 1)
        if this == kind.BOOL:
            return CType("bool", 1, Kind.UNSIGNED, "bool")
        if this in self._signed or this in self._unsigned:
            name = _unqualified(found.spelling)
            return integer(name, found.get_size(), signed=this in self._signed)
        if this in self._floats or this == kind.COMPLEX:
            name = _unqualified(found.spelling)
            extended = "long double" in name
            return CType(name, found.get_size(), Kind.LONG_DOUBLE if extended else Kind.FLOAT, name)
        if this == kind.LONGDOUBLE:
            return CType("long double", found.get_size(), Kind.LONG_DOUBLE, "long double")
        if this == kind.ENUM:
            return self._enumeration(found)
        if this == kind.RECORD:
            return self._record(found)
        canonical = found.get_canonical()
        return UNKNOWN if canonical.kind == this else self.c_type(canonical, depth + 1)

    def _pointer(self, target: Any, depth: int) -> CType:
        bare = target
        while bare.kind in (self._kind.ELABORATED, self._kind.UNEXPOSED):
            following = bare.get_named_type() if bare.kind == self._kind.ELABORATED else None
            if following is None or following.kind == self._kind.INVALID:
                following = bare.get_canonical()
            if following.kind == bare.kind:
                break
            bare = following
        if bare.kind in self._prototypes:
            known = bare.kind == self._kind.FUNCTIONPROTO
            types = bare.argument_types() if known else ()
            names = [self.c_type(one, depth + 1).name for one in types]
            names += ["..."] if known and bare.is_function_variadic() else []
            return function_pointer(self.c_type(bare.get_result(), depth + 1).name, names)
        if bare.kind == self._kind.RECORD:
            name = _record_name(bare)
        else:
            name = self.c_type(bare, depth + 1).name
        constant = target.is_const_qualified() and not name.endswith("*")
        return pointer_to(f"const {name}" if constant else name)

    def _enumeration(self, found: Any) -> CType:
        declared = found.get_declaration()
        base = self.c_type(declared.enum_type)
        tag = declared.spelling
        name = f"enum {tag}" if tag and not tag.startswith("(") and "(" not in tag else "enum"
        return CType(name, found.get_size(), base.kind, name)

    def _record(self, found: Any) -> CType:
        name, size = _record_name(found), found.get_size()
        if size < 0:
            return UNKNOWN
        parts: set[int] = set()
        extended = False
        if size <= MAX_REGISTER_STRUCTURE_BYTES:
            extended = self._integer_parts(found, 0, parts, 0)
        if extended:
            return CType(name, size, Kind.STRUCTURE, name, 0)
        return structure(name, size, lambda part: part // EIGHTBYTE in parts)

    def _integer_parts(self, found: Any, offset: int, parts: set[int], depth: int) -> bool:
        """Collect which eight-byte parts hold integers; tell whether there is a long double."""
        plain = found.get_canonical()
        if depth > _MAX_DEPTH:
            return False
        if plain.kind == self._kind.RECORD:
            inner = [(field.type, field.get_field_offsetof() // 8) for field in plain.get_fields()]
            return self._any_extended(inner, offset, parts, depth)
        if plain.kind == self._kind.CONSTANTARRAY:
            element = plain.element_type
            size = max(element.get_size(), 1)
            count = min(plain.element_count, MAX_REGISTER_STRUCTURE_BYTES // size)
            inner = [(element, number * size) for number in range(count)]
            return self._any_extended(inner, offset, parts, depth)
        value = self.c_type(plain)
        if value.kind is Kind.LONG_DOUBLE:
            return True
        if value.kind is not Kind.FLOAT:
            last = offset + value.num_bytes - 1
            parts.update(range(offset // EIGHTBYTE, last // EIGHTBYTE + 1))
        return False

    def _any_extended(
        self, inner: list[tuple[Any, int]], offset: int, parts: set[int], depth: int
    ) -> bool:
        extended = False
        for found, place in inner:
            extended |= self._integer_parts(found, offset + place, parts, depth + 1)
        return extended


def _record_name(found: Any) -> str:
    spelling = _unqualified(found.get_canonical().spelling)
    return "struct" if "(" in spelling else spelling


def _unqualified(spelling: str) -> str:
    qualifiers = ("const", "volatile", "restrict")
    return " ".join(word for word in spelling.split() if word not in qualifiers)
