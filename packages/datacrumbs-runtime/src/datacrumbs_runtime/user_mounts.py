"""Which file systems are the node's own, and which a user has put there.

A user mounts with FUSE, and in namespaces of his own whatever he likes. Behind such a file system
is a program of his, which says of files what it wants and answers when it wants.
"""

import re
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_DESCRIPTORS = Path("/proc/self/fdinfo")
_MOUNT_ID = re.compile(r"^mnt_id:\s*([0-9]+)$", re.MULTILINE)
_MOUNTED_BY = re.compile(r"(?:^|,)user_id=([0-9]+)(?:,|$)")


def mounted_by_root(fd: int) -> bool:
    """Return whether root mounted the file system of an open file, here where we can see it.

    Raises:
        OSError: The kernel does not tell.
    """
    found = _MOUNT_ID.search((_DESCRIPTORS / str(fd)).read_text())
    for line in _MOUNTS.read_text(errors="replace").splitlines():
        fields = line.split(" ")
        if found is not None and fields[0] == found[1]:
            user = _MOUNTED_BY.search(fields[-1])
            return user is None or user[1] == "0"
    # It is another namespace's, reached through /proc/PID/root.
    return False
