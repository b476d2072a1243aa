"""Attacks on the signer. After each, nothing is signed and the next honest user is served."""

import contextlib
import gzip
import json
import os
import shutil
import socket
import struct
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from signing_site import (
    ALICE,
    BOB,
    REFUSED,
    SIGNED,
    Site,
    as_json,
    probe_file,
    syscalls,
)
from waiting import HANG_S, wait_until

from datacrumbs_runtime.errors import SigningError
from datacrumbs_runtime.pinned_binaries import PinnedBinaries
from datacrumbs_runtime.schema.probe_document import probe_file_from_document
from datacrumbs_runtime.schema.probe_file import Argument, Category, ProbeType, UsdtPoint
from datacrumbs_runtime.schema.signing_rpc import FrameKind, frame
from datacrumbs_runtime.signing.accounts import Account, open_as_user
from datacrumbs_runtime.signing.binaries import check_binary
from datacrumbs_runtime.signing.elf_facts import ElfFacts

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the signer is root: run this as root")

LIBC = Path("/lib/x86_64-linux-gnu/libc.so.6").resolve()


def uprobe(path: str | Path, *functions: str, **values: object) -> Category:
    base = Category(ProbeType.UPROBE, "lib", functions or ("read",), binary_path=str(path))
    return replace(base, **values)  # type: ignore[arg-type]


def honest_user_is_served(site: Site) -> None:
    assert site.ask(probe_file(), BOB).returncode == SIGNED


# Who asks


def talk(path: Path, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.settimeout(HANG_S)
        answer = b""
        # It may have answered and hung up without reading, which the kernel reports on both ways.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                answer += part
        return answer


def test_another_program_on_the_socket_is_refused(shared_site: Site) -> None:
    answer = talk(shared_site.paths.socket, frame(FrameKind.REQUEST, as_json(probe_file())))
    assert answer[7] == FrameKind.REFUSED
    assert b"the caller is not the installed datacrumbs_probe_configurator_exec" in answer
    honest_user_is_served(shared_site)


def test_copy_of_the_relay_elsewhere_is_refused(shared_site: Site) -> None:
    copy = shared_site.root / "datacrumbs_probe_configurator_exec"
    shutil.copy(shared_site.paths.relay, copy)
    copy.chmod(0o755)
    done = shared_site.ask(probe_file(), relay=copy)
    assert (done.returncode, done.stdout) == (REFUSED, b"")
    assert b"not the installed" in done.stderr
    honest_user_is_served(shared_site)


def test_another_name_of_the_relay_is_the_relay(shared_site: Site) -> None:
    link = shared_site.root / "relay"
    link.symlink_to(shared_site.paths.relay)
    assert shared_site.ask(probe_file(), relay=link).returncode == SIGNED


def test_relay_that_became_writable_is_served_no_more(site: Site) -> None:
    site.paths.relay.chmod(0o757)
    done = site.ask(probe_file())
    assert (done.returncode, done.stdout) == (REFUSED, b"")
    assert b"may be changed by others than root" in done.stderr
    site.paths.relay.chmod(0o755)
    honest_user_is_served(site)


def test_relay_under_a_debugger_still_signs_for_its_own_user_only(shared_site: Site) -> None:
    # What the relay sends is its user's to choose; who it is for is the kernel's word.
    document = json.loads(as_json(probe_file()))
    document["summary"]["uid"] = 0
    done = shared_site.ask(json.dumps(document).encode())
    assert json.loads(done.stdout)["summary"]["uid"] == ALICE


# Sizes and times


def test_request_of_10_mb_is_refused(shared_site: Site) -> None:
    shared_site.is_refused(os.urandom(10 << 20), "more than the 8388608 that this site allows")


def install_impostor(site: Site, request: str) -> Path:
    """Install, in the place of the relay, a program that sends these bytes and no more.

    So it looks like the relay; it prints the text of the answer and ends as the relay would.
    """
    source = site.root / "impostor.c"
    source.write_text(
        "#include <string.h>\n#include <sys/socket.h>\n#include <sys/un.h>\n"
        "#include <unistd.h>\n"
        f'static const char request[] = "{request}";\n'
        "int main(int argc, char **argv) {\n"
        "  struct sockaddr_un a = {.sun_family = AF_UNIX};\n"
        "  char answer[4096]; ssize_t n; int s = socket(AF_UNIX, SOCK_STREAM, 0);\n"
        "  strncpy(a.sun_path, argv[argc - 1], sizeof(a.sun_path) - 1);\n"
        "  if (connect(s, (struct sockaddr *)&a, sizeof(a))) return 9;\n"
        "  if (write(s, request, sizeof(request) - 1) < 0) return 8;\n"
        "  n = read(s, answer, sizeof(answer));\n"
        "  return n > 12 && write(1, answer + 12, n - 12) > 0 ? answer[7] + 1 : 7;\n}\n"
    )
    site.paths.relay.unlink()
    subprocess.run(["cc", "-o", str(site.paths.relay), str(source)], check=True)
    site.paths.relay.chmod(0o755)
    return site.paths.relay


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (rb"DCSIGN\1\1\377\377\377\377", "the payload is larger than 64 MiB"),
        (rb"DCSIGN\1\1\1\0\0\0", "more than the 8388608 that this site allows"),
        (rb"DCSIGN\2\1\0\0\0\0", "version 2 of the signing protocol is unknown here"),
        (rb"DCSIGN\1\2\0\0\0\0", "this is not a signing request"),
        (rb"DCSIGN\1\11\0\0\0\0", "frames of kind 9 are unknown here"),
        (rb"GET / HTTP/1.1", "this is not a signing request"),
    ],
)
def test_header_that_is_none_is_refused_before_more_is_read(
    site: Site, built_relay: Path, header: bytes, reason: str
) -> None:
    impostor = install_impostor(site, header.decode())
    done = subprocess.run(
        [impostor, site.paths.socket], user=ALICE, capture_output=True, text=True, timeout=HANG_S
    )
    assert done.returncode == REFUSED
    assert reason in done.stdout
    site.paths.relay.unlink()
    site.install_relay(built_relay)
    honest_user_is_served(site)


