"""JSON objects of a probe file's categories; what is None, empty or the default is left out."""

from typing import Any

from datacrumbs_runtime.schema.probe_file import Argument, Category


def argument_document(argument: Argument) -> dict[str, Any]:
    """Return the JSON object of a captured argument."""
    document: dict[str, Any] = {
        "index": argument.index,
        "num_bytes": argument.num_bytes,
        "is_pointer": argument.is_pointer,
        "label": argument.label,
        "c_type": argument.c_type,
    }
    if argument.path:
        document["path"] = argument.path
    return document


def category_document(category: Category) -> dict[str, Any]:
    """Return the JSON object of a category."""
    document: dict[str, Any] = {
        "type": int(category.type),
        "name": category.name,
        "functions": list(category.functions),
    }
    if category.arguments:
        document["function_arguments"] = {
            name: [argument_document(argument) for argument in arguments]
            for name, arguments in category.arguments.items()
        }
    if category.returns:
        document["function_returns"] = dict(category.returns)
    if category.binary_path is not None or category.include_offsets:
        document["include_offsets"] = category.include_offsets
    if category.placed_offsets:
        document["placed_offsets"] = dict(category.placed_offsets)
    if category.usdt_points:
        document["usdt_points"] = {
            name: [
                {"offset": at.offset, "semaphore": at.semaphore, "arguments": at.arguments}
                for at in points
            ]
            for name, points in category.usdt_points.items()
        }
    if category.spans:
        document["spans"] = {
            name: {
                "begin": span.begin,
                "end": span.end,
                "begin_key": span.begin_key,
                "end_key": span.end_key,
            }
            for name, span in category.spans.items()
        }
    for key in ("binary_path", "build_id", "provider", "mode", "plugin"):
        value = getattr(category, key)
        if value is not None:
            document[key] = value
    return document
