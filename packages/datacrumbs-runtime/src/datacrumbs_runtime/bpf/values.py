"""One captured value of a call: where the BPF programs take it from and how the trace shows it."""

from dataclasses import dataclass

from datacrumbs_runtime.bpf.layout import SourceKind

NO_ARGUMENT = 0xFF

# The keys under which the trace shows the file of a call and its second file (rename, copy).
FILE = "fhash"
SECOND_FILE = "fhash2"

# Formats of the pump: i8 i16 i32 i64 u8 u16 u32 u64 as numbers, b: false or true, x: "0x...",
# s: captured text, f: a file.
FORMAT_TEXT = "s"
FORMAT_FILE = "f"
FORMAT_POINTER = "x"


@dataclass(frozen=True, slots=True)
class Value:
    """A value that is captured with every call of a function.

    Attributes:
        label: Its key in the trace.
        format: How the pump prints it: one of its formats.
        kind: Where it comes from.
        argument: Position of the argument that it comes from; ``NO_ARGUMENT``: none.
        directory: Position of the argument with the directory that a path is relative to, or
            ``NO_ARGUMENT`` for the working directory.
        size: Bytes of what is read from memory (USER_VALUE, FIELD).
        at_end: USER_VALUE, FIELD: read when the call returns or the span ends, not when it
            begins. PATH: it is the working directory if the call succeeded.
        is_signed: Whether a smaller value is sign-extended.
        offsets: Offsets of the member accesses from the argument to the value, in bytes.
    """

    label: str
    format: str
    kind: SourceKind
    argument: int = NO_ARGUMENT
    directory: int = NO_ARGUMENT
    size: int = 0
    at_end: bool = False
    is_signed: bool = False
    offsets: tuple[int, ...] = ()


def number(label: str, argument: int, number_format: str) -> Value:
    """An argument that is a number."""
    return Value(label, number_format, SourceKind.ARGUMENT, argument)


def descriptor_file(argument: int, label: str = FILE) -> Value:
    """The file of a file descriptor."""
    return Value(label, FORMAT_FILE, SourceKind.FD, argument)


def path_file(argument: int, directory: int = NO_ARGUMENT, label: str = FILE) -> Value:
    """The file that a path argument names, whether it exists or not."""
    return Value(label, FORMAT_FILE, SourceKind.PATH, argument, directory)


def entered_directory(argument: int) -> Value:
    """The directory that a path argument names and that becomes the working directory."""
    return Value(FILE, FORMAT_FILE, SourceKind.PATH, argument, at_end=True)


def opened_file(argument: int = NO_ARGUMENT, directory: int = NO_ARGUMENT) -> Value:
    """The file of the returned descriptor; where the call failed, the one that its path names."""
    return Value(FILE, FORMAT_FILE, SourceKind.RETURNED_FD, argument, directory)


def stream_file(argument: int) -> Value:
    """The file of a ``FILE *``."""
    return Value(FILE, FORMAT_FILE, SourceKind.STREAM, argument)


def mapped_file(argument: int) -> Value:
    """The file that is mapped at an address."""
    return Value(FILE, FORMAT_FILE, SourceKind.MAPPING, argument)


def position(argument: int) -> Value:
    """The position in the file of a descriptor where the call began."""
    return Value("offset", "i64", SourceKind.POSITION, argument)


def text(label: str, argument: int) -> Value:
    """The text behind a ``char *``."""
    return Value(label, FORMAT_TEXT, SourceKind.USER_STRING, argument)


def behind(
    label: str, argument: int, number_format: str, *, offset: int = 0, at_end: bool = False
) -> Value:
    """A number behind a pointer argument, ``offset`` bytes after where it points."""
    size = 8 if number_format == FORMAT_POINTER else int(number_format[1:]) // 8
    return Value(
        label,
        number_format,
        SourceKind.USER_VALUE,
        argument,
        size=size,
        at_end=at_end,
        is_signed=number_format[0] == "i",
        offsets=(offset,),
    )
