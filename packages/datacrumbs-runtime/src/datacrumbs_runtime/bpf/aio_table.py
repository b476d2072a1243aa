"""The requests of Linux AIO: what each opcode of ``io_submit`` is called and how it is shown."""

from dataclasses import dataclass

from datacrumbs_runtime.bpf.layout import FunctionFlag, SourceKind
from datacrumbs_runtime.bpf.values import FILE, FORMAT_FILE, Value

SUBMIT = "io_submit"
FETCH = ("io_getevents", "io_pgetevents")


@dataclass(frozen=True, slots=True)
class AioRequest:
    """A kind of request.

    Attributes:
        opcode: IOCB_CMD_* of include/uapi/linux/aio_abi.h.
        shown_as: Its name in the trace.
        flags: How its results are judged and counted.
    """

    opcode: int
    shown_as: str
    flags: FunctionFlag


_READS_OR_WRITES = FunctionFlag.BYTES | FunctionFlag.ERRNO

REQUESTS = (
    AioRequest(0, "aio_pread", _READS_OR_WRITES),
    AioRequest(1, "aio_pwrite", _READS_OR_WRITES),
    AioRequest(2, "aio_fsync", FunctionFlag.ERRNO),
    AioRequest(3, "aio_fdsync", FunctionFlag.ERRNO),
    AioRequest(5, "aio_poll", FunctionFlag.ERRNO),
    AioRequest(7, "aio_preadv", _READS_OR_WRITES),
    AioRequest(8, "aio_pwritev", _READS_OR_WRITES),
)

# In the order in which aio.bpf.h sets them.
VALUES = (
    Value(FILE, FORMAT_FILE, SourceKind.REQUEST),
    Value("offset", "i64", SourceKind.REQUEST),
    Value("count", "u64", SourceKind.REQUEST),
)
