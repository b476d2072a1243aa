"""Lines of the log have an end, whatever names users give to things."""

import logging

from datacrumbs_runtime.service_log import MAX_LINE_CHARS, _LowerCaseLevel, _OneLine


def test_long_line_keeps_its_beginning_and_its_end() -> None:
    record = logging.makeLogRecord(
        {"msg": "%s: %s: %s", "args": ("libc", "f" * 20_000, "no such function"), "levelno": 30}
    )
    for formatter in (_OneLine("%(message)s"), _LowerCaseLevel("datacrumbs: %(message)s")):
        line = formatter.format(record)
        assert len(line) <= MAX_LINE_CHARS
        assert "libc: fff" in line
        assert line.endswith("fff: no such function")


def test_line_of_usual_length_is_whole() -> None:
    record = logging.makeLogRecord({"msg": "x" * MAX_LINE_CHARS})
    assert _OneLine("%(message)s").format(record) == "x" * MAX_LINE_CHARS
