"""Arguments and results that a configuration writes out itself, for functions by name.

A list has one declaration per parameter (``const char *path``), ``_`` for one that is left out, or
mappings with the keys of a probe file where a declaration cannot say it.
"""

from datacrumbs_runtime.schema.probe_file import MAX_ARGUMENTS, Argument
from datacrumbs_utils.discovery import prototypes, yaml_nodes
from datacrumbs_utils.discovery.problems import Problems, nearest
from datacrumbs_utils.discovery.values import Values

ARGUMENT_KEYS = ("index", "num_bytes", "is_pointer", "label", "c_type", "path")


def function_arguments(values: Values, problems: Problems) -> dict[str, tuple[Argument, ...]]:
    """Return the arguments that an entry writes out, by function; problems are noted."""
    node = values.node("function_arguments")
    if node is None:
        return {}
    if not isinstance(node, yaml_nodes.Mapping):
        problems.error(node.position, "function_arguments must map functions to argument lists")
        return {}
    result = {}
    for function, arguments in node.entries:
        if not isinstance(arguments, yaml_nodes.Sequence):
            problems.error(arguments.position, f"the arguments of {function.text} must be a list")
            continue
        result[function.text] = _arguments(arguments, values, problems)
    return result


def function_returns(values: Values, problems: Problems) -> dict[str, str]:
    """Return the result types that an entry writes out, by function; problems are noted."""
    node = values.node("function_returns")
    if node is None:
        return {}
    if not isinstance(node, yaml_nodes.Mapping):
        problems.error(node.position, "function_returns must map functions to C types")
        return {}
    result = {}
    for function, c_type in node.entries:
        if isinstance(c_type, yaml_nodes.Scalar) and c_type.text.strip():
            result[function.text] = prototypes.without_qualifiers(c_type.text)
        else:
            problems.error(c_type.position, f"the result of {function.text} must be a C type")
    return result


def _arguments(
    node: yaml_nodes.Sequence, values: Values, problems: Problems
) -> tuple[Argument, ...]:
    found: list[Argument] = []
    index = 0
    for item in node.items:
        if isinstance(item, yaml_nodes.Scalar):
            text = item.text.strip()
            if text in prototypes.SKIPPED:
                index += 1
                continue
            try:
                argument = prototypes.parse_argument(text, index)
            except prototypes.PrototypeError as error:
                problems.error(item.position, str(error))
                continue
            if argument is None:
                continue
        elif isinstance(item, yaml_nodes.Mapping):
            argument = _argument(Values(item, values.variables, problems), index, problems)
            if argument is None:
                continue
        else:
            problems.error(item.position, "an argument is a declaration or a mapping")
            continue
        if argument.index < MAX_ARGUMENTS or argument.path:
            found.append(argument)
        index = argument.index + 1
    return prototypes.overridden(found)


def _argument(values: Values, index: int, problems: Problems) -> Argument | None:
    for key in values.unknown_keys(ARGUMENT_KEYS):
        problems.error(key.position, f"unknown key {key.text}{nearest(key.text, ARGUMENT_KEYS)}")
    label, c_type = values.text("label"), values.text("c_type")
    if label is None or c_type is None:
        problems.error(values.position, "an argument needs label and c_type")
        return None
    is_pointer = values.flag("is_pointer", default="*" in c_type)
    num_bytes = values.number("num_bytes")
    if num_bytes is None:
        num_bytes = prototypes.POINTER_BYTES if is_pointer else prototypes.type_bytes(c_type)
    if num_bytes is None:
        problems.error(values.position, f"num_bytes is missing: the size of {c_type} is not known")
        return None
    if num_bytes not in (1, 2, 4, 8):
        problems.error(values.place("num_bytes"), "num_bytes must be 1, 2, 4 or 8")
        return None
    given = values.number("index")
    return Argument(
        index if given is None else given,
        num_bytes,
        is_pointer,
        label,
        c_type,
        values.text("path") or "",
    )
