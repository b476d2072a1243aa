"""The site's policy: what its file may say and what it lets through."""

import os
from pathlib import Path

import pytest
from signing_site import probe_file

from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_runtime.schema.probe_file import Argument, Category, ProbeType
from datacrumbs_runtime.signing.accounts import Account
from datacrumbs_runtime.signing.binaries import BinaryFacts
from datacrumbs_runtime.signing.policy import (
    Policy,
    in_one_sentence,
    objections,
    objections_to_binaries,
)
from datacrumbs_runtime.signing.policy_file import policy_from_yaml, read_policy

ALICE = Account(1000, 1000, (2000, 2001), "alice")
FD = (Argument(0, 4, False, "fd", "int"),)

EXAMPLE = """
algorithm: ed25519
site: lead
max_request_mib: 2
default:
  probe_types: [syscalls, uprobe, usdt]
  binaries: [/usr, /opt]
  max_functions: 100
  lifetime_days: 30
  capture_arguments: [syscalls]
rules:
  - groups: [perf]
    users: [carol, 1234]
    probe_types: [syscalls, kprobe]
    kernel_functions: ["ext4_.*", "vfs_.*"]
    denied_kernel_functions: ["vfs_get.*"]
    capture_arguments: true
  - groups: [2000]
    capture_arguments: false
"""


def policy(text: str) -> Policy:
    return policy_from_yaml(text.encode(), "policy.yaml")


def kprobe(*functions: str) -> Category:
    return Category(ProbeType.KPROBE, "k", functions)


def test_example_is_understood() -> None:
    read = policy(EXAMPLE)
    assert (read.algorithm, read.site, read.max_request_bytes) == ("ed25519", "lead", 2 << 20)
    assert read.default.probe_types == {ProbeType.SYSCALLS, ProbeType.UPROBE, ProbeType.USDT}
    assert read.default.lifetime_s == 30 * 86400
    assert read.default.capture_arguments == {ProbeType.SYSCALLS}
    perf, numbered = (special.rule for special in read.special)
    assert perf.max_functions == 100, "rules inherit from the default"
    assert perf.capture_arguments == frozenset(ProbeType)
    assert numbered.capture_arguments == frozenset()


def test_first_rule_that_fits_holds() -> None:
    read = policy(EXAMPLE)
    perf, numbered = (special.rule for special in read.special)
    assert read.rule_for(ALICE, {}) is numbered
    assert read.rule_for(ALICE, {2001: "perf"}) is perf
    assert read.rule_for(Account(5, 5, (), "carol"), {}) is perf
    assert read.rule_for(Account(1234, 5, (), "dave"), {}) is perf
    assert read.rule_for(Account(5, 5, (), "dave"), {}) is read.default
    assert read.rule_for(Account(5, 2000, (), "dave"), {}) is numbered


def test_built_in_policy_allows_everything_usual_and_no_custom_code() -> None:
    rule = Policy().default
    usual = (Category(ProbeType(kind), "x", ("vfs_read",), {"vfs_read": FD}) for kind in range(4))
    assert objections(rule, probe_file(*usual)) == []
    custom = Category(ProbeType.CUSTOM, "mine", ("f",), plugin="p")
    (reason,) = objections(rule, probe_file(custom))
    assert reason.startswith("mine: custom probes are not allowed at this site, only kprobe")


@pytest.mark.parametrize(
    "function",
    [
        "crypto_aead_decrypt",
        "keyring_alloc",
        "key_lookup",
        "request_key_tag",
        "security_file_permission",
        "bpf_prog_load",
        "module:bpf_prog_load",
        "bpf_prog_load:0x1234",
        "module:bpf_prog_load:0x1234",
        "a:b:c",
        "prepare_creds",
        "cred_init",
        "__bpf_prog_run",
        "join_session_keyring",
    ],
)
def test_kernel_functions_around_secrets_are_denied_by_default(function: str) -> None:
    (reason,) = objections(Policy().default, probe_file(kprobe(function)))
    assert f"kernel function {function}: " in reason


