"""Tracepoints of the running kernel as functions to record: spans, instants and their fields."""

from dataclasses import dataclass
from functools import cached_property

from datacrumbs_runtime.schema.probe_file import Argument, Span
from datacrumbs_utils.discovery import btf, member_paths, spans
from datacrumbs_utils.discovery.btf_types import KIND_FUNC, KIND_TYPEDEF, TypeTable
from datacrumbs_utils.discovery.signatures import Kind, captured_name
from datacrumbs_utils.discovery.spans import At, Field, Recipe

# What one record of a call has room for.
MAX_VALUES = 8
END = "end"
RESULT_LABEL = "ret"
_PREFIX = "btf_trace_"
_ENTER, _EXIT = "_enter", "_exit"
# What kernel developers call the result of what a tracepoint X_exit ends.
_RESULTS = frozenset({"ret", "error", "err", "rc", "retval", "result", "status"})
# System calls have a probe type of their own; the other two come the other way around.
_NO_SPANS = frozenset({"sys", "user", "cpuhp"})
# Functions that every tracepoint has, with the names of its arguments.
_NAMED_TWINS = ("__traceiter_", "__probestub_")


@dataclass(frozen=True, slots=True)
class Tracepoint:
    """A tracepoint of the running kernel.

    Attributes:
        name: Its name without group.
        table: The types that its arguments belong to.
        parameters: Label and type id of each argument.
    """

    name: str
    table: TypeTable
    parameters: tuple[tuple[str, int], ...]


class KernelTracepoints:
    """All tracepoints of the running kernel and its modules, by name."""

    @cached_property
    def by_name(self) -> dict[str, Tracepoint]:
        """Every tracepoint.

        Raises:
            BtfError: The kernel does not describe its types.
        """
        found: dict[str, Tracepoint] = {}
        for table in btf.tables():
            functions = table.names(KIND_FUNC)
            for typedef, type_id in table.names(KIND_TYPEDEF).items():
                if not typedef.startswith(_PREFIX):
                    continue
                name = typedef[len(_PREFIX) :]
                # The first parameter (void *__data) is the tracer's own.
                _, parameters = table.prototype(table.target(table.target(type_id)))
                labels = [label for label, _ in parameters]
                for twin in _NAMED_TWINS:
                    if not any(labels) and twin + name in functions:
                        _, named = table.prototype(table.target(functions[twin + name]))
                        labels = [label for label, _ in named]
                found[name] = Tracepoint(
                    name,
                    table,
                    tuple(
                        (label or f"arg{index - 1}", parameter)
                        for index, (label, (_, parameter)) in enumerate(
                            zip(labels, parameters, strict=False)
                        )
                        if index
                    ),
                )
        return found

    @cached_property
    def recipes(self) -> dict[str, Recipe]:
        """The spans that this kernel can record, by name."""
        found: dict[str, Recipe] = {}
        for recipe in (*spans.RECIPES, *map(self._pair, self.by_name)):
            if recipe is not None and recipe.name not in found and self._span(recipe) is not None:
                found[recipe.name] = recipe
        return found

    def _pair(self, name: str) -> Recipe | None:
        """Return the span of a tracepoint ``X_enter`` if there is ``X_exit``; None for others."""
        stem = name.removesuffix(_ENTER)
        end = self.by_name.get(stem + _EXIT)
        if stem == name or end is None or stem in _NO_SPANS:
            return None
        has_result = bool(end.parameters) and end.parameters[-1][0] in _RESULTS
        result = (At(index=-1),) if has_result else ()
        return Recipe(stem, name, stem + _EXIT, result=result)

    def span(self, name: str) -> Span:
        """Return the begin, the end and the keys of a span that ``recipes`` lists."""
        span = self._span(self.recipes[name])
        if span is None:
            raise KeyError(name)
        return span

    def _span(self, recipe: Recipe) -> Span | None:
        begin, end = self.by_name.get(recipe.begin), self.by_name.get(recipe.end)
        if begin is None or end is None:
            return None
        begin_key = _key(begin, recipe.key)
        end_key = _key(end, recipe.end_key or recipe.key)
        if begin_key is None or end_key is None:
            return None
        return Span(recipe.begin, recipe.end, begin_key, end_key)

    def arguments(self, name: str) -> tuple[Argument, ...]:
        """Return what is recorded of a span or of a single tracepoint."""
        recipe = self.recipes.get(name)
        if recipe is None:
            return _fields(self.by_name[name])[:MAX_VALUES]
        end = self.by_name[recipe.end]
        found = list(_fields(self.by_name[recipe.begin]))
        last = []
        for at in recipe.result:
            result = _value(end, at, RESULT_LABEL, None)
            if result is not None:
                last.append(result)
                break
        for label, at, c_type in recipe.at_end:
            value = _value(end, at, label, c_type)
            if value is not None:
                last.append(value)
        # The result is kept beside the values and takes none of their room.
        room = MAX_VALUES - sum(value.label != RESULT_LABEL for value in last)
        return (*found[:room], *last)

    def signature(self, name: str) -> str:
        """Return a span or tracepoint as C would declare it, for people."""
        recipe = self.recipes.get(name)
        tracepoint = self.by_name[recipe.begin if recipe else name]
        parts = [
            f"{tracepoint.table.c_type(type_id).name} {label}".replace("* ", "*")
            for label, type_id in tracepoint.parameters
        ]
        text = f"{tracepoint.name}({', '.join(parts) or 'void'})"
        return f"{text} -> {recipe.end}" if recipe else text


