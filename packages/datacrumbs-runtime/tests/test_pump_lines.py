"""The lines that the pump makes of call records, and the metadata before them."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pump_rings import (
    ANONYMOUS,
    CUT,
    DIRECTORY,
    FILE,
    NO_RETURN,
    PATH,
    PIPE,
    PROCESS_EXIT,
    PROCESS_NAME,
    SOCKET,
    TEXT,
    THREAD_NAME,
    MemoryRing,
    call,
    components,
    string,
)

from datacrumbs_runtime.bpf.layout import FunctionFlag
from datacrumbs_runtime.trace.path_text import bytes_from_text, text_from_bytes
from datacrumbs_runtime.trace.pump import FunctionFormat, Pump, Value, hash_text

OFFSET_NS = 1_795_155_786_000_000_000
HOST = hash_text(b"node1")
FD = Value("fhash", "f")
GOLDEN = """\
{"name":"FH","cat":"dftracer","ph":"M","pid":100,"tid":101,\
"args":{"hhash":"HOST","name":"/p/out.bin","value":"FILE"}}
{"name":"open","cat":"POSIX","ph":"X","pid":100,"tid":101,\
"args":{"hhash":"HOST","syscall":"openat","ret":-2,"flags":66,"mode":420,"fhash":"FILE","ns":2},\
"dur":1,"ts":1795155786922564}
{"name":"pwrite64","cat":"POSIX","ph":"X","pid":100,"tid":101,\
"args":{"hhash":"HOST","ret":5000,"count":5000,"fhash":"FILE","ns":21874},\
"dur":22,"ts":1795155786922565}
{"name":"MPI_Barrier","cat":"MPI","ph":"X","pid":4194303,"tid":1,\
"args":{"hhash":"HOST","ret":0,"ns":1500},"dur":1,"ts":1795155786922600}
"""


class Bench:
    """A pump with one ring of events, one of strings, in memory."""

    def __init__(self, *functions: FunctionFormat, offset_ns: int = OFFSET_NS) -> None:
        self.events = MemoryRing()
        self.strings = MemoryRing()
        self.pump = Pump([self.events.pair], self.strings.pair, functions, "node1", offset_ns)
        self.first = self.pump.take()

    def lines(self) -> list[str]:
        while self.pump.drain():
            pass
        text = self.pump.take()
        assert text.endswith(b"\n") or not text
        return text.decode().split("\n")[:-1]

    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines()]

    def calls(self) -> list[dict[str, Any]]:
        return [line for line in self.objects() if line["ph"] == "X"]

    def close(self) -> None:
        self.pump.close()
        self.events.close()
        self.strings.close()


@pytest.fixture
def benches() -> Iterator[list[Bench]]:
    opened: list[Bench] = []
    yield opened
    for bench in opened:
        bench.close()


def bench_of(benches: list[Bench], *functions: FunctionFormat) -> Bench:
    benches.append(Bench(*functions))
    return benches[-1]


def path_of(bench: Bench, record: bytes) -> str:
    """The path that the pump makes of a string record with the id 9."""
    bench.strings.put(record)
    bench.events.put(call(values=(9,)))
    lines = bench.objects()
    (declared,) = [line for line in lines if line["name"] == "FH"]
    (called,) = [line for line in lines if line["ph"] == "X"]
    assert called["args"]["fhash"] == declared["args"]["value"]
    path: str = declared["args"]["name"]
    assert declared["args"]["value"] == hash_text(bytes_from_text(path))
    return path


def test_a_trace_begins_with_the_host_and_the_unit_of_time(benches: list[Bench]) -> None:
    bench = bench_of(benches)
    first, *rest = bench.first.decode().split("\n")[:-1]
    assert first == "["
    host, metric = map(json.loads, rest)
    assert (host["name"], host["ph"]) == ("HH", "M")
    assert host["args"] == {"hhash": HOST, "name": "node1", "value": HOST}
    assert metric["name"] == "CM"
    assert metric["args"] == {"hhash": HOST, "name": "time_metric", "value": "US"}


def test_golden_lines(benches: list[Bench]) -> None:
    functions = (
        FunctionFormat(
            "POSIX",
            "open",
            '"syscall":"openat"',
            FunctionFlag.ERRNO,
            values=(FD, Value("flags", "i32"), Value("mode", "u16")),
        ),
        FunctionFormat("POSIX", "pwrite64", values=(FD, Value("count", "u64"))),
        FunctionFormat("MPI", "MPI_Barrier"),
    )
    bench = bench_of(benches, *functions)
    bench.strings.put(string(FILE, components(b"/p/out.bin"), identifier=7))
    bench.events.put(call(0, start_ns=922_564_999, duration_ns=2, ret=-2, values=(7, 66, 0o644)))
    bench.events.put(call(1, start_ns=922_565_500, duration_ns=21874, ret=5000, values=(7, 5000)))
    bench.events.put(call(2, start_ns=922_600_000, process=4194303, thread=1))
    golden = GOLDEN.replace("HOST", HOST).replace("FILE", hash_text(b"/p/out.bin"))
    assert bench.lines() == golden.splitlines()


@pytest.mark.parametrize(
    ("form", "value", "shown"),
    [
        ("i8", 0x1FF, -1),
        ("i16", 0x18000, -32768),
        ("i32", 0xFFFF_FFFF, -1),
        ("i32", 0x7FFF_FFFF, 2**31 - 1),
        ("i64", 1 << 63, -(2**63)),
        ("u8", 0x1FF, 255),
        ("u16", 0x1FFFF, 65535),
        ("u32", 0x1_FFFF_FFFF, 2**32 - 1),
        ("u64", 2**64 - 1, 2**64 - 1),
        ("x", 0, "0x0"),
        ("x", 0xF, "0xf"),
        ("x", 0x7FFC_0000_1000, "0x7ffc00001000"),
        ("x", 2**64 - 1, "0xffffffffffffffff"),
        ("b", 0x100, False),
        ("b", 2, True),
    ],
)
def test_values_are_shown_by_their_format(
    benches: list[Bench], form: str, value: int, shown: object
) -> None:
    bench = bench_of(benches, FunctionFormat("c", "f", values=(Value("v", form),)))
    bench.events.put(call(values=(value,)))
    (line,) = bench.calls()
    assert line["args"]["v"] == shown
    assert type(line["args"]["v"]) is type(shown)


def test_values_that_are_not_present_are_left_out(benches: list[Bench]) -> None:
    values = tuple(Value(f"v{i}", "u64") for i in range(8))
    bench = bench_of(benches, FunctionFormat("c", "f", values=values))
    bench.events.put(call(values=(None, 1, None, 3, None, None, 6, 7)))
    (line,) = bench.calls()
    assert line["args"] == {"hhash": HOST, "ret": 0, "v1": 1, "v3": 3, "v6": 6, "v7": 7, "ns": 1500}


@pytest.mark.parametrize(
    ("function_flags", "call_flags", "ret", "shown"),
    [
        (0, 0, -(2**63), -(2**63)),
        (FunctionFlag.RET_INT, 0, 0xFFFF_FFFF, -1),
        (FunctionFlag.RET_INT, 0, 0x1_0000_0005, 5),
        (FunctionFlag.NO_RETURN, 0, 7, None),
        (0, NO_RETURN, 7, None),
    ],
)
def test_return_values(
    benches: list[Bench], function_flags: int, call_flags: int, ret: int, shown: int | None
) -> None:
    bench = bench_of(benches, FunctionFormat("c", "f", flags=function_flags))
    bench.events.put(call(ret=ret, flags=call_flags))
    (line,) = bench.calls()
    assert line["args"].get("ret") == shown


def test_the_sign_of_numbers_of_any_length(benches: list[Bench]) -> None:
    bench = bench_of(benches, FunctionFormat("c", "f", values=(Value("v", "i64"),)))
    numbers = [0]
    for digits in range(19):
        numbers += [10**digits - 1, 10**digits, 10**digits + 1, 5 * 10**digits % 2**63]
    numbers += [-number for number in numbers] + [2**63 - 1, -(2**63)]
    for number in numbers:
        bench.events.put(call(ret=number, values=(number,)))
    lines = bench.calls()
    assert [line["args"]["ret"] for line in lines] == numbers
    assert [line["args"]["v"] for line in lines] == numbers


@given(
    start_ns=st.integers(0, 2**62),
    duration_ns=st.integers(0, 2**61),
    offset_ns=st.integers(0, 2**61),
)
@settings(deadline=None)
def test_times_are_floored_at_both_ends(start_ns: int, duration_ns: int, offset_ns: int) -> None:
    bench = Bench(FunctionFormat("c", "f"), offset_ns=offset_ns)
    try:
        bench.events.put(call(start_ns=start_ns, duration_ns=duration_ns))
        (line,) = bench.calls()
    finally:
        bench.close()
    begin = (start_ns + offset_ns) // 1000
    assert line["ts"] == begin
    assert line["dur"] == (start_ns + duration_ns + offset_ns) // 1000 - begin
    assert line["args"]["ns"] == duration_ns


def test_the_clock_offset_may_change(benches: list[Bench]) -> None:
    bench = bench_of(benches, FunctionFormat("c", "f"))
    bench.pump.set_clock_offset(5_000_000)
    bench.events.put(call(start_ns=1000))
    (line,) = bench.calls()
    assert line["ts"] == 5001


@pytest.mark.parametrize(
    ("record", "path"),
    [
        (string(FILE, b"c\0b\0a\0", identifier=9), "/a/b/c"),
        (string(FILE, b"", identifier=9), "/"),
        (string(FILE, b"a\0/\0", identifier=9), "/a"),
        (string(FILE, b"c\0b\0", identifier=9, flags=CUT), ".../b/c"),
        (string(PIPE, number=123, identifier=9), "pipe:[123]"),
        (string(SOCKET, number=2**63, identifier=9), "socket:[9223372036854775808]"),
        (string(ANONYMOUS, b"[eventfd]\0", identifier=9), "anon_inode:[eventfd]"),
        (string(ANONYMOUS, b"memfd:x\0", identifier=9), "memfd:x"),
        (string(PATH, b"/etc//passwd\0", identifier=9), "/etc/passwd"),
        (string(PATH, b"/a/./b/../c/\0", identifier=9), "/a/b/../c"),
        (string(PATH, b"/../x\0", identifier=9), "/x"),
        (string(PATH, b"/..\0", identifier=9), "/"),
        (string(PATH, b"/..x/...\0", identifier=9), "/..x/..."),
        (string(PATH, b"/a/bc", identifier=9, flags=CUT), "/a/bc..."),
    ],
)
def test_names_of_files(benches: list[Bench], record: bytes, path: str) -> None:
    assert path_of(bench_of(benches, FunctionFormat("c", "f", values=(FD,))), record) == path


@pytest.mark.parametrize(
    ("directory", "argument", "path"),
    [
        (b"/home/u", b"data", "/home/u/data"),
        (b"/", b"data", "/data"),
        (b"/home/u", b"./a//b/.", "/home/u/a/b"),
        (b"/home/u", b"../v", "/home/v"),
        (b"/home/u", b".././../../etc", "/etc"),
        (b"/home/u", b"..", "/home"),
        (b"/home/u", b".", "/home/u"),
        (b"/home/u", b"", "/home/u"),
        (b"/home/u", b"link/../x", "/home/u/link/../x"),
        (b"/home/u", b"/abs/../x", "/abs/../x"),
        (b"/home/u", b"sub/", "/home/u/sub"),
    ],
)
def test_relative_paths(benches: list[Bench], directory: bytes, argument: bytes, path: str) -> None:
    bench = bench_of(benches, FunctionFormat("c", "f", values=(FD,)))
    bench.strings.put(string(FILE, components(directory), identifier=5, flags=DIRECTORY))
    assert path_of(bench, string(PATH, argument + b"\0", identifier=9, directory=5)) == path


def test_a_path_below_an_unknown_directory_is_left_out_and_counted(benches: list[Bench]) -> None:
    bench = bench_of(benches, FunctionFormat("c", "f", values=(FD,)))
    bench.strings.put(string(PATH, b"x\0", identifier=9, directory=5))
    bench.events.put(call(values=(9,)))
    (line,) = bench.calls()
    assert "fhash" not in line["args"]
    assert bench.pump.counters().unknown_ids == 1


def test_a_file_is_declared_once_whatever_its_ids(benches: list[Bench]) -> None:
    bench = bench_of(benches, FunctionFormat("c", "f", values=(FD, Value("fhash2", "f"))))
    bench.strings.put(string(FILE, components(b"/x"), identifier=1))
    bench.strings.put(string(PATH, b"/x\0", identifier=2))
    bench.events.put(call(values=(1, 2)))
    lines = bench.objects()
    assert [line["name"] for line in lines] == ["FH", "f"]
    assert lines[1]["args"]["fhash"] == lines[1]["args"]["fhash2"] == hash_text(b"/x")
    assert bench.pump.counters().files == 1


def test_directories_are_declared_when_a_call_names_them(benches: list[Bench]) -> None:
    bench = bench_of(benches, FunctionFormat("c", "f", values=(FD,)))
    bench.strings.put(string(FILE, components(b"/d"), identifier=1, flags=DIRECTORY))
    assert bench.lines() == []
    bench.events.put(call(values=(1,)))
    bench.events.put(call(values=(1,)))
    assert [line["name"] for line in bench.objects()] == ["FH", "f", "f"]


def test_an_id_may_get_another_name(benches: list[Bench]) -> None:
    bench = bench_of(benches, FunctionFormat("c", "f", values=(FD, Value("t", "s"))))
    for path, text in ((b"/old", b"one\0"), (b"/new", b"two\0")):
        bench.strings.put(string(FILE, components(path), identifier=1))
        bench.strings.put(string(TEXT, text, identifier=2))
        bench.events.put(call(values=(1, 2)))
        (line,) = bench.calls()
        assert line["args"]["fhash"] == hash_text(path)
        assert line["args"]["t"] == text[:-1].decode()


def test_names_beyond_the_memory_limit_are_declared_but_forgotten() -> None:
    events, strings = MemoryRing(), MemoryRing()
    function = FunctionFormat("c", "f", values=(FD,))
    with events, strings, Pump([events.pair], strings.pair, [function], "n", 0, kept_bytes=3) as p:
        strings.put(string(FILE, components(b"/d"), identifier=1, flags=DIRECTORY))
        strings.put(string(PATH, b"long\0", identifier=2, directory=1))
        events.put(call(values=(2,)))
        p.drain()
        assert b'"name":"/d/long"' in p.take()
        (file,) = p.file_statistics(5).by_time
        assert (file.path, file.file_hash) == (None, hash_text(b"/d/long"))


NAMES = st.binary(min_size=1, max_size=40).filter(lambda name: not set(name) & {0, 0x2F})


@given(name=NAMES | st.text(min_size=1).map(str.encode).filter(lambda b: not set(b) & {0, 0x2F}))
@settings(deadline=None, max_examples=300)
def test_any_name_makes_valid_json_and_can_be_turned_back(name: bytes) -> None:
    bench = Bench(FunctionFormat("c", "f", values=(FD, Value("text", "s"))))
    try:
        bench.strings.put(string(FILE, name + b"\0", identifier=1))
        bench.strings.put(string(TEXT, name + b"\0", identifier=2))
        bench.strings.put(string(PROCESS_NAME, name + b"\0"))
        bench.events.put(call(values=(1, 2)))
        lines = bench.objects()
    finally:
        bench.close()
    path, process, called = (line["args"] for line in lines)
    assert path["name"] == "/" + text_from_bytes(name)
    assert bytes_from_text(path["name"]) == b"/" + name
    assert path["value"] == called["fhash"] == hash_text(b"/" + name)
    assert bytes_from_text(called["text"]) == bytes_from_text(process["name"]) == name


@pytest.mark.parametrize("name", [b"\\xff", b"\\\\xff", b"a\\x5c", b"\\\xff", b"\\x5cxff", b"\\"])
def test_backslashes_are_unambiguous(name: bytes) -> None:
    assert bytes_from_text(text_from_bytes(name)) == name


@pytest.mark.parametrize(
    ("text", "shown"), [("aé".encode()[:-1], "a"), ("a€".encode()[:-1], "a"), (b"a\xff", "a\\xff")]
)
def test_a_cut_text_ends_with_a_whole_character(
    benches: list[Bench], text: bytes, shown: str
) -> None:
    bench = bench_of(benches, FunctionFormat("c", "f", values=(Value("t", "s"),)))
    bench.strings.put(string(TEXT, text, identifier=1, flags=CUT))
    bench.events.put(call(values=(1,)))
    (line,) = bench.calls()
    assert line["args"]["t"] == shown


def test_processes_and_threads_are_named(benches: list[Bench]) -> None:
    bench = bench_of(benches)
    named = string(PROCESS_NAME, b"dd\0\0\0", number=4, time_ns=7000, uid=1001, process=5, thread=6)
    bench.strings.put(named)
    bench.strings.put(string(THREAD_NAME, b"worker\0", process=5, thread=6))
    bench.strings.put(string(PROCESS_EXIT, time_ns=9000, process=5, thread=6))
    process, thread, ended = bench.objects()
    since = OFFSET_NS // 1000 + 7
    assert (process["name"], process["pid"], process["tid"]) == ("process_name", 5, 5)
    assert process["args"] == {
        "hhash": HOST, "name": "dd", "ppid": 4, "uid": 1001, "since": since
    }  # fmt: skip
    assert (thread["name"], thread["pid"], thread["tid"]) == ("thread_name", 5, 6)
    assert thread["args"] == {"hhash": HOST, "name": "worker"}
    assert (ended["name"], ended["pid"]) == ("process_exit", 5)
    assert ended["args"] == {"hhash": HOST, "at": since + 2}


def test_names_of_functions_are_escaped(benches: list[Bench]) -> None:
    function = FunctionFormat('c"at', "na\\me\n", values=(Value('la"bel', "u8"),))
    bench = bench_of(benches, function)
    bench.events.put(call(values=(1,)))
    (line,) = bench.calls()
    assert (line["cat"], line["name"], line["args"]['la"bel']) == ('c"at', "na\\me\n", 1)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (FunctionFormat("c", "f", values=(Value("v", "i128"),)), "unknown format of a value: i128"),
        (FunctionFormat("c", "f", values=(Value("v", "u8"),) * 9), "more than 8 values"),
        (FunctionFormat("c", "f", bytes_argument=9), "bytes_argument is not the number of a value"),
    ],
)
def test_impossible_functions_are_refused(function: FunctionFormat, said: str) -> None:
    with MemoryRing() as ring, pytest.raises(ValueError, match=said):
        Pump([ring.pair], ring.pair, [function], "n", 0)


def order_of(benches: list[Bench], *records: bytes) -> list[int]:
    """Return values in the order of the lines."""
    bench = bench_of(benches, FunctionFormat("c", "f"))
    for record in records:
        bench.events.put(record)
    return [line["args"]["ret"] for line in bench.calls()]


def tied(ret: int, start_ns: int, end_ns: int, thread: int = 1) -> bytes:
    return call(start_ns=start_ns, duration_ns=end_ns - start_ns, ret=ret, thread=thread)


def test_a_caller_that_looks_like_its_callees_comes_before_them(benches: list[Bench]) -> None:
    records = [tied(1, 5300, 5400), tied(2, 5200, 5500), tied(3, 5600, 5700), tied(4, 5100, 5900)]
    assert order_of(benches, *records) == [4, 2, 1, 3]


def test_calls_one_after_the_other_stay_in_order(benches: list[Bench]) -> None:
    records = [tied(i, 5000 + 10 * i, 5005 + 10 * i) for i in range(20)]
    assert order_of(benches, *records) == list(range(20))


def test_many_callees_of_one_look(benches: list[Bench]) -> None:
    records = [tied(i, 5000 + 10 * i, 5005 + 10 * i) for i in range(1, 13)]
    order = order_of(benches, *records, tied(99, 5000, 5990))
    assert sorted(order) == [*range(1, 13), 99]
    assert order.index(99) < order.index(12)


@pytest.mark.parametrize(
    "caller",
    [tied(2, 5200, 6500), tied(2, 4900, 5500), tied(2, 5200, 5500, thread=2)],
    ids=["longer", "earlier", "other thread"],
)
def test_lines_that_can_be_told_apart_stay(benches: list[Bench], caller: bytes) -> None:
    assert order_of(benches, tied(1, 5300, 5400), caller) == [1, 2]


def test_a_file_is_declared_before_a_caller_that_names_it(benches: list[Bench]) -> None:
    bench = bench_of(
        benches, FunctionFormat("c", "inner"), FunctionFormat("c", "outer", values=(FD,))
    )
    bench.strings.put(string(FILE, components(b"/d"), identifier=1, flags=DIRECTORY))
    bench.events.put(call(0, start_ns=5300, duration_ns=100))
    bench.events.put(call(1, start_ns=5200, duration_ns=300, values=(1,)))
    names = [line["name"] for line in bench.objects()]
    assert names.index("FH") < names.index("outer")
