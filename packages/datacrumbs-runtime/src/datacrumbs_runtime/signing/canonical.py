"""The bytes that are signed, written straight from the classes.

The same as ``canonical_bytes(document_from_probe_file(probe_file))`` in a third of the time: the
thousands of functions of a probe file capture a few dozen different arguments, so the text of each
is made once. Verifying does not use this: it looks at the document that was read.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from json.encoder import encode_basestring
from typing import Any

from datacrumbs_runtime.schema.category_document import argument_document, category_document
from datacrumbs_runtime.schema.probe_document import document_from_probe_file
from datacrumbs_runtime.schema.probe_file import Argument, Category, ProbeFile, canonical_bytes

# Stands for what is written separately. No text of a probe file has a NUL.
_ARGUMENTS = "\0arguments"
_CATEGORIES = "\0categories"

_encode = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode


def argument_texts(categories: Iterable[Category]) -> dict[int, str]:
    """Return the text of the captured arguments of each category, by the identity of these.

    This is most of the work and does not depend on who signs for whom, so it can be done early.
    """
    known: dict[int, str] = {}
    return {
        id(category.arguments): _arguments(category.arguments, known)
        for category in categories
        if category.arguments
    }


def canonical_bytes_of(probe_file: ProbeFile, texts: Mapping[int, str] | None = None) -> bytes:
    """Return the bytes of a probe file that are signed.

    Args:
        probe_file: The probe file.
        texts: What :func:`argument_texts` returned for its categories; None: made now.
    """
    outside = document_from_probe_file(replace(probe_file, categories=()))
    if texts is None:
        texts = argument_texts(probe_file.categories)
    categories = ",".join(_category(category, texts) for category in probe_file.categories)
    text = canonical_bytes({**outside, "categories": _CATEGORIES})
    return text.replace(_encode(_CATEGORIES).encode(), f"[{categories}]".encode(), 1)


def _category(category: Category, texts: Mapping[int, str]) -> str:
    document: dict[str, Any] = category_document(replace(category, arguments={}))
    if not category.arguments:
        return _encode(document)
    text = _encode({**document, "function_arguments": _ARGUMENTS})
    return text.replace(_encode(_ARGUMENTS), texts[id(category.arguments)], 1)


def _arguments(arguments: Mapping[str, tuple[Argument, ...]], known: dict[int, str]) -> str:
    entries = []
    for name in sorted(arguments):
        texts = []
        for argument in arguments[name]:
            # By identity: equal arguments are one object where they come from a document, and
            # looking at their values would take longer than it saves.
            text = known.get(id(argument))
            if text is None:
                text = known[id(argument)] = _encode(argument_document(argument))
            texts.append(text)
        entries.append(f"{encode_basestring(name)}:[{','.join(texts)}]")
    return "{" + ",".join(entries) + "}"
