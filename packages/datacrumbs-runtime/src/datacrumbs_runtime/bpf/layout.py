"""Generated from bpf/event.h by gen_event_layout.py. Do not edit."""

import ctypes
import enum

MAX_ARGUMENTS = 6
MAX_TRACEPOINT_ARGUMENTS = 9
MAX_VALUES = 8
MAX_DEREFERENCES = 4
MAX_SYSTEM_CALLS = 1024
AIO_OPCODES = 16
MAX_STRING_BYTES = 4096
HISTOGRAM_SLOTS = 32
NO_FUNCTION = 4294967295
COOKIE_SHARED_BIT = 63
COOKIE_BY_STACK_BIT = 62
PLACE_BITS = 12


class CallFlag(enum.IntFlag):
    """C: enum dc_call_flag."""

    NO_RETURN = 1
    SLOT_SHIFT = 8


class StringKind(enum.IntEnum):
    """C: enum dc_string_kind."""

    TEXT = 1
    FILE = 2
    PATH = 3
    PIPE = 4
    SOCKET = 5
    ANONYMOUS = 6
    PROCESS_NAME = 7
    THREAD_NAME = 8
    PROCESS_EXIT = 9


class StringFlag(enum.IntFlag):
    """C: enum dc_string_flag."""

    CUT = 1
    DIRECTORY = 2


class Loss(enum.IntEnum):
    """C: enum dc_loss."""

    OFFERED = 0
    RING_FULL = 1
    STRINGS_FULL = 2
    STRING_UNREADABLE = 3
    SCRATCH_BUSY = 4
    ARGUMENTS = 5
    STATE = 6
    SPANS_FULL = 7
    MISSED_BEGIN = 8
    BELOW_THRESHOLD = 9
    COMPAT = 10
    ENTERED = 11
    FILTERED = 12
    UNFINISHED = 13
    PROFILE_FULL = 14
    REFUSED = 15
    COUNTED = 16
    SLOTS = 17


class Mode(enum.IntEnum):
    """C: enum dc_mode."""

    OFF = 0
    TRACE = 1
    PROFILE = 2


class SourceKind(enum.IntEnum):
    """C: enum dc_source_kind."""

    NONE = 0
    ARGUMENT = 1
    USER_STRING = 2
    USER_VALUE = 3
    FD = 4
    STREAM = 5
    PATH = 6
    RETURNED_FD = 7
    POSITION = 8
    MAPPING = 9
    FIELD = 10
    FIELD_FILE = 11
    THREAD_FILE = 12
    REQUEST = 13


class FunctionFlag(enum.IntFlag):
    """C: enum dc_function_flag."""

    FILE_ONLY = 1
    BYTES = 2
    ERRNO = 4
    NULL_ERROR = 8
    RENAMES = 16
    RET_INT = 32
    MINUS_ERROR = 64
    NO_RETURN = 128
    KERNEL_THREADS = 256
    EXIT_VALUES = 512
    ENTRY_VALUES = 1024
    AIO_SUBMIT = 2048
    AIO_EVENTS = 4096
    HIDES_ADDRESSES = 8192


class TracepointRole(enum.IntEnum):
    """C: enum dc_tracepoint_role."""

    INSTANT = 0
    BEGIN = 1
    END = 2


class KeyKind(enum.IntEnum):
    """C: enum dc_key_kind."""

    THREAD = 0
    FIELD = 1


class Call(ctypes.Structure):
    """C: struct dc_call, 40 bytes."""

    start_ns: int
    duration_ns: int
    ret: int
    process: int
    thread: int
    function: int
    nr_values: int
    present: int
    flags: int
    values: "ctypes.Array[ctypes.c_uint64]"

    _fields_ = (
        ("start_ns", ctypes.c_uint64),
        ("duration_ns", ctypes.c_uint64),
        ("ret", ctypes.c_int64),
        ("process", ctypes.c_uint32),
        ("thread", ctypes.c_uint32),
        ("function", ctypes.c_uint32),
        ("nr_values", ctypes.c_uint8),
        ("present", ctypes.c_uint8),
        ("flags", ctypes.c_uint16),
        ("values", ctypes.c_uint64 * 0),
    )