def test_usual_kernel_functions_are_not_denied_by_default() -> None:
    usual = (
        "vfs_read",
        "ext4_datasem_ensure_credits",
        "xfs_bmbt_init_key_from_rec",
        "xfs_allocbt_key_diff",
        "nfs_keyed_lookup",
        "jbd2_journal_extend",
        "iomap_dio_rw",
        "submit_bio_noacct",
        "wait_on_page_writeback",
        "generic_file_read_iter",
        "ext4_put_super",
        "fuse_trace_x",
    )
    assert objections(Policy().default, probe_file(kprobe(*usual))) == []


def test_allowed_kernel_functions_match_in_full_and_denied_ones_win() -> None:
    rule = policy(EXAMPLE).special[0].rule
    functions = ("vfs_read", "ext4_sync_file", "xfs_vfs_x", "vfs_getattr", "lustre:vfs_write")
    assert objections(rule, probe_file(kprobe(*functions))) == [
        "k: kernel function xfs_vfs_x: not allowed at this site",
        "k: kernel function vfs_getattr: denied at this site",
    ]


def test_too_many_functions_are_refused_with_both_numbers() -> None:
    many = Category(ProbeType.SYSCALLS, "sys", tuple(f"f{i}" for i in range(101)))
    (reason,) = objections(policy(EXAMPLE).default, probe_file(many))
    assert reason == "101 functions are more than the 100 that this site allows"


def test_arguments_are_captured_only_where_allowed() -> None:
    rule = policy(EXAMPLE).default
    sys = Category(ProbeType.SYSCALLS, "sys", ("read",), {"read": FD})
    libc = Category(ProbeType.UPROBE, "libc", ("read",), {"read": FD}, binary_path="/usr/x.so")
    assert objections(rule, probe_file(sys, libc)) == [
        "libc: arguments of uprobe probes may not be recorded at this site"
    ]


@pytest.mark.parametrize(
    ("path", "is_allowed"),
    [
        ("->__sector", True),
        ("end->res", True),
        ("end", True),
        ("", True),
        ("->robust_list->futex_offset", False),
        ("->cred->session_keyring", False),
        ("->stack_canary", False),
        ("end->stack_canary", False),
        (":task_struct->stack_canary", False),
        ("->__sector->next", False),
    ],
)
def test_everybody_may_have_what_discovery_shows_of_tracepoints(
    path: str, is_allowed: bool
) -> None:
    value = Argument(0, 8, False, "value", "u64", path)
    category = Category(ProbeType.TRACEPOINT, "x", ("t",), {"t": (value,)})
    assert (objections(Policy().default, probe_file(category)) == []) == is_allowed


def test_way_to_a_tracepoint_value_must_be_allowed() -> None:
    rule = policy("default: {tracepoint_paths: ['->__sector']}").default
    arguments = (
        Argument(0, 8, False, "sector", "sector_t", "->__sector"),
        Argument(0, 8, False, "secret", "u64", "->q->queuedata"),
        Argument(1, 4, False, "plain", "int"),
    )
    block = Category(ProbeType.TRACEPOINT, "block", ("rq",), {"rq": arguments})
    (reason,) = objections(rule, probe_file(block))
    assert reason == "block: rq: ->q->queuedata may not be read at this site"


@pytest.mark.parametrize("path", ["/usr/$(id)/x.so", "/usr/a;b", "/usr/`id`", "/usr/../etc/x"])
def test_strange_paths_are_refused(path: str) -> None:
    libc = Category(ProbeType.UPROBE, "libc", ("read",), binary_path=path)
    (reason,) = objections(Policy().default, probe_file(libc))
    assert reason == f"libc: {path}: has characters that no binary's path needs"


