"""One entry of ``capture_probes``: what it may say, and what that means."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from datacrumbs_runtime.schema.probe_document import MODES
from datacrumbs_runtime.schema.probe_file import Argument, ProbeType
from datacrumbs_utils.discovery import argument_lists
from datacrumbs_utils.discovery.problems import Position, Problems, nearest
from datacrumbs_utils.discovery.regex import Regex, RegexError, compile_regex
from datacrumbs_utils.discovery.values import Values

PROBES = {
    "syscalls": ProbeType.SYSCALLS,
    "kprobe": ProbeType.KPROBE,
    "uprobe": ProbeType.UPROBE,
    "usdt": ProbeType.USDT,
    "tracepoint": ProbeType.TRACEPOINT,
    "custom": ProbeType.CUSTOM,
}
TYPES = ("header", "binary", "ksym", "usdt", "btf", "custom")
# Which sources of candidates a probe can take; the first one is what a missing `type` means.
# A kprobe has no such default: its sources give very different lists.
TYPES_OF_PROBE = {
    ProbeType.SYSCALLS: ("btf", "header", "ksym"),
    ProbeType.KPROBE: ("header", "binary", "ksym", "btf"),
    ProbeType.UPROBE: ("binary", "header"),
    ProbeType.USDT: ("usdt",),
    ProbeType.TRACEPOINT: ("btf",),
    ProbeType.CUSTOM: ("custom",),
}
COMMON_KEYS = (
    "name",
    "category",
    "probe",
    "type",
    "regex",
    "functions",
    "exclude",
    "match_case",
    "enable_explorer",
    "optional",
    "mode",
    "arguments",
    "function_arguments",
    "function_returns",
)
KEYS_OF_TYPE = {
    "header": ("file",),
    "binary": ("file", "include_offsets"),
    "ksym": (),
    "usdt": ("binary_path", "provider"),
    "btf": (),
    "custom": ("file", "probes", "start_event_id", "process_header", "event_type"),
}
EXTRA_KEYS = {
    (ProbeType.UPROBE, "header"): ("binary_path", "include_offsets"),
    (ProbeType.UPROBE, "binary"): ("headers",),
    (ProbeType.TRACEPOINT, "btf"): ("spans",),
}
ALL_KEYS = tuple(
    dict.fromkeys(
        COMMON_KEYS
        + tuple(key for keys in KEYS_OF_TYPE.values() for key in keys)
        + tuple(key for keys in EXTRA_KEYS.values() for key in keys)
    )
)
MAX_NAME_CHARACTERS = 128


@dataclass(frozen=True, slots=True)
class Entry:
    """A group of functions that are found and probed in the same way.

    Attributes:
        name: Its name.
        category: The trace category.
        probe: How its functions are probed.
        type: Where candidates come from: header, binary, ksym, usdt, btf, custom.
        where: The file that it stands in, for messages.
        position: The place in that file.
        places: The places of its values by key.
        regex: Which candidates are meant; None: all.
        functions: Names that are meant, instead of a regex; empty: see ``regex``.
        exclude: Which of them are not.
        file: Header, binary or BPF source; ``module:``, ``spack:``, ``soname:`` unresolved.
        include_offsets: Whether function names carry the symbol's value.
        binary_path: The ELF file, where ``file`` is something else.
        provider: USDT provider.
        headers: C headers with prototypes, for binaries without debugging information.
        function_arguments: Arguments that win over what is found, by function.
        function_returns: Types of results that win over what is found, by function.
        takes_arguments: Whether arguments are captured at all.
        uses_spans: Whether begin and end tracepoints become one call.
        mode: ``trace``, ``profile``, or None for the mode of the run.
        is_optional: Whether it may be absent from this machine.
        custom_probes: JSON list of a custom probe's functions.
    """

    name: str
    category: str
    probe: ProbeType
    type: str
    where: str
    position: Position
    places: Mapping[str, Position] = field(default_factory=dict)
    regex: Regex | None = None
    functions: tuple[str, ...] = ()
    exclude: tuple[Regex, ...] = ()
    file: str | None = None
    include_offsets: bool = True
    binary_path: str | None = None
    provider: str | None = None
    headers: tuple[str, ...] = ()
    function_arguments: Mapping[str, tuple[Argument, ...]] = field(default_factory=dict)
    function_returns: Mapping[str, str] = field(default_factory=dict)
    takes_arguments: bool = True
    uses_spans: bool = True
    mode: str | None = None
    is_optional: bool = False
    custom_probes: str | None = None

    def place(self, key: str) -> Position:
        """Return where the value of a key stands; where the entry begins if it has none."""
        return self.places.get(key, self.position)


def parse(values: Values, problems: Problems) -> Entry | None:
    """Understand one entry.

    Args:
        values: The entry's mapping.
        problems: Where everything that is wrong with it is noted.

    Returns:
        The entry, or None if it cannot be used (or asks not to be).
    """
    if not values.flag("enable_explorer", default=True):
        return None
    name = _name(values, problems)
    probe_word = values.choice("probe", PROBES)
    if "probe" not in values:
        problems.error(values.position, f"probe is missing, known are {', '.join(PROBES)}")
    type_word = values.choice("type", TYPES)
    for key in values.unknown_keys(ALL_KEYS):
        problems.error(key.position, f"unknown key {key.text}{nearest(key.text, ALL_KEYS)}")
    regex = _regex(values, problems)
    exclude = tuple(_regexes(values, "exclude", problems))
    overrides = argument_lists.function_arguments(values, problems)
    mode = values.choice("mode", MODES)
    if probe_word is None:
        return None
    probe = PROBES[probe_word]
    type_word = _type(values, probe_word, type_word, problems)
    if type_word is None:
        return None
    complete = _check_keys(values, probe, probe_word, type_word, problems)
    entry = Entry(
        name=name or "",
        category=values.text("category") or name or "",
        probe=probe,
        type=type_word,
        where=problems.where,
        position=values.position,
        places={key.text: values.place(key.text) for key in values.given_keys()},
        regex=regex,
        functions=values.texts("functions"),
        exclude=exclude,
        file=values.text("file"),
        include_offsets=values.flag("include_offsets", default=True),
        binary_path=values.text("binary_path"),
        provider=values.text("provider"),
        headers=values.texts("headers"),
        function_arguments=overrides,
        function_returns=argument_lists.function_returns(values, problems),
        takes_arguments=values.flag("arguments", default=True),
        uses_spans=values.flag("spans", default=True),
        mode=mode,
        is_optional=values.flag("optional", default=False),
        custom_probes=values.text("probes"),
    )
    # With mistakes elsewhere in it, it can still be found out whether its file is there and its
    # expression matches, so that these are told at the same time.
    return entry if complete and _is_filled(values, entry) else None


def _name(values: Values, problems: Problems) -> str | None:
    name = values.text("name")
    if name is None and "name" not in values:
        problems.error(values.position, "name is missing")
    for key in ("name", "category"):
        text = values.text(key)
        if text is not None and (
            not text.isprintable() or not text or len(text) > MAX_NAME_CHARACTERS
        ):
            problems.error(
                values.place(key),
                f"{key} must be 1 to {MAX_NAME_CHARACTERS} printable characters",
            )
    return name


def _type(values: Values, probe_word: str, type_word: str | None, problems: Problems) -> str | None:
    probe = PROBES[probe_word]
    possible = TYPES_OF_PROBE[probe]
    if type_word is None:
        if "type" in values:
            return None
        if probe is ProbeType.KPROBE:
            problems.error(values.position, f"type is missing, one of {', '.join(possible)}")
            return None
        return possible[0]
    if type_word not in possible:
        problems.error(
            values.place("type"),
            f"type {type_word} is impossible for probe {probe_word}, "
            f"possible: {', '.join(possible)}",
        )
        return None
    return type_word


def _check_keys(
    values: Values, probe: ProbeType, probe_word: str, type_word: str, problems: Problems
) -> bool:
    """Note keys that are missing or mean nothing; return whether none is missing."""
    required = {
        "header": ("file",),
        "binary": ("file",),
        "ksym": ("regex",),
        "usdt": ("binary_path", "provider"),
        "btf": (),
        "custom": ("file", "probes"),
    }[type_word]
    if (probe, type_word) == (ProbeType.UPROBE, "header"):
        required = ("file", "binary_path")
    missing = [
        key
        for key in required
        if key not in values and not (key == "regex" and "functions" in values)
    ]
    for key in missing:
        problems.error(values.position, f"{key} is missing, {probe_word}/{type_word} needs it")
    meaningful = {*COMMON_KEYS, *KEYS_OF_TYPE[type_word], *EXTRA_KEYS.get((probe, type_word), ())}
    for given in values.given_keys():
        if given.text in ALL_KEYS and given.text not in meaningful:
            problems.warning(
                given.position, f"{given.text} means nothing for {probe_word}/{type_word}"
            )
    if "regex" in values and "functions" in values:
        problems.error(values.place("functions"), "give either regex or functions, not both")
    return not missing


def _is_filled(values: Values, entry: Entry) -> bool:
    """Return whether what says where to look, and for what, could be understood."""
    found = {"file": entry.file, "binary_path": entry.binary_path, "regex": entry.regex}
    return all(value is not None or not values.text_given(key) for key, value in found.items())


def _regex(values: Values, problems: Problems) -> Regex | None:
    text = values.text("regex")
    if not text:
        return None
    try:
        return compile_regex(text, match_case=values.flag("match_case", default=False))
    except RegexError as error:
        problems.error(values.place("regex"), str(error))
        return None


def _regexes(values: Values, key: str, problems: Problems) -> list[Regex]:
    found = []
    match_case = values.flag("match_case", default=False)
    for text in values.texts(key):
        try:
            found.append(compile_regex(text, match_case=match_case))
        except RegexError as error:
            problems.error(values.place(key), str(error))
    return found
