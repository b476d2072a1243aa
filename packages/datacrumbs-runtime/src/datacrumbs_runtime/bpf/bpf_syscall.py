"""The system call bpf(2), for what an installed libbpf may be too old to know.

Every function turns errno into :class:`OSError` at once. File descriptors that are returned belong
to the caller and are closed on exec.
"""

import array
import ctypes
import errno
import struct
from collections.abc import Sequence

from datacrumbs_runtime.bpf.system_calls import Call, system_call

# enum bpf_cmd
_MAP_CREATE = 0
_MAP_LOOKUP_ELEM = 1
_MAP_UPDATE_ELEM = 2
_PROG_LOAD = 5
_OBJ_PIN = 6
_OBJ_GET_INFO_BY_FD = 15
_RAW_TRACEPOINT_OPEN = 17
_MAP_LOOKUP_BATCH = 24
_MAP_DELETE_BATCH = 27
_LINK_CREATE = 28

# enum bpf_map_type
MAP_TYPE_RINGBUF = 27

# BPF_NOEXIST
NO_EXIST = 1

# enum bpf_prog_type
PROG_TYPE_KPROBE = 2
PROG_TYPE_RAW_TRACEPOINT = 17
PROG_TYPE_TRACING = 26

# enum bpf_attach_type
ATTACH_TRACE_FENTRY = 24
ATTACH_PERF_EVENT = 41
ATTACH_KPROBE_MULTI = 42
ATTACH_UPROBE_MULTI = 48
ATTACH_KPROBE_SESSION = 56
ATTACH_UPROBE_SESSION = 57

# BPF_F_UPROBE_MULTI_RETURN and BPF_F_KPROBE_MULTI_RETURN
_MULTI_RETURN = 1
# Where bpf(2) answers how many elements a batch had; room for the position in a hash map.
_BATCH_COUNT_OFFSET = 32
_BATCH_POSITION_BYTES = 16
# Where it answers how much it told of an object.
_INFO_BYTES_OFFSET = 4


def _bpf(command: int, attributes: bytes) -> int:
    return system_call(
        Call.BPF,
        ctypes.c_long(command),
        ctypes.c_char_p(attributes),
        ctypes.c_size_t(len(attributes)),
    )


