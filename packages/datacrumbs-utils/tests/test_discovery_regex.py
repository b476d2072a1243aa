"""Regular expressions as existing host configurations write them."""

import pytest

from datacrumbs_utils.discovery.regex import RegexError, compile_regex


@pytest.mark.parametrize(
    ("source", "matching", "other"),
    [
        ("^iomap(?!.*cold).*", ["iomap_dio_rw", "iomap"], ["iomap_x_cold", "xiomap"]),
        ("(?!.*_)(?!.*cold).*", ["fopen", ""], ["f_open", "cold", "acold"]),
        ("H5A(?!C).*", ["H5Aopen", "h5awrite"], ["H5AC_create", "XH5Aopen"]),
        ("PMPI.*", ["PMPI_Init", "pmpi_init_"], ["MPI_Init"]),
        ("bio.*", ["bio_alloc", "BIO"], ["submit_bio"]),
        ("^(read|write)(@@?|$).*", ["read", "write"], ["reads", "pread"]),
        ("[[:alpha:]_]+", ["a_b"], ["a1"]),
        ("[^[:digit:]]+", ["ab"], ["a1"]),
        (r"a\/b", ["a/b"], ["a\\/b"]),
        (r"\x61\u0062", ["ab"], ["x61"]),
        (r"(?<first>a)\k<first>", ["aa"], ["ab"]),
        ("a$|b", ["a", "b"], ["a\n", "ab"]),
        ("[[a]+", ["[a["], ["b"]),
        ("a{2,3}?", ["aa", "aaa"], ["a"]),
        ("[]|x", ["x"], [""]),
        ("[^]", ["x", "\n"], [""]),
    ],
)
def test_expressions_match_as_in_ecmascript(
    source: str, matching: list[str], other: list[str]
) -> None:
    regex = compile_regex(source)
    assert [text for text in matching if not regex.matches(text)] == []
    assert [text for text in other if regex.matches(text)] == []


@pytest.mark.parametrize("source", ["([", "a)", "(?", "a\\", "*a", "[[:nope:]]", "(?<!a", "a{3,1}"])
def test_a_broken_expression_is_an_error_that_quotes_it(source: str) -> None:
    with pytest.raises(RegexError, match="regex"):
        compile_regex(source)


@pytest.mark.parametrize(
    ("source", "matches"),
    [
        ("^sys_(openat|read)$", True),
        ("openat", True),
        ("sys_.*", True),
        ("__x64_sys_openat", True),
        ("SYS_OPENAT", True),
        ("(?!.*_)(?!.*cold).*", True),
        ("(?!sys_openat$).*", False),
        ("sys_(?!open).*", False),
        ("(?!open).*", False),
        ("^sys_close$", False),
    ],
)
def test_system_calls_match_with_and_without_prefix(source: str, matches: bool) -> None:
    assert compile_regex(source).matches_syscall("openat") is matches


@pytest.mark.parametrize(
    ("source", "matches"),
    [
        ("read", True),
        ("read:0x114980", True),
        ("read(:0x.*)?", True),
        ("read:.*", True),
        ("read@@.*", True),
        ("(?!read$).*", False),
        ("rea", False),
    ],
)
def test_symbols_match_plainly_and_as_older_files_wrote_them(source: str, matches: bool) -> None:
    assert compile_regex(source).matches_symbol("read", 0x114980) is matches


def test_capital_letters_matter_where_an_entry_says_so() -> None:
    regex = compile_regex("H5F[a-z].*", match_case=True)
    assert regex.matches("H5Fopen")
    assert not regex.matches("H5FD_open")
    assert compile_regex("H5F[a-z].*").matches("H5FD_open")
