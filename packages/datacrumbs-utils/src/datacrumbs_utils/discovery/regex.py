"""Regular expressions as host configurations write them: ECMAScript style, full match, any case."""

import re
from dataclasses import dataclass

POSIX_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": r"\x21-\x7e",
    "lower": "a-z",
    "print": r"\x20-\x7e",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\s",
    "upper": "A-Z",
    "w": r"\w",
    "d": r"\d",
    "s": r"\s",
    "xdigit": "0-9a-fA-F",
}
SYSCALL_PREFIXES = ("__x64_sys_", "__arm64_sys_", "__ia32_sys_", "__se_sys_", "__do_sys_", "sys_")
MPI_REGEX = r"(MPI_|PMPI_|MPIX_).*"
_MEANINGFUL_ESCAPES = frozenset("dDwWsSbBfnrtv0123456789")


class RegexError(ValueError):
    """A regular expression cannot be understood; says why and at which character."""


@dataclass(frozen=True, slots=True)
class Regex:
    """A compiled expression.

    Attributes:
        source: As written.
        pattern: The same for Python.
    """

    source: str
    pattern: re.Pattern[str]

    @property
    def is_plain(self) -> bool:
        """Whether it can match a function's plain name only; see :meth:`matches_symbol`."""
        return not (":" in self.source or "@" in self.source or "0x" in self.source.lower())

    def matches(self, text: str) -> bool:
        """Return whether the whole text matches."""
        return self.pattern.fullmatch(text) is not None

    def matches_symbol(self, symbol: str, value: int | None = None) -> bool:
        """Return whether a function's name matches.

        Older files wrote ``name:0xOFFSET`` and ``name@@VERSION``: an expression that speaks of
        ``:`` or ``@`` is also tried against those forms. One that does not, is not: ``(?!read$).*``
        must not match ``read`` by way of its offset.
        """
        if self.matches(symbol):
            return True
        if value is not None and (":" in self.source or "0x" in self.source.lower()):
            return self.matches(f"{symbol}:{value:#x}")
        if "@" in self.source and "$" not in self.source:
            return self.matches(f"{symbol}@@") or self.matches(f"{symbol}@")
        return False

    def matches_syscall(self, name: str) -> bool:
        """Return whether a system call matches, with or without ``sys_`` and ``__x64_sys_``."""
        lowered = self.source.lower()
        forms = [f"{prefix}{name}" for prefix in SYSCALL_PREFIXES]
        if "(?!" in lowered:
            # A lookahead forbids one form of the name; the others must not get around it.
            mentioned = [form for form in forms if _prefix_of(form, name) in lowered]
            return any(self.matches(form) for form in mentioned[:1] or [name])
        return any(self.matches(form) for form in (name, *forms))


def _prefix_of(form: str, name: str) -> str:
    return form[: len(form) - len(name)]


def compile_regex(source: str, *, match_case: bool = False) -> Regex:
    """Compile an ECMAScript expression.

    Args:
        source: The expression.
        match_case: Whether capital letters matter.

    Raises:
        RegexError: It is not a valid expression.
    """
    try:
        flags = re.ASCII if match_case else re.ASCII | re.IGNORECASE
        return Regex(source, re.compile(_to_python(source), flags))
    except (re.error, OverflowError, RecursionError) as error:
        raise RegexError(f"regex {source!r}: {error}") from error


def _to_python(source: str) -> str:
    output: list[str] = []
    index = 0
    while index < len(source):
        character = source[index]
        if character == "\\":
            text, index = _escape(source, index)
        elif character == "[":
            text, index = _character_class(source, index)
        elif source.startswith("(?<", index) and source[index + 3 : index + 4] not in ("=", "!"):
            text, index = "(?P<", index + 3
        elif character == "$":
            # ECMAScript's $ is the very end; Python's also stands before a last newline.
            text, index = r"\Z", index + 1
        else:
            text, index = character, index + 1
        output.append(text)
    return "".join(output)


def _escape(source: str, index: int) -> tuple[str, int]:
    following = source[index + 1 : index + 2]
    if following == "":
        raise RegexError(f"regex {source!r}: ends in a single backslash")
    if following == "k" and (match := re.match(r"k<(\w+)>", source[index + 1 :])):
        return f"(?P={match[1]})", index + 1 + match.end()
    if match := re.match(r"x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}", source[index + 1 :]):
        return "\\" + match[0], index + 1 + match.end()
    if following == "c" and source[index + 2 : index + 3].isalpha():
        return re.escape(chr(ord(source[index + 2]) % 32)), index + 3
    if following == "0":
        return r"\x00", index + 2
    if following in _MEANINGFUL_ESCAPES:
        return "\\" + following, index + 2
    return re.escape(following), index + 2


def _character_class(source: str, index: int) -> tuple[str, int]:
    start = index
    index += 1
    negated = source.startswith("^", index)
    index += negated
    output: list[str] = []
    while index < len(source) and source[index] != "]":
        named = re.match(r"\[:(\w+):\]", source[index:])
        if named:
            if named[1] not in POSIX_CLASSES:
                raise RegexError(f"regex {source!r}: unknown class [:{named[1]}:]")
            output.append(POSIX_CLASSES[named[1]])
            index += named.end()
        elif source[index] == "\\":
            text, index = _escape(source, index)
            output.append(r"\x08" if text == r"\b" else text)
        else:
            character = source[index]
            output.append("\\" + character if character in "[&~|" else character)
            index += 1
    if index >= len(source):
        raise RegexError(f"regex {source!r}: [ at character {start + 1} is never closed")
    body = "".join(output)
    if not body:
        return (r"[\s\S]" if negated else r"(?!)"), index + 1
    return f"[{'^' if negated else ''}{body}]", index + 1
