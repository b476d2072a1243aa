"""Reading ``etc/datacrumbs/policy.yaml``; the page about signing documents its keys."""

import difflib
import os
import re
import stat
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_runtime.schema.probe_document import CHECKSUM_ALGORITHMS
from datacrumbs_runtime.schema.probe_file import ProbeType
from datacrumbs_runtime.signing.policy import DAY_S, Policy, Rule, SpecialRule

MAX_POLICY_BYTES = 1 << 20
MAX_LIFETIME_DAYS = 3660
MAX_REQUEST_MIB = 64

_RULE_KEYS = (
    "probe_types",
    "kernel_functions",
    "denied_kernel_functions",
    "binaries",
    "tracepoint_paths",
    "max_functions",
    "lifetime_days",
    "capture_arguments",
)
_POLICY_KEYS = ("algorithm", "site", "max_request_mib", "max_document_mib", "default", "rules")
_PROBE_TYPES = {member.name.lower(): member for member in ProbeType}


class _Loader(yaml.SafeLoader):
    """YAML without anchors: a few lines of those can stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases are not allowed here", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)


def read_policy(path: Path, owner_uid: int = 0) -> Policy:
    """Read a site's policy; without a file the built-in one holds.

    Args:
        path: The policy file.
        owner_uid: Who must own it.

    Raises:
        ConfigurationError: It is not a policy, or others may change it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return Policy()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    with open(fd, "rb") as stream:  # noqa: PTH123  a descriptor, not a path
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigurationError(f"{path}: not a regular file")
        if status.st_uid != owner_uid or status.st_mode & 0o022:
            raise ConfigurationError(
                f"{path}: may be changed by others than root",
                hint=f"chown root {path}; chmod go-w {path}",
            )
        text = stream.read(MAX_POLICY_BYTES + 1)
    if len(text) > MAX_POLICY_BYTES:
        raise ConfigurationError(f"{path}: larger than {MAX_POLICY_BYTES >> 20} MiB")
    return policy_from_yaml(text, str(path))


def policy_from_yaml(text: bytes, where: str) -> Policy:
    """Turn the text of a policy file into a policy.

    Raises:
        ConfigurationError: It is not one; the message names the place.
    """
    try:
        document = yaml.load(text, Loader=_Loader)  # noqa: S506  derived from SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigurationError(f"{where}{place}: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{where}: not YAML: {str(error).splitlines()[0]}") from error
    return policy_from_document({} if document is None else document, where)


def policy_from_document(document: Any, where: str) -> Policy:
    """Turn a decoded policy document into a policy; see :func:`policy_from_yaml`."""
    _check_keys(document, _POLICY_KEYS, where)
    base = Policy()
    algorithm = document.get("algorithm", base.algorithm)
    if algorithm not in CHECKSUM_ALGORITHMS:
        _fail(where, "algorithm", f"is none of {', '.join(CHECKSUM_ALGORITHMS)}")
    site = document.get("site")
    if site is not None and not (isinstance(site, str) and re.fullmatch(r"[\w.-]{1,64}", site)):
        _fail(where, "site", "is not a name")
    default = _rule(document.get("default", {}), base.default, f"{where}: default")
    rules = document.get("rules", [])
    if not isinstance(rules, list):
        _fail(where, "rules", "is not a list")
    return Policy(
        algorithm=algorithm,
        site=site,
        max_request_bytes=_mebibytes(document, "max_request_mib", where, base.max_request_bytes),
        max_document_bytes=_mebibytes(document, "max_document_mib", where, base.max_document_bytes),
        default=default,
        special=tuple(
            _special_rule(entry, default, f"{where}: rules[{position}]")
            for position, entry in enumerate(rules)
        ),
    )


def _special_rule(entry: Any, default: Rule, where: str) -> SpecialRule:
    _check_keys(entry, ("groups", "users", *_RULE_KEYS), where)
    groups = _names(entry, "groups", where)
    users = _names(entry, "users", where)
    if not groups and not users:
        _fail(where, "groups", "is missing, and so is users: the rule holds for nobody")
    own = {key: value for key, value in entry.items() if key not in ("groups", "users")}
    return SpecialRule(groups, users, _rule(own, default, where))


