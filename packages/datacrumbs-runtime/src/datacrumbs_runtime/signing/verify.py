"""Is a probe file what the signer of this site signed, and is it meant for here and now?"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from datacrumbs_runtime.errors import SigningError
from datacrumbs_runtime.schema.probe_document import CHECKSUM_ALGORITHMS, probe_file_from_document
from datacrumbs_runtime.schema.probe_file import (
    DEFAULT_MAX_FUNCTIONS,
    ProbeFile,
    canonical_bytes,
    document_from_bytes,
)
from datacrumbs_runtime.schema.site_config import site_of
from datacrumbs_runtime.signing.keys import KeyRing

# Clocks of the nodes of a site differ a little.
CLOCK_TOLERANCE_S = 300
_SIGN_AGAIN = "sign it again with datacrumbs_probe_configurator"


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a probe file must fit.

    Attributes:
        hostname: This host.
        site: The group of hosts whose probe files are valid here; normally the installation's host
            name without digits.
        uid: Whose run it is; None: anybody's.
        user: His name, for probe files that carry no uid; None: anybody's.
        max_functions: Functions in one probe file.
        now: Seconds since the epoch; None: the time of the check.
    """

    hostname: str
    site: str | None = None
    uid: int | None = None
    user: str | None = None
    max_functions: int = DEFAULT_MAX_FUNCTIONS
    now: float | None = None


def verify_bytes(data: bytes, where: str, keys: KeyRing, expected: Expectation) -> ProbeFile:
    """Verify the content of a probe file.

    Args:
        data: The file's bytes, gzip or plain JSON.
        where: What errors call it, usually the path.
        keys: The keys that may have signed it.
        expected: What it must fit.

    Returns:
        The probe file; everything in it is authentic, well formed and meant for here and now.

    Raises:
        SigningError: It is not signed, or the first check that it fails.
        ProbeFileError: It is not a probe file.
    """
    document = document_from_bytes(data, where)
    _check_signature(document, where, keys, time.time() if expected.now is None else expected.now)
    probe_file = probe_file_from_document(document, where)
    problems = mismatches(probe_file, expected)
    if problems:
        message, hint = problems[0]
        raise SigningError(f"{where}: {message}", hint=hint)
    return probe_file


def check_signature(document: Mapping[str, Any], where: str, keys: KeyRing) -> None:
    """Check only that a document is authentic; see :func:`verify_bytes`."""
    _check_signature(document, where, keys, time.time())


def mismatches(probe_file: ProbeFile, expected: Expectation) -> list[tuple[str, str | None]]:
    """Return what does not fit in an authentic probe file: messages and hints, gravest first."""
    now = time.time() if expected.now is None else expected.now
    summary = probe_file.summary
    found: list[tuple[str, str | None]] = []
    if not _belongs_to(probe_file, expected):
        wanted = expected.user if expected.user is not None else f"uid {expected.uid}"
        owner = f"{summary.user} (uid {summary.uid})" if summary.uid is not None else summary.user
        found.append(
            (
                f"belongs to {owner}, not to {wanted}",
                "everybody signs probe files of his own with datacrumbs_probe_configurator",
            )
        )
    site = expected.site if expected.site is not None else site_of(expected.hostname)
    if summary.hostname != expected.hostname and summary.site != site:
        found.append(
            (
                f"was signed on {summary.hostname} for the site {summary.site or 'of that host'}, "
                f"and is not valid on {expected.hostname} of the site {site}",
                f"sign it on a host of the site {site}",
            )
        )
    if summary.expires is not None and now > summary.expires:
        found.append((f"expired on {shown_date(summary.expires)}", _SIGN_AGAIN))
    if summary.created is not None and now + CLOCK_TOLERANCE_S < summary.created:
        found.append(
            (
                f"was signed in the future, on {shown_date(summary.created)}",
                "the clock of this host or of the signing host is wrong",
            )
        )
    if probe_file.function_count > expected.max_functions:
        found.append(
            (
                f"{probe_file.function_count} functions are more than {expected.max_functions}",
                "select fewer functions, or raise DATACRUMBS_MAX_RUNTIME_FUNCTIONS",
            )
        )
    return found


def _belongs_to(probe_file: ProbeFile, expected: Expectation) -> bool:
    summary = probe_file.summary
    if expected.uid is not None and summary.uid is not None:
        return summary.uid == expected.uid
    if expected.user is not None:
        return summary.user == expected.user
    # A file without a uid cannot be shown to be this user's.
    return expected.uid is None


def _check_signature(document: Mapping[str, Any], where: str, keys: KeyRing, now: float) -> None:
    signature = document.get("checksum")
    algorithm = document.get("checksum_algorithm")
    key_id = document.get("key_id")
    if not isinstance(signature, str) or not isinstance(algorithm, str):
        raise SigningError(f"{where}: is not signed", hint=_SIGN_AGAIN)
    if algorithm not in CHECKSUM_ALGORITHMS:
        raise SigningError(
            f"{where}: checksum_algorithm: is none of {', '.join(CHECKSUM_ALGORITHMS)}",
            hint=_SIGN_AGAIN,
        )
    if key_id is not None and not isinstance(key_id, str):
        raise SigningError(f"{where}: key_id: is not a string", hint=_SIGN_AGAIN)
    try:
        message = canonical_bytes(document)
    except (ValueError, RecursionError) as error:
        raise SigningError(
            f"{where}: cannot have been signed: {error}", hint=_SIGN_AGAIN
        ) from error
    candidates = list(keys.candidates(algorithm, key_id))
    if not candidates:
        named = f" {key_id}" if key_id is not None and key_id.isprintable() else ""
        raise SigningError(
            f"{where}: was signed with the {algorithm} key{named[:72]}, which is unknown here",
            hint=f"was it signed for another installation? {_SIGN_AGAIN}",
        )
    for key in candidates:
        if key.verifies(message, signature):
            if key.until is not None and now > key.until:
                raise SigningError(
                    f"{where}: was signed with the key {key.key_id}, "
                    f"which was retired and ended on {shown_date(key.until)}",
                    hint=_SIGN_AGAIN,
                )
            return
    raise SigningError(f"{where}: signature does not match", hint=_SIGN_AGAIN)


def shown_date(seconds: int) -> str:
    """Return seconds since the epoch as people read them, even absurd ones."""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return f"@{seconds}"
