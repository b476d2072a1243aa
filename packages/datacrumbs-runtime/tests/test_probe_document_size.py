"""Small files that would take much memory are refused; the largest real ones are not."""

import gzip
import json

import pytest

from datacrumbs_runtime.errors import ProbeFileError
from datacrumbs_runtime.schema.probe_document import (
    document_from_probe_file,
    probe_file_from_document,
)
from datacrumbs_runtime.schema.probe_file import (
    DEFAULT_MAX_FUNCTIONS,
    MAX_ARGUMENTS,
    MAX_DOCUMENT_BYTES,
    Argument,
    Category,
    ProbeFile,
    ProbeType,
    Summary,
    document_from_bytes,
)


def filled(begin: bytes, part: bytes, end: bytes) -> bytes:
    """Return as many parts as a probe file may have bytes."""
    count = (MAX_DOCUMENT_BYTES - len(begin) - len(end)) // len(part)
    return begin + part * count + end


@pytest.mark.parametrize("part", [b"[],", b"{},", b'{"":""},', b"1,", b"1.5,", b'"text",'])
def test_document_that_is_small_only_as_text_is_refused(part: bytes) -> None:
    data = gzip.compress(filled(b'{"categories":[', part, b"0]}"), 1)
    with pytest.raises(ProbeFileError, match="more than 2000000 values"):
        document_from_bytes(data, "p.json.gz")


def test_largest_probe_file_is_read() -> None:
    arguments = tuple(
        Argument(index, 8, True, f"argument_{index}", "const struct something *")
        for index in range(MAX_ARGUMENTS)
    )
    names = tuple(f"function_number_{i}:{i:#x}" for i in range(DEFAULT_MAX_FUNCTIONS))
    category = Category(
        ProbeType.UPROBE,
        "library",
        names,
        arguments=dict.fromkeys(names, arguments),
        returns=dict.fromkeys(names, "long"),
        binary_path="/usr/lib/library.so",
        include_offsets=True,
        placed_offsets={name: number for number, name in enumerate(names)},
    )
    wanted = ProbeFile(Summary("/c.yaml", "/p.json.gz", "node1", "anna", "root"), (category,))
    data = gzip.compress(json.dumps(document_from_probe_file(wanted)).encode(), 1)
    assert probe_file_from_document(document_from_bytes(data, "p"), "p") == wanted
