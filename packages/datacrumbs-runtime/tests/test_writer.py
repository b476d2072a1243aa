"""The trace file: its members, its name and owner, and what happens when the disk is full."""

import gzip
import json
import logging
import os
import random
import stat
import subprocess
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import HANG_S

from datacrumbs_runtime.errors import TraceError
from datacrumbs_runtime.signing.accounts import account_of_uid
from datacrumbs_runtime.trace.trace_file import Owner, Place, numbered_name
from datacrumbs_runtime.trace.writer import TraceWriter, WriterSettings

NAME = "trace-u-1-n-p.pfw.gz"
AT_ONCE = WriterSettings(member_bytes=1, retry_s=0.0, last_wait_s=60.0)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting and chown need root")


def settle(writer: TraceWriter, timeout_s: float = HANG_S) -> None:
    """Poll until nothing waits to be written."""
    end_s = time.monotonic() + timeout_s
    writer.poll()
    while writer.counters().waiting_bytes and time.monotonic() < end_s:
        time.sleep(0.001)
        writer.poll()


def calls(count: int, seed: int = 0) -> bytes:
    """Lines of calls that compress badly."""
    numbers = random.Random(seed)  # noqa: S311
    return b"".join(
        b'{"name":"w","ph":"X","args":{"v":%d}}\n' % numbers.getrandbits(64) for _ in range(count)
    )


def members_of(data: bytes) -> list[bytes]:
    """Decompress each gzip member by itself."""
    texts = []
    while data:
        member = zlib.decompressobj(wbits=31)
        texts.append(member.decompress(data) + member.flush())
        assert member.eof, "the last member is whole"
        data = member.unused_data
    return texts


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user can enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


def test_members_are_complete_and_end_with_a_line(tmp_path: Path) -> None:
    written = []
    with TraceWriter.at(tmp_path / NAME, settings=WriterSettings(member_bytes=10_000)) as writer:
        for i in range(100):
            written.append(calls(i % 50 + 1, i))
            writer.write(written[-1])
    members = members_of((tmp_path / NAME).read_bytes())
    assert b"".join(members) == b"".join(written)
    assert len(members) > 5
    assert all(member.endswith(b"\n") for member in members)
    assert all(len(member) >= 10_000 for member in members[1:-1])
    assert writer.counters().members == len(members)
    assert writer.counters().text_bytes == len(b"".join(written))
    assert writer.counters().file_bytes == (tmp_path / NAME).stat().st_size


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_every_level_can_be_read(tmp_path: Path, level: int) -> None:
    with TraceWriter.at(tmp_path / NAME, settings=WriterSettings(level)) as writer:
        writer.write(calls(1000))
    assert gzip.decompress((tmp_path / NAME).read_bytes()) == calls(1000)


def test_lines_reach_the_file_when_a_member_is_old_enough(tmp_path: Path) -> None:
    with TraceWriter.at(tmp_path / NAME, settings=WriterSettings(member_age_s=0.0)) as writer:
        writer.write(calls(1))
        writer.write(calls(1, 2))
        settle(writer)
        assert gzip.decompress((tmp_path / NAME).read_bytes()) == calls(1) + calls(1, 2)
    assert writer.counters().members == 2


def test_young_lines_wait_until_they_are_flushed(tmp_path: Path) -> None:
    with TraceWriter.at(tmp_path / NAME, settings=WriterSettings(member_age_s=3600)) as writer:
        writer.write(calls(1))
        writer.write(calls(1, 2))
        settle(writer)
        assert gzip.decompress((tmp_path / NAME).read_bytes()) == calls(1)
        writer.flush()
        assert gzip.decompress((tmp_path / NAME).read_bytes()) == calls(1) + calls(1, 2)


def test_nothing_written_leaves_an_empty_file(tmp_path: Path) -> None:
    with TraceWriter.at(tmp_path / NAME) as writer:
        writer.write(b"")
        writer.poll()
    writer.close()
    assert (tmp_path / NAME).read_bytes() == b""