class String(ctypes.Structure):
    """C: struct dc_string, 56 bytes."""

    id: int
    directory: int
    number: int
    time_ns: int
    process: int
    thread: int
    uid: int
    kind: int
    flags: int
    length: int
    reserved: int
    text: bytes

    _fields_ = (
        ("id", ctypes.c_uint64),
        ("directory", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
        ("time_ns", ctypes.c_uint64),
        ("process", ctypes.c_uint32),
        ("thread", ctypes.c_uint32),
        ("uid", ctypes.c_uint32),
        ("kind", ctypes.c_uint16),
        ("flags", ctypes.c_uint16),
        ("length", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("text", ctypes.c_char * 0),
    )


class Losses(ctypes.Structure):
    """C: struct dc_losses, 136 bytes."""

    counts: "ctypes.Array[ctypes.c_uint64]"

    _fields_ = (("counts", ctypes.c_uint64 * 17),)


class Source(ctypes.Structure):
    """C: struct dc_source, 16 bytes."""

    kind: int
    argument: int
    directory: int
    size: int
    at_end: int
    nr_dereferences: int
    is_signed: int
    reserved: int
    offsets: "ctypes.Array[ctypes.c_uint16]"

    _fields_ = (
        ("kind", ctypes.c_uint8),
        ("argument", ctypes.c_uint8),
        ("directory", ctypes.c_uint8),
        ("size", ctypes.c_uint8),
        ("at_end", ctypes.c_uint8),
        ("nr_dereferences", ctypes.c_uint8),
        ("is_signed", ctypes.c_uint8),
        ("reserved", ctypes.c_uint8),
        ("offsets", ctypes.c_uint16 * 4),
    )


class Function(ctypes.Structure):
    """C: struct dc_function, 144 bytes."""

    flags: int
    mode: int
    nr_sources: int
    nr_values: int
    bytes_argument: int
    threshold_ns: int
    sources: "ctypes.Array[Source]"

    _fields_ = (
        ("flags", ctypes.c_uint32),
        ("mode", ctypes.c_uint8),
        ("nr_sources", ctypes.c_uint8),
        ("nr_values", ctypes.c_uint8),
        ("bytes_argument", ctypes.c_uint8),
        ("threshold_ns", ctypes.c_uint64),
        ("sources", Source * 8),
    )


class Tracepoint(ctypes.Structure):
    """C: struct dc_tracepoint, 56 bytes."""

    function: int
    role: int
    key_kind: int
    publishes: int
    looks_up: int
    key: Source
    owner: Source
    result: Source

    _fields_ = (
        ("function", ctypes.c_uint32),
        ("role", ctypes.c_uint8),
        ("key_kind", ctypes.c_uint8),
        ("publishes", ctypes.c_uint8),
        ("looks_up", ctypes.c_uint8),
        ("key", Source),
        ("owner", Source),
        ("result", Source),
    )


class ProfileKey(ctypes.Structure):
    """C: struct dc_profile_key, 16 bytes."""

    function: int
    process: int
    cpu: int
    epoch: int

    _fields_ = (
        ("function", ctypes.c_uint32),
        ("process", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("epoch", ctypes.c_uint32),
    )


class Profile(ctypes.Structure):
    """C: struct dc_profile, 176 bytes."""

    count: int
    errors: int
    time_ns: int
    min_ns: int
    max_ns: int
    bytes: int
    histogram: "ctypes.Array[ctypes.c_uint32]"

    _fields_ = (
        ("count", ctypes.c_uint64),
        ("errors", ctypes.c_uint64),
        ("time_ns", ctypes.c_uint64),
        ("min_ns", ctypes.c_uint64),
        ("max_ns", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("histogram", ctypes.c_uint32 * 32),
    )


class Control(ctypes.Structure):
    """C: struct dc_control, 24 bytes."""

    recording: int
    epoch: int
    rename_generation: int
    registration_generation: int

    _fields_ = (
        ("recording", ctypes.c_uint32),
        ("epoch", ctypes.c_uint32),
        ("rename_generation", ctypes.c_uint64),
        ("registration_generation", ctypes.c_uint64),
    )
