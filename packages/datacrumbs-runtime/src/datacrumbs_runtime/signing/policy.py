"""What a site lets its users probe, and whether a probe file keeps to it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from datacrumbs_runtime.schema.probe_file import (
    DEFAULT_MAX_FUNCTIONS,
    Category,
    ProbeFile,
    ProbeType,
    plain_symbol,
)
from datacrumbs_runtime.signing.accounts import Account
from datacrumbs_runtime.signing.binaries import BinaryFacts
from datacrumbs_runtime.signing.keys import HMAC_SHA256
from datacrumbs_runtime.signing.tracepoint_paths import KNOWN_PATHS

DAY_S = 86400
MAX_REASONS = 3

# Functions that handle secrets or decide about rights: what they are given is nobody's business.
DEFAULT_DENIED_KERNEL_FUNCTIONS = (
    r"(?:crypto|fscrypt|ecryptfs|crypt|dm_crypt|aead|ahash|shash|skcipher|akcipher|hmac)_.*",
    r"(?:key|keys|keyring|keyctl|user_key|asymmetric_key|encrypted|trusted|tpm|tpm[12])_.*",
    r".*request_key.*|.*_keyring(?:_.*)?|(?:.*_)?passw.*|(?:.*_)?(?:secret|secretmem)(?:_.*)?",
    r"(?:.*_)?creds?(?:_.*)?",
    r"(?:security|selinux|apparmor|smack|tomoyo|landlock|audit|ima|evm)_.*",
    r"(?:__)?(?:bpf|kprobe|kretprobe|uprobe|ftrace|fprobe|perf|trace|tracing|rethook)_.*",
)
# No library of any package has these in its path, and shells and logs stumble over them.
_STRANGE_PATH = re.compile(r"""[`$"'\\;|&<>*?!]""")


@dataclass(frozen=True, slots=True)
class Rule:
    """What some users may do.

    Attributes:
        probe_types: The kinds of probes that they may use.
        kernel_functions: A kernel function must match one of these in full ...
        denied_kernel_functions: ... and none of these.
        binaries: A binary must lie below one of these directories.
        tracepoint_paths: The way to a value behind a tracepoint's argument must match one of these.
        max_functions: Functions in one probe file.
        lifetime_s: How long a probe file is valid, in seconds.
        capture_arguments: The kinds of probes whose arguments they may see.
    """

    probe_types: frozenset[ProbeType] = frozenset(ProbeType) - {ProbeType.CUSTOM}
    kernel_functions: tuple[re.Pattern[str], ...] = (re.compile(".*"),)
    denied_kernel_functions: tuple[re.Pattern[str], ...] = tuple(
        re.compile(text) for text in DEFAULT_DENIED_KERNEL_FUNCTIONS
    )
    binaries: tuple[str, ...] = ("/",)
    tracepoint_paths: tuple[re.Pattern[str], ...] = (
        re.compile(f"(?:end)?(?:{'|'.join(map(re.escape, KNOWN_PATHS))})?"),
    )
    max_functions: int = DEFAULT_MAX_FUNCTIONS
    lifetime_s: int = 180 * DAY_S
    capture_arguments: frozenset[ProbeType] = frozenset(ProbeType)


@dataclass(frozen=True, slots=True)
class SpecialRule:
    """A rule for the members of some groups and for some users, by name or decimal id."""

    groups: frozenset[str]
    users: frozenset[str]
    rule: Rule


@dataclass(frozen=True, slots=True)
class Policy:
    """A site's policy.

    Attributes:
        algorithm: What probe files are signed with, ``hmac-sha256`` or ``ed25519``.
        site: Name of the group of hosts that share probe files; None: as installed.
        max_request_bytes: Largest request, as it is sent.
        max_document_bytes: Largest request once it is unpacked.
        default: What everybody may do.
        special: Other rules; the first that fits a user holds, instead of the default.
    """

    algorithm: str = HMAC_SHA256
    site: str | None = None
    max_request_bytes: int = 8 << 20
    max_document_bytes: int = 32 << 20
    default: Rule = field(default_factory=Rule)
    special: tuple[SpecialRule, ...] = ()

    def rule_for(self, account: Account, group_names: Mapping[int, str]) -> Rule:
        """Return the rule that holds for a user.

        Args:
            account: The user.
            group_names: Names of the user's groups by id, as far as they are known.
        """
        groups = {str(gid) for gid in account.all_groups}
        groups |= {group_names[gid] for gid in account.all_groups if gid in group_names}
        users = {str(account.uid), account.user}
        for special in self.special:
            if special.users & users or special.groups & groups:
                return special.rule
        return self.default


def objections(rule: Rule, probe_file: ProbeFile) -> list[str]:
    """Return why a rule does not allow a probe file, one sentence per reason; empty: it does.

    Binaries are not opened here, see :func:`objections_to_binaries`.
    """
    reasons = []
    if probe_file.function_count > rule.max_functions:
        reasons.append(
            f"{probe_file.function_count} functions are more than the {rule.max_functions} "
            "that this site allows"
        )
    for category in probe_file.categories:
        reasons += _category_objections(rule, category)
    return reasons


def objections_to_binaries(
    rule: Rule, probe_file: ProbeFile, found: Mapping[int, BinaryFacts]
) -> list[str]:
    """Return why a rule does not allow the binaries that were found behind a probe file's paths."""
    reasons = []
    for position, facts in found.items():
        category = probe_file.categories[position]
        where = f"{category.name}: {category.binary_path}"
        if not any(_is_below(facts.real_path, prefix) for prefix in rule.binaries):
            leads = (
                "" if facts.real_path == category.binary_path else f" leads to {facts.real_path}"
            )
            reasons.append(f"{where}{leads}: is outside of {' '.join(rule.binaries)}")
        elif facts.build_id is None and "/" not in rule.binaries:
            # Only a build id tells later that this is still the file that was looked at.
            reasons.append(f"{where}: has no build id, which this site asks for")
    return reasons


def in_one_sentence(reasons: list[str]) -> str:
    """Join reasons into one line, leaving out what would make it too long."""
    text = "; ".join(reasons[:MAX_REASONS])
    rest = len(reasons) - MAX_REASONS
    return f"{text}; and {rest} more" if rest > 0 else text


def _category_objections(rule: Rule, category: Category) -> Iterator[str]:
    name = category.name
    kind = category.type.name.lower()
    if category.type not in rule.probe_types:
        allowed = ", ".join(sorted(one.name.lower() for one in rule.probe_types))
        yield f"{name}: {kind} probes are not allowed at this site, only {allowed or 'none'}"
        return
    if category.arguments and category.type not in rule.capture_arguments:
        yield f"{name}: arguments of {kind} probes may not be recorded at this site"
    if category.type is ProbeType.KPROBE:
        yield from _kernel_objections(rule, category)
    if category.type is ProbeType.TRACEPOINT:
        for function, arguments in category.arguments.items():
            for argument in arguments:
                if argument.path and not _matches(rule.tracepoint_paths, argument.path):
                    yield f"{name}: {function}: {argument.path} may not be read at this site"
    if category.type is ProbeType.CUSTOM and category.plugin is None:
        yield f"{name}: names no plugin of the administrator's"
    if category.binary_path and _is_strange(category.binary_path):
        yield f"{name}: {category.binary_path}: has characters that no binary's path needs"


def _kernel_objections(rule: Rule, category: Category) -> Iterator[str]:
    for function in category.functions:
        # lustre:ll_file_read:0x40 names the module, and the symbol's value: the rule is about
        # the function alone.
        module, _, rest = plain_symbol(function).rpartition(":")
        plain = rest if ":" not in module else function
        if ":" in plain or not _matches(rule.kernel_functions, plain):
            yield f"{category.name}: kernel function {function}: not allowed at this site"
        elif _matches(rule.denied_kernel_functions, plain):
            yield f"{category.name}: kernel function {function}: denied at this site"


def _matches(patterns: tuple[re.Pattern[str], ...], text: str) -> bool:
    return any(pattern.fullmatch(text) for pattern in patterns)


def _is_strange(path: str) -> bool:
    return _STRANGE_PATH.search(path) is not None or "/../" in f"{path}/"


def _is_below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix.rstrip("/") + "/")
