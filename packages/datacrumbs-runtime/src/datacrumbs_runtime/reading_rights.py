"""Letting one user read a file that stays root's.

The file system of the run directory and of logs is the node's own. Whoever owned a file there could
make it writable, write into it what root reads, and fill the file system.
"""

import errno
import os
import struct
from contextlib import suppress
from pathlib import Path

# The form that Linux gives ACLs in extended attributes, include/uapi/linux/posix_acl_xattr.h.
_ATTRIBUTE = "system.posix_acl_access"
_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_NOBODY = 0xFFFFFFFF
_OWNER, _USER, _GROUP, _MASK, _OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20
_READ = 4
# How file systems, and sandboxes around us, say that there are none.
_NO_ACLS = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM})


def keep_for_reader(fd: int, uid: int | None, mode: int) -> None:
    """Give a file to root, with a mode for root alone, and let one user read it.

    On a file system without ACLs the file becomes that user's.

    Args:
        fd: The file, open.
        uid: Who may read it; None: nobody but root.
        mode: What root, its owner, may do: 0o400 or 0o600.

    Raises:
        OSError: It cannot be done.
    """
    if os.geteuid() != 0:
        os.fchmod(fd, mode)
        return
    if os.fstat(fd).st_uid != 0:
        os.fchown(fd, 0, -1)
    if not uid:
        # What an earlier run let somebody else read.
        with suppress(OSError):
            os.removexattr(fd, _ATTRIBUTE)
        os.fchmod(fd, mode)
        return
    entries = (
        (_OWNER, mode >> 6, _NOBODY),
        (_USER, _READ, uid),
        (_GROUP, 0, _NOBODY),
        (_MASK, _READ, _NOBODY),
        (_OTHERS, 0, _NOBODY),
    )
    try:
        os.setxattr(fd, _ATTRIBUTE, _VERSION + b"".join(_ENTRY.pack(*one) for one in entries))
    except OSError as error:
        if error.errno not in _NO_ACLS:
            raise
        os.fchmod(fd, mode)
        os.fchown(fd, uid, -1)


def reader_of(path: Path) -> int | None:
    """Return for whom a file is kept; everybody may ask. None: it is not there."""
    try:
        owner_uid = path.lstat().st_uid
    except OSError:
        return None
    with suppress(OSError):
        entries = os.getxattr(path, _ATTRIBUTE, follow_symlinks=False)[len(_VERSION) :]
        whole = len(entries) - len(entries) % _ENTRY.size
        for tag, _, uid in _ENTRY.iter_unpack(entries[:whole]):
            if tag == _USER:
                return int(uid)
    return owner_uid