def test_existing_files_are_never_touched(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"mine")
    (tmp_path / "trace-u-1-n-p-2.pfw.gz").symlink_to(tmp_path / "elsewhere")
    with TraceWriter.at(tmp_path / NAME) as writer:
        assert writer.name == "trace-u-1-n-p-3.pfw.gz"
    assert (tmp_path / NAME).read_bytes() == b"mine"
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [
        ("a.pfw.gz", 1, "a.pfw.gz"),
        ("a.pfw.gz", 2, "a-2.pfw.gz"),
        ("a.b.pfw.gz", 12, "a.b-12.pfw.gz"),
        ("a.json", 2, "a.json-2"),
    ],
)
def test_numbers_go_before_the_suffix(name: str, number: int, expected: str) -> None:
    assert numbered_name(name, number) == expected


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with TraceWriter.at(tmp_path / NAME):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600


@needs_root
def test_it_belongs_to_the_user(tmp_path: Path) -> None:
    with TraceWriter.at(tmp_path / NAME, owner=Owner(1234, 5678)):
        pass
    status = (tmp_path / NAME).stat()
    assert (status.st_uid, status.st_gid) == (1234, 5678)
    assert stat.S_IMODE(status.st_mode) == 0o600


@needs_root
def test_a_file_that_cannot_become_the_users_is_not_left(open_directory: Path) -> None:
    open_directory.chmod(0o777)
    os.seteuid(65534)
    try:
        with pytest.raises(TraceError, match="Operation not permitted"):
            TraceWriter.at(open_directory / NAME, owner=Owner(1234, 5678))
    finally:
        os.seteuid(0)
    assert list(open_directory.iterdir()) == []


@needs_root
def test_it_is_created_with_the_rights_of_the_user(open_directory: Path) -> None:
    account = account_of_uid(65534)
    users = open_directory / "users"
    users.mkdir(mode=0o700)
    os.chown(users, account.uid, account.gid)
    (users / "roots").mkdir(mode=0o755)
    with opened(Place(str(users / "more"), NAME, account=account)):
        pass
    assert (users / "more" / NAME).stat().st_uid == account.uid
    with pytest.raises(TraceError, match="Permission denied"):
        opened(Place(str(users / "roots"), NAME, account=account))
    assert list((users / "roots").iterdir()) == []


def opened(place: Place) -> TraceWriter:
    writer = TraceWriter(place)
    writer.opened()
    return writer


def test_a_run_that_never_began_leaves_no_file(tmp_path: Path) -> None:
    TraceWriter.at(tmp_path / NAME).discard()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_took_its_place_is_not_discarded(tmp_path: Path) -> None:
    writer = TraceWriter.at(tmp_path / NAME)
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).write_bytes(b"mine")
    writer.discard()
    assert (tmp_path / NAME).read_bytes() == b"mine"


def test_a_missing_directory_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=f"{tmp_path}/no/{NAME}: No such file or directory"):
        TraceWriter.at(tmp_path / "no" / NAME)


