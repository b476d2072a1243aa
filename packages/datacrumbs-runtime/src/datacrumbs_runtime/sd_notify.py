"""Telling systemd how a service is doing: the protocol of sd_notify(3), nothing else of systemd."""

import logging
import os
import socket

logger = logging.getLogger(__name__)

ANSWER_LIMIT_S = 0.3
_CONTROL_CHARACTERS = dict.fromkeys((*range(32), 127), "?")


def sd_notify(*assignments: str) -> None:
    """Tell a service manager something; do nothing without one.

    Args:
        assignments: Such as ``READY=1`` or ``STATUS=...``. A file name in it may hold anything, and
            must not become an assignment of its own.
    """
    state = "\n".join(text.translate(_CONTROL_CHARACTERS) for text in assignments)
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address[0] == "@":
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            # A manager that does not read must not hold a run.
            manager.settimeout(ANSWER_LIMIT_S)
            manager.connect(address)
            manager.sendall(state.encode(errors="backslashreplace"))
    except OSError as error:
        logger.warning("cannot tell systemd %s: %s", " ".join(assignments), error)
