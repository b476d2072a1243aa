"""Probe files between JSON documents and classes: exact both ways, strict on the way in."""

import copy
import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from datacrumbs_runtime.errors import ProbeFileError
from datacrumbs_runtime.schema.probe_document import (
    document_from_probe_file,
    probe_file_from_document,
)
from datacrumbs_runtime.schema.probe_file import (
    Argument,
    Category,
    ProbeFile,
    ProbeType,
    Span,
    Summary,
    UsdtPoint,
    canonical_bytes,
    document_from_bytes,
)
from datacrumbs_runtime.signing.canonical import canonical_bytes_of

FD = Argument(0, 4, False, "fd", "int")
PATH = Argument(1, 8, True, "path", "const char *")

FULL = ProbeFile(
    summary=Summary(
        config_file_path="/p/etc/datacrumbs/configs/lead.yaml",
        probe_file_path="/home/u/probes.json.gz",
        hostname="lead1",
        user="u",
        install_user="root",
        uid=1000,
        site="lead",
        created=1795155786,
        expires=1802931786,
    ),
    categories=(
        Category(ProbeType.SYSCALLS, "sys", ("openat", "read"), {"read": (FD,)}),
        Category(ProbeType.KPROBE, "ext4", ("ext4_sync_file", "ext4_evict_inode")),
        Category(
            ProbeType.UPROBE,
            "libc",
            ("read:0x114980", "open:0x1146f0"),
            arguments={"read:0x114980": (FD,), "open:0x1146f0": (FD, PATH)},
            returns={"open:0x1146f0": "int"},
            binary_path="/lib64/libc.so.6",
            include_offsets=True,
            build_id="3e1b0bd6cc1c86fc6cbd51ee9e83d4d0a6b8e1ef",
            placed_offsets={"read:0x114980": 0x114984},
            mode="profile",
        ),
        Category(
            ProbeType.USDT,
            "python",
            ("function", "line"),
            binary_path="/usr/bin/python3",
            provider="python",
            usdt_points={
                "function__entry": (UsdtPoint(4096, 8192, "8@%rdi -4@%esi"),),
                "function__return": (UsdtPoint(4200, 0, ""), UsdtPoint(4300, 0, "")),
            },
        ),
        Category(ProbeType.CUSTOM, "mine", ("thing",), plugin="thing-1.2"),
        Category(
            ProbeType.TRACEPOINT,
            "block",
            ("block_rq", "block_plug"),
            arguments={"block_rq": (Argument(0, 8, False, "sector", "sector_t", "->__sector"),)},
            spans={"block_rq": Span("block_rq_issue", "block_rq_complete", "0", "0")},
        ),
    ),
    checksum_algorithm="hmac-sha256",
    checksum="ab" * 32,
    key_id="k1",
)


def full_document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(document_from_probe_file(FULL)))
    return document


def test_round_trip_through_json_is_exact() -> None:
    assert probe_file_from_document(full_document(), "f") == FULL
    again = document_from_probe_file(probe_file_from_document(full_document(), "f"))
    assert json.dumps(again) == json.dumps(full_document())


def test_canonical_bytes_are_the_same_whether_from_classes_or_document() -> None:
    odd = Category(
        ProbeType.UPROBE,
        'quote " and \\',
        ('b"', "a:0,", "\u00e9", "\U0001f600", "Z"),
        {"\u00e9": (FD, PATH), 'b"': (PATH,), "a:0,": (), "\U0001f600": (FD,), "Z": (FD,)},
        binary_path="/lib/x",
    )
    for probe_file in (FULL, ProbeFile(FULL.summary, ()), ProbeFile(FULL.summary, (odd, odd))):
        expected = canonical_bytes(document_from_probe_file(probe_file))
        unsigned = replace(probe_file, checksum=None)
        assert canonical_bytes_of(unsigned) == expected


def test_unsigned_and_empty_probe_file_round_trips() -> None:
    empty = ProbeFile(Summary("", "", "", "", ""), ())
    document = document_from_probe_file(empty)
    assert "checksum" not in document
    assert probe_file_from_document(document, "f") == empty


def test_document_of_older_versions_is_read() -> None:
    document = {
        "summary": {
            "config_file_path": "/c.yaml",
            "probe_file_path": "/p.json.gz",
            "hostname": "lead1",
            "user": "u",
            "install_user": "root",
        },
        "categories": [
            {
                "type": 2,
                "name": "libc",
                "functions": ["read:0x114980"],
                "function_arguments": {
                    "read:0x114980": [
                        {
                            "index": 0,
                            "num_bytes": 4,
                            "is_pointer": False,
                            "label": "fd",
                            "c_type": "int",
                        }
                    ]
                },
                "binary_path": "/lib64/libc.so.6",
                "include_offsets": True,
            }
        ],
        "checksum_algorithm": "hmac-sha256",
        "checksum": "0" * 64,
    }
    probe_file = probe_file_from_document(document, "f")
    assert probe_file.summary.uid is None
    assert probe_file.categories[0].arguments["read:0x114980"] == (FD,)