def test_gzip_bomb_is_refused(shared_site: Site) -> None:
    bomb = gzip.compress(bytes(1 << 30), 1)
    assert len(bomb) < 8 << 20
    shared_site.is_refused(bomb, "larger than 32 MiB")


def test_json_bombs_are_refused(shared_site: Site) -> None:
    shared_site.is_refused(b"[" * (1 << 20), "not a probe file")
    wide = b'{"summary": {}, "categories": [' + b"[]," * (2 << 20) + b"[]]}"
    shared_site.is_refused(wide, "request: ")
    packed = gzip.compress(b'{"categories": [' + b"{}," * (10 << 20) + b"{}]}", 1)
    shared_site.is_refused(packed, "request")


def test_slow_clients_delay_nobody(stopped_site: Site) -> None:
    site = stopped_site
    site.start("--request-timeout", str(2 * HANG_S))
    # The relay waits for its standard input first; so stop it in the middle of sending instead.
    stalled = []
    request = as_json(probe_file())
    for uid in (ALICE, BOB):
        for _ in range(20):
            process = subprocess.Popen(
                site.relay_command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                user=uid,
            )
            assert process.stdin is not None
            process.stdin.write(request)
            stalled.append(process)
    # Whoever waited for these would wait for longer than the relay does.
    assert site.ask(probe_file(), 61003).returncode == SIGNED
    for process in stalled:
        process.kill()
        process.communicate()


