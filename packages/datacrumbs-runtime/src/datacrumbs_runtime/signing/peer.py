"""Who is at the other end of a Unix socket: the kernel's word, not the client's."""

import ctypes
import os
import signal
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from datacrumbs_runtime.errors import SigningError
from datacrumbs_runtime.signing.accounts import Account, user_name

# Not in the socket module: <asm-generic/socket.h>.
_SO_PEERGROUPS = 59
_SO_PEERPIDFD = 77
_MAX_GROUPS = 65536
_LIBC = ctypes.CDLL(None, use_errno=True)
_CREDENTIALS = struct.Struct("iII")


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that called connect().

    Attributes:
        pid: Its process id at that time.
        uid: Its effective user id.
        gid: Its effective group id.
        groups: Its supplementary groups.
    """

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...]

    def account(self) -> Account:
        """Return the peer as a user; looks the name up, which may ask a directory service."""
        return Account(self.uid, self.gid, self.groups, user_name(self.uid))


def peer_of(connection: socket.socket) -> Peer:
    """Return who connected.

    Raises:
        SigningError: It comes from another pid namespace and cannot be named here.
        OSError: The kernel does not tell.
    """
    pid, uid, gid = _CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    if pid == 0:
        raise SigningError("the caller is in another pid namespace")
    return Peer(pid, uid, gid, _peer_groups(connection))


def _peer_groups(connection: socket.socket) -> tuple[int, ...]:
    # getsockopt() of the socket module takes no more than 1024 bytes, which are 256 groups.
    groups = (ctypes.c_uint32 * _MAX_GROUPS)()
    size = ctypes.c_uint32(ctypes.sizeof(groups))
    if _LIBC.getsockopt(
        connection.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, groups, ctypes.byref(size)
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return tuple(groups[: size.value // ctypes.sizeof(ctypes.c_uint32)])


def relay_status(path: Path, owner_uid: int = 0) -> os.stat_result:
    """Look at the installed relay.

    Raises:
        SigningError: It is missing, or others than its owner could have changed it.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise SigningError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise SigningError(f"{path}: not a regular file")
    if status.st_uid != owner_uid or status.st_mode & 0o022:
        raise SigningError(
            f"{path}: may be changed by others than root",
            hint=f"chown root {path}; chmod go-w {path}",
        )
    return status


def check_relay(connection: socket.socket, peer: Peer, path: Path, owner_uid: int = 0) -> None:
    """Check that the peer runs the installed relay.

    Raises:
        SigningError: It runs something else, has ended, or the relay cannot be trusted.
    """
    installed = relay_status(path, owner_uid)
    pidfd = _peer_pidfd(connection, peer)
    try:
        running = Path(f"/proc/{peer.pid}/exe").stat()
        # The pid still is the peer's, and so was what we looked at, if the peer lives now.
        signal.pidfd_send_signal(pidfd, 0)
    except (ProcessLookupError, FileNotFoundError) as error:
        raise SigningError("the caller ended before it was looked at") from error
    except OSError as error:
        raise SigningError(f"pid {peer.pid}: {error.strerror}") from error
    finally:
        os.close(pidfd)
    if (running.st_dev, running.st_ino) != (installed.st_dev, installed.st_ino):
        raise SigningError(
            "the caller is not the installed datacrumbs_probe_configurator_exec",
            hint="use datacrumbs_probe_configurator of the same installation",
        )


def _peer_pidfd(connection: socket.socket, peer: Peer) -> int:
    try:
        # Linux 6.5: a descriptor of the very process that connected.
        return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        pass
    try:
        return os.pidfd_open(peer.pid)
    except OSError as error:
        raise SigningError("the caller ended before it was looked at") from error
