"""The daemon as a process: what users start, stop and get."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from daemon_site import (
    ALICE,
    BOB,
    COMMAND,
    EVE,
    SYSCALLS,
    Site,
    calls_on,
    new_site,
    processes_in,
    uid_of,
)
from waiting import HANG_S, wait_until

pytestmark = pytest.mark.kernel


@pytest.fixture
def site() -> Iterator[Site]:
    with new_site() as made:
        yield made


def test_trace_equals_what_the_program_did(site: Site) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        did = site.workload(ALICE, calls=500)
        daemon.stop()
    found = calls_on(site.trace("run1"), did["pid"], did["path"])
    assert {name: found[name] for name in did["done"]} == did["done"]
    assert found["fsync"] == [1, 0]
    assert daemon.process.returncode == 0


def test_trace_has_nothing_of_what_datacrumbs_wrap_looks_at(site: Site) -> None:
    with site.running("run1", site.probe_file(ALICE)):
        done = site.wrapped(ALICE, "/bin/true")
    assert (done.returncode, done.stderr) == (0, "")
    files = {line["args"]["name"] for line in site.trace("run1") if line["name"] == "FH"}
    assert "/etc/ld.so.cache" in files
    assert [file for file in files if "run/" in file] == []


def test_files_of_a_run_appear_at_readiness_and_vanish_at_the_end(site: Site) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        assert (site.run_dir / "datacrumbs-run1.ready").read_text() == "ready\n"
        assert (site.run_dir / "datacrumbs.runid").read_text() == "run1"
        assert int((site.run_dir / "datacrumbs-run1.pid").read_text()) == daemon.process.pid
        status = site.run_dir / "datacrumbs-run1.json"
        assert stat.S_IMODE(status.stat().st_mode) == 0o440
        assert status.stat().st_uid == 0
    assert list(site.run_dir.iterdir()) == []


def test_trace_belongs_to_the_user_alone_in_a_directory_that_he_can_enter(site: Site) -> None:
    days = {time.strftime("%y/%m/%d")}
    with site.running("run1", site.probe_file(ALICE)):
        site.workload(ALICE)
    days.add(time.strftime("%y/%m/%d"))
    (path,) = site.trace_paths()
    status = path.stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_uid == uid_of(ALICE)
    assert path.name == f"trace-{ALICE}-run1-{os.uname().nodename}-{ALICE}-probes.json.pfw.gz"
    assert path.parent.relative_to(site.traces).as_posix() in days
    read = subprocess.run(
        ["/bin/cat", path],
        user=uid_of(ALICE),
        group=os.getgid(),
        extra_groups=[],
        capture_output=True,
        check=False,
    )
    assert read.returncode == 0
    refused = subprocess.run(["/bin/cat", path], user=uid_of(EVE), capture_output=True, check=False)
    assert refused.returncode != 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_every_polite_signal_closes_the_trace(site: Site, number: int) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        did = site.workload(ALICE)
        daemon.stop(number)
        assert daemon.process.returncode == 0
    lines = site.trace("run1")
    assert calls_on(lines, did["pid"], did["path"])["pwrite64"] == did["done"]["pwrite64"]
    assert [line["args"]["final"] for line in lines if line["name"] == "datacrumbs_losses"][-1]


def test_second_signal_changes_nothing(site: Site) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        did = site.workload(ALICE)
        daemon.process.send_signal(signal.SIGTERM)
        daemon.process.send_signal(signal.SIGINT)
        daemon.stop(signal.SIGTERM)
        assert daemon.process.returncode == 0
    found = calls_on(site.trace("run1"), did["pid"], did["path"])
    assert found["pwrite64"] == did["done"]["pwrite64"]


def test_killed_daemon_leaves_a_whole_trace_and_its_run_id_can_be_used_again(site: Site) -> None:
    probes = site.probe_file(ALICE)
    with site.running("run1", probes) as daemon:
        did = site.workload(ALICE)
        site.wait_until_written("run1", did)
        daemon.stop(signal.SIGKILL)
    found = calls_on(site.trace("run1"), did["pid"], did["path"])
    assert found["pwrite64"] == did["done"]["pwrite64"]
    with site.running("run1", probes):
        again = site.workload(ALICE)
    first, second = site.trace_paths()
    assert {first.name, second.name} == {
        f"trace-{ALICE}-run1-{os.uname().nodename}-{ALICE}-probes.json{suffix}.pfw.gz"
        for suffix in ("", "-2")
    }
    assert again["pid"] != did["pid"]
    assert list(site.run_dir.iterdir()) == []


def test_same_run_id_twice_is_refused_and_the_first_goes_on(site: Site) -> None:
    probes = site.probe_file(ALICE)
    with site.running("run1", probes) as first:
        second = site.daemon("run1", probes)
        assert second.exit_status() == 1
        assert "run run1: is active on this node already" in second.output()
        assert first.status()["state"] == "recording"
        did = site.workload(ALICE)
    found = calls_on(site.trace("run1"), did["pid"], did["path"])
    assert found["pwrite64"] == did["done"]["pwrite64"]


def test_two_runs_of_one_user_both_record_him(site: Site) -> None:
    probes = site.probe_file(ALICE)
    with site.running("run1", probes), site.running("run2", probes):
        assert (site.run_dir / "datacrumbs.runid").read_text() == "run2"
        did = site.workload(ALICE)
    for run_id in ("run1", "run2"):
        found = calls_on(site.trace(run_id), did["pid"], did["path"])
        assert {name: found[name] for name in did["done"]} == did["done"]


def test_run_id_file_names_the_run_that_is_left(site: Site) -> None:
    probes = site.probe_file(ALICE)
    with site.running("run1", probes):
        with site.running("run2", probes):
            pass
        assert (site.run_dir / "datacrumbs.runid").read_text() == "run1"


def test_process_of_another_user_cannot_register(site: Site) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        foreign = site.workload(BOB)
        site.workload(ALICE)
        daemon.stop()
    lines = site.trace("run1")
    assert foreign["pid"] not in processes_in(lines)
    (last,) = [line for line in lines if line["name"] == "datacrumbs_losses"][-1:]
    assert last["args"]["refused"] >= 1


def test_probe_file_of_another_user_is_refused(site: Site) -> None:
    daemon = site.daemon("run1", site.probe_file(BOB), "--user", ALICE)
    assert daemon.exit_status() == 1
    # The file is opened with the rights of the run's user, who may not read it.
    assert "Permission denied" in daemon.output()


def test_probe_file_signed_for_another_user_is_refused(site: Site) -> None:
    probes = site.probe_file(BOB)
    probes.chmod(0o644)
    daemon = site.daemon("run1", probes, DATACRUMBS_USER=ALICE)
    assert daemon.exit_status() == 1
    assert f"belongs to {BOB}" in daemon.output()


def test_unsigned_probe_file_is_refused(site: Site) -> None:
    daemon = site.daemon("run1", site.probe_file(ALICE, is_signed=False))
    assert daemon.exit_status() == 1
    output = daemon.output()
    assert "is not signed" in output
    assert "hint: sign it again with datacrumbs_probe_configurator" in output
    assert site.trace_paths() == []


def test_signing_can_only_be_disabled_by_roots_configuration(site: Site) -> None:
    probes = site.probe_file(ALICE, is_signed=False)
    refused = site.daemon("run1", probes, DATACRUMBS_DISABLE_PROBE_SIGNING="1")
    assert refused.exit_status() == 1
    site.set(DATACRUMBS_DISABLE_PROBE_SIGNING="1")
    with site.running("run2", probes) as daemon:
        daemon.stop()
        assert "NOT VERIFIED" in daemon.output()
    site.configuration.chmod(0o666)
    ignored = site.daemon("run3", probes)
    assert ignored.exit_status() == 1
    assert "is ignored" in ignored.output()


def test_fifo_as_probe_file_fails_at_once(site: Site) -> None:
    path = site.shared / "fifo"
    os.mkfifo(path)
    daemon = site.daemon("run1", path)
    assert daemon.exit_status() == 1
    assert "not a regular file" in daemon.output()


@pytest.mark.parametrize("run_id", ["a/b", "..", "-x", "a b", "a\nb", "x" * 65, "%n", ""])
def test_impossible_run_id_is_wrong_usage(site: Site, run_id: str) -> None:
    done = site.run("datacrumbs", "--prefix", str(site.prefix), "--", "/nowhere", run_id)
    assert done.returncode == 2
    assert done.stderr.startswith("datacrumbs: error: ")


def test_run_id_comes_from_the_job(site: Site) -> None:
    site.set(DATACRUMBS_JOB_SCHEDULER="SLURM")
    probes = site.probe_file(ALICE)
    arguments = ["--prefix", str(site.prefix), str(probes)]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND.format("datacrumbs"), *arguments],
        env={"PATH": os.environ["PATH"], "SLURM_JOB_ID": "4712"},
        stderr=subprocess.DEVNULL,
    )
    try:
        ready = site.run_dir / "datacrumbs-4712.ready"
        wait_until(ready.exists)
    finally:
        process.terminate()
        process.wait(HANG_S)


def test_readiness_and_stopping_are_told_to_the_service_manager(site: Site) -> None:
    address = site.root / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(HANG_S)
        with site.running("run1", site.probe_file(ALICE), NOTIFY_SOCKET=str(address)) as daemon:
            messages = [manager.recv(4096).decode() for _ in range(2)]
            assert messages[0] == "STATUS=starting"
            assert messages[1].startswith("READY=1\nSTATUS=recording ")
            daemon.stop()
            assert manager.recv(4096).decode().startswith("STOPPING=1\n")


def test_under_a_service_manager_the_log_is_a_file(site: Site) -> None:
    environment = {"DATACRUMBS_SERVICE_RUN_ID": "run1", "DATACRUMBS_USER": ALICE}
    with site.running("run1", site.probe_file(ALICE), **environment) as daemon:
        daemon.stop()
        assert daemon.output() == ""
    (path,) = site.log_dir.iterdir()
    assert path.name == f"datacrumbs_{ALICE}_run1_{os.uname().nodename}.log"
    assert "recording 9 of 9 functions" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_failure_is_in_the_log_and_in_the_journal(site: Site) -> None:
    environment = {"DATACRUMBS_SERVICE_RUN_ID": "run1", "DATACRUMBS_USER": ALICE}
    daemon = site.daemon("run1", site.shared / "nothing.json.gz", **environment)
    assert daemon.exit_status() == 1
    (path,) = site.log_dir.iterdir()
    for text in (daemon.output(), path.read_text()):
        assert "nothing.json.gz: No such file or directory" in text


def test_check_reports_and_leaves_nothing(site: Site) -> None:
    unknown = SYSCALLS.__class__(SYSCALLS.type, "POSIX", (*SYSCALLS.functions, "no_such_call"))
    probes = site.probe_file(ALICE, [unknown])
    done = site.run(
        "datacrumbs", "--prefix", str(site.prefix), "--check", "--json", str(probes), "run1"
    )
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert (report["requested"], report["attached"]) == (10, 9)
    assert [failure["function"] for failure in report["failures"]] == ["no_such_call"]
    assert site.trace_paths() == []
    assert not site.run_dir.exists()


def test_settings_come_from_option_environment_and_configuration_in_this_order(
    site: Site,
) -> None:
    site.set(DATACRUMBS_MODE="profile")
    probes = site.probe_file(ALICE)
    with site.running("run1", probes) as daemon:
        assert daemon.status()["mode"] == "profile"
    with site.running("run2", probes, DATACRUMBS_MODE="trace") as daemon:
        assert daemon.status()["mode"] == "trace"
    with site.running("run3", probes, "--mode", "profile", DATACRUMBS_MODE="trace") as daemon:
        assert daemon.status()["mode"] == "profile"


@pytest.mark.parametrize(
    ("option", "text"),
    [("--ring-buffer-bytes", "x"), ("--mode", "fast"), ("--threshold-ns", "-1")],
)
def test_impossible_option_is_named(site: Site, option: str, text: str) -> None:
    daemon = site.daemon("run1", site.probe_file(ALICE), option, text)
    assert daemon.exit_status() in (1, 2)
    assert option in daemon.output()


def test_only_root_runs_it(site: Site) -> None:
    code = (
        "import os; from datacrumbs_runtime.commands.datacrumbs import main; "
        f"os.setuid({uid_of(EVE)}); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "/x", "run1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )
    assert done.returncode == 1
    assert "only root may load BPF programs" in done.stderr


def test_probe_file_may_be_deleted_after_the_start(site: Site) -> None:
    probes = site.probe_file(ALICE)
    with site.running("run1", probes):
        probes.unlink()
        did = site.workload(ALICE)
    found = calls_on(site.trace("run1"), did["pid"], did["path"])
    assert found["pwrite64"] == did["done"]["pwrite64"]


def calls_by_name(status: dict[str, Any]) -> dict[str, int]:
    return {item["name"]: item["calls"] for item in status["functions"]}


def test_status_names_rate_losses_busiest_functions_and_files(site: Site) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        did = site.workload(ALICE, calls=300)
        # The status of a moment at which some of the calls are written has some of them.
        wait_until(lambda: 300 in calls_by_name(daemon.status()).values())
        done = site.run("datacrumbs_status", "run1", "--json", "--run-dir", str(site.run_dir))
        assert done.returncode == 0, done.stderr
        (status,) = json.loads(done.stdout)
        shown = site.run("datacrumbs_status", "run1", "--run-dir", str(site.run_dir))
    assert status["state"] == "recording"
    assert status["user"] == ALICE
    assert status["attached"] == 9
    assert status["lost"] == 0
    calls = calls_by_name(status)
    assert calls["pwrite64" if "pwrite64" in calls else "pwrite"] == 300
    assert did["path"] in {item["path"] for item in status["files"]}
    assert "run1" in shown.stdout
    assert ALICE in shown.stdout


def test_status_of_a_killed_daemon_is_dead(site: Site) -> None:
    with site.running("run1", site.probe_file(ALICE)) as daemon:
        daemon.stop(signal.SIGKILL)
    done = site.run("datacrumbs_status", "run1", "--json", "--run-dir", str(site.run_dir))
    assert json.loads(done.stdout)[0]["state"] == "dead"
    assert done.returncode == 1


def test_run_directory_that_others_can_write_is_refused(site: Site) -> None:
    site.run_dir.mkdir()
    site.run_dir.chmod(0o777)
    daemon = site.daemon("run1", site.probe_file(ALICE))
    assert daemon.exit_status() == 1
    assert "may be written by others" in daemon.output()