def _position(tracepoint: Tracepoint, at: At) -> int | None:
    count = len(tracepoint.parameters)
    if not at.structure:
        index = at.index if at.index >= 0 else count + at.index
        return index if 0 <= index < count else None
    for index, (_, type_id) in enumerate(tracepoint.parameters):
        if member_paths.structure_name(tracepoint.table, type_id) == at.structure:
            return index
    return None


def _key(tracepoint: Tracepoint, at: At | None) -> str | None:
    if at is None:
        return spans.THREAD
    index = _position(tracepoint, at)
    return None if index is None else f"{index}{at.path}"


def _value(tracepoint: Tracepoint, at: At, label: str, c_type: str | None) -> Argument | None:
    index = _position(tracepoint, at)
    if index is None:
        return None
    found = member_paths.follow(tracepoint.table, tracepoint.parameters[index][1], at.path)
    if found is None or (label == RESULT_LABEL and found.kind is Kind.POINTER):
        return None
    return Argument(
        index,
        found.num_bytes,
        found.kind is Kind.POINTER,
        label,
        c_type or captured_name(found),
        END + at.path,
    )


def _fields(tracepoint: Tracepoint) -> tuple[Argument, ...]:
    """What is shown of a tracepoint's arguments: plain values, and fields of known structures."""
    found: dict[str, Argument] = {}
    for index, (label, type_id) in enumerate(tracepoint.parameters):
        structure = member_paths.structure_name(tracepoint.table, type_id)
        if structure in spans.SILENT:
            continue
        fields = spans.FIELDS.get(structure or "", (Field(label, ("",)),))
        for field in fields:
            argument = _field(tracepoint, index, type_id, field)
            if argument is not None:
                found.setdefault(argument.label, argument)
    return tuple(found.values())


def _field(tracepoint: Tracepoint, index: int, type_id: int, field: Field) -> Argument | None:
    for path in field.paths:
        c_type = member_paths.follow(tracepoint.table, type_id, path)
        if c_type is not None:
            return Argument(
                index,
                c_type.num_bytes,
                c_type.kind is Kind.POINTER,
                field.label,
                (field.c_type or captured_name(c_type)).removeprefix("const "),
                path,
            )
    return None
