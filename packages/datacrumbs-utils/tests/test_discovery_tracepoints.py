"""Tracepoints as functions: spans and fields, against the kernel's own description in tracefs."""

import re
from pathlib import Path

import pytest

from datacrumbs_runtime.schema.probe_file import Category
from datacrumbs_runtime.signing.tracepoint_paths import KNOWN_PATHS
from datacrumbs_utils.discovery import config, sets, spans
from datacrumbs_utils.discovery.select import select
from datacrumbs_utils.discovery.tracepoints import MAX_VALUES, KernelTracepoints

EVENTS = Path("/sys/kernel/tracing/events")


@pytest.fixture(scope="module")
def tracepoints() -> KernelTracepoints:
    return KernelTracepoints()


def selected(text: str) -> dict[str, Category]:
    found = select(config.parse(text, "test.yaml", {})).probe_file
    return {category.name: category for category in found.categories}


def entry(functions: str, more: str = "") -> str:
    return f"capture_probes: [{{name: t, probe: tracepoint, {functions}{more}}}]"


@pytest.mark.skipif(not EVENTS.is_dir(), reason="tracefs is not mounted or not readable")
def test_every_tracepoint_of_tracefs_is_known_with_its_arguments(
    tracepoints: KernelTracepoints,
) -> None:
    listed = [
        path.parts[-2]
        for path in EVENTS.glob("*/*/format")
        # Records of ftrace's own are no tracepoints, nor are probes of other tests; those of system
        # calls have a table.
        if not path.parts[-3].startswith(("ftrace", "syscalls", "datacrumbs_"))
    ]
    assert [name for name in listed if name not in tracepoints.by_name] == []
    completed = tracepoints.by_name["block_rq_complete"]
    assert [label for label, _ in completed.parameters] == ["rq", "error", "nr_bytes"]
    queued = tracepoints.by_name["block_bio_queue"]
    assert queued.table.c_type(queued.parameters[0][1]).name == "struct bio *"


def test_a_span_has_begin_end_and_the_same_key(tracepoints: KernelTracepoints) -> None:
    span = tracepoints.span("block_rq")
    assert (span.begin, span.end) == ("block_rq_issue", "block_rq_complete")
    # The request is the first argument since Linux 5.11, the second before.
    types = [
        tracepoints.by_name[name]
        .table.c_type(tracepoints.by_name[name].parameters[int(key)][1])
        .name
        for name, key in ((span.begin, span.begin_key), (span.end, span.end_key))
    ]
    assert types == ["struct request *", "struct request *"]


def test_every_recipe_of_this_kernel_gives_values_that_fit(tracepoints: KernelTracepoints) -> None:
    assert len(tracepoints.recipes) >= 8
    for name, recipe in tracepoints.recipes.items():
        arguments = tracepoints.arguments(name)
        values = [one for one in arguments if one.label != "ret"]
        assert 0 < len(values) <= MAX_VALUES, name
        labels = [one.label for one in arguments]
        assert len(set(labels)) == len(labels), name
        if recipe.result:
            assert "ret" in labels, name


def test_fields_of_a_block_request_are_those_of_tracefs(tracepoints: KernelTracepoints) -> None:
    format_file = EVENTS / "block" / "block_rq_issue" / "format"
    if not format_file.exists():
        pytest.skip("tracefs is not mounted, or this user may not read it")
    sizes = {
        match[1]: int(match[2])
        for match in re.finditer(
            r"field:[^;]*?(\w+);\toffset:\d+;\tsize:(\d+)", format_file.read_text()
        )
    }
    found = {one.label: one.num_bytes for one in tracepoints.arguments("block_rq")}
    assert (found["dev"], found["sector"]) == (sizes["dev"], sizes["sector"])
    assert (found["bytes"], found["ret"]) == (sizes["bytes"], 4)


def test_labels_are_the_kernel_s_own(tracepoints: KernelTracepoints) -> None:
    labels = [one.label for one in tracepoints.arguments("ext4_da_write")]
    assert labels == ["file", "ino", "dev", "pos", "len", "ret"]


def test_a_request_of_io_uring_gets_its_file_when_it_ends(tracepoints: KernelTracepoints) -> None:
    (file,) = [one for one in tracepoints.arguments("io_uring_request") if one.label == "file"]
    assert (file.path, file.c_type) == ("end:io_kiocb->file", "struct file *")


def test_names_of_both_ends_mean_the_span() -> None:
    category = selected(entry("functions: [block_rq_issue, block_rq_complete]"))["t"]
    assert category.functions == ("block_rq",)
    assert set(category.spans) == {"block_rq"}


def test_one_end_alone_is_an_instant() -> None:
    category = selected(entry("functions: [block_rq_issue]"))["t"]
    assert category.functions == ("block_rq_issue",)
    assert dict(category.spans) == {}


def test_an_expression_takes_spans_and_the_rest_as_instants() -> None:
    category = selected(entry("regex: block_(rq|bio)_.*"))["t"]
    assert "block_rq" in category.functions
    assert "block_bio_queue" in category.functions
    assert not {"block_rq_issue", "block_rq_complete"} & set(category.functions)
    assert set(category.spans) == {"block_rq"}


def test_spans_can_be_switched_off() -> None:
    category = selected(entry("regex: block_rq_(issue|complete)", ", spans: false"))["t"]
    assert category.functions == ("block_rq_complete", "block_rq_issue")
    assert dict(category.spans) == {}


def test_a_span_of_the_name_of_a_tracepoint_counts_once() -> None:
    category = selected(entry("regex: ext4_writepages.*"))["t"]
    assert category.functions == ("ext4_writepages",)
    assert category.spans["ext4_writepages"].end == "ext4_writepages_result"


def test_tracepoints_called_enter_and_exit_are_a_span(tracepoints: KernelTracepoints) -> None:
    pairs = [
        name.removesuffix("_enter")
        for name in tracepoints.by_name
        if name.endswith("_enter") and name.removesuffix("_enter") + "_exit" in tracepoints.by_name
    ]
    unknown = {name for name in pairs if name not in tracepoints.recipes}
    assert unknown <= {"sys", "user", "cpuhp"}
    if "ext4_es_lookup_extent" in pairs:
        category = selected(entry("regex: ext4_es_lookup_extent_.*"))["t"]
        assert category.functions == ("ext4_es_lookup_extent",)
        assert category.spans["ext4_es_lookup_extent"].begin_key == "thread"


def test_an_excluded_span_takes_its_ends_along() -> None:
    category = selected(entry("regex: block_.*", ", exclude: [block_rq]"))["t"]
    names = {"block_rq", "block_rq_issue", "block_rq_complete"}
    assert not names & set(category.functions)


def test_no_value_is_a_text_or_a_buffer() -> None:
    for category in select(sets.load("kernel-io")).probe_file.categories:
        for arguments in category.arguments.values():
            assert all(argument.c_type != "char *" for argument in arguments)


def test_a_recipe_s_structures_are_described() -> None:
    named = {
        at.structure
        for recipe in spans.RECIPES
        for at in (recipe.key, recipe.end_key)
        if at is not None and at.structure
    }
    assert named <= set(spans.FIELDS)


def test_signer_lets_everybody_have_what_is_shown() -> None:
    shown = {path for fields in spans.FIELDS.values() for field in fields for path in field.paths}
    for recipe in spans.RECIPES:
        shown |= {at.path for at in recipe.result} | {at.path for _, at, _ in recipe.at_end}
    assert shown - {""} == set(KNOWN_PATHS)
