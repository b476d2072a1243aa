"""The C library's functions about files: which of their arguments are files.

Most do what the system call of the same name does and take the same arguments, so what is known of
that holds for them too. The names of parameters tell nothing: glibc calls a path ``file`` and a
file descriptor ``fd``, even where it is that of a directory.
"""

import re
from collections.abc import Mapping

from datacrumbs_runtime.bpf.syscall_table import SYSTEM_CALLS
from datacrumbs_runtime.bpf.values import (
    FORMAT_FILE,
    Value,
    descriptor_file,
    opened_file,
    path_file,
)

# glibc, with what was once a library of its own, and musl.
_C_LIBRARY = re.compile(r"lib(c|pthread)\.so(\.\d+)?|libc\.musl-.*")
# For files beyond 2 GiB, fortified, and internal variants take the same arguments first.
_VARIANT = re.compile(r"_*(?P<plain>[a-z]\w*?)(?:64)?(?:_2|_chk|_nocancel)?")
_SYSTEM_CALLS = {
    "fstatat": "newfstatat",
    "posix_fadvise": "fadvise64",
    "pread": "pread64",
    "pwrite": "pwrite64",
}
_PATH_FIRST = """
    eaccess euidaccess ftw lchmod lutimes mkdtemp mkfifo nftw opendir realpath remove scandir
    statvfs
"""
_DESCRIPTOR_FIRST = "fdopen fdopendir fstatvfs futimens futimes lockf posix_fallocate"
_OPENS_ITS_FIRST = "mkostemp mkostemps mkstemp mkstemps"
_FUNCTIONS: Mapping[str, tuple[Value, ...]] = {
    **dict.fromkeys(_PATH_FIRST.split(), (path_file(0),)),
    **dict.fromkeys(_DESCRIPTOR_FIRST.split(), (descriptor_file(0),)),
    **dict.fromkeys(_OPENS_ITS_FIRST.split(), (opened_file(0),)),
    **dict.fromkeys(("mkfifoat", "scandirat"), (path_file(1, 0),)),
    "shm_open": (opened_file(),),
    # A version comes first: what stat and mknod called before glibc 2.33.
    **dict.fromkeys(("xstat", "lxstat", "xmknod"), (path_file(1),)),
    "fxstat": (descriptor_file(1),),
    **dict.fromkeys(("fxstatat", "xmknodat"), (path_file(2, 1),)),
}


def is_c_library(soname: str | None) -> bool:
    """Return whether a library of this name has the functions that are known here."""
    return soname is not None and _C_LIBRARY.fullmatch(soname) is not None


def files(symbol: str) -> tuple[Value, ...] | None:
    """Return the files of a function of the C library; None for functions that are not known."""
    match = _VARIANT.fullmatch(symbol)
    plain = match["plain"] if match else ""
    known = _FUNCTIONS.get(plain)
    if known is not None:
        return known
    system_call = SYSTEM_CALLS.get(_SYSTEM_CALLS.get(plain, plain))
    if system_call is None:
        return None
    return tuple(value for value in system_call.values if value.format == FORMAT_FILE)
