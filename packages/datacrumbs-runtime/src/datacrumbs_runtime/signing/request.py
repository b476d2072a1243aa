"""One signing request: from the bytes that a user sent to the document that root signed."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from datacrumbs_runtime.errors import SigningError
from datacrumbs_runtime.schema.probe_document import probe_file_from_document
from datacrumbs_runtime.schema.probe_file import (
    FORMAT_VERSION,
    Category,
    ProbeFile,
    document_from_bytes,
)
from datacrumbs_runtime.signing.accounts import Account
from datacrumbs_runtime.signing.binaries import BinariesCheck, BinaryFacts
from datacrumbs_runtime.signing.canonical import argument_texts, canonical_bytes_of
from datacrumbs_runtime.signing.keys import Key
from datacrumbs_runtime.signing.policy import (
    Policy,
    in_one_sentence,
    objections,
    objections_to_binaries,
)

audit_logger = logging.getLogger("datacrumbs_runtime.signing.audit")
_ASK = "the administrator of this site decides in etc/datacrumbs/policy.yaml what may be probed"


@dataclass(frozen=True, slots=True)
class Signer:
    """What signs.

    Attributes:
        key: Reads the key; called only for what will be signed.
        policy: What the site allows.
        hostname: This host.
        site: The group of hosts on which the signed files are valid.
        install_user: Who installed DataCrumbs.
    """

    key: Callable[[], Key]
    policy: Policy
    hostname: str
    site: str
    install_user: str


def sign_request(
    data: bytes, signer: Signer, account: Account, group_names: Mapping[int, str]
) -> bytes:
    """Check a request against the policy and sign what it means, for the user who sent it.

    The document that is signed is made anew from what was understood of the request; who it is
    for, where and until when is the signer's word. So it does not matter what the request says
    of that, nor whether it was signed before.

    Args:
        data: An unsigned probe file, gzip or plain JSON.
        signer: What signs.
        account: Who asks, as the kernel says.
        group_names: Names of his groups, as far as they are known.

    Returns:
        The signed document as JSON.

    Raises:
        DatacrumbsError: It is not a probe file, or is not allowed.
    """
    document = document_from_bytes(data, "request", signer.policy.max_document_bytes)
    asked = probe_file_from_document(document, "request")
    rule = signer.policy.rule_for(account, group_names)
    _refuse_if(objections(rule, asked))
    with BinariesCheck(asked, account) as check:
        # Most of the work of signing is done while the other process looks at the binaries.
        texts = argument_texts(asked.categories)
        found = check.result()
    _refuse_if(objections_to_binaries(rule, asked, found))

    key = signer.key()
    now = int(time.time())
    probe_file = replace(
        asked,
        format_version=FORMAT_VERSION,
        summary=replace(
            asked.summary,
            hostname=signer.hostname,
            user=account.user,
            install_user=signer.install_user,
            uid=account.uid,
            site=signer.site,
            created=now,
            expires=now + rule.lifetime_s,
        ),
        categories=tuple(
            _bound_to_build(category, found.get(position))
            for position, category in enumerate(asked.categories)
        ),
    )
    return signed_bytes(probe_file, key, texts)


def signed_bytes(probe_file: ProbeFile, key: Key, texts: Mapping[int, str] | None = None) -> bytes:
    """Return a probe file as JSON with the signature of a key.

    Args:
        probe_file: What is signed.
        key: What with.
        texts: What :func:`argument_texts` returned for its categories, or None.
    """
    named = replace(probe_file, checksum=None, checksum_algorithm=key.algorithm, key_id=key.key_id)
    message = canonical_bytes_of(named, texts)
    # Put behind the rest, which so is written only once; the order of keys has no meaning.
    return message[:-1] + b',"checksum":"' + key.sign(message).encode() + b'"}'


def audit(
    verdict: str, account: Account, pid: int, data: bytes | None, reason: str, **facts: Any
) -> None:
    """Write the one line that tells what was decided.

    Args:
        verdict: ``signed``, ``refused`` or ``failed``.
        account: Who asked.
        pid: The process that asked.
        data: The request as far as it was read; its SHA-256 is written.
        reason: Why.
        facts: More to tell.
    """
    fields = {
        "verdict": verdict,
        "uid": account.uid,
        "user": account.user,
        "pid": pid,
        "digest": "none" if data is None else f"sha256:{hashlib.sha256(data).hexdigest()}",
        **facts,
        "reason": reason,
    }
    # Values are JSON: whatever a user wrote stays within its quotes and on its line.
    audit_logger.info(
        "audit %s", " ".join(f"{key}={json.dumps(value)}" for key, value in fields.items())
    )


def _refuse_if(reasons: list[str]) -> None:
    if reasons:
        raise SigningError(in_one_sentence(reasons), hint=_ASK)


def _bound_to_build(category: Category, facts: BinaryFacts | None) -> Category:
    if facts is None or facts.build_id is None or category.build_id is not None:
        return category
    return replace(category, build_id=facts.build_id)
