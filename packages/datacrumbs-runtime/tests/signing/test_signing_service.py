"""The signing service as a whole: a real process on a real socket, real users, the real relay."""

import json
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from signing_site import (
    ALICE,
    BOB,
    FAILED,
    NO_SIGNER,
    REFUSED,
    SIGNED,
    SITE,
    Site,
    as_json,
    probe_file,
    syscalls,
)
from waiting import HANG_S, wait_until

from datacrumbs_runtime.errors import SigningError
from datacrumbs_runtime.schema.probe_file import Category, ProbeType
from datacrumbs_runtime.signing import keys
from datacrumbs_runtime.signing.verify import Expectation, verify_bytes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the signer is root: run this as root")

LIBC = os.path.realpath("/lib/x86_64-linux-gnu/libc.so.6")


def libc(**values: Any) -> Category:
    return Category(ProbeType.UPROBE, "libc", ("read",), binary_path=LIBC, **values)


def expectation(uid: int = ALICE) -> Expectation:
    return Expectation("anywhere", SITE, uid)


def test_signed_file_is_the_users_and_verifies(shared_site: Site) -> None:
    ring = keys.load_keys(shared_site.paths.data_dir)
    before = time.time()
    data = shared_site.sign(probe_file(syscalls(), libc()))
    read = verify_bytes(data, "f", ring, expectation())
    assert read.summary.uid == ALICE
    assert read.summary.user == str(ALICE), "a user without a name is called by his number"
    assert read.summary.hostname == os.uname().nodename
    assert read.summary.site == SITE
    assert read.summary.install_user == "root"
    assert read.summary.created is not None
    assert read.summary.expires == read.summary.created + 180 * 86400
    assert before - 1 <= read.summary.created <= time.time()
    assert read.categories[0] == syscalls()
    assert read.key_id == ring.keys[0].key_id


def test_build_id_of_the_binary_is_added(shared_site: Site) -> None:
    signed = json.loads(shared_site.sign(probe_file(libc())))
    notes = subprocess.run(["readelf", "-n", LIBC], capture_output=True, text=True).stdout
    assert f"Build ID: {signed['categories'][0]['build_id']}" in notes


def test_what_the_request_says_of_owner_and_time_is_replaced(shared_site: Site) -> None:
    document = json.loads(as_json(probe_file()))
    document["summary"] |= {"uid": 0, "user": "root", "site": "x", "expires": 1 << 40, "created": 1}
    done = shared_site.ask(json.dumps(document).encode())
    summary = json.loads(done.stdout)["summary"]
    assert (summary["uid"], summary["user"], summary["site"]) == (ALICE, str(ALICE), SITE)
    assert summary["expires"] < 1 << 40


def test_signing_a_signed_file_makes_it_ones_own(shared_site: Site) -> None:
    ring = keys.load_keys(shared_site.paths.data_dir)
    of_alice = shared_site.sign(probe_file())
    of_bob = shared_site.ask(of_alice, BOB).stdout
    verify_bytes(of_bob, "f", ring, expectation(BOB))
    with pytest.raises(SigningError, match=f"belongs to {ALICE}"):
        verify_bytes(of_alice, "f", ring, expectation(BOB))


def test_each_decision_is_one_audit_line(shared_site: Site) -> None:
    before = len(shared_site.audit())
    shared_site.sign(probe_file())
    (line,) = shared_site.audit()[before:]
    assert f'audit verdict="signed" uid={ALICE} user="{ALICE}" pid=' in line
    assert ' digest="sha256:' in line
    assert 'reason="allowed"' in line


def test_line_breaks_in_a_request_do_not_forge_audit_lines(shared_site: Site) -> None:
    before = len(shared_site.audit())
    forged = b'{"summary": {}, "x\\naudit verdict=\\"signed\\" uid=0": 1}'
    assert shared_site.ask(forged).returncode == REFUSED
    (line,) = shared_site.audit()[before:]
    assert 'verdict="refused"' in line


def test_modes_of_socket_directory_and_link(shared_site: Site) -> None:
    paths = shared_site.paths
    status = paths.socket.lstat()
    assert stat.S_ISSOCK(status.st_mode)
    assert (status.st_uid, status.st_mode & 0o7777) == (0, 0o666)
    assert paths.socket.parent.stat().st_mode & 0o7777 == 0o755
    assert paths.socket_link.readlink() == paths.socket


def test_clients_find_the_socket_through_the_link(shared_site: Site) -> None:
    done = subprocess.run(
        [shared_site.paths.relay], input=as_json(probe_file()), capture_output=True, env={}
    )
    assert done.returncode == SIGNED, done.stderr


