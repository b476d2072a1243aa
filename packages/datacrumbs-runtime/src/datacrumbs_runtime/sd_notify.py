"""Telling systemd how a service is doing: the protocol of sd_notify(3), nothing else of systemd."""

import logging
import os
import socket

logger = logging.getLogger(__name__)


def sd_notify(state: str) -> None:
    """Send a state such as ``READY=1`` or ``STATUS=...``; do nothing without a service manager.

    Args:
        state: One or more ``KEY=value`` lines.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address[0] == "@":
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.connect(address)
            manager.sendall(state.encode())
    except OSError as error:
        logger.warning("cannot tell systemd %s: %s", state, error)
