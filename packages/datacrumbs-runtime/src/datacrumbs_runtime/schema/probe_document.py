"""Between a probe file's JSON document and its classes: strict on the way in, exact both ways.

What :func:`probe_file_from_document` lets pass needs no second look: types, ranges, names and the
keys that each probe type may have are checked. Whether a signature holds, whom the file belongs to
and what a site allows is for :mod:`datacrumbs_runtime.signing`.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Set
from typing import Any, TypeVar

from datacrumbs_runtime.errors import ProbeFileError
from datacrumbs_runtime.schema.category_document import category_document
from datacrumbs_runtime.schema.json_fields import (
    check_keys,
    check_text,
    fail,
    flag,
    number,
    optional_number,
    optional_text,
    shown,
)
from datacrumbs_runtime.schema.probe_file import (
    FORMAT_VERSION,
    MAX_ARGUMENTS,
    MAX_TRACEPOINT_VALUES,
    Argument,
    Category,
    ProbeFile,
    ProbeType,
    Span,
    Summary,
    UsdtPoint,
)

MODES = ("trace", "profile")
CHECKSUM_ALGORITHMS = ("hmac-sha256", "ed25519")
MAX_NAME_CHARS = 16384
MAX_ARGUMENT_BYTES = 4096
# Tracepoints have more arguments than functions have argument registers.
MAX_ARGUMENT_INDEX = 31

_TOP_KEYS = (
    "summary",
    "categories",
    "format_version",
    "checksum_algorithm",
    "checksum",
    "key_id",
)
_SUMMARY_TEXTS = ("config_file_path", "probe_file_path", "hostname", "user", "install_user")
_SUMMARY_KEYS = (*_SUMMARY_TEXTS, "uid", "site", "created", "expires")
_CATEGORY_KEYS = (
    "type",
    "name",
    "functions",
    "function_arguments",
    "function_returns",
    "binary_path",
    "include_offsets",
    "build_id",
    "placed_offsets",
    "provider",
    "usdt_points",
    "spans",
    "mode",
    "plugin",
)
_ARGUMENT_KEYS = frozenset({"index", "num_bytes", "is_pointer", "label", "c_type", "path"})
# Keys that only some types may have. A kernel module's functions come from its file as well.
_KEY_TYPES = {
    "binary_path": (ProbeType.UPROBE, ProbeType.USDT, ProbeType.KPROBE),
    "include_offsets": (ProbeType.UPROBE, ProbeType.USDT, ProbeType.KPROBE),
    "build_id": (ProbeType.UPROBE, ProbeType.USDT, ProbeType.KPROBE),
    "placed_offsets": (ProbeType.UPROBE,),
    "provider": (ProbeType.USDT,),
    "usdt_points": (ProbeType.USDT,),
    "spans": (ProbeType.TRACEPOINT,),
    "plugin": (ProbeType.CUSTOM,),
}
# Their names are written into files of the kernel.
_KERNEL_TYPES = (ProbeType.SYSCALLS, ProbeType.KPROBE, ProbeType.TRACEPOINT)
_KERNEL_NAME = re.compile(r"[A-Za-z0-9_.$:/]+")
_BUILD_ID = re.compile(r"(?:[0-9a-f]{2}){1,64}")
_PLUGIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_KEY_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_CHECKSUM = re.compile(r"(?:[0-9a-f]{2}){16,128}")
_OFFSET_SUFFIX = re.compile(r"[^:].*:0x[0-9a-fA-F]{1,16}", re.DOTALL)

Value = TypeVar("Value")


def probe_file_from_document(document: Mapping[str, Any], where: str) -> ProbeFile:
    """Turn a decoded JSON document into a probe file.

    Args:
        document: What :func:`datacrumbs_runtime.schema.probe_file.document_from_bytes` returned.
        where: What errors call it, usually the path.

    Raises:
        ProbeFileError: It says something that no probe file may say; the message names the place.
    """
    check_keys(document, _TOP_KEYS, where)
    version = document.get("format_version", FORMAT_VERSION)
    if type(version) is not int or version < 1:
        fail(where, "format_version", "is not a positive number")
    if version > FORMAT_VERSION:
        raise ProbeFileError(
            f"{where}: format_version: {version} is newer than {FORMAT_VERSION}, "
            "the newest that this version of DataCrumbs reads",
            hint="update DataCrumbs here, or make the probe file with this version",
        )
    if "summary" not in document:
        fail(where, "summary", "is missing")
    categories = document.get("categories")
    if not isinstance(categories, list):
        fail(where, "categories", "is missing" if categories is None else "is not a list")
    arguments = _ArgumentReader()
    algorithm = optional_text(document, "checksum_algorithm", where)
    if algorithm is not None and algorithm not in CHECKSUM_ALGORITHMS:
        fail(where, "checksum_algorithm", f"is none of {', '.join(CHECKSUM_ALGORITHMS)}")
    return ProbeFile(
        summary=_summary(document["summary"], f"{where}: summary"),
        categories=tuple(
            _category(entry, f"{where}: categories[{position}]", arguments)
            for position, entry in enumerate(categories)
        ),
        format_version=version,
        checksum_algorithm=algorithm,
        checksum=optional_text(document, "checksum", where, _CHECKSUM),
        key_id=optional_text(document, "key_id", where, _KEY_ID),
    )


def document_from_probe_file(probe_file: ProbeFile) -> dict[str, Any]:
    """Return the JSON document of a probe file: the inverse of :func:`probe_file_from_document`.

    What is None, empty or the default is left out.
    """
    summary = probe_file.summary
    document: dict[str, Any] = {
        "format_version": probe_file.format_version,
        "summary": _without_none({key: getattr(summary, key) for key in _SUMMARY_KEYS}),
        "categories": [category_document(category) for category in probe_file.categories],
    }
    for key in ("checksum_algorithm", "checksum", "key_id"):
        value = getattr(probe_file, key)
        if value is not None:
            document[key] = value
    return document


def _summary(entry: Any, where: str) -> Summary:
    check_keys(entry, _SUMMARY_KEYS, where)
    for key in _SUMMARY_TEXTS:
        if key not in entry:
            fail(where, key, "is missing")
        check_text(entry[key], where, key)
    return Summary(
        **{key: entry[key] for key in _SUMMARY_TEXTS},
        uid=optional_number(entry, "uid", where),
        site=optional_text(entry, "site", where),
        created=optional_number(entry, "created", where),
        expires=optional_number(entry, "expires", where),
    )


def _category(entry: Any, where: str, arguments: "_ArgumentReader") -> Category:
    check_keys(entry, _CATEGORY_KEYS, where)
    check_text(entry.get("name"), where, "name", max_chars=256)
    name = entry["name"]
    where = f"{where} ({shown(name)})"
    if not name:
        fail(where, "name", "is empty")
    probe_type = _probe_type(entry.get("type"), where)
    for key in entry:
        if probe_type not in _KEY_TYPES.get(key, (probe_type,)):
            fail(where, key, f"has no meaning for {probe_type.name.lower()} probes")
    include_offsets = flag(entry, "include_offsets", where)
    functions = _functions(entry.get("functions"), where, include_offsets)
    if probe_type in _KERNEL_TYPES:
        for function in functions:
            if not _KERNEL_NAME.fullmatch(function):
                fail(where, "functions", f"{shown(function)} is not a name in the kernel")
    known = frozenset(functions)
    binary_path = _binary_path(entry, where, probe_type)
    mode = optional_text(entry, "mode", where)
    if mode is not None and mode not in MODES:
        fail(where, "mode", f"is none of {', '.join(MODES)}")
    return Category(
        type=probe_type,
        name=name,
        functions=functions,
        arguments=_by_function(
            entry,
            "function_arguments",
            where,
            known,
            arguments.read_tracepoint if probe_type is ProbeType.TRACEPOINT else arguments.read,
        ),
        returns=_by_function(entry, "function_returns", where, known, _return_type),
        binary_path=binary_path,
        include_offsets=include_offsets,
        build_id=optional_text(entry, "build_id", where, _BUILD_ID),
        placed_offsets=_by_function(entry, "placed_offsets", where, known, _placed_offset),
        provider=optional_text(entry, "provider", where),
        usdt_points=_by_function(
            entry,
            "usdt_points",
            where,
            known | _span_names(known) if "usdt_points" in entry else known,
            _usdt_points,
        ),
        spans=_by_function(entry, "spans", where, known, _span),
        mode=mode,
        plugin=optional_text(entry, "plugin", where, _PLUGIN),
    )


def _probe_type(value: object, where: str) -> ProbeType:
    if type(value) is not int or value not in ProbeType.__members__.values():
        known = ", ".join(f"{member.value} {member.name.lower()}" for member in ProbeType)
        fail(where, "type", f"is none of {known}")
    return ProbeType(value)


def _functions(value: Any, where: str, include_offsets: bool) -> tuple[str, ...]:
    if not isinstance(value, list):
        fail(where, "functions", "is missing" if value is None else "is not a list")
    for name in value:
        if type(name) is not str or not 0 < len(name) <= MAX_NAME_CHARS:
            fail(where, "functions", f"{shown(str(name))} is not a function name")
        if not name.isprintable():
            fail(where, "functions", f"{shown(name)} has characters that cannot be printed")
        if include_offsets and not _OFFSET_SUFFIX.fullmatch(name):
            fail(where, "functions", f"{shown(name)} does not end in :0x and its value")
    if len(set(value)) != len(value):
        twice = Counter(value).most_common(1)[0][0]
        fail(where, "functions", f"{shown(twice)} is there twice")
    return tuple(value)


def _binary_path(entry: Mapping[str, Any], where: str, probe_type: ProbeType) -> str | None:
    path = optional_text(entry, "binary_path", where)
    if path is None:
        if probe_type in (ProbeType.UPROBE, ProbeType.USDT):
            fail(where, "binary_path", "is missing")
        return None
    if not path.startswith("/"):
        fail(where, "binary_path", f"{shown(path)} is not an absolute path")
    return path


def _span_names(functions: Set[str]) -> frozenset[str]:
    """Return the USDT probes that together are a call of one of the functions."""
    return frozenset(f"{name}{suffix}" for name in functions for suffix in ("__entry", "__return"))


def _by_function(
    entry: Mapping[str, Any],
    key: str,
    where: str,
    functions: Set[str],
    read: Callable[[Any, str, str], Value],
) -> dict[str, Value]:
    values = entry.get(key)
    if values is None:
        return {}
    if not isinstance(values, dict):
        fail(where, key, "is not an object")
    if not values.keys() <= functions:
        stranger = next(name for name in values if name not in functions)
        fail(where, key, f"{shown(stranger)} is not among the functions")
    where = f"{where}: {key}"
    return {name: read(value, where, name) for name, value in values.items()}


def _return_type(value: Any, where: str, name: str) -> str:
    check_text(value, where, name)
    return str(value)


def _placed_offset(value: Any, where: str, name: str) -> int:
    return number(value, where, name)


def _usdt_points(value: Any, where: str, name: str) -> tuple[UsdtPoint, ...]:
    where = f"{where}: {shown(name)}"
    if not isinstance(value, list) or not value:
        raise ProbeFileError(f"{where}: is not a list of places")
    points = []
    for point in value:
        check_keys(point, ("offset", "semaphore", "arguments"), where)
        check_text(point.get("arguments", ""), where, "arguments")
        points.append(
            UsdtPoint(
                number(point.get("offset"), where, "offset"),
                number(point.get("semaphore", 0), where, "semaphore"),
                point.get("arguments", ""),
            )
        )
    return tuple(points)


def _span(value: Any, where: str, name: str) -> Span:
    where = f"{where}: {shown(name)}"
    keys = ("begin", "end", "begin_key", "end_key")
    check_keys(value, keys, where)
    for key in keys:
        if key in value:
            check_text(value[key], where, key)
        elif key in ("begin", "end"):
            fail(where, key, "is missing")
    return Span(**value)


class _ArgumentReader:
    """Reads captured arguments; thousands of functions share a few dozen different ones."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], Argument] = {}

    def read(self, value: Any, where: str, name: str) -> tuple[Argument, ...]:
        return self._read(value, where, name, MAX_ARGUMENTS)

    def read_tracepoint(self, value: Any, where: str, name: str) -> tuple[Argument, ...]:
        return self._read(value, where, name, MAX_TRACEPOINT_VALUES)

    def _read(self, value: Any, where: str, name: str, most: int) -> tuple[Argument, ...]:
        if not isinstance(value, list):
            fail(where, name, "is not a list")
        if len(value) > most:
            fail(where, name, f"has more than {most} arguments")
        return tuple([self._argument(entry, where, name) for entry in value])

    def _argument(self, entry: Any, where: str, name: str) -> Argument:
        try:
            index, is_pointer = entry["index"], entry["is_pointer"]
            # The types are part of the key: True equals 1, but is not one.
            key = (
                index,
                type(index),
                entry["num_bytes"],
                type(entry["num_bytes"]),
                is_pointer,
                type(is_pointer),
                entry["label"],
                entry["c_type"],
                entry.get("path", ""),
                len(entry),
            )
            known = self._known.get(key)
        except (KeyError, TypeError, AttributeError):
            known, key = None, None
        if known is None or not entry.keys() <= _ARGUMENT_KEYS:
            known = _argument(entry, f"{where}: {shown(name)}")
            if key is not None:
                self._known[key] = known
        return known


def _argument(entry: Any, where: str) -> Argument:
    check_keys(entry, sorted(_ARGUMENT_KEYS), where)
    for key in ("index", "num_bytes", "is_pointer", "label", "c_type"):
        if key not in entry:
            fail(where, key, "is missing")
    for key in ("label", "c_type", "path"):
        check_text(entry.get(key, ""), where, key)
    if not entry["label"]:
        fail(where, "label", "is empty")
    return Argument(
        index=number(entry["index"], where, "index", MAX_ARGUMENT_INDEX),
        num_bytes=number(entry["num_bytes"], where, "num_bytes", MAX_ARGUMENT_BYTES),
        is_pointer=flag(entry, "is_pointer", where),
        label=entry["label"],
        c_type=entry["c_type"],
        path=entry.get("path", ""),
    )


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