@needs_root
def test_a_full_disk_makes_members_wait(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    written = calls(5)
    with TraceWriter.at(small_disk / NAME, settings=AT_ONCE) as writer:
        writer.write(written)
        (small_disk / "filler").write_bytes(bytes((1 << 20) - 8192))
        for seed in range(20):
            written += calls(500, seed)
            writer.write(calls(500, seed))
        end_s = time.monotonic() + HANG_S
        while not caplog.records and time.monotonic() < end_s:
            writer.poll()
        assert writer.counters().waiting_bytes > 0
        # What is there is valid at every moment.
        readable = b"".join(members_of((small_disk / NAME).read_bytes()))
        assert written.startswith(readable)
        resize(small_disk, "8m")
        settle(writer)
        assert writer.counters().waiting_bytes == 0
    assert gzip.decompress((small_disk / NAME).read_bytes()) == written
    assert writer.counters().dropped_events == 0
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith(f"{NAME}: No space left on device")
    assert "writing again" in said[1]


@needs_root
def test_beyond_the_limit_calls_are_dropped_and_counted(small_disk: Path) -> None:
    settings = WriterSettings(member_bytes=1, retry_s=0.0, waiting_bytes=100_000)
    metadata = b"".join(b'{"name":"FH","ph":"M","args":{"value":"%d"}}\n' % i for i in range(200))
    (small_disk / "filler").write_bytes(bytes((1 << 20) - 4096))
    with TraceWriter.at(small_disk / NAME, settings=settings) as writer:
        for seed in range(200):
            writer.write(calls(100, seed) + metadata.splitlines(keepends=True)[seed])
            assert writer.counters().waiting_bytes <= settings.waiting_bytes
        (small_disk / "filler").unlink()
    lines = gzip.decompress((small_disk / NAME).read_bytes()).splitlines(keepends=True)
    kept = [json.loads(line) for line in lines]
    dropped = writer.counters().dropped_events
    assert dropped > 0
    assert sum(line["ph"] == "X" for line in kept) + dropped == 200 * 100
    assert b"".join(line for line in lines if b'"M"' in line) == metadata
    dropped_bytes = sum(len(calls(100, seed)) for seed in range(200)) + len(metadata)
    assert writer.counters().dropped_bytes == dropped_bytes - sum(map(len, lines))


@needs_root
def test_what_still_waits_at_the_end_is_counted(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes((1 << 20) - 64 * 1024))
    metadata = b"".join(b'{"name":"FH","ph":"M","args":{"value":"%d"}}\n' % i for i in range(20))
    lines = metadata.splitlines(keepends=True)
    writer = TraceWriter.at(small_disk / NAME, settings=AT_ONCE)
    for seed in range(20):
        writer.write(calls(1000, seed) + lines[seed])
        settle(writer, timeout_s=0.1)
    writer.close()
    text = gzip.decompress((small_disk / NAME).read_bytes())
    dropped = writer.counters().dropped_events
    assert text.count(b'"X"') + dropped == 20_000
    assert dropped > 0
    # The file itself says so, and the metadata is all there.
    *rest, last = text.splitlines(keepends=True)
    assert json.loads(last)["name"] == "datacrumbs_unwritten"
    assert json.loads(last)["args"] == {"unwritten": dropped}
    assert b"".join(line for line in rest if b'"M"' in line) == metadata
    taken = sum(len(calls(1000, seed)) for seed in range(20)) + len(metadata)
    assert writer.counters().dropped_bytes == taken - len(text)


@needs_root
def test_a_disk_without_any_room_at_all(small_disk: Path) -> None:
    writer = TraceWriter.at(small_disk / NAME, settings=AT_ONCE)
    (small_disk / "filler").write_bytes(bytes((1 << 20) - 4096))
    writer.write(calls(5000))
    writer.close()
    assert (small_disk / NAME).read_bytes() == b"" or writer.counters().members == 1
    assert writer.counters().dropped_events == 5000


def test_a_partial_write_is_taken_back(tmp_path: Path) -> None:
    """The kernel may take a part only: a file size limit is one way to make it."""
    import resource

    settings = WriterSettings(member_bytes=1, retry_s=0.0, other_process=False)
    writer = TraceWriter.at(tmp_path / NAME, settings=settings)
    writer.write(calls(10))
    whole = (tmp_path / NAME).read_bytes()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, old[1]))
    try:
        writer.write(calls(1000, 1))
        assert (tmp_path / NAME).read_bytes() == whole
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    writer.close()
    assert gzip.decompress((tmp_path / NAME).read_bytes()) == calls(10) + calls(1000, 1)


def test_a_removed_file_is_written_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with TraceWriter.at(tmp_path / NAME, settings=AT_ONCE) as writer:
        writer.write(calls(1000, 1))
        (tmp_path / NAME).unlink()
        writer.write(calls(1000, 2))
    assert gzip.decompress((tmp_path / NAME).read_bytes()) == calls(1000, 1) + calls(1000, 2)
    assert writer.counters().dropped_events == 0
    assert "was removed and is written anew" in caplog.text


def test_a_removed_directory_may_come_back(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    with TraceWriter.at(directory / NAME, settings=AT_ONCE) as writer:
        writer.write(calls(10, 1))
        (directory / NAME).unlink()
        directory.rmdir()
        writer.write(calls(10, 2))
        assert writer.counters().waiting_bytes > 0
        directory.mkdir()
        settle(writer)
        assert writer.counters().waiting_bytes == 0
    assert gzip.decompress((directory / NAME).read_bytes()) == calls(10, 1) + calls(10, 2)


def test_a_directory_that_stays_away_costs_only_what_was_not_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    writer = TraceWriter.at(directory / NAME, settings=AT_ONCE)
    (directory / NAME).unlink()
    directory.rmdir()
    with caplog.at_level(logging.WARNING):
        writer.write(calls(10, 2))
        writer.close()
    assert writer.counters().dropped_events == 10
    assert "No such file or directory" in caplog.text