def _bpf_in_place(command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
    # For commands that answer in their attributes.
    return system_call(
        Call.BPF, ctypes.c_long(command), attributes, ctypes.c_size_t(ctypes.sizeof(attributes))
    )


def _address(buffer: object) -> int:
    return ctypes.addressof(buffer)  # type: ignore[arg-type]


def _input(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, max(len(data), 1))


def _numbers(values: Sequence[int]) -> tuple["array.array[int]", int]:
    numbers = array.array("Q", values)
    return numbers, numbers.buffer_info()[0]


def map_create(
    map_type: int, key_size: int, value_size: int, max_entries: int, name: str, flags: int = 0
) -> int:
    """Create a map and return its file descriptor."""
    return _bpf(
        _MAP_CREATE,
        struct.pack(
            "=IIIIIII16s",
            *(map_type, key_size, value_size, max_entries, flags),
            *(0, 0),  # inner_map_fd, numa_node
            name.encode()[:15],
        ),
    )


def map_update(map_fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
    """Set one element of a map; ``flags``: :data:`NO_EXIST` only if there is none yet."""
    key_buffer, value_buffer = _input(key), _input(value)
    _bpf(
        _MAP_UPDATE_ELEM,
        struct.pack("=IIQQQ", map_fd, 0, _address(key_buffer), _address(value_buffer), flags),
    )


def pin(fd: int, path: bytes) -> None:
    """Give a map a name in the BPF file system, where other programs find it."""
    name = _input(path + b"\0")
    _bpf(_OBJ_PIN, struct.pack("=QII", _address(name), fd, 0))


def map_lookup(map_fd: int, key: bytes, value_bytes: int) -> bytes:
    """Return one element of a map.

    Args:
        map_fd: The map.
        key: Which element.
        value_bytes: Size of a value; of a per-CPU map that of all possible CPUs together.
    """
    key_buffer, value_buffer = _input(key), ctypes.create_string_buffer(value_bytes)
    _bpf(
        _MAP_LOOKUP_ELEM,
        struct.pack("=IIQQQ", map_fd, 0, _address(key_buffer), _address(value_buffer), 0),
    )
    return value_buffer.raw


def map_lookup_batch(
    map_fd: int, position: bytes | None, keys: bytearray, values: bytearray, count: int
) -> tuple[int, bytes | None]:
    """Read up to ``count`` elements of a hash map.

    Args:
        map_fd: The map.
        position: Where the last call ended; None: from the beginning.
        keys: Filled with the keys; as large as ``count`` keys.
        values: Filled with the values; as large as ``count`` values.
        count: How many fit.

    Returns:
        How many were read, and the position for the next call, None when the map is exhausted.

    Raises:
        OSError: ENOSPC: a bucket of the map holds more than ``count`` elements.
    """
    key_room = (ctypes.c_char * len(keys)).from_buffer(keys)
    value_room = (ctypes.c_char * len(values)).from_buffer(values)
    begin, end = _input(position or b""), ctypes.create_string_buffer(_BATCH_POSITION_BYTES)
    attributes = _batch(
        map_fd,
        _address(key_room),
        count,
        _address(value_room),
        begin if position is not None else None,
        end,
    )
    try:
        _bpf_in_place(_MAP_LOOKUP_BATCH, attributes)
        exhausted = False
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        exhausted = True
    (taken,) = struct.unpack_from("=I", attributes, _BATCH_COUNT_OFFSET)
    return taken, None if exhausted else end.raw


def map_delete_batch(map_fd: int, keys: bytes, count: int) -> None:
    """Remove elements of a map, given all their keys one after another."""
    room = _input(keys)
    _bpf_in_place(_MAP_DELETE_BATCH, _batch(map_fd, _address(room), count))


def _batch(
    map_fd: int,
    keys: int,
    count: int,
    values: int = 0,
    begin: object | None = None,
    end: object | None = None,
) -> ctypes.Array[ctypes.c_char]:
    addresses = [_address(buffer) if buffer is not None else 0 for buffer in (begin, end)]
    return _input(struct.pack("=QQQQIIQQ", *addresses, keys, values, count, map_fd, 0, 0))


def object_info(fd: int, most_bytes: int) -> bytes:
    """Return what the kernel tells of a program or a link, which may be less than was asked for.

    Args:
        fd: The program or link.
        most_bytes: How much of struct bpf_prog_info or bpf_link_info is wanted.
    """
    info = ctypes.create_string_buffer(most_bytes)
    attributes = _input(struct.pack("=IIQ", fd, most_bytes, _address(info)))
    _bpf_in_place(_OBJ_GET_INFO_BY_FD, attributes)
    (told_bytes,) = struct.unpack_from("=I", attributes, _INFO_BYTES_OFFSET)
    return info.raw[:told_bytes]


def program_load(
    program_type: int,
    instructions: bytes,
    *,
    expected_attach_type: int = 0,
    attach_btf_id: int = 0,
    name: str = "dc_ask",
) -> int:
    """Load a program given as instructions and return its file descriptor."""
    code, licence = _input(instructions), _input(b"GPL\0")
    return _bpf(
        _PROG_LOAD,
        struct.pack(
            "=IIQQIIQII16sIIIIQIIQII",
            program_type,
            len(instructions) // 8,
            _address(code),
            _address(licence),
            *(0, 0, 0),  # no log of the verifier
            *(0, 0),  # kern_version, prog_flags
            name.encode()[:15],
            0,  # prog_ifindex
            expected_attach_type,
            *(0, 0, 0, 0, 0, 0, 0),  # prog_btf_fd, func_info, line_info
            attach_btf_id,
        ),
    )


def raw_tracepoint_open(program_fd: int, name: str | None, cookie: int = 0) -> int:
    """Attach a program to a raw tracepoint and return the link.

    Args:
        program_fd: The program.
        name: The tracepoint; None if the program was loaded for one (``tp_btf``).
        cookie: What the program gets from bpf_get_attach_cookie(); needs Linux 6.10 unless 0.
    """
    text = _input((name or "").encode() + b"\0")
    attributes = struct.pack("=QII", _address(text) if name else 0, program_fd, 0)
    if cookie:
        attributes += struct.pack("=Q", cookie)
    return _bpf(_RAW_TRACEPOINT_OPEN, attributes)


def link_create_tracing(program_fd: int) -> int:
    """Attach an fentry, fexit or tp_btf program to what it was loaded for; return the link."""
    return raw_tracepoint_open(program_fd, None)


def link_create_perf_event(program_fd: int, event_fd: int, cookie: int) -> int:
    """Attach a program to a perf event and return the link, which needs the event to stay open."""
    return _bpf(
        _LINK_CREATE,
        struct.pack("=IIIIQ", program_fd, event_fd, ATTACH_PERF_EVENT, 0, cookie),
    )


def link_create_uprobe_multi(
    program_fd: int,
    path: bytes,
    offsets: Sequence[int],
    cookies: Sequence[int],
    *,
    ref_ctr_offsets: Sequence[int] | None = None,
    session: bool = False,
    at_return: bool = False,
) -> int:
    """Attach a program to many places of a file, for every process, and return the link.

    It succeeds for all of them or for none.

    Args:
        program_fd: Loaded with the attach type of a session or a multi link.
        path: The ELF file.
        offsets: File offsets of the instructions.
        cookies: What the program gets from bpf_get_attach_cookie(), one per offset.
        ref_ctr_offsets: File offsets of USDT semaphores, 0 where there is none.
        session: One program for entry and return.
        at_return: Run at the function's return. Not with ``session``.
    """
    name = _input(path + b"\0")
    places, places_address = _numbers(offsets)
    tokens, tokens_address = _numbers(cookies)
    references, references_address = _numbers(ref_ctr_offsets or ())
    result = _bpf(
        _LINK_CREATE,
        struct.pack(
            "=IIIIQQQQIII",
            program_fd,
            0,
            ATTACH_UPROBE_SESSION if session else ATTACH_UPROBE_MULTI,
            0,
            _address(name),
            places_address,
            references_address if ref_ctr_offsets else 0,
            tokens_address,
            len(offsets),
            _MULTI_RETURN if at_return else 0,
            0,
        ),
    )
    # The kernel read these arrays by address only.
    del places, tokens, references
    return result


def link_create_kprobe_multi(
    program_fd: int,
    functions: Sequence[str] | Sequence[int],
    cookies: Sequence[int],
    *,
    session: bool = False,
    at_return: bool = False,
) -> int:
    """Attach a program to many kernel functions and return the link: all of them or none.

    ``functions`` are all names or all addresses.
    """
    names = [_input(each.encode() + b"\0") for each in functions if isinstance(each, str)]
    places = [each for each in functions if isinstance(each, int)]
    words, address = _numbers([_address(name) for name in names] or places)
    tokens, tokens_address = _numbers(cookies)
    result = _bpf(
        _LINK_CREATE,
        struct.pack(
            "=IIIIIIQQQ",
            program_fd,
            0,
            ATTACH_KPROBE_SESSION if session else ATTACH_KPROBE_MULTI,
            0,
            _MULTI_RETURN if at_return else 0,
            len(functions),
            *((address, 0) if names else (0, address)),
            tokens_address,
        ),
    )
    del words, tokens, names
    return result
