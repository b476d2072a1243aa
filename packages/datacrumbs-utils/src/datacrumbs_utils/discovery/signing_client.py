"""Having a probe file signed: by way of the installed relay program, which the signer knows."""

import json

from datacrumbs_runtime import process
from datacrumbs_runtime.errors import ProbeFileError, ProcessError, SigningError
from datacrumbs_runtime.schema.probe_document import (
    document_from_probe_file,
    probe_file_from_document,
)
from datacrumbs_runtime.schema.probe_file import ProbeFile, document_from_bytes
from datacrumbs_utils.discovery import installation

RELAY = "datacrumbs_probe_configurator_exec"
# The relay gives up by itself; this is for one that hangs.
_GRACE_S = 5.0


def sign(probe_file: ProbeFile, *, timeout_s: int) -> ProbeFile:
    """Ask the signer of this node to sign a probe file.

    Args:
        probe_file: What was selected, unsigned.
        timeout_s: Longest wait for the signer, in seconds.

    Returns:
        The probe file with its signature. The signer may have changed its summary: it knows who
        asked.

    Raises:
        SigningError: There is no relay or no signer, it refused, did not answer in time, or what it
            returned is not what was asked for.
    """
    program = installation.program(RELAY)
    if program is None:
        raise SigningError(
            f"{RELAY}: not installed beside this command",
            hint="install datacrumbs-client-c into the same prefix; "
            "--dry-run shows the selection without signing",
        )
    text = json.dumps(document_from_probe_file(probe_file), separators=(",", ":"))
    try:
        result = process.run(
            [program, "--timeout", str(timeout_s)],
            timeout_s=timeout_s + _GRACE_S,
            check=False,
            stdin=text,
        )
    except ProcessError as error:
        raise SigningError(str(error)) from error
    if result.status != 0:
        message, hint = _failure(result.stderr)
        raise SigningError(message or f"{program}: exit status {result.status}", hint=hint)
    return _checked(result.stdout, probe_file)


def _failure(stderr: str) -> tuple[str, str | None]:
    """Take the error and the hint out of what the relay said."""
    message, hint = "", None
    for line in stderr.splitlines():
        rest = line.removeprefix(f"{RELAY}: ")
        if rest.startswith("error: "):
            message = message or rest.removeprefix("error: ")
        elif rest.startswith("hint: "):
            hint = hint or rest.removeprefix("hint: ")
    return message, hint


def _checked(text: str, asked: ProbeFile) -> ProbeFile:
    data = text.encode("utf-8", "surrogateescape")
    try:
        document = document_from_bytes(data, "the signer's answer")
        signed = probe_file_from_document(document, "the signer's answer")
    except ProbeFileError as error:
        raise SigningError(str(error), hint=error.hint) from error
    if not signed.checksum:
        raise SigningError("the signer's answer has no signature")
    # What goes into the file is what was signed, so only that it still means the same is checked.
    if signed.categories != asked.categories:
        raise SigningError("the signer's answer names other functions than were asked for")
    return signed
