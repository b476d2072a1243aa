"""YAML as a tree that remembers where everything stood, built within fixed bounds.

The usual loaders lose line and column, and follow aliases without end. This one keeps the former
and counts the latter: a file can be no larger than :data:`MAX_FILE_BYTES`, and its tree, with every
alias written out, no larger than :data:`MAX_NODES` nodes and no deeper than :data:`MAX_DEPTH`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import yaml

from datacrumbs_utils.discovery.problems import Position, Problems

MAX_FILE_BYTES = 1 << 20
MAX_NODES = 50_000
MAX_DEPTH = 32
MERGE_KEY = "<<"


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value.

    Attributes:
        text: The value as written, without quotes.
        is_plain: Whether it was written without quotes, so that ``true`` is a truth value.
        position: Where it begins.
    """

    text: str
    is_plain: bool
    position: Position


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    items: tuple["Node", ...]
    position: Position


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys and values in the order of the file, merge keys resolved."""

    entries: tuple[tuple[Scalar, "Node"], ...]
    position: Position


Node: TypeAlias = Scalar | Sequence | Mapping


class _Bound(Exception):  # noqa: N818 - not an error of its own, carried to compose()
    def __init__(self, message: str, position: Position) -> None:
        super().__init__(message)
        self.position = position


def compose(text: str, problems: Problems) -> Node | None:
    """Turn YAML text into a tree; None and a problem if it is not valid YAML.

    Args:
        text: The whole file.
        problems: Where a syntax error, a duplicate key or a tree that is too large is noted.
    """
    if len(text.encode(errors="replace")) > MAX_FILE_BYTES:
        problems.error(Position(1, 1), f"larger than {MAX_FILE_BYTES >> 10} KiB")
        return None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _Composer(yaml.parse(text, Loader=loader), problems).document()
    except _Bound as bound:
        problems.error(bound.position, str(bound))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = Position(mark.line + 1, mark.column + 1) if mark else Position(1, 1)
        what = ", ".join(part for part in (error.context, error.problem) if part)
        problems.error(position, f"not valid YAML: {what}")
    except UnicodeError as error:
        problems.error(Position(1, 1), f"not text: {error}")
    except yaml.YAMLError as error:
        problems.error(Position(1, 1), f"not valid YAML: {' '.join(str(error).split())}")
    return None


class _Composer:
    def __init__(self, events: Iterator[yaml.Event], problems: Problems) -> None:
        self._events = events
        self._problems = problems
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._node_count = 0

    def document(self) -> Node | None:
        node: Node | None = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise _Bound("only one YAML document is expected", _position(event))
                node = self._node(next(self._events), 1)
        return node

    def _count(self, nodes: int, position: Position) -> None:
        self._node_count += nodes
        if self._node_count > MAX_NODES:
            raise _Bound(f"more than {MAX_NODES} values with all aliases written out", position)

    def _node(self, event: yaml.Event, depth: int) -> Node:
        position = _position(event)
        if depth > MAX_DEPTH:
            raise _Bound(f"nested deeper than {MAX_DEPTH} levels", position)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise _Bound(f"*{event.anchor} refers to nothing before it", position)
            node, size = self._anchors[event.anchor]
            self._count(size, position)
            return node
        before = self._node_count
        self._count(1, position)
        if isinstance(event, yaml.ScalarEvent):
            node = Scalar(event.value, not event.style, position)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(position, depth)
        else:
            node = self._mapping(position, depth)
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self._anchors[anchor] = (node, self._node_count - before)
        return node

    def _sequence(self, position: Position, depth: int) -> Sequence:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return Sequence(tuple(items), position)

    def _mapping(self, position: Position, depth: int) -> Mapping:
        own: dict[str, tuple[Scalar, Node]] = {}
        merged: dict[str, tuple[Scalar, Node]] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            value = self._node(next(self._events), depth + 1)
            if not isinstance(key, Scalar):
                self._problems.error(key.position, "a key must be a single word")
            elif key.text == MERGE_KEY and key.is_plain:
                for source in value.items if isinstance(value, Sequence) else (value,):
                    if not isinstance(source, Mapping):
                        self._problems.error(key.position, "<< takes a mapping")
                        continue
                    for merged_key, merged_value in source.entries:
                        merged.setdefault(merged_key.text, (merged_key, merged_value))
            elif key.text in own:
                first = own[key.text][0].position
                self._problems.error(
                    key.position, f"{key.text} is given twice, first in line {first.line}"
                )
            else:
                own[key.text] = (key, value)
        return Mapping(tuple({**merged, **own}.values()), position)


def _position(event: yaml.Event) -> Position:
    mark = event.start_mark
    if mark is None:
        return Position(1, 1)
    return Position(mark.line + 1, mark.column + 1)