def test_second_signer_is_refused(shared_site: Site) -> None:
    done = subprocess.run(shared_site.command(), capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 1
    assert "another signer is running" in done.stderr
    assert shared_site.ask(probe_file()).returncode == SIGNED


def test_stops_on_sigterm_and_starts_again_over_what_is_left(site: Site) -> None:
    assert site.stop() == 0
    assert site.ask(probe_file()).returncode == NO_SIGNER
    site.start()
    assert site.ask(probe_file()).returncode == SIGNED


def test_starts_after_being_killed(site: Site) -> None:
    assert site.process is not None
    site.process.kill()
    site.process.wait()
    assert site.ask(probe_file()).returncode == NO_SIGNER
    site.start()
    assert site.ask(probe_file()).returncode == SIGNED


def test_request_that_is_being_read_does_not_delay_the_stop(stopped_site: Site) -> None:
    site = stopped_site
    # Longer than the stop is waited for.
    site.start("--request-timeout", str(2 * HANG_S))
    slow = subprocess.Popen(site.relay_command(), stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with slow, socket.socket(socket.AF_UNIX):
        assert site.stop() == 0
        slow.kill()


def start_fails(site: Site, message: str) -> None:
    done = subprocess.run(site.command(), capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 1
    assert message in done.stderr
    assert "datacrumbs_sign_probes: hint: " in done.stderr
    assert not site.paths.socket.exists()


def test_does_not_start_with_a_key_that_others_can_read(stopped_site: Site) -> None:
    (stopped_site.paths.data_dir / keys.SECRET_NAME).chmod(0o444)
    start_fails(stopped_site, "readable or writable by others, its mode is 0444")


def test_does_not_start_without_a_key(stopped_site: Site) -> None:
    (stopped_site.paths.data_dir / keys.SECRET_NAME).unlink()
    start_fails(stopped_site, "No such file")


def test_does_not_start_with_a_policy_that_others_can_change(stopped_site: Site) -> None:
    stopped_site.write_policy("site: x\n")
    stopped_site.paths.policy.chmod(0o666)
    start_fails(stopped_site, "may be changed by others than root")


def test_does_not_start_with_a_relay_that_others_can_change(stopped_site: Site) -> None:
    os.chown(stopped_site.paths.relay, ALICE, 0)
    start_fails(stopped_site, "may be changed by others than root")


def test_does_not_start_where_others_may_put_a_socket(stopped_site: Site) -> None:
    stopped_site.paths.socket.parent.mkdir()
    stopped_site.paths.socket.parent.chmod(0o777)
    start_fails(stopped_site, "others could put a socket of their own here")


def test_check_reports_and_serves_nothing(stopped_site: Site) -> None:
    done = subprocess.run(stopped_site.command("--check"), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "in order" in done.stdout
    assert not stopped_site.paths.socket.exists()


def test_policy_is_read_again_when_it_changed(site: Site) -> None:
    assert site.ask(probe_file()).returncode == SIGNED
    site.write_policy("default: {max_functions: 2}\n")
    assert site.ask(probe_file()).returncode == REFUSED
    site.write_policy("default: {max_functions: -2}\n")
    done = site.ask(probe_file())
    assert (done.returncode, done.stdout) == (FAILED, b"")
    assert b"the signer is not set up correctly" in done.stderr
    site.paths.policy.unlink()
    assert site.ask(probe_file()).returncode == SIGNED


def test_rules_of_groups_hold_for_their_members(site: Site) -> None:
    site.write_policy(
        "default: {probe_types: [syscalls]}\n"
        "rules:\n"
        "  - {groups: [7777], probe_types: [kprobe], kernel_functions: ['vfs_.*']}\n"
    )
    kernel = probe_file(Category(ProbeType.KPROBE, "k", ("vfs_read",)))
    assert site.ask(kernel).returncode == REFUSED
    assert site.ask(kernel, groups=(7777,)).returncode == SIGNED
    assert site.ask(probe_file(), groups=(7777,)).returncode == REFUSED


def test_rotated_key_signs_and_the_old_one_verifies(site: Site) -> None:
    old = site.sign(probe_file())
    rotated = subprocess.run(
        site.command("--rotate-key", "hmac-sha256", "--keep-days", "1"),
        capture_output=True,
        text=True,
    )
    assert rotated.returncode == 0, rotated.stderr
    new = site.sign(probe_file())
    assert json.loads(old)["key_id"] != json.loads(new)["key_id"]
    ring = keys.load_keys(site.paths.data_dir)
    for data in (old, new):
        verify_bytes(data, "f", ring, expectation())


def test_ed25519_is_used_where_the_policy_says_so(site: Site) -> None:
    subprocess.run(site.command("--create-key", "ed25519"), check=True, capture_output=True)
    site.write_policy("algorithm: ed25519\n")
    data = site.sign(probe_file())
    assert json.loads(data)["checksum_algorithm"] == "ed25519"
    (site.paths.data_dir / keys.SECRET_NAME).unlink()
    (site.paths.data_dir / keys.PRIVATE_NAME).unlink()
    verify_bytes(data, "f", keys.load_keys(site.paths.data_dir), expectation())


def test_only_a_group_may_ask_where_one_is_named(stopped_site: Site) -> None:
    stopped_site.start("--socket-group", "daemon")
    daemon = 1
    assert stopped_site.ask(probe_file()).returncode == NO_SIGNER
    assert stopped_site.ask(probe_file(), groups=(daemon,)).returncode == SIGNED


def test_audit_lines_also_go_to_a_file(stopped_site: Site) -> None:
    audit_log = stopped_site.root / "audit.log"
    stopped_site.start("--audit-log", str(audit_log))
    stopped_site.sign(probe_file())
    wait_until(lambda: 'verdict="signed"' in audit_log.read_text())


def test_anybody_verifies_with_the_public_key_and_only_root_with_the_secret(site: Site) -> None:
    subprocess.run(site.command("--create-key", "ed25519"), check=True, capture_output=True)
    secret = site.write_signed("secret.json", site.sign(probe_file()))
    site.write_policy("algorithm: ed25519\n")
    public = site.write_signed("public.json", site.sign(probe_file()))
    for path in (secret, public):
        path.chmod(0o644)
    program = (
        # Imported before, because that user may not be able to read this environment.
        "import os, sys; import cryptography.exceptions;"
        "import cryptography.hazmat.primitives.asymmetric.ed25519;"
        "import datacrumbs_runtime.schema.probe_document, datacrumbs_runtime.signing.verify;"
        "from datacrumbs_runtime.commands.datacrumbs_probe_verify import main;"
        f"os.setresgid({ALICE}, {ALICE}, {ALICE}); os.setresuid({ALICE}, {ALICE}, {ALICE}); main()"
    )

    def verify(path: Path) -> "subprocess.CompletedProcess[str]":
        options = ["--prefix", str(site.prefix), "--site", SITE, "--no-binaries"]
        return subprocess.run(
            [sys.executable, "-c", program, str(path), *options], capture_output=True, text=True
        )

    done = verify(public)
    assert done.returncode == 0, done.stderr
    done = verify(secret)
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert "only root reads this key" in done.stderr


def verify_command(site: Site, path: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    argv = [*site.command()[:2], "datacrumbs_runtime.commands.datacrumbs_probe_verify", str(path)]
    return subprocess.run(
        [*argv, "--prefix", str(site.prefix), "--site", SITE, *options],
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )


def test_verify_command_tells_what_it_found(shared_site: Site) -> None:
    path = shared_site.write_signed("p.json.gz", shared_site.sign(probe_file(syscalls(), libc())))
    done = verify_command(shared_site, path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{path}: valid: 4 functions in 2 categories, signed by hmac")
    shown = json.loads(verify_command(shared_site, path, "--json").stdout)
    assert (shown["valid"], shown["uid"], shown["functions"]) == (True, ALICE, 4)


def test_verify_command_tells_everything_that_is_wrong(shared_site: Site) -> None:
    path = shared_site.write_signed("p.json.gz", shared_site.sign(probe_file()))
    done = verify_command(
        shared_site, path, "--user", "daemon", "--host", "o1", "--site", "o", "--max-functions", "1"
    )
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if ": error: " in line]
    assert len(errors) == 3
    assert f"{path}: belongs to {ALICE}" in errors[0]
    assert "is not valid on" in errors[1]
    assert "3 functions are more than 1" in errors[2]


def test_verify_command_sees_a_changed_binary(shared_site: Site) -> None:
    binary = shared_site.root / "libx.so"
    binary.write_bytes(Path(LIBC).read_bytes())
    wanted = Category(ProbeType.UPROBE, "x", ("read",), binary_path=str(binary))
    path = shared_site.write_signed("p.json.gz", shared_site.sign(probe_file(wanted)))
    assert verify_command(shared_site, path).returncode == 0
    binary.write_bytes(Path("/bin/true").read_bytes())
    done = verify_command(shared_site, path)
    assert done.returncode == 1
    assert "x: " in done.stderr
    assert "was changed since the probe file was made" in done.stderr
    assert verify_command(shared_site, path, "--no-binaries").returncode == 0


def test_verify_command_needs_the_key(shared_site: Site) -> None:
    path = shared_site.write_signed("p.json.gz", shared_site.sign(probe_file()))
    path.chmod(0o644)
    done = verify_command(shared_site, path, "--prefix", "/nonexistent")
    assert done.returncode == 1
    assert "/nonexistent/share/datacrumbs/data: No such file" in done.stderr
