"""Typed access to the values of a YAML mapping; what does not fit becomes a problem."""

from collections.abc import Iterable, Mapping

from datacrumbs_utils.discovery import templates, yaml_nodes
from datacrumbs_utils.discovery.problems import Position, Problems, nearest

TRUE_WORDS = frozenset({"true", "yes", "on", "1"})
FALSE_WORDS = frozenset({"false", "no", "off", "0"})
NULL_WORDS = frozenset({"", "~", "null", "Null", "NULL"})


class Values:
    """The values of one mapping, by key.

    Attributes:
        position: Where the mapping begins.
        variables: Values for ``@NAME@``.
    """

    def __init__(
        self, mapping: yaml_nodes.Mapping, variables: Mapping[str, str], problems: Problems
    ) -> None:
        self.position = mapping.position
        self.variables = variables
        self._problems = problems
        self._by_key = {key.text: (key, value) for key, value in mapping.entries}

    def __contains__(self, key: str) -> bool:
        return self.node(key) is not None

    def given_keys(self) -> tuple[yaml_nodes.Scalar, ...]:
        """Return the keys in the order of the file."""
        return tuple(key for key, _ in self._by_key.values())

    def unknown_keys(self, known: Iterable[str]) -> tuple[yaml_nodes.Scalar, ...]:
        """Return the keys that are not among ``known``."""
        known_keys = frozenset(known)
        return tuple(key for key in self.given_keys() if key.text not in known_keys)

    def node(self, key: str) -> yaml_nodes.Node | None:
        """Return the value as it is in the tree; None if it is missing or null."""
        node = self._by_key[key][1] if key in self._by_key else None
        if isinstance(node, yaml_nodes.Scalar) and node.is_plain and node.text in NULL_WORDS:
            return None
        return node

    def text_given(self, key: str) -> bool:
        """Return whether a value is given and not empty, understandable or not."""
        node = self.node(key)
        return node is not None and not (isinstance(node, yaml_nodes.Scalar) and not node.text)

    def place(self, key: str) -> Position:
        """Return where the value stands; where the mapping begins if it is missing."""
        node = self.node(key)
        return self.position if node is None else node.position

    def text(self, key: str) -> str | None:
        """Return a single value with its variables filled in; None if it is missing."""
        node = self.node(key)
        if node is None:
            return None
        if not isinstance(node, yaml_nodes.Scalar):
            self._problems.error(node.position, f"{key} must be a single value")
            return None
        return self.filled(node)

    def filled(self, scalar: yaml_nodes.Scalar) -> str | None:
        """Fill in a value's variables; None and a problem for each that has no value."""
        result = templates.fill(scalar.text, self.variables)
        for name, offset in result.missing:
            column = scalar.position.column + offset + (0 if scalar.is_plain else 1)
            self._problems.error(
                Position(scalar.position.line, column),
                f"variable @{name}@ has no value{nearest(name, self.variables)}; "
                f"give it with --define {name}=...",
            )
        if "\0" in result.text or "\n" in result.text.strip("\n"):
            self._problems.error(scalar.position, "a value must be one line without zero bytes")
            return None
        return None if result.missing else result.text.strip("\n")

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of values; a single value counts as a list of one."""
        node = self.node(key)
        if node is None:
            return ()
        items = node.items if isinstance(node, yaml_nodes.Sequence) else (node,)
        found = []
        for item in items:
            if not isinstance(item, yaml_nodes.Scalar):
                self._problems.error(item.position, f"{key} must be a list of single values")
            elif (text := self.filled(item)) is not None:
                found.append(text)
        return tuple(found)

    def flag(self, key: str, *, default: bool) -> bool:
        """Return a truth value."""
        text = self.text(key)
        if text is None:
            return default
        if text.lower() in TRUE_WORDS:
            return True
        if text.lower() not in FALSE_WORDS:
            self._problems.error(self.place(key), f"{key} must be true or false, not {text!r}")
        return False

    def number(self, key: str) -> int | None:
        """Return a whole number, decimal or hexadecimal; None if it is missing."""
        text = self.text(key)
        if text is None:
            return None
        try:
            return int(text, 0)
        except ValueError:
            self._problems.error(self.place(key), f"{key} must be a whole number, not {text!r}")
            return None

    def choice(self, key: str, known: Iterable[str]) -> str | None:
        """Return one of the known words, whatever its case; None if it is missing or unknown."""
        text = self.text(key)
        if text is None:
            return None
        words = tuple(known)
        if text.lower() in words:
            return text.lower()
        self._problems.error(
            self.place(key),
            f"unknown {key} {text!r}{nearest(text, words)}, known are {', '.join(words)}",
        )
        return None
