"""Argument declarations as in C."""

import pytest

from datacrumbs_runtime.schema.probe_file import Argument
from datacrumbs_utils.discovery.prototypes import (
    PrototypeError,
    addresses_only,
    captured,
    overridden,
    parse_arguments,
)


@pytest.mark.parametrize(
    ("declaration", "expected"),
    [
        ("int fd", Argument(0, 4, False, "fd", "int")),
        ("const char *path", Argument(0, 8, True, "path", "const char *")),
        ("const char * restrict path", Argument(0, 8, True, "path", "const char restrict *")),
        ("char **argv", Argument(0, 8, True, "argv", "char **")),
        ("char *argv[]", Argument(0, 8, True, "argv", "char **")),
        ("unsigned long count", Argument(0, 8, False, "count", "unsigned long")),
        ("unsigned long", Argument(0, 8, False, "arg0", "unsigned long")),
        ("FILE *stream", Argument(0, 8, True, "stream", "FILE *")),
        ("FILE *", Argument(0, 8, True, "arg0", "FILE *")),
        ("int", Argument(0, 4, False, "arg0", "int")),
        ("struct stat *buf", Argument(0, 8, True, "buf", "struct stat *")),
        ("enum color c", Argument(0, 4, False, "c", "enum color")),
        ("mode_t mode", Argument(0, 4, False, "mode", "mode_t")),
        ("bool flag", Argument(0, 1, False, "flag", "bool")),
        ("int pair[2]", Argument(0, 8, True, "pair", "int *")),
    ],
)
def test_declarations_become_arguments(declaration: str, expected: Argument) -> None:
    assert parse_arguments([declaration]) == (expected,)


def test_registers_are_counted_without_floating_point() -> None:
    found = parse_arguments(["int a", "double x", "_", "float y", "size_t n", "..."])
    assert [(one.label, one.index) for one in found] == [("a", 0), ("n", 2)]


def test_more_than_six_arguments_are_cut() -> None:
    found = parse_arguments([f"int a{n}" for n in range(9)])
    assert [one.index for one in found] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("declaration", ["foo_t x", "int (*f)(int)", "5", "a,b", "struct stat s"])
def test_what_cannot_be_understood_is_an_error(declaration: str) -> None:
    with pytest.raises(PrototypeError):
        parse_arguments([declaration])


@pytest.mark.parametrize(
    ("function", "declaration", "c_type"),
    [
        ("fopen", "const char *path", "char *"),
        ("H5Fopen", "const char *filename", "char *"),
        ("write", "const char *buf", "void *"),
        ("fputs", "const char *s", "void *"),
        ("getcwd", "char *path", "void *"),
        ("send_it", "const char *data", "void *"),
        ("f", "const unsigned char *key", "unsigned char *"),
        ("f", "const void *p", "void *"),
        ("f", "const int n", "int"),
    ],
)
def test_only_names_are_texts_never_data(function: str, declaration: str, c_type: str) -> None:
    (argument,) = captured(function, parse_arguments([declaration]))
    assert argument.c_type == c_type


def test_an_override_makes_any_character_pointer_a_text() -> None:
    (argument,) = overridden(parse_arguments(["char *out"]))
    assert argument.c_type == "char *"


def test_kernel_strings_are_addresses() -> None:
    (argument,) = addresses_only(parse_arguments(["const char *name"]))
    assert argument.c_type == "void *"
