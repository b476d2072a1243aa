"""Verification: what each way of being invalid is called, and that nothing invalid passes."""

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from signing_site import ALICE, BOB, HOSTNAME, SITE, summary, syscalls

from datacrumbs_runtime.errors import DatacrumbsError, ProbeFileError, SigningError
from datacrumbs_runtime.schema.probe_file import (
    MAX_DOCUMENT_BYTES,
    Category,
    ProbeFile,
    ProbeType,
    canonical_bytes,
    document_from_bytes,
)
from datacrumbs_runtime.signing import keys
from datacrumbs_runtime.signing.accounts import open_regular_file, read_bounded
from datacrumbs_runtime.signing.request import signed_bytes
from datacrumbs_runtime.signing.verify import Expectation, verify_bytes

NOW = 1_800_000_000
HERE = Expectation(HOSTNAME, SITE, ALICE, "alice", now=NOW)
KEY = keys.hmac_key(bytes(range(32)))
RING = keys.KeyRing((KEY,))


def wanted(**values: Any) -> ProbeFile:
    facts: dict[str, Any] = {
        "hostname": "lead1",
        "site": SITE,
        "user": "alice",
        "uid": ALICE,
        "created": NOW - 3600,
        "expires": NOW + 3600,
    }
    return ProbeFile(summary(**{**facts, **values}), (syscalls(),))


def signed(**values: Any) -> bytes:
    return signed_bytes(wanted(**values), KEY)


def test_signed_file_is_returned_as_it_was_signed() -> None:
    for data in (signed(), gzip.compress(signed())):
        read = verify_bytes(data, "f", RING, HERE)
        unsigned = replace(read, checksum=None, checksum_algorithm=None, key_id=None)
        assert unsigned == wanted()


def test_signature_covers_the_documented_bytes() -> None:
    document = document_from_bytes(signed(), "f")
    assert document["checksum"] == KEY.sign(canonical_bytes(document))
    text = canonical_bytes(document).decode()
    assert '"checksum":' not in text
    assert text == json.dumps(
        {key: value for key, value in document.items() if key != "checksum"},
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    )


def test_order_of_keys_and_spaces_do_not_matter() -> None:
    document = json.loads(signed())
    pretty = json.dumps(dict(reversed(document.items())), indent=3)
    assert verify_bytes(pretty.encode(), "f", RING, HERE).summary.uid == ALICE


def test_every_flipped_bit_of_a_plain_file_is_refused() -> None:
    data = signed()
    for position in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            with pytest.raises(DatacrumbsError):
                verify_bytes(bytes(changed), "f", RING, HERE)


def test_no_flipped_byte_of_a_gzipped_file_changes_what_is_read() -> None:
    data = gzip.compress(signed())
    expected = verify_bytes(data, "f", RING, HERE)
    refused = 0
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0xFF
        try:
            # Time stamp and system in gzip's header mean nothing: then it is still the same file.
            assert verify_bytes(bytes(changed), "f", RING, HERE) == expected
        except DatacrumbsError:
            refused += 1
    assert refused >= len(data) - 6


def test_every_cut_of_a_file_is_refused() -> None:
    for data in (signed(), gzip.compress(signed())):
        for length in range(len(data)):
            with pytest.raises(DatacrumbsError):
                verify_bytes(data[:length], "f", RING, HERE)


def changed(**values: Any) -> bytes:
    return json.dumps({**json.loads(signed()), **values}).encode()


def without(*names: str) -> bytes:
    document = json.loads(signed())
    return json.dumps({key: value for key, value in document.items() if key not in names}).encode()


OTHER_KEY = keys.hmac_key(bytes(32))

