"""Reads what ``strace -f -y -s 256 -X raw -o FILE`` wrote: every call with numbers and paths."""

import errno
import re
from dataclasses import dataclass, field
from pathlib import Path

from datacrumbs_runtime.bpf.syscall_table import numbers

OPTIONS = ("-f", "-y", "-s", "256", "-X", "raw")

_LINE = re.compile(r"(?P<thread>\d+)\s+(?P<rest>.*)", re.DOTALL)
_UNFINISHED = " <unfinished ...>"
_RESUMED = re.compile(r"<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)", re.DOTALL)
_CALL = re.compile(r"(?P<name>\w+)\((?P<rest>.*)", re.DOTALL)
_RESULT = re.compile(
    r"(?P<value>-?\d+|0x[0-9a-f]+|\?)(?:<(?P<file>.*)>(?:\(deleted\))?)?"
    r"(?: (?P<error>E\w+))?(?: \(.*)?(?: <(?:unfinished|unavailable).*)?",
    re.DOTALL,
)
_DESCRIPTOR = re.compile(r"(?P<number>-?\d+)(?:<(?P<file>.*)>(?:\(deleted\))?)?", re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9a-f]{2})|(.))", re.DOTALL)
_LETTERS = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"v": b"\v", b"f": b"\f"}
# Kernel-internal results that strace names and that are no errno of user space.
_INTERNAL = {"ERESTARTSYS": 512, "ERESTARTNOINTR": 513, "ERESTARTNOHAND": 514}
_INTERNAL["ERESTART_RESTARTBLOCK"] = 516
_NUMBER = r"-?(?:0x[0-9a-f]+|\d+)"
_UNKNOWN = "syscall_0x"
_NAMES = {number: name for name, number in numbers().items()}
_CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">"}


# No architecture has a system call of this number.
_NO_NUMBER = 1024


class MisreadError(ValueError):
    """strace took the end of a call for the beginning of another: it is no witness of this run."""


@dataclass(slots=True)
class Call:
    """One system call.

    Attributes:
        thread: Thread id.
        name: The kernel's name.
        arguments: As written, numbers raw.
        result: What the kernel returned, -errno for failures; None: it never returned.
        result_file: Path of a returned descriptor, or None.
        cwd: Working directory of the process at that time, or None where the log does not tell.
        is_undecoded: strace is older than the call: it wrote six registers as hexadecimal numbers.
    """

    thread: int
    name: str
    arguments: tuple[str, ...]
    result: int | None
    result_file: str | None = None
    cwd: str | None = None
    is_undecoded: bool = False

    def number(self, index: int) -> int | None:
        """Return an argument as a number; None for NULL pointers and structures."""
        text = self.arguments[index]
        if text.startswith("0x"):
            # some flags are written as 0x6000|0x1fff
            return sum(int(part, 16) for part in text.split()[0].split("|"))
        if re.fullmatch(r"0[0-7]+", text):
            return int(text, 8)
        match = _DESCRIPTOR.fullmatch(text)
        if match:
            return int(match["number"])
        return 0 if text == "NULL" else None

    def number_behind(self, index: int, label: str, position: int) -> int | None:
        """Return a number in ``[3, 4]``, ``[100] => [200]`` or ``{flags=0x1, resolve=0}``."""
        text = self.arguments[index].partition(" => ")[0]
        if text.startswith("{"):
            member = re.search(rf"[{{ ]{label}=({_NUMBER})", text)
            return _integer(member[1]) if member else 0
        if not text.startswith("["):
            return None
        found = re.findall(rf"(?<![\w.]){_NUMBER}", re.sub(r"<[^>]*>", "", text))
        return _integer(found[position]) if position < len(found) else None

    def descriptor_file(self, index: int) -> str | None:
        """Return the path of a descriptor argument."""
        match = _DESCRIPTOR.fullmatch(self.arguments[index])
        return unescaped(match["file"]) if match and match["file"] is not None else None

    def text(self, index: int) -> str | None:
        """Return a string argument; None for NULL, unreadable memory and what strace cut."""
        text = self.arguments[index]
        if not text.startswith('"') or text.endswith("..."):
            return None  # cut, so not comparable
        return unescaped(text[1 : text.rindex('"')])


def _integer(digits: str) -> int:
    return int(digits, 8 if re.fullmatch(r"0[0-7]+", digits) else 0)


def unescaped(text: str) -> str:
    """Return a C string's meaning; bytes that are no UTF-8 as ``\\xff``, as in traces."""

    def replacement(match: re.Match[bytes]) -> bytes:
        octal, hexadecimal, letter = match.groups()
        if octal:
            return bytes([int(octal, 8)])
        if hexadecimal:
            return bytes([int(hexadecimal, 16)])
        return _LETTERS.get(letter, letter)

    data = _ESCAPE.sub(replacement, text.encode("utf-8", "surrogateescape"))
    return data.decode("utf-8", "backslashreplace")


