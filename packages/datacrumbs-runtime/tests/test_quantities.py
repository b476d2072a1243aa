"""Sizes, times and counts as people write and read them."""

import pytest

from datacrumbs_runtime.errors import UsageError
from datacrumbs_runtime.schema import quantities

SIZES = {
    "0": 0,
    "4096": 4096,
    "256K": 256 << 10,
    "256k": 256 << 10,
    "16MiB": 16 << 20,
    "1.5G": 3 << 29,
    "2 MB": 2 << 20,
}
TIMES = {
    "0": 0,
    "500": 500,
    "500ns": 500,
    "10us": 10_000,
    "10µs": 10_000,
    "2.5ms": 2_500_000,
    "1s": 1_000_000_000,
    "2m": 120_000_000_000,
    "1h": 3_600_000_000_000,
}


@pytest.mark.parametrize("text", SIZES)
def test_size(text: str) -> None:
    assert quantities.size_bytes(text, "--x") == SIZES[text]


@pytest.mark.parametrize("text", ["", "12q", "K", "-1", "1e3", "1 2"])
def test_what_is_no_size_is_named(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--x: .* is not a size$"):
        quantities.size_bytes(text, "--x")


@pytest.mark.parametrize("text", TIMES)
def test_time(text: str) -> None:
    assert quantities.time_ns(text, "--x", "ns") == TIMES[text]


def test_time_without_unit_takes_the_default_one() -> None:
    assert quantities.time_ns("1.5", "--x", "s") == 1_500_000_000


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 year"])
def test_what_is_no_time_is_named(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--x: .* is not a time$"):
        quantities.time_ns(text, "--x", "s")


SHOWN_TIMES = {
    0: "0ns",
    999: "999ns",
    1000: "1.00us",
    12_345: "12.3us",
    999_499: "999us",
    999_500: "1.00ms",
    1_500_000_000: "1.50s",
    999_500_000_000: "1000s",
    36_000_000_000_000: "10.0h",
}


@pytest.mark.parametrize("duration_ns", SHOWN_TIMES)
def test_shown_time(duration_ns: int) -> None:
    shown = quantities.shown_time(duration_ns)
    assert shown == SHOWN_TIMES[duration_ns]
    assert len(shown) <= 6


def test_shown_sizes_counts_and_rates_fit_their_columns() -> None:
    assert quantities.shown_bytes(1023) == "1023B"
    assert quantities.shown_bytes(1536) == "1.50KiB"
    assert quantities.shown_bytes(20 << 20) == "20.0MiB"
    assert quantities.shown_count(99_999) == "99999"
    assert quantities.shown_count(1_234_567) == "1.23M"
    assert quantities.shown_rate(1 << 20, 1_000_000_000) == "1.00"
    assert quantities.shown_rate(0, 5) == ""
    for size in (1, 10**3, 10**6, 10**9, 10**12, 10**15):
        assert len(quantities.shown_bytes(size)) <= 7
        assert len(quantities.shown_count(size)) <= 6
        assert len(quantities.shown_rate(size, 1_000_000)) <= 6