INVALID: dict[str, tuple[Callable[[], bytes], str]] = {
    "unsigned": (lambda: without("checksum"), "f: is not signed"),
    "no algorithm": (lambda: without("checksum_algorithm"), "f: is not signed"),
    "another algorithm": (
        lambda: changed(checksum_algorithm="ed25519"),
        f"f: was signed with the ed25519 key {KEY.key_id}, which is unknown here",
    ),
    "unknown algorithm": (
        lambda: changed(checksum_algorithm="none"),
        "f: checksum_algorithm: is none of hmac-sha256, ed25519",
    ),
    "empty signature": (lambda: changed(checksum=""), "f: signature does not match"),
    "signature is no text": (lambda: changed(checksum=["x"]), "f: is not signed"),
    "signature not ASCII": (lambda: changed(checksum="\u00e4" * 64), "f: signature does not match"),
    "signature of a part": (lambda: changed(more=1), "f: signature does not match"),
    "key id removed": (lambda: without("key_id"), "f: signature does not match"),
    "key id is a list": (lambda: changed(key_id=[1]), "f: key_id: is not a string"),
    "NaN": (lambda: changed(more=float("nan")), "f: cannot have been signed"),
    "lone surrogate": (lambda: changed(more="\ud800"), "f: cannot have been signed"),
    "another installation": (
        lambda: signed_bytes(wanted(), OTHER_KEY),
        f"f: was signed with the hmac-sha256 key {OTHER_KEY.key_id}, which is unknown here",
    ),
    "another key under this name": (
        lambda: signed_bytes(wanted(), replace(OTHER_KEY, key_id=KEY.key_id)),
        "f: signature does not match",
    ),
    "another user": (
        lambda: signed(uid=BOB, user="bob"),
        f"f: belongs to bob (uid {BOB}), not to alice",
    ),
    "the same name, another uid": (lambda: signed(uid=BOB), "f: belongs to alice"),
    "no uid, another user": (
        lambda: signed(uid=None, user="bob"),
        "f: belongs to bob, not to alice",
    ),
    "another site": (
        lambda: signed(hostname="corona3", site="corona"),
        "f: was signed on corona3 for the site corona, and is not valid on lead17 of the site lead",
    ),
    "no site, another host": (lambda: signed(site=None), "f: was signed on lead1"),
    "expired": (lambda: signed(expires=NOW - 1), "f: expired on 2027-01-15 07:59 UTC"),
    "from the future": (lambda: signed(created=NOW + 3600), "f: was signed in the future"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_file_is_refused_with_its_own_message(case: str) -> None:
    make, message = INVALID[case]
    with pytest.raises(SigningError) as caught:
        verify_bytes(make(), "f", RING, HERE)
    assert str(caught.value).startswith(message)
    assert caught.value.hint


def test_too_many_functions_are_refused() -> None:
    few = replace(HERE, max_functions=2)
    with pytest.raises(SigningError, match="3 functions are more than 2"):
        verify_bytes(signed(), "f", RING, few)


def test_signed_file_of_a_newer_format_is_refused() -> None:
    with pytest.raises(ProbeFileError, match="format_version: 2 is newer than 1"):
        verify_bytes(signed_bytes(replace(wanted(), format_version=2), KEY), "f", RING, HERE)


def test_hosts_of_one_site_share_files_and_the_signing_host_needs_no_site() -> None:
    verify_bytes(signed(), "f", RING, replace(HERE, hostname="node4711"))
    verify_bytes(signed(site=None), "f", RING, replace(HERE, hostname="lead1", site=None))
    verify_bytes(signed(), "f", RING, replace(HERE, hostname="lead2", site=None))


def test_anybodys_file_passes_where_no_owner_is_expected() -> None:
    anybody = replace(HERE, uid=None, user=None)
    verify_bytes(signed(uid=BOB, user="bob"), "f", RING, anybody)
    verify_bytes(signed(uid=None, user="bob"), "f", RING, anybody)


def test_clocks_may_differ_a_little() -> None:
    verify_bytes(signed(created=NOW + 60), "f", RING, HERE)


def test_retired_key_verifies_until_it_ends() -> None:
    retired = keys.KeyRing((OTHER_KEY, replace(KEY, until=NOW + 10)))
    verify_bytes(signed(), "f", retired, HERE)
    with pytest.raises(SigningError, match=f"with the key {KEY.key_id}, which was retired"):
        verify_bytes(signed(), "f", retired, replace(HERE, now=NOW + 11))


def test_file_without_key_id_is_tried_with_every_key() -> None:
    document = json.loads(without("checksum", "key_id"))
    document["checksum"] = KEY.sign(canonical_bytes(document))
    both = keys.KeyRing((OTHER_KEY, KEY))
    verify_bytes(json.dumps(document).encode(), "f", both, HERE)


def test_ed25519_file_verifies_with_the_public_key_only() -> None:
    private = keys.ed25519_key(bytes(range(32)))
    public = keys.KeyRing((keys.ed25519_public_key(private.verifying),))
    data = signed_bytes(wanted(), private)
    verify_bytes(data, "f", public, HERE)
    document = json.loads(data)
    document["summary"]["uid"] = BOB
    with pytest.raises(SigningError, match="signature does not match"):
        verify_bytes(json.dumps(document).encode(), "f", public, HERE)


def test_public_key_is_not_a_secret_to_sign_with() -> None:
    # Whoever takes the public key for an hmac secret must not be believed.
    private = keys.ed25519_key(bytes(range(32)))
    public = keys.KeyRing((keys.ed25519_public_key(private.verifying),))
    forged = signed_bytes(
        wanted(), replace(keys.hmac_key(private.verifying), key_id=private.key_id)
    )
    with pytest.raises(SigningError, match="is unknown here"):
        verify_bytes(forged, "f", public, HERE)


def test_fifo_directory_and_missing_file_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    cases = {"fifo": "not a regular file", ".": "not a regular file", "x": "No such file"}
    for name, message in cases.items():
        with pytest.raises(SigningError, match=message):
            open_regular_file(str(tmp_path / name))
    with pytest.raises(SigningError, match="null byte"):
        open_regular_file("/tmp/x\0y")


def test_gzip_bomb_is_refused() -> None:
    with pytest.raises(ProbeFileError, match="larger than 64 MiB"):
        verify_bytes(gzip.compress(bytes(100 << 20), 1), "bomb", RING, HERE)


def test_file_larger_than_any_probe_file_is_not_read(tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as stream:
        stream.truncate(1 << 40)
    with sparse.open("rb") as stream, pytest.raises(SigningError, match="larger than"):
        read_bounded(stream.fileno(), "sparse", MAX_DOCUMENT_BYTES)


def test_16384_functions_verify() -> None:
    functions = tuple(f"function_{number}:0x{number:x}" for number in range(16384))
    category = Category(ProbeType.UPROBE, "many", functions, binary_path="/x", include_offsets=True)
    data = gzip.compress(signed_bytes(replace(wanted(), categories=(category,)), KEY))
    assert verify_bytes(data, "f", RING, HERE).function_count == 16384
