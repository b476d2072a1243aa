"""The limits of this process that recording meets."""

import resource
from contextlib import suppress


def raise_soft_limits() -> None:
    """Raise the soft limits that recording meets to the hard ones, as far as that is allowed."""
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_AS):
        soft, hard = resource.getrlimit(limit)
        if soft != hard:
            with suppress(OSError, ValueError):
                resource.setrlimit(limit, (hard, hard))
    # Kernels before 5.11 count maps as locked memory; without the capability the limit stays.
    with suppress(OSError, ValueError):
        unlimited = resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (unlimited, unlimited))