def test_half_a_request_is_given_up_after_its_time(stopped_site: Site, built_relay: Path) -> None:
    site = stopped_site
    site.start("--request-timeout", "2")
    slow = install_impostor(site, r"DCSIGN\1\1\0\0\1\0half")
    # More than may be read at once for one user, so that some wait until others were given up.
    clients = [
        subprocess.Popen([slow, site.paths.socket], user=ALICE, stdout=subprocess.PIPE)
        for _ in range(40)
    ]
    for client in clients:
        answer, _ = client.communicate(timeout=HANG_S)
        assert client.returncode == REFUSED
        assert answer == b"the request did not arrive within 2 s"
    site.paths.relay.unlink()
    site.install_relay(built_relay)
    honest_user_is_served(site)


def test_half_requests_of_another_user_cost_nobody_time(
    stopped_site: Site, built_relay: Path
) -> None:
    site = stopped_site
    site.start("--request-timeout", str(2 * HANG_S))
    slow = install_impostor(site, r"DCSIGN\1\1\0\0\1\0half")
    clients = [
        subprocess.Popen([slow, site.paths.socket], user=ALICE, stdout=subprocess.DEVNULL)
        for _ in range(40)
    ]
    assert site.process is not None
    children = Path(f"/proc/{site.process.pid}/task/{site.process.pid}/children")
    wait_until(children.read_text)
    site.paths.relay.unlink()
    site.install_relay(built_relay)
    # Whoever waited for these would wait for longer than the relay does.
    honest_user_is_served(site)
    for client in clients:
        client.kill()
        client.wait()


def test_200_clients_at_once_are_all_served(shared_site: Site) -> None:
    wanted = probe_file(syscalls(), uprobe(LIBC))

    def ask(number: int) -> int:
        return shared_site.ask(wanted, ALICE + number % 5).returncode

    with ThreadPoolExecutor(200) as pool:
        statuses = list(pool.map(ask, range(200)))
    assert statuses == [SIGNED] * 200