def test_binaries_are_judged_by_where_they_really_are() -> None:
    rule = policy(EXAMPLE).default
    libc = Category(ProbeType.UPROBE, "libc", ("read",), binary_path="/usr/lib/x.so")

    def reasons(real_path: str, build_id: str | None = "ab") -> list[str]:
        found = {0: BinaryFacts(real_path, build_id)}
        return objections_to_binaries(rule, probe_file(libc), found)

    assert reasons("/usr/lib/x.so") == []
    assert reasons("/opt/y.so") == []
    assert reasons("/optional/y.so") == [
        "libc: /usr/lib/x.so leads to /optional/y.so: is outside of /usr /opt"
    ]
    assert reasons("/usr/lib/x.so", None) == [
        "libc: /usr/lib/x.so: has no build id, which this site asks for"
    ]


def test_sentence_stays_short() -> None:
    assert in_one_sentence(["a"]) == "a"
    assert in_one_sentence(["a", "b", "c", "d", "e"]) == "a; b; c; and 2 more"


INVALID = {
    "not a mapping": ("[1]", "policy.yaml: is not a mapping"),
    "syntax": ("default:\n  x: [1", "policy.yaml:2:8: "),
    "unknown key": ("defualt: {}", "policy.yaml: defualt: is not a key of policies"),
    "unknown key of a rule": ("default: {max: 1}", "policy.yaml: default: max: is not a key"),
    "unknown type": (
        "default: {probe_types: [ebpf]}",
        "default: probe_types: ebpf is none of syscalls, kprobe,",
    ),
    "broken regex": (
        "default: {kernel_functions: ['(']}",
        "default: kernel_functions: (: missing )",
    ),
    "regexes as one string": ("default: {kernel_functions: x}", "is not a list of strings"),
    "relative prefix": ("default: {binaries: [usr]}", "binaries: usr is not an absolute path"),
    "no limit": ("default: {max_functions: 0}", "max_functions: is not a number from 1 to"),
    "limit is true": ("default: {max_functions: true}", "max_functions: is not a number"),
    "limit is text": ("default: {lifetime_days: '3'}", "lifetime_days: is not a number"),
    "rule for nobody": ("rules: [{max_functions: 3}]", "rules[0]: groups: is missing, and so is"),
    "rules is a mapping": ("rules: {}", "policy.yaml: rules: is not a list"),
    "algorithm": ("algorithm: md5", "algorithm: is none of hmac-sha256, ed25519"),
    "site": ("site: '../x'", "policy.yaml: site: is not a name"),
    "a tag": ("default: !!python/object/apply:os.getpid []", "could not determine a constructor"),
    "binary": ("\x01", "policy.yaml: not YAML"),
    "deep": ("[" * 100_000, "policy.yaml"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_policy_is_refused_by_name(case: str) -> None:
    text, message = INVALID[case]
    with pytest.raises(ConfigurationError) as caught:
        policy(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_yaml_bomb_is_refused_unopened() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    with pytest.raises(ConfigurationError, match="anchors and aliases are not allowed here"):
        policy("\n".join(lines))


def test_missing_file_is_the_built_in_policy(tmp_path: Path) -> None:
    assert read_policy(tmp_path / "policy.yaml") == Policy()


def test_file_that_others_may_change_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("site: x\n")
    path.chmod(0o664)
    with pytest.raises(ConfigurationError, match="may be changed by others"):
        read_policy(path, os.geteuid())
    path.chmod(0o644)
    assert read_policy(path, os.geteuid()).site == "x"
    with pytest.raises(ConfigurationError, match="may be changed by others"):
        read_policy(path, 4711)


def test_fifo_and_huge_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o644)
    with pytest.raises(ConfigurationError, match="not a regular file"):
        read_policy(tmp_path / "fifo", os.geteuid())
    huge = tmp_path / "huge"
    huge.write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(ConfigurationError, match="larger than 1 MiB"):
        read_policy(huge, os.geteuid())
