"""YAML trees: positions, aliases, merge keys, and the bounds of what is read."""

import pytest

from datacrumbs_utils.discovery import yaml_nodes
from datacrumbs_utils.discovery.problems import Position, Problems
from datacrumbs_utils.discovery.yaml_nodes import Mapping, Scalar, Sequence, compose


def composed(text: str) -> tuple[yaml_nodes.Node | None, list[str]]:
    problems = Problems("f.yaml")
    tree = compose(text, problems)
    return tree, [str(problem) for problem in problems.found]


def test_scalars_know_their_line_and_column() -> None:
    tree, problems = composed("a: 1\nlist:\n  - x\n  - 'true'\n")
    assert problems == []
    assert isinstance(tree, Mapping)
    (key, value), (_, items) = tree.entries
    assert (key.text, key.position) == ("a", Position(1, 1))
    assert value == Scalar("1", True, Position(1, 4))
    assert isinstance(items, Sequence)
    assert items.items[1] == Scalar("true", False, Position(4, 5))


def test_aliases_are_the_value_they_stand_for() -> None:
    tree, problems = composed("a: &x [1, 2]\nb: *x\n")
    assert problems == []
    assert isinstance(tree, Mapping)
    assert tree.entries[0][1] == tree.entries[1][1]


def test_merge_keys_bring_values_that_are_not_given() -> None:
    tree, problems = composed("base: &b {x: 1, y: 2}\nown:\n  <<: *b\n  y: 3\n")
    assert problems == []
    assert isinstance(tree, Mapping)
    own = tree.entries[1][1]
    assert isinstance(own, Mapping)
    values = {key.text: value.text for key, value in own.entries if isinstance(value, Scalar)}
    assert values == {"x": "1", "y": "3"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1\n", "f.yaml:2:1: not valid YAML"),
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1: a is given twice, first in line 1"),
        ("a: *missing\n", "f.yaml:1:4: *missing refers to nothing before it"),
        ("? [1]\n: 2\n", "f.yaml:1:3: a key must be a single word"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2:1: only one YAML document is expected"),
        ("a: \t- x\n- y", "not valid YAML"),
        ("<<: 5\n", "f.yaml:1:1: << takes a mapping"),
        ("a: b: c\n", "f.yaml:1:5: not valid YAML"),
        ("a: \x01\n", "not valid YAML"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, expected: str) -> None:
    _, problems = composed(text)
    assert len(problems) == 1
    assert expected in problems[0]


def test_billion_laughs_are_refused_and_not_expanded() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    tree, problems = composed("\n".join(lines))
    assert tree is None
    assert "more than 50000 values" in problems[0]


def test_an_alias_to_itself_is_refused() -> None:
    tree, problems = composed("a: &a [*a]\n")
    assert tree is None
    assert "*a refers to nothing before it" in problems[0]


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_deep_nesting_is_refused_without_recursion(opening: str) -> None:
    _, problems = composed(opening * 5000)
    assert len(problems) == 1
    assert "nested deeper than 32" in problems[0] or "not valid YAML" in problems[0]


def test_a_file_of_many_megabytes_is_refused_unread() -> None:
    _, problems = composed("a: " + "x" * (yaml_nodes.MAX_FILE_BYTES + 1))
    assert problems == ["f.yaml:1:1: larger than 1024 KiB"]
