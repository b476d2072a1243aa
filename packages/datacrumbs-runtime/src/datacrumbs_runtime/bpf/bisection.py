"""Finding the functions that the kernel refuses in an attachment of all or nothing."""

import errno
import logging
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

logger = logging.getLogger(__name__)

Target = TypeVar("Target")

# The kernel's own ENOTSUPP, which the C library has no text for.
_KERNEL_ENOTSUPP = 524
_REASONS = {
    _KERNEL_ENOTSUPP: "the kernel cannot probe this instruction",
    errno.EOPNOTSUPP: "the kernel cannot probe this instruction",
    errno.ENOEXEC: "the kernel cannot decode this instruction",
    errno.EINVAL: "the kernel finds nothing there that it can probe",
    errno.ESRCH: "the kernel has no function of that name that can be probed",
    errno.ENOENT: "no such file or function",
}
# Not the fault of one function: smaller parts would be refused as well.
_COMMON_ERRORS = frozenset(
    {
        errno.EPERM,
        errno.EACCES,
        errno.EBADF,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOENT,
        errno.EIO,
    }
)
# A few refused functions of thousands take some 25 attempts each, of some 50 ms.
_MAX_ATTEMPTS = 400


def reason_of(error: OSError) -> str:
    """Return why the kernel refused to attach, in words."""
    number = error.errno or 0
    return _REASONS.get(number) or error.strerror or os.strerror(number)


def attach_or_bisect(
    targets: Sequence[Target], attach: Callable[[Sequence[Target]], None]
) -> list[tuple[Target, str]]:
    """Attach all targets that the kernel takes.

    Args:
        targets: What is to be attached.
        attach: Attaches all that it is given or raises OSError.

    Returns:
        The targets that are not attached, with the reason.
    """
    refused: list[tuple[Target, str]] = []
    waiting = [targets] if targets else []
    attempts = 0
    while waiting:
        part = waiting.pop()
        attempts += 1
        try:
            attach(part)
        except OSError as error:
            reason = reason_of(error)
            if len(part) == 1 or error.errno in _COMMON_ERRORS:
                refused.extend((target, reason) for target in part)
            elif attempts > _MAX_ATTEMPTS:
                refused.extend((target, f"{reason}, or {len(part) - 1} others") for target in part)
            else:
                half = len(part) // 2
                waiting += [part[half:], part[:half]]
    if attempts > 1:
        logger.info("%d attempts to attach %d functions", attempts, len(targets))
    return refused
