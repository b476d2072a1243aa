"""Recordings without strace anywhere near, against what the program itself says that it did."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from recordings import Recorder, Recording, require
from trace_file import Event

pytestmark = pytest.mark.kernel

BLOCK = 4096


def of_file(recording: Recording, path: Path) -> list[Event]:
    return [event for event in recording.trace.events if event.file == str(path)]


def check_complete(recording: Recording) -> None:
    losses = recording.report["losses"]
    assert recording.report["complete"], losses
    assert losses["offered"] == losses["written"] == len(recording.trace.events)
    assert (
        losses["entered"] == losses["offered"] + losses["filtered"] + recording.report["in_flight"]
    )


def test_dd_reads_and_writes_through_duplicated_descriptors(
    recorder: Recorder, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    recording = recorder(["dd", "if=/dev/zero", f"of={out}", "bs=64k", "count=50"])
    check_complete(recording)
    writes = [event for event in of_file(recording, out) if event.name == "write"]
    assert [event.result for event in writes] == [65536] * 50
    assert [event.arguments["offset"] for event in writes] == [65536 * i for i in range(50)]
    assert {event.arguments["fd"] for event in writes} == {1}
    reads = [event for event in of_file(recording, Path("/dev/zero")) if event.name == "read"]
    assert [(event.result, event.arguments["fd"]) for event in reads] == [(65536, 0)] * 50
    (process,) = {event.process for event in recording.trace.events}
    names = [each["name"] for each in recording.trace.metadata["process_name"]]
    assert names[-1] == "dd"
    assert {each["pid"] for each in recording.trace.metadata["process_name"]} == {process}


def test_cp_of_a_large_file_names_both_files(recorder: Recorder, tmp_path: Path) -> None:
    large, copy = tmp_path / "large", tmp_path / "copy"
    large.write_bytes(bytes(64 << 20))
    recording = recorder(["cp", "--reflink=never", "--sparse=never", large, copy])
    check_complete(recording)
    moved = 0
    for event in recording.trace.events:
        if event.file == str(large) and event.second_file == str(copy):
            assert event.name == "copy_file_range"
            moved += max(event.result or 0, 0)
        elif event.file == str(copy) and event.name == "write":
            moved += max(event.result or 0, 0)
    assert moved == copy.stat().st_size == 64 << 20


def test_every_call_and_result_of_a_program_that_logs_them(
    recorder: Recorder, programs: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "work"
    directory.mkdir()
    recording = recorder([programs / "every_errno", directory])
    check_complete(recording)
    logged = [line.split() for line in recording.stdout.splitlines()]
    calls = [(name, int(result)) for name, result in logged]
    assert len(calls) > 230
    assert len({result for _, result in calls if result < 0}) >= 24
    events = sorted(recording.trace.events, key=lambda event: event.start_us)
    begin = next(
        index
        for index, event in enumerate(events)
        if event.system_call == "openat" and event.file == f"{directory}/file"
    )
    seen = [(event.system_call, event.result) for event in events[begin : begin + len(calls)]]
    expected = [call for call in calls if not is_left_out(call)]
    assert seen[: len(expected)] == expected


def is_left_out(call: tuple[str, int]) -> bool:
    """Calls about memory that no file is mapped to are not in the trace."""
    return call[0] == "munmap" and call[1] < 0


def fio(recorder: Recorder, engine: str, data: Path, *options: str) -> tuple[Recording, Any]:
    require("fio")
    recording = recorder(
        [
            "fio",
            "--name=job",
            f"--filename={data}",
            "--size=4M",
            f"--bs={BLOCK}",
            "--rw=randrw",
            f"--ioengine={engine}",
            "--iodepth=8",
            "--output-format=json",
        ],
        options=options,
    )
    check_complete(recording)
    text = recording.stdout
    return recording, json.loads(text[text.index("{") :])["jobs"][0]


@pytest.mark.parametrize(
    ("engine", "read", "write"),
    [("psync", "pread64", "pwrite64"), ("libaio", "aio_pread", "aio_pwrite")],
)
def test_fio_counts_what_the_trace_holds(
    engine: str, read: str, write: str, recorder: Recorder, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    recording, job = fio(recorder, engine, data)
    requests = [event for event in of_file(recording, data) if event.name in (read, write)]
    counts = Counter(event.name for event in requests)
    assert counts[read] == job["read"]["total_ios"]
    assert counts[write] == job["write"]["total_ios"]
    assert {event.result for event in requests} == {BLOCK}
    offsets = Counter(event.arguments["offset"] for event in requests)
    assert offsets == Counter(range(0, 4 << 20, BLOCK))


def test_fio_io_uring_requests_are_spans(recorder: Recorder, tmp_path: Path) -> None:
    data = tmp_path / "data"
    recording, job = fio(recorder, "io_uring", data, "--probes", "posix,kernel-io")
    # IORING_OP_READV, WRITEV, READ, WRITE of include/uapi/linux/io_uring.h
    requests = [
        event
        for event in recording.trace.events
        if event.name == "io_uring_request" and event.arguments["opcode"] in (1, 2, 22, 23)
    ]
    assert len(requests) == job["read"]["total_ios"] + job["write"]["total_ios"]
    assert {event.result for event in requests} == {BLOCK}


PROCESS_TREE = """
cat /etc/passwd | env -i /usr/bin/sort -r | env -i /usr/bin/uniq -c | env -i /bin/cat |
    env -i /usr/bin/wc -l
"""


def test_a_pipeline_of_five_processes(recorder: Recorder) -> None:
    recording = recorder(["bash", "-c", PROCESS_TREE])
    check_complete(recording)
    assert int(recording.stdout) == len(Path("/etc/passwd").read_text().splitlines())
    names = {each["pid"]: each["name"] for each in recording.trace.metadata["process_name"]}
    assert sorted(names.values()) == ["bash", "cat", "cat", "sort", "uniq", "wc"]
    written: Counter[str] = Counter()
    read: Counter[str] = Counter()
    for event in recording.trace.events:
        if event.file and event.file.startswith("pipe:") and event.result and event.result > 0:
            if event.name == "write":
                written[event.file] += event.result
            elif event.name == "read":
                read[event.file] += event.result
    # the four pipes between them, and what wc says to whoever runs this test
    between = {pipe: size for pipe, size in written.items() if pipe in read}
    assert len(between) == 4
    assert between == dict(read)
    assert Path("/etc/passwd").stat().st_size in between.values()


def test_streams_of_the_c_library(recorder: Recorder, programs: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    recording = recorder([programs / "stdio_calls", target], options=["--probes", "stdio"])
    check_complete(recording)
    logged = [line.split() for line in recording.stdout.splitlines()]
    # getline() calls getdelim() in the library
    events = [event for event in recording.trace.events if event.name != "getdelim"]
    assert [event.name for event in events] == [name for name, _ in logged]
    for event, (name, result) in zip(events, logged, strict=True):
        assert event.category == "STDIO"
        assert event.result is not None
        shown = int(event.result != 0) if name in ("fopen", "fgets") else event.result
        assert shown == int(result), name
    assert [event.file for event in events[:-1]] == [str(target)] * (len(events) - 1)
    assert events[-1].file == "/nonexistent/file"
    assert events[0].arguments["mode"] == "w+"
    sums = {each["name"]: each for each in recording.report["functions"]}
    assert sums["fwrite"]["bytes"] == 100 * sum(range(10))
    # whole items only
    assert sums["fread"]["bytes"] == 1000 * (target.stat().st_size // 1000)
    assert sums["fopen"]["errors"] == 1
    assert sums["fseek"]["errors"] == 1
