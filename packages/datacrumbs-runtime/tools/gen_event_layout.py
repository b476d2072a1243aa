#!/usr/bin/env python3
"""Write bpf/layout.py: the structures, enumerations and constants of event.h for Python.

clang compiles event.h with one variable of each type; what the types look like is then read from
the BTF, so that Python uses exactly the layout that the BPF programs use.

usage: gen_event_layout.py [--check]    (--check: change nothing, fail if it is out of date)
"""

import ctypes
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HEADER = ROOT / "bpf/event.h"
LAYOUT = ROOT / "src/datacrumbs_runtime/bpf/layout.py"
CONSTANT_PREFIX = "constant_"

sys.path.insert(0, str(ROOT))

from hatch_build import BuildError, bpf_compiler  # noqa: E402

Btf = dict[int, dict[str, Any]]


def python_name(c_name: str) -> str:
    """Return CallFlag for dc_call_flag."""
    return "".join(word.capitalize() for word in c_name.removeprefix("dc_").split("_"))


def compile_header(names: dict[str, list[str]]) -> Btf:
    """Return the BTF of event.h by type id."""
    lines = [f'#include "{HEADER}"']
    for kind in ("struct", "enum"):
        lines += [f"{kind} {name} variable_{name};" for name in names[kind]]
    if names["constant"]:
        constants = ", ".join(f"{CONSTANT_PREFIX}{name} = {name}" for name in names["constant"])
        lines.append(f"enum constants {{ {constants} }} variable_constants;")
    with tempfile.TemporaryDirectory() as directory:
        target = f"{directory}/layout.o"
        subprocess.run(
            [*bpf_compiler(), "-x", "c", "-c", "-", "-o", target],
            input="\n".join(lines) + "\n",
            text=True,
            check=True,
        )
        command = ["bpftool", "--json", "btf", "dump", "file", target, "format", "raw"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {entry["id"]: entry for entry in json.loads(output)["types"]}


def names_in(header: str) -> dict[str, list[str]]:
    """Return what a header defines: names of structs, enums and integer constants, in order."""
    return {
        "struct": re.findall(r"^struct (dc_\w+) \{", header, re.MULTILINE),
        "enum": re.findall(r"^enum (dc_\w+) \{", header, re.MULTILINE),
        "constant": re.findall(r"^#define (DC_\w+)[ \t]+[\d(]", header, re.MULTILINE),
    }


def types_of(btf: Btf, type_id: int) -> tuple[str, str]:
    """Return the ctypes expression and the Python type of one BTF type."""
    entry = btf[type_id]
    match entry["kind"]:
        case "TYPEDEF" | "CONST" | "VOLATILE":
            return types_of(btf, entry["type_id"])
        case "STRUCT":
            return python_name(entry["name"]), python_name(entry["name"])
        case "ENUM":
            return "ctypes.c_uint32", "int"
        case "INT" if entry["name"] == "char":
            return "ctypes.c_char", "bytes"
        case "INT":
            sign = "" if "SIGNED" in entry["encoding"] else "u"
            return f"ctypes.c_{sign}int{entry['nr_bits']}", "int"
        case "ARRAY":
            element = types_of(btf, entry["type_id"])[0]
            python = "bytes" if element == "ctypes.c_char" else f'"ctypes.Array[{element}]"'
            return f"{element} * {entry['nr_elems']}", python
    raise SystemExit(f"gen_event_layout: no ctypes form for BTF kind {entry['kind']}")


def enumerators(entry: dict[str, Any]) -> dict[str, int]:
    """Return the values of an enumeration by name."""
    mask = 0xFFFFFFFF if entry.get("encoding") != "SIGNED" else -1
    return {value["name"]: value["val"] & mask for value in entry["values"]}


def struct_lines(btf: Btf, name: str, entry: dict[str, Any]) -> Iterator[str]:
    """Yield the class of a structure."""
    fields = [(member["name"], *types_of(btf, member["type_id"])) for member in entry["members"]]
    yield f"class {python_name(name)}(ctypes.Structure):"
    yield f'    """C: struct {name}, {entry["size"]} bytes."""\n'
    yield from (f"    {field}: {python}" for field, _, python in fields)
    pairs = [f'("{field}", {c_type}),' for field, c_type, _ in fields]
    if len(pairs) == 1:
        yield f"\n    _fields_ = ({pairs[0]})"
        return
    yield "\n    _fields_ = ("
    yield from (f"        {pair}" for pair in pairs)
    yield "    )"


def enum_lines(name: str, entry: dict[str, Any]) -> Iterator[str]:
    """Yield the class of an enumeration; the common beginning of its names is left out."""
    values = enumerators(entry)
    words = [value.split("_") for value in values]
    shared = 1
    while all(
        len(word) > shared + 1 and word[: shared + 1] == words[0][: shared + 1] for word in words
    ):
        shared += 1
    base = "IntFlag" if name.endswith("_flag") else "IntEnum"
    yield f"class {python_name(name)}(enum.{base}):"
    yield f'    """C: enum {name}."""\n'
    yield from (
        f"    {'_'.join(value.split('_')[shared:])} = {number}" for value, number in values.items()
    )


def layout_text() -> str:
    """Return the text of layout.py."""
    names = names_in(HEADER.read_text())
    btf = compile_header(names)
    by_name = {(entry["kind"], entry.get("name")): entry for entry in btf.values()}
    blocks = [
        '"""Generated from bpf/event.h by gen_event_layout.py. Do not edit."""',
        "import ctypes\nimport enum",
    ]
    if names["constant"]:
        values = enumerators(by_name["ENUM", "constants"])
        lines = [
            f"{name.removeprefix('DC_')} = {values[CONSTANT_PREFIX + name]}"
            for name in names["constant"]
        ]
        blocks.append("\n".join(lines))
    text = "\n\n".join(blocks) + "\n"
    for name in names["enum"]:
        text += "\n\n" + "\n".join(enum_lines(name, by_name["ENUM", name])) + "\n"
    for name in names["struct"]:
        text += "\n\n" + "\n".join(struct_lines(btf, name, by_name["STRUCT", name])) + "\n"
    check_layout(text, [(name, by_name["STRUCT", name]) for name in names["struct"]])
    return text


def check_layout(text: str, structs: list[tuple[str, dict[str, Any]]]) -> None:
    """Compare what ctypes makes of the classes with the sizes and offsets in the BTF."""
    namespace: dict[str, Any] = {}
    exec(text, namespace)  # noqa: S102 (our own text, made a moment ago)
    for name, entry in structs:
        structure = namespace[python_name(name)]
        offsets = [getattr(structure, member["name"]).offset * 8 for member in entry["members"]]
        declared = [member["bits_offset"] for member in entry["members"]]
        if offsets != declared or ctypes.sizeof(structure) != entry["size"]:
            sys.exit(f"gen_event_layout: error: ctypes lays out struct {name} differently")


def main() -> None:
    """Write the layout, or compare it."""
    try:
        text = layout_text()
    except BuildError as error:
        sys.exit(f"gen_event_layout: error: {error}")
    if LAYOUT.exists() and LAYOUT.read_text() == text:
        return
    if sys.argv[1:] == ["--check"]:
        sys.exit(f"gen_event_layout: error: {LAYOUT.relative_to(ROOT)} does not match bpf/event.h")
    LAYOUT.write_text(text)


if __name__ == "__main__":
    main()
