"""The functions of libbpf, as Python functions that raise at once."""

import ctypes
import errno
import logging
import os
import threading
from collections.abc import Mapping
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_void_p

from datacrumbs_runtime.errors import KernelError

logger = logging.getLogger(__name__)

LIBRARY_NAME = "libbpf.so.1"
VERIFIER_LOG_END = "END PROG LOAD LOG"

_LEVEL_DEBUG = 2
_LOG_LINE_BYTES = 4 << 10
# The verifier's log comes as one message; its end is what matters.
_VERIFIER_LOG_BYTES = 4 << 20

# name: (result, arguments). A result of c_int is 0 or more, or -errno; c_void_p is NULL for errors.
_PROTOTYPES: Mapping[str, tuple[type | None, tuple[type, ...]]] = {
    "bpf_object__open_file": (c_void_p, (c_char_p, c_void_p)),
    "bpf_object__open_mem": (c_void_p, (c_char_p, c_size_t, c_void_p)),
    "bpf_object__load": (c_int, (c_void_p,)),
    "bpf_object__close": (None, (c_void_p,)),
    "bpf_object__btf": (c_void_p, (c_void_p,)),
    "bpf_object__next_program": (c_void_p, (c_void_p, c_void_p)),
    "bpf_object__next_map": (c_void_p, (c_void_p, c_void_p)),
    "bpf_program__name": (c_char_p, (c_void_p,)),
    "bpf_program__fd": (c_int, (c_void_p,)),
    "bpf_program__set_autoload": (c_int, (c_void_p, ctypes.c_bool)),
    "bpf_program__set_type": (c_int, (c_void_p, c_int)),
    "bpf_program__set_expected_attach_type": (c_int, (c_void_p, c_int)),
    "bpf_program__set_attach_target": (c_int, (c_void_p, c_int, c_char_p)),
    "bpf_map__name": (c_char_p, (c_void_p,)),
    "bpf_map__fd": (c_int, (c_void_p,)),
    "bpf_map__key_size": (c_uint32, (c_void_p,)),
    "bpf_map__value_size": (c_uint32, (c_void_p,)),
    "bpf_map__max_entries": (c_uint32, (c_void_p,)),
    "bpf_map__set_max_entries": (c_int, (c_void_p, c_uint32)),
    "bpf_map__reuse_fd": (c_int, (c_void_p, c_int)),
    "bpf_map__initial_value": (c_void_p, (c_void_p, ctypes.POINTER(c_size_t))),
    "btf__load_vmlinux_btf": (c_void_p, ()),
    "btf__parse_split": (c_void_p, (c_char_p, c_void_p)),
    "btf__free": (None, (c_void_p,)),
    "btf__type_cnt": (c_uint32, (c_void_p,)),
    "btf__type_by_id": (c_void_p, (c_void_p, c_uint32)),
    "btf__name_by_offset": (c_char_p, (c_void_p, c_uint32)),
    "btf__find_by_name_kind": (c_int, (c_void_p, c_char_p, c_uint32)),
    "libbpf_num_possible_cpus": (c_int, ()),
    "libbpf_version_string": (c_char_p, ()),
}
_PRINT_FUNCTION = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)


class OpenOptions(ctypes.Structure):
    """The beginning of struct bpf_object_open_opts."""

    _fields_ = (("size", c_size_t), ("object_name", c_char_p))

    def __init__(self, name: str) -> None:
        super().__init__(ctypes.sizeof(self), name.encode())


class _Library:
    """The loaded library and the log lines that it wrote since the last call of :meth:`forget`."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY_NAME, use_errno=True)
        except OSError as error:
            raise KernelError(
                f"{LIBRARY_NAME}: cannot be loaded: {error}",
                hint="install libbpf 1.0 or newer: libbpf1 (Debian), libbpf (Fedora, SUSE)",
            ) from error
        for name, (result, arguments) in _PROTOTYPES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, list(arguments)
        self.lines: list[str] = []
        self._format = ctypes.CDLL(None).vsnprintf
        self._format.argtypes = [c_char_p, c_size_t, c_char_p, c_void_p]
        # The library keeps the function's address: it must live as long as the library.
        self._print = _PRINT_FUNCTION(self._log)
        self._library.libbpf_set_print(self._print)

    def _log(self, level: int, template: bytes, arguments: int) -> int:
        if level >= _LEVEL_DEBUG and not logger.isEnabledFor(logging.DEBUG):
            return 0
        is_long = VERIFIER_LOG_END.encode() in template
        buffer = ctypes.create_string_buffer(_VERIFIER_LOG_BYTES if is_long else _LOG_LINE_BYTES)
        self._format(buffer, len(buffer), template, arguments)
        text = buffer.value.decode(errors="replace").rstrip()
        logger.debug("%s", text)
        if level < _LEVEL_DEBUG:
            self.lines.extend(text.splitlines())
        return 0

    def call(self, name: str, *arguments: object) -> int:
        """Call a function; raise OSError if it failed."""
        result = getattr(self._library, name)(*arguments)
        if _PROTOTYPES[name][0] is c_void_p:
            if not result:
                number = ctypes.get_errno() or errno.EINVAL
                raise OSError(number, os.strerror(number))
        elif _PROTOTYPES[name][0] is c_int and result < 0:
            raise OSError(-result, os.strerror(-result))
        return int(result or 0)

    def ask(self, name: str, *arguments: object) -> int | None:
        """Call a function whose NULL means that there is no more."""
        result: int | None = getattr(self._library, name)(*arguments)
        return result

    def text(self, name: str, *arguments: object) -> str:
        """Call a function that returns a string."""
        result: bytes | None = getattr(self._library, name)(*arguments)
        return (result or b"").decode()


_loaded: list[_Library] = []
_loading = threading.Lock()


def library() -> _Library:
    """Return the library, loaded when it is first needed.

    Raises:
        KernelError: It is not installed.
    """
    if not _loaded:
        with _loading:
            if not _loaded:
                _loaded.append(_Library())
    return _loaded[0]
