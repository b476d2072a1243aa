"""The command datacrumbs_record: usage errors without privileges, recordings with them."""

import gzip
import json
import os
import pwd
import signal
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from growing_trace import text_so_far
from waiting import HANG_S, wait_until

RECORD = (
    sys.executable,
    "-c",
    "from datacrumbs_utils.commands.datacrumbs_record import main; main()",
)
WITHOUT_TYPES = 'mount -t tmpfs none /sys/kernel/btf && exec "$@"'
WITHOUT_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
NOBODY = "nobody"
# The system call read() of this machine.
READ_NUMBER = {"x86_64": 0, "aarch64": 63}.get(os.uname().machine, 3)


def record(
    *arguments: str | Path, cwd: Path, prefix: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, *RECORD, *arguments],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
        cwd=cwd,
    )


def recording(*arguments: str | Path, cwd: Path) -> "subprocess.Popen[str]":
    """Start a recording."""
    return subprocess.Popen(
        [*RECORD, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )


def events(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as stream:
        lines = [line for line in stream if line.startswith("{")]
    return [event for line in lines if (event := json.loads(line))["ph"] == "X"]


def the_trace(directory: Path) -> Path:
    (path,) = directory.glob("*.pfw.gz")
    return path


# What is asked for: arguments, what the error says, exit status.
GARBAGE: dict[str, tuple[tuple[str, ...], str, int]] = {
    "no command": ((), "what shall be recorded?", 2),
    "command and process": (("--pid", "1", "--", "true"), "give either a command or --pid", 2),
    "command that is not there": (("--", "nosuchcmd"), "nosuchcmd: command not found", 1),
    "directory as command": (("--", "/tmp"), "/tmp: is a directory, not a command", 1),
    "file that is no program": (("--", "/etc/passwd"), "/etc/passwd: is not executable", 1),
    "unknown option": (("--frobnicate", "--", "true"), "No such option '--frobnicate'", 2),
    "unknown mode": (("--mode", "fast", "--", "true"), "'fast' is not one of", 2),
    "unknown set": (("--probes", "posx", "--", "true"), "did you mean posix?", 2),
    "missing file": (("--probes", "gone.yaml", "--", "true"), "gone.yaml: No such file", 1),
    "directory as probes": (("--probes", "/tmp", "--", "true"), "--probes: /tmp: is a dir", 2),
    "invalid YAML": (("--probes", "invalid.yaml", "--", "true"), "invalid.yaml:3:1: ", 1),
    "unknown key": (
        ("--probes", "key.yaml", "--", "true"),
        "key.yaml:4:5: unknown key regx (did you mean regex?)",
        1,
    ),
    "no such function": (("--probes", "none.yaml", "--", "true"), "none.yaml", 1),
    "no probe file": (("--probes", "bad.json", "--", "true"), "bad.json: ", 1),
    "no directory for the trace": (
        ("--output", "/nowhere/t.pfw.gz", "--", "true"),
        "/nowhere: no such directory",
        1,
    ),
    "no trace can be made there": (("--output", "/proc/t", "--", "true"), "/proc/t: ", 1),
    "process that does not exist": (("--pid", "4194304"), "process 4194304: No such process", 1),
    "process that is no number": (("--pid", "x"), "'x' is not a valid integer range", 2),
    "user that does not exist": (("--user", "nosuch", "--", "true"), "--user: nosuch: no such", 2),
    "size": (("--ring-buffer-size", "12q", "--", "true"), "--ring-buffer-size: '12q'", 2),
    "size too small": (("--ring-buffer-size", "1", "--", "true"), "must be from 4K", 2),
    "threshold": (("--threshold", "soon", "--", "true"), "--threshold: 'soon'", 2),
    "duration": (("--duration", "-1", "--", "true"), "--duration: '-1'", 2),
    "run id": (("--run-id", "a/b", "--", "true"), "run id: 'a/b'", 2),
    "tier": (("--max-tier", "best", "--", "true"), "no tier best", 1),
}


@pytest.mark.kernel
@pytest.mark.parametrize("case", GARBAGE)
def test_garbage_is_said_in_one_line_and_nothing_is_left(case: str, tmp_path: Path) -> None:
    (tmp_path / "invalid.yaml").write_text("capture_probes:\n  - [\n")
    (tmp_path / "key.yaml").write_text(
        "capture_probes:\n  - name: a\n    probe: syscalls\n    regx: read\n"
    )
    (tmp_path / "none.yaml").write_text(
        "capture_probes:\n  - name: a\n    probe: syscalls\n    regex: nosuchcall\n"
    )
    (tmp_path / "bad.json").write_text('{"a": 1}')
    arguments, message, status = GARBAGE[case]
    done = record(*arguments, cwd=tmp_path)
    assert message in done.stderr
    assert done.returncode == status
    lines = done.stderr.splitlines()
    assert lines[0].startswith("datacrumbs_record: error: ")
    assert len(lines) <= 2
    assert done.stdout == ""
    assert list(tmp_path.glob("*.pfw.gz")) == []


@pytest.mark.kernel
def test_without_the_right_to_record_it_says_so(tmp_path: Path) -> None:
    done = record("--", "true", cwd=tmp_path, prefix=WITHOUT_CAPABILITIES)
    assert done.returncode == 1
    assert "recording needs CAP_BPF and CAP_PERFMON" in done.stderr
    assert "hint: run it as root" in done.stderr


@pytest.mark.kernel
def test_kernel_without_types_is_named(tmp_path: Path) -> None:
    prefix = ("unshare", "-m", "sh", "-c", WITHOUT_TYPES, "sh")
    done = record("--", "true", cwd=tmp_path, prefix=prefix)
    assert done.returncode == 1
    assert "no type information (BTF)" in done.stderr
    assert "CONFIG_DEBUG_INFO_BTF" in done.stderr


def test_dry_run_names_what_would_be_recorded(tmp_path: Path) -> None:
    done = record("--dry-run", "--", "cp", "a b", "c", cwd=tmp_path)
    assert done.returncode == 0
    assert "POSIX: " in done.stdout
    assert "would record: cp 'a b' c" in done.stdout
    assert list(tmp_path.iterdir()) == []


STATUSES = {
    "success": ("exit 0", 0),
    "failure": ("exit 7", 7),
    "terminated": ("kill -TERM $$", 143),
    "killed": ("kill -KILL $$", 137),
}


@pytest.mark.kernel
@pytest.mark.parametrize("case", STATUSES)
def test_exit_status_is_the_commands(case: str, tmp_path: Path) -> None:
    script, status = STATUSES[case]
    done = record("--quiet", "--", "sh", "-c", script, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
    assert events(the_trace(tmp_path))


@pytest.mark.kernel
def test_trace_is_named_after_the_run_and_private(tmp_path: Path) -> None:
    done = record("--run-id", "r1", "--", "true", cwd=tmp_path)
    assert done.returncode == 0
    user = pwd.getpwuid(os.getuid()).pw_name
    path = tmp_path / f"trace-{user}-r1-{os.uname().nodename}-posix.pfw.gz"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert str(path) in done.stderr.replace("\n", "")
    again = record("--run-id", "r1", "--", "true", cwd=tmp_path)
    assert again.returncode == 0
    assert len(list(tmp_path.glob("*.pfw.gz"))) == 2


@pytest.mark.kernel
def test_output_of_the_command_stays_its_own(tmp_path: Path) -> None:
    done = record("--json", "--output", "t.pfw.gz", "--", "echo", "hello", cwd=tmp_path)
    first, second = done.stdout.splitlines()
    assert first == "hello"
    document = json.loads(second)
    assert document["complete"]
    assert document["trace"] == str(tmp_path / "t.pfw.gz")
    assert document["events"] == len(events(tmp_path / "t.pfw.gz"))
    assert done.stderr == ""


@pytest.mark.kernel
def test_command_runs_as_another_user_who_owns_the_trace(tmp_path: Path) -> None:
    output = tmp_path / "t.pfw.gz"
    done = record(
        "--quiet", "--user", NOBODY, "--output", output, "--", "sh", "-c", "id -un; echo $HOME",
        cwd=Path("/"),
    )  # fmt: skip
    account = pwd.getpwnam(NOBODY)
    assert done.stdout.splitlines() == [NOBODY, account.pw_dir]
    assert output.stat().st_uid == account.pw_uid


@pytest.mark.kernel
def test_user_who_may_not_execute_the_command(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    script = tmp_path / "secret"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o700)
    done = record("--user", NOBODY, "--", script, cwd=tmp_path)
    assert done.returncode == 1
    assert "user nobody may not execute it" in done.stderr
    assert list(tmp_path.glob("*.pfw.gz")) == []


WRITER = """
import os, sys, threading, time
path = sys.argv[1]
def write(name):
    with open(path + name, "wb", buffering=0) as stream:
        while not os.path.exists(path + ".stop"):
            stream.write(b"x")
            time.sleep(0.005)
if os.fork() == 0:
    write(".child")
    os._exit(0)
thread = threading.Thread(target=write, args=(".thread",))
thread.start()
open(path + ".ready", "w").close()
write(".main")
thread.join()
os.wait()
"""


@pytest.mark.kernel
@pytest.mark.parametrize("end", ["exit", "signal", "duration"])
def test_running_process_with_threads_and_children(end: str, tmp_path: Path) -> None:
    base = tmp_path / "data"
    with subprocess.Popen([sys.executable, "-c", WRITER, base]) as process:
        wait_until(base.with_suffix(".ready").exists)
        options = ["--duration", "2s"] if end == "duration" else []
        with subprocess.Popen(
            [*RECORD, "--output", tmp_path / "t.pfw.gz", *options, "--pid", str(process.pid)],
            stderr=subprocess.PIPE,
            text=True,
        ) as recorder:
            assert recorder.stderr is not None
            first = recorder.stderr.readline()
            assert "recording to" in first
            if end != "duration":
                files = [Path(f"{base}.{name}") for name in ("child", "thread", "main")]
                sizes = [path.stat().st_size for path in files]
                # A byte with every write.
                wait_until(
                    lambda: all(
                        path.stat().st_size > size + 20
                        for path, size in zip(files, sizes, strict=True)
                    )
                )
            if end == "signal":
                recorder.send_signal(signal.SIGINT)
            if end == "exit":
                base.with_suffix(".stop").touch()
            rest = recorder.stderr.read()
            assert recorder.wait(timeout=HANG_S) == 0
        assert (process.poll() is None) == (end != "exit") or end == "exit"
        base.with_suffix(".stop").touch()
    assert "nothing was lost" in rest
    text = gzip.decompress((tmp_path / "t.pfw.gz").read_bytes()).decode()
    for name in (".child", ".thread", ".main"):
        assert f'"{base}{name}"' in text
    writes = Counter(
        event["tid"] for event in events(tmp_path / "t.pfw.gz") if event["name"] == "write"
    )
    assert len([count for count in writes.values() if count > 10]) == 3


@pytest.mark.kernel
def test_duration_ends_the_recording_but_not_the_command(tmp_path: Path) -> None:
    script = "echo one >>out; while [ ! -e over ]; do sleep 0.05; done; echo two >>out"
    with recording("--json", "--duration", "2s", "--", "sh", "-c", script, cwd=tmp_path) as done:
        # The trace has its end while the command goes on.
        wait_until(lambda: any(b'"final":true' in text_so_far(p) for p in tmp_path.glob("*.gz")))
        (tmp_path / "over").touch()
        output, _ = done.communicate(timeout=HANG_S)
    assert done.returncode == 0
    assert (tmp_path / "out").read_text().split() == ["one", "two"]
    document = json.loads(output)
    assert document["duration_s"] >= 2
    assert document["complete"]
    writes = [event for event in events(the_trace(tmp_path)) if event["name"] == "write"]
    assert [write["args"]["ret"] for write in writes] == [len("one\n")]


@pytest.mark.kernel
@pytest.mark.parametrize("wait_all", [False, True])
def test_descendants_that_outlive_the_command(wait_all: bool, tmp_path: Path) -> None:
    wait = "while [ ! -e over ]; do sleep 0.05; done"
    script = f"({wait}; echo late >late) >/dev/null 2>&1 & echo early >early"
    options = ["--wait-all"] if wait_all else []
    over = tmp_path / "over"
    try:
        with recording("--quiet", *options, "--", "sh", "-c", script, cwd=tmp_path) as done:
            wait_until((tmp_path / "early").exists)
            if wait_all:
                over.touch()
            done.communicate(timeout=HANG_S)
        assert done.returncode == 0
        assert (tmp_path / "late").exists() == wait_all
    finally:
        over.touch()
    text = gzip.decompress(the_trace(tmp_path).read_bytes()).decode()
    assert f'"{tmp_path}/early"' in text
    assert (f'"{tmp_path}/late"' in text) == wait_all
    # Nobody writes there any more.
    wait_until((tmp_path / "late").exists)


@pytest.mark.kernel
def test_profile_mode_counts_what_trace_mode_records(tmp_path: Path) -> None:
    command = ("dd", "if=/dev/zero", f"of={tmp_path}/out", "bs=4k", "count=500", "status=none")
    sums = {}
    for mode in ("trace", "profile"):
        done = record(
            "--json", "--mode", mode, "--output", f"{mode}.pfw.gz", "--", *command, cwd=tmp_path
        )
        document = json.loads(done.stdout)
        assert document["complete"], document["losses"]
        sums[mode] = {
            each["function"]: (each["calls"], each["errors"], each["bytes"])
            for each in document["functions"]
            # files of the C library may be found in a cache the second time
            if each["function"] in ("read", "write", "dup2", "lseek", "openat", "close")
        }
    assert sums["profile"] == sums["trace"]
    assert sums["trace"]["write"] == (500, 0, 500 * 4096)
    assert not [event for event in events(tmp_path / "profile.pfw.gz") if event["ph"] == "X"]


@pytest.mark.kernel
def test_threshold_sums_up_short_calls(tmp_path: Path) -> None:
    done = record("--json", "--threshold", "1h", "--", "true", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert document["events"] == 0
    assert (
        document["losses"]["below_threshold"]
        == document["losses"]["entered"] - (document["losses"]["filtered"])
    )


@pytest.mark.kernel
def test_a_probe_file_is_recorded_without_a_signature(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "capture_probes:\n  - name: calls\n    probe: syscalls\n    regex: (openat|close)\n"
    )
    done = record("--quiet", "--probes", "mine.yaml", "--", "cat", "/etc/hostname", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    recorded = events(the_trace(tmp_path))
    assert {event["cat"] for event in recorded} == {"calls"}
    assert {event["args"].get("syscall", event["name"]) for event in recorded} == {
        "openat",
        "close",
    }


def sleeps_in_read(pid: int) -> bool:
    call = Path(f"/proc/{pid}/syscall").read_text().split()[0]
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    return (state, call) == ("S", str(READ_NUMBER))


@pytest.mark.kernel
def test_calls_under_way_at_the_beginning_and_at_the_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with (
        subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader,
        pipe.open("wb", buffering=0) as writer,
    ):
        wait_until(lambda: sleeps_in_read(reader.pid))
        with subprocess.Popen(
            [*RECORD, "--output", tmp_path / "t.pfw.gz", "--pid", str(reader.pid)],
            stderr=subprocess.PIPE,
            text=True,
        ) as recorder:
            assert recorder.stderr is not None
            assert "recording to" in recorder.stderr.readline()
            writer.write(b"x")
            assert reader.stdout is not None
            assert reader.stdout.read(1) == b"x"
            wait_until(lambda: sleeps_in_read(reader.pid))
            recorder.send_signal(signal.SIGTERM)
            text = recorder.stderr.read()
            assert recorder.wait(timeout=HANG_S) == 0
    assert "nothing was lost" in text
    assert "1 call was under way when the recording began" in text
    assert "1 call was under way when the recording ended" in text
    assert [event["name"] for event in events(tmp_path / "t.pfw.gz")] == ["write"]


@pytest.mark.kernel
def test_hundreds_of_short_processes(tmp_path: Path) -> None:
    script = "for i in $(seq 300); do /bin/true; done"
    done = record("--json", "--output", "t.pfw.gz", "--", "bash", "-c", script, cwd=tmp_path)
    document = json.loads(done.stdout)
    assert document["complete"], document["losses"]
    processes = Counter(event["pid"] for event in events(tmp_path / "t.pfw.gz"))
    # bash, its $(seq), and the three hundred
    assert len(processes) == 302
    assert len(set(processes.values())) <= 5, "all of /bin/true do the same"


@pytest.mark.kernel
def test_only_files_below_the_inclusion_path_are_traced(tmp_path: Path) -> None:
    wanted, other = tmp_path / "wanted", tmp_path / "other"
    for directory in (wanted, other):
        directory.mkdir()
        (directory / "file").write_text("text")
    probes = tmp_path / "probes.yaml"
    probes.write_text(f"include: [posix]\ninclusion_path: {wanted}\n")
    files = [str(directory / "file") for directory in (wanted, other)]
    done = record("--json", "--probes", probes, "--", "cat", *files, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.removeprefix("texttext"))
    calls = events(the_trace(tmp_path))
    assert summary["events"] == len(calls) > 2
    assert summary["losses"]["excluded"] > len(calls)
    (named,) = summary["files_by_time"]
    assert named["path"] == files[0]
    assert named["calls"] == len(calls)