def test_clients_that_leave_at_once_leave_nothing_behind(shared_site: Site) -> None:
    assert shared_site.process is not None
    fds = Path(f"/proc/{shared_site.process.pid}/fd")
    honest_user_is_served(shared_site)
    before = len(list(fds.iterdir()))
    for _ in range(50):
        process = subprocess.Popen(
            shared_site.relay_command(), stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdin is not None
        process.stdin.write(as_json(probe_file()))
        process.stdin.close()
        process.kill()
        process.wait()
    honest_user_is_served(shared_site)
    wait_until(lambda: len(list(fds.iterdir())) <= before)
    children = Path(f"/proc/{shared_site.process.pid}/task/{shared_site.process.pid}/children")
    wait_until(lambda: children.read_text() == "")


def test_more_connections_than_descriptors_are_survived(stopped_site: Site) -> None:
    stopped_site.start(descriptors=48)
    with ThreadPoolExecutor(80) as pool:
        answers = list(pool.map(lambda _: stopped_site.ask(probe_file()), range(80)))
    assert [answer.returncode for answer in answers] == [SIGNED] * 80, answers


# What is asked for


def test_path_outside_of_the_policy_is_refused(site: Site) -> None:
    site.write_policy("default: {binaries: [/opt]}\n")
    site.is_refused(probe_file(uprobe(LIBC)), "is outside of /opt")


def test_link_that_leads_outside_of_the_policy_is_refused(site: Site) -> None:
    allowed = site.root / "allowed"
    allowed.mkdir()
    (allowed / "lib.so").symlink_to(LIBC)
    site.write_policy(f"default: {{binaries: [{allowed}]}}\n")
    site.is_refused(probe_file(uprobe(allowed / "lib.so")), f"leads to {LIBC}: is outside of")


def test_link_swapped_between_check_and_use_gains_nothing(site: Site) -> None:
    allowed, forbidden = site.root / "allowed", site.root / "forbidden"
    for directory, source in ((allowed, "/bin/true"), (forbidden, LIBC)):
        directory.mkdir()
        (directory / "x.so").write_bytes(Path(source).read_bytes())
    site.write_policy(f"default: {{binaries: [{allowed}]}}\n")
    link = site.root / "link.so"
    link.symlink_to(allowed / "x.so")
    good = ElfFacts((allowed / "x.so").read_bytes(), "x").build_id()
    over = threading.Event()

    def swap() -> None:
        targets = [forbidden / "x.so", allowed / "x.so"]
        temporary = site.root / "temporary"
        while not over.is_set():
            temporary.symlink_to(targets[0])
            temporary.replace(link)
            targets.reverse()

    thread = threading.Thread(target=swap)
    thread.start()
    wanted = probe_file(uprobe(link, "main"))
    signed = []
    try:
        for _ in range(60):
            done = site.ask(wanted)
            if done.returncode == SIGNED:
                signed.append(json.loads(done.stdout))
    finally:
        over.set()
        thread.join()
    # Whatever was signed is bound to the file that was allowed; the other fails at attach.
    assert {document["categories"][0]["build_id"] for document in signed} <= {good}
    link.unlink()
    link.symlink_to(allowed / "x.so")
    (category,) = probe_file_from_document(json.loads(site.sign(wanted)), "f").categories
    changed = pytest.raises(SigningError, match="was changed since the probe file was made")
    with (forbidden / "x.so").open("rb") as other, changed:
        check_binary(category, other.fileno())
    with (allowed / "x.so").open("rb") as same:
        check_binary(category, same.fileno())


def test_file_with_a_copied_build_id_does_not_lend_its_addresses(site: Site) -> None:
    # A file of the attacker's own says that a function begins where, in libc, an instruction goes
    # on; it carries libc's build id. The signer has to believe it. The daemon sees through it.
    name, _ = libc_function("strtoull")
    middle = int(name.partition(":")[2], 16) + 1
    forged = bytearray(LIBC.read_bytes())
    for position in symbol_values(bytes(forged), "strtoull"):
        forged[position : position + 8] = middle.to_bytes(8, "little")
    link = site.root / "link.so"
    (site.root / "forged.so").write_bytes(forged)
    link.symlink_to("forged.so")
    wanted = uprobe(link, f"strtoull:{middle:#x}", include_offsets=True)
    (category,) = probe_file_from_document(
        json.loads(site.sign(probe_file(wanted))), "f"
    ).categories
    link.unlink()
    link.symlink_to(LIBC)
    with LIBC.open("rb") as real:
        assert category.build_id == ElfFacts(real.fileno(), "libc").build_id()
        with pytest.raises(SigningError, match="no function begins there"):
            check_binary(category, real.fileno())
    pinned = PinnedBinaries(
        replace(probe_file(), categories=(category,)),
        Account(ALICE, ALICE, (), "alice"),
        timeout_s=HANG_S,
    )
    with contextlib.closing(pinned):
        kept, refused = pinned.usable()
    assert kept.categories == ()
    assert [refusal.reason.rpartition(": ")[2].partition(";")[0] for refusal in refused] == [
        "no function begins there"
    ]


def symbol_values(data: bytes, name: str) -> list[int]:
    """Return where in an ELF file the values of a symbol stand."""
    (section_offset,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    headers = [
        struct.unpack_from("<IIQQQQIIQQ", data, section_offset + index * size)
        for index in range(count)
    ]
    found = []
    for header in headers:
        if header[1] in (2, 11):
            names = headers[header[6]][4]
            for at in range(header[4], header[4] + header[5], 24):
                start = names + struct.unpack_from("<I", data, at)[0]
                if data[start : data.index(b"\0", start)] == name.encode():
                    found.append(at + 8)
    return found


def test_binary_that_only_root_may_read_is_refused(shared_site: Site) -> None:
    secret = shared_site.root / "secret"
    secret.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(LIBC, secret / "lib.so")
    shared_site.is_refused(probe_file(uprobe(secret / "lib.so")), "lib.so: Permission denied")


def test_supplementary_groups_count_for_reading(shared_site: Site) -> None:
    shared = shared_site.root / "group.so"
    shutil.copy(LIBC, shared)
    os.chown(shared, 0, 7777)
    shared.chmod(0o640)
    assert shared_site.ask(probe_file(uprobe(shared))).returncode == REFUSED
    assert shared_site.ask(probe_file(uprobe(shared)), groups=(7777,)).returncode == SIGNED


def test_binary_that_does_not_exist_is_told_apart_from_a_secret_one(shared_site: Site) -> None:
    shared_site.is_refused(probe_file(uprobe("/no/such.so")), "/no/such.so: No such file")


@pytest.mark.parametrize("character", ["\0", "\n", "\x1b", "\u202e"])
def test_unprintable_characters_in_a_path_are_refused(shared_site: Site, character: str) -> None:
    path = f"/tmp/x{character}.so"
    document = json.loads(as_json(probe_file(uprobe("/x"))))
    document["categories"][0]["binary_path"] = path
    request = json.dumps(document).encode()
    shared_site.is_refused(request, "binary_path: has characters that cannot be printed")


def test_command_in_a_path_is_refused_and_not_executed(shared_site: Site) -> None:
    mark = shared_site.root / "executed"
    directory = shared_site.root / f"$(touch {mark.name})"
    directory.mkdir()
    shutil.copy(LIBC, directory / "lib.so")
    shared_site.is_refused(
        probe_file(uprobe(directory / "lib.so")), "has characters that no binary's path needs"
    )
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["fifo", "directory", "device", "text", "socket"])
def test_what_is_no_binary_is_refused_at_once(shared_site: Site, kind: str) -> None:
    path = shared_site.root / kind
    if kind == "fifo":
        os.mkfifo(path, 0o666)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "socket":
        path = shared_site.paths.socket
    else:
        path.write_text("#!/bin/sh\n")
    reason = "not a 64-bit ELF file" if kind == "text" else "not a regular file"
    shared_site.is_refused(probe_file(uprobe(path)), reason)


def test_kernel_function_that_the_policy_denies_is_refused(site: Site) -> None:
    site.write_policy("default: {denied_kernel_functions: ['vfs_.*']}\n")
    kernel = Category(ProbeType.KPROBE, "k", ("ext4_sync_file", "vfs_read"))
    site.is_refused(probe_file(kernel), "kernel function vfs_read: denied at this site")


def test_custom_code_is_refused(shared_site: Site) -> None:
    custom = Category(ProbeType.CUSTOM, "mine", ("f",), plugin="mine")
    shared_site.is_refused(probe_file(custom), "custom probes are not allowed at this site")


def test_captured_arguments_that_the_policy_forbids_are_refused(site: Site) -> None:
    site.write_policy("default: {capture_arguments: false}\n")
    arguments = {"read": (Argument(0, 4, False, "fd", "int"),)}
    site.is_refused(
        probe_file(replace(syscalls(), arguments=arguments)), "may not be recorded at this site"
    )


# Places that would break the programs of others


def libc_function(name: str) -> tuple[str, int]:
    with LIBC.open("rb") as stream:
        facts = ElfFacts(stream.fileno(), "libc")
        value = min(facts.addresses_of(frozenset({name}))[name])
        offset = facts.file_offset(value)
    assert offset is not None
    return f"{name}:{value:#x}", offset


def test_function_at_an_invented_address_is_refused(shared_site: Site) -> None:
    name, _ = libc_function("read")
    value = int(name.partition(":")[2], 16)
    good = uprobe(LIBC, name, include_offsets=True)
    assert shared_site.ask(probe_file(good)).returncode == SIGNED
    for wrong in (value + 1, 0, value + (1 << 60)):
        bad = uprobe(LIBC, f"read:{wrong:#x}", include_offsets=True)
        shared_site.is_refused(probe_file(bad), "no function begins there")


def test_probe_in_the_middle_of_an_instruction_is_refused(shared_site: Site) -> None:
    name, offset = libc_function("strtoull")
    code = LIBC.read_bytes()[offset : offset + 64]
    assert code[:4] == b"\xf3\x0f\x1e\xfa" or code[0] in (0xE9, 0x31, 0x55, 0x48), code.hex()
    import capstone  # type: ignore[import-untyped]

    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    begins = {address for address, *_ in decoder.disasm_lite(code, 0)}
    for distance in range(16):
        placed = uprobe(LIBC, name, include_offsets=True, placed_offsets={name: offset + distance})
        done = shared_site.ask(probe_file(placed))
        assert (done.returncode == SIGNED) == (distance in begins), (distance, done.stderr)


@pytest.mark.parametrize("distance", [-1, -4096, 4096, 1 << 40])
def test_probe_placed_elsewhere_is_refused(shared_site: Site, distance: int) -> None:
    name, offset = libc_function("read")
    at = max(0, offset + distance)
    placed = uprobe(LIBC, name, include_offsets=True, placed_offsets={name: at})
    shared_site.is_refused(probe_file(placed), "no instruction of its beginning is at offset")


def test_build_id_of_another_build_is_refused(shared_site: Site) -> None:
    shared_site.is_refused(
        probe_file(uprobe(LIBC, build_id="ab" * 20)), "was changed since the probe file was made"
    )


PYTHON = Path("/usr/bin/python3").resolve()


@pytest.mark.skipif(
    not PYTHON.exists() or b"stapsdt" not in PYTHON.read_bytes(),
    reason="the system's Python has no USDT probes",
)
def test_invented_usdt_places_and_semaphores_are_refused(shared_site: Site) -> None:
    with PYTHON.open("rb") as stream:
        places = ElfFacts(stream.fileno(), "python").usdt_places()
    place = next(place for place in places if place.semaphore)

    def ask(point: UsdtPoint, provider: str | None = "python") -> int:
        category = Category(
            ProbeType.USDT,
            "python",
            (place.name,),
            binary_path=str(PYTHON),
            provider=provider,
            usdt_points={place.name: (point,)},
        )
        return shared_site.ask(probe_file(category)).returncode

    assert ask(UsdtPoint(place.offset, place.semaphore, "8@%rdi")) == SIGNED
    assert ask(UsdtPoint(place.offset, place.semaphore, "8@%rdi"), None) == SIGNED
    assert ask(UsdtPoint(place.offset, place.semaphore, "8@%rdi"), "perl") == REFUSED
    assert ask(UsdtPoint(place.offset, place.semaphore + 8, "8@%rdi")) == REFUSED
    assert ask(UsdtPoint(place.offset, 0, "8@%rdi")) == REFUSED
    assert ask(UsdtPoint(place.offset + 1, place.semaphore, "8@%rdi")) == REFUSED
    honest_user_is_served(shared_site)


def test_damaged_binaries_are_refused_without_harm(shared_site: Site) -> None:
    original = Path("/bin/true").read_bytes()
    damaged = shared_site.root / "damaged"
    value = "main:0x1000"
    for position in range(0, 64):
        data = bytearray(original)
        data[position] = 0xFF
        damaged.write_bytes(data)
        done = shared_site.ask(probe_file(uprobe(damaged, value, include_offsets=True)))
        assert (done.returncode, done.stdout) == (REFUSED, b""), done.stderr
    assert 'verdict="failed"' not in "".join(shared_site.audit()[-64:])
    honest_user_is_served(shared_site)


# Opening as a user


def test_file_is_opened_with_the_users_rights_and_handed_over(shared_site: Site) -> None:
    account = Account(ALICE, ALICE, (), "alice")
    mine = shared_site.root / "mine"
    mine.write_text("content")
    os.chown(mine, ALICE, ALICE)
    mine.chmod(0o400)
    fd = open_as_user(account, str(mine))
    try:
        assert os.read(fd, 100) == b"content"
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)
    with pytest.raises(SigningError, match="mine: Permission denied"):
        open_as_user(Account(BOB, BOB, (), "bob"), str(mine))
    fifo = shared_site.root / "pipe"
    os.mkfifo(fifo, 0o666)
    with pytest.raises(SigningError, match="pipe: not a regular file"):
        open_as_user(account, str(fifo))