def _rule(entry: Any, base: Rule, where: str) -> Rule:
    _check_keys(entry, _RULE_KEYS, where)
    return Rule(
        probe_types=_probe_types(entry, "probe_types", where, base.probe_types),
        kernel_functions=_patterns(entry, "kernel_functions", where, base.kernel_functions),
        denied_kernel_functions=_patterns(
            entry, "denied_kernel_functions", where, base.denied_kernel_functions
        ),
        binaries=_prefixes(entry, where, base.binaries),
        tracepoint_paths=_patterns(entry, "tracepoint_paths", where, base.tracepoint_paths),
        max_functions=_number(entry, "max_functions", where, base.max_functions, 1 << 24),
        lifetime_s=DAY_S
        * _number(entry, "lifetime_days", where, base.lifetime_s // DAY_S, MAX_LIFETIME_DAYS),
        capture_arguments=_probe_types(entry, "capture_arguments", where, base.capture_arguments),
    )


def _probe_types(
    entry: Mapping[str, Any], key: str, where: str, base: frozenset[ProbeType]
) -> frozenset[ProbeType]:
    value = entry.get(key)
    if value is None:
        return base
    if key == "capture_arguments" and isinstance(value, bool):
        return frozenset(ProbeType) if value else frozenset()
    for name in _strings(value, key, where):
        if name not in _PROBE_TYPES:
            _fail(where, key, f"{name} is none of {', '.join(_PROBE_TYPES)}")
    return frozenset(_PROBE_TYPES[name] for name in value)


def _patterns(
    entry: Mapping[str, Any], key: str, where: str, base: tuple[re.Pattern[str], ...]
) -> tuple[re.Pattern[str], ...]:
    value = entry.get(key)
    if value is None:
        return base
    patterns = []
    for text in _strings(value, key, where):
        try:
            patterns.append(re.compile(text))
        except (re.error, OverflowError) as error:
            _fail(where, key, f"{text}: {error}")
    return tuple(patterns)


def _prefixes(entry: Mapping[str, Any], where: str, base: tuple[str, ...]) -> tuple[str, ...]:
    value = entry.get("binaries")
    if value is None:
        return base
    prefixes = tuple(_strings(value, "binaries", where))
    for prefix in prefixes:
        if not prefix.startswith("/"):
            _fail(where, "binaries", f"{prefix} is not an absolute path")
    # Compared with where a file really is: a prefix that is a link would never match.
    return tuple(os.path.realpath(prefix) for prefix in prefixes)


def _names(entry: Mapping[str, Any], key: str, where: str) -> frozenset[str]:
    value = entry.get(key, [])
    if not isinstance(value, list):
        _fail(where, key, "is not a list")
    for name in value:
        if isinstance(name, bool) or not isinstance(name, str | int):
            _fail(where, key, f"{name} is neither a name nor a number")
    return frozenset(str(name) for name in value)


def _strings(value: Any, key: str, where: str) -> Iterable[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        _fail(where, key, "is not a list of strings")
    return value


def _number(entry: Mapping[str, Any], key: str, where: str, base: int, largest: int) -> int:
    value = entry.get(key, base)
    if type(value) is not int or not 1 <= value <= largest:
        _fail(where, key, f"is not a number from 1 to {largest}")
    return value


def _mebibytes(entry: Mapping[str, Any], key: str, where: str, base_bytes: int) -> int:
    return _number(entry, key, where, base_bytes >> 20, MAX_REQUEST_MIB) << 20


def _check_keys(entry: Any, known: Collection[str], where: str) -> None:
    if not isinstance(entry, dict):
        raise ConfigurationError(f"{where}: is not a mapping")
    for key in entry:
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, 1)
            raise ConfigurationError(
                f"{where}: {key}: is not a key of policies",
                hint=f"did you mean {nearest[0]}?" if nearest else None,
            )


def _fail(where: str, key: str, what: str) -> NoReturn:
    raise ConfigurationError(f"{where}: {key}: {what}")