def split_arguments(text: str) -> tuple[tuple[str, ...], str]:
    """Split ``3<pipe:[1]>, "a\\"b", {x=1, y=2}) = 0`` into arguments and what follows ``)``."""
    arguments = []
    begin = position = 0
    depth: list[str] = []
    while position < len(text):
        character = text[position]
        if character == '"':
            position += 1
            while text[position] != '"':
                position += 2 if text[position] == "\\" else 1
        elif character == "<" and position and text[position - 1].isdigit():
            position = _end_of_path(text, position)
        elif character in "([{":
            depth.append(_CLOSING[character])
        elif depth and character == depth[-1]:
            depth.pop()
        elif not depth and character in ",)":
            arguments.append(text[begin:position].strip())
            begin = position + 1
            if character == ")":
                found = tuple(arguments) if arguments != [""] else ()
                return found, text[position + 1 :]
        position += 1
    raise ValueError(f"no end: {text!r}")


def _end_of_path(text: str, position: int) -> int:
    # strace escapes < and > in paths, so the first > is the end.
    return text.index(">", position)


@dataclass(slots=True)
class _State:
    begun: dict[int, str] = field(default_factory=dict)
    cwd: dict[int, str] = field(default_factory=dict)


def read(path: Path, cwd: str) -> list[Call]:
    """Return the calls of a log in the order in which they ended.

    Args:
        path: The log.
        cwd: Where the first process was started.

    Raises:
        MisreadError: strace lost its place, as it does now and then with many threads.
    """
    state = _State()
    calls = []
    # Lines end with \n only; other control characters are escaped.
    for line in path.read_bytes().decode("utf-8", "surrogateescape").split("\n"):
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        thread, rest = int(match["thread"]), match["rest"]
        state.cwd.setdefault(thread, cwd)
        if rest.startswith(("+++", "---")):
            if rest.startswith("+++") and thread in state.begun:
                calls += _finished(state, thread, state.begun.pop(thread) + ") = ?")
            continue
        if rest.endswith(_UNFINISHED):
            state.begun[thread] = rest.removesuffix(_UNFINISHED)
            continue
        resumed = _RESUMED.fullmatch(rest)
        if resumed:
            rest = state.begun.pop(thread) + resumed["rest"]
        calls += _finished(state, thread, rest)
    for thread, rest in state.begun.items():
        calls += _finished(state, thread, rest + ") = ?")
    return calls


def _finished(state: _State, thread: int, text: str) -> list[Call]:
    if text.startswith(("???(", "<... ??? resumed>")):
        # A thread that was killed before strace could look at its call.
        return []
    match = _CALL.fullmatch(text)
    if match is None:
        raise ValueError(f"not a call: {text!r}")
    if match["rest"].endswith("<... exit_group resumed>) = ?"):
        return []
    arguments, rest = split_arguments(match["rest"])
    result = _RESULT.fullmatch(rest.strip().removeprefix("=").strip())
    if result is None:
        raise ValueError(f"no result: {text!r}")
    value: int | None = None
    if result["error"]:
        error = result["error"]
        value = -_INTERNAL[error] if error in _INTERNAL else -getattr(errno, error)
    elif result["value"] != "?":
        value = int(result["value"], 16 if result["value"].startswith("0x") else 10)
    file = result["file"]
    name = match["name"]
    undecoded = name.startswith(_UNKNOWN)
    if undecoded:
        number = int(name.removeprefix(_UNKNOWN), 16)
        if number >= _NO_NUMBER:
            raise MisreadError(text)
        name = _NAMES.get(number, name)
    call = Call(
        thread,
        name,
        arguments,
        value,
        unescaped(file) if file is not None else None,
        state.cwd.get(thread),
        undecoded,
    )
    _follow(state, call)
    return [call]


def _follow(state: _State, call: Call) -> None:
    """Keep track of working directories: of children, and after chdir(2)."""
    if call.name in ("clone", "clone3", "fork", "vfork") and call.result and call.result > 0:
        state.cwd[call.result] = state.cwd[call.thread]
    elif call.name == "chdir" and call.result == 0:
        target = call.text(0)
        assert target is not None
        state.cwd[call.thread] = absolute(target, state.cwd[call.thread])
    elif call.name == "fchdir" and call.result == 0:
        target = call.descriptor_file(0)
        assert target is not None
        state.cwd[call.thread] = target


def absolute(path: str, directory: str | None) -> str:
    """Return a path as seen from a directory, without ``.`` and doubled slashes.

    ``..`` is resolved only before the first name: behind one it may follow a symbolic link.
    """
    if not path:
        return directory or ""
    parts = [] if path.startswith("/") else (directory or "").split("/")[1:]
    parts = [part for part in parts if part]
    named = False
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part == ".." and not named:
            parts = parts[:-1]
            continue
        named = True
        parts.append(part)
    return "/" + "/".join(parts)