def test_equal_arguments_are_one_object() -> None:
    document = full_document()
    document["categories"][0]["function_arguments"]["openat"] = copy.deepcopy(
        document["categories"][0]["function_arguments"]["read"]
    )
    arguments = probe_file_from_document(document, "f").categories[0].arguments
    assert arguments["openat"][0] is arguments["read"][0]


Edit = Callable[[dict[str, Any]], object]
SYS, KPROBE, LIBC, PYTHON, CUSTOM, BLOCK = range(6)


def category(position: int, **values: Any) -> Edit:
    return lambda document: document["categories"][position].update(values)


def summary(**values: Any) -> Edit:
    return lambda document: document["summary"].update(values)


def argument(**values: Any) -> Edit:
    return lambda document: document["categories"][SYS]["function_arguments"]["read"][0].update(
        values
    )


def top(**values: Any) -> Edit:
    return lambda document: document.update(values)


def without(*path: Any) -> Edit:
    def edit(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    return edit


INVALID: dict[str, tuple[Edit, str]] = {
    "unknown key": (top(sumary={}), "f: sumary: is not a key of probe files"),
    "no summary": (without("summary"), "f: summary: is missing"),
    "summary is a list": (top(summary=[]), "f: summary: is not an object"),
    "no user": (without("summary", "user"), "f: summary: user: is missing"),
    "user is a number": (summary(user=1), "f: summary: user: is not a string"),
    "user with a newline": (summary(user="u\nroot"), "user: has characters"),
    "user with NUL": (summary(user="u\0"), "user: has characters"),
    "lone surrogate": (summary(user="\ud800"), "user: has characters"),
    "uid is true": (summary(uid=True), "f: summary: uid: is not an integer"),
    "uid is a float": (summary(uid=0.0), "f: summary: uid: is not an integer"),
    "uid is negative": (summary(uid=-1), "f: summary: uid: is not between 0 and"),
    "no categories": (without("categories"), "f: categories: is missing"),
    "categories is an object": (top(categories={}), "f: categories: is not a list"),
    "newer format": (top(format_version=2), "f: format_version: 2 is newer than 1"),
    "format zero": (top(format_version=0), "f: format_version: is not a positive number"),
    "format is true": (top(format_version=True), "f: format_version: is not a positive number"),
    "unknown algorithm": (top(checksum_algorithm="md5"), "is none of hmac-sha256, ed25519"),
    "checksum in capitals": (top(checksum="AB" * 32), "f: checksum: has a form"),
    "checksum of odd length": (top(checksum="abc" * 11), "f: checksum: has a form"),
    "key id with a slash": (top(key_id="../k"), "f: key_id: has a form"),
    "category is a string": (top(categories=["libc"]), "f: categories[0]: is not an object"),
    "category without a name": (without("categories", SYS, "name"), "name: is not a string"),
    "unknown type": (category(SYS, type=9), "f: categories[0] (sys): type: is none of 0 syscalls"),
    "type is true": (category(SYS, type=True), "type: is none of"),
    "misspelt key": (category(LIBC, binarypath="/x"), "binarypath: is not a key of probe files"),
    "key of another type": (
        category(SYS, provider="x"),
        "categories[0] (sys): provider: has no meaning for syscalls probes",
    ),
    "no functions": (without("categories", SYS, "functions"), "functions: is missing"),
    "functions is a string": (category(SYS, functions="read"), "functions: is not a list"),
    "function is a number": (category(SYS, functions=[1]), "functions: 1 is not a function name"),
    "empty function name": (category(SYS, functions=[""]), "is not a function name"),
    "newline in a function": (
        category(KPROBE, functions=["a\nb"]),
        r"functions: 'a\nb' has characters that cannot be printed",
    ),
    "kernel function with a space": (
        category(KPROBE, functions=["vfs_read p:x"]),
        "functions: vfs_read p:x is not a name in the kernel",
    ),
    "function twice": (category(KPROBE, functions=["a", "b", "b"]), "functions: b is there twice"),
    "offset missing": (
        category(LIBC, functions=["read"]),
        "functions: read does not end in :0x and its value",
    ),
    "uprobe without binary": (
        without("categories", LIBC, "binary_path"),
        "categories[2] (libc): binary_path: is missing",
    ),
    "relative binary": (category(LIBC, binary_path="libc.so.6"), "is not an absolute path"),
    "NUL in binary": (category(LIBC, binary_path="/lib/x\0.so"), "binary_path: has characters"),
    "newline in binary": (category(LIBC, binary_path="/lib/x\n.so"), "binary_path: has characters"),
    "build id not hex": (category(LIBC, build_id="xyz"), "build_id: has a form"),
    "placed offset of a stranger": (
        category(LIBC, placed_offsets={"write": 1}),
        "placed_offsets: write is not among the functions",
    ),
    "placed offset is text": (
        category(LIBC, placed_offsets={"read:0x114980": "1"}),
        "placed_offsets: read:0x114980: is not an integer",
    ),
    "placed offset too large": (
        category(LIBC, placed_offsets={"read:0x114980": 1 << 63}),
        "is not between 0 and",
    ),
    "unknown mode": (category(LIBC, mode="count"), "mode: is none of trace, profile"),
    "arguments of a stranger": (
        category(SYS, function_arguments={"write": []}),
        "function_arguments: write is not among the functions",
    ),
    "arguments is a list": (category(SYS, function_arguments=[]), "is not an object"),
    "seven arguments": (
        category(SYS, function_arguments={"read": [{}] * 7}),
        "read: has more than 6 arguments",
    ),
    "argument is a string": (
        category(SYS, function_arguments={"read": ["fd"]}),
        "function_arguments: read: is not an object",
    ),
    "argument without a type": (
        without("categories", SYS, "function_arguments", "read", 0, "c_type"),
        "function_arguments: read: c_type: is missing",
    ),
    "argument index is true": (argument(index=True), "read: index: is not an integer"),
    "argument pointer is 1": (argument(is_pointer=1), "is_pointer: is neither true nor false"),
    "argument index too large": (argument(index=32), "index: is not between 0 and 31"),
    "argument label is empty": (argument(label=""), "label: is empty"),
    "argument has another key": (argument(size=4), "size: is not a key of probe files"),
    "USDT point without offset": (
        category(PYTHON, usdt_points={"line": [{"semaphore": 1}]}),
        "usdt_points: line: offset: is not an integer",
    ),
    "USDT without places": (
        category(PYTHON, usdt_points={"line": []}),
        "usdt_points: line: is not a list of places",
    ),
    "USDT place of a stranger": (
        category(PYTHON, usdt_points={"gc__start": []}),
        "gc__start is not among the functions",
    ),
    "span without an end": (
        category(BLOCK, spans={"block_rq": {"begin": "block_rq_issue"}}),
        "spans: block_rq: end: is missing",
    ),
    "plugin with a path": (category(CUSTOM, plugin="../x"), "plugin: has a form"),
    "terminal escape in a key": (top(**{"\x1b[2J": 1}), r"f: '\x1b[2J': is not a key"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_document_is_refused_by_name(case: str) -> None:
    edit, message = INVALID[case]
    document = full_document()
    edit(document)
    with pytest.raises(ProbeFileError) as caught:
        probe_file_from_document(document, "f")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


ODD_VALUES: list[Any] = [None, True, 0, -1, 1.5, 1 << 70, "", "x", "\0", [], {}, [None], {"a": 1}]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for position, entry in enumerate(value):
            yield from places(entry, (*path, position))


def test_odd_value_anywhere_is_refused_or_understood() -> None:
    for path in list(places(full_document()))[1:]:
        for odd in ODD_VALUES:
            document = full_document()
            parent = document
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = odd
            try:
                read = probe_file_from_document(document, "f")
            except ProbeFileError:
                continue
            again = json.loads(json.dumps(document_from_probe_file(read)))
            assert probe_file_from_document(again, "f") == read, (path, odd)


def test_misspelt_key_hints_at_the_nearest() -> None:
    with pytest.raises(ProbeFileError) as caught:
        probe_file_from_document(full_document() | {"sumary": {}}, "f")
    assert caught.value.hint == "did you mean summary?"


def test_strict_types_hold_for_arguments_that_equal_earlier_ones() -> None:
    document = full_document()
    functions = document["categories"][SYS]["function_arguments"]
    functions["openat"] = [dict(functions["read"][0], index=False)]
    with pytest.raises(ProbeFileError, match="openat: index: is not an integer"):
        probe_file_from_document(document, "f")


BYTES = {
    "empty": b"",
    "not JSON": b"<xml/>",
    "not UTF-8": b'{"a": "\xff"}',
    "cut": b'{"a": ',
    "cut gzip": gzip.compress(b'{"a": 1}')[:-4],
    "damaged gzip": gzip.compress(b'{"a": 1}')[:-8] + bytes(8),
    "more after the gzip": gzip.compress(b'{"a": 1}') + b"more",
    "a list": b"[]",
    "deep": b"[" * 200_000,
    "huge number": b'{"a": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("case", BYTES)
def test_invalid_bytes_are_refused(case: str) -> None:
    with pytest.raises(ProbeFileError) as caught:
        document_from_bytes(BYTES[case], "f")
    assert str(caught.value).startswith("f: not a probe file")


def test_gzip_bomb_is_refused_without_unpacking_it() -> None:
    bomb = gzip.compress(bytes(200 << 20), compresslevel=1)
    with pytest.raises(ProbeFileError, match="larger than 64 MiB"):
        document_from_bytes(bomb, "f")
