"""Custom probes: declared by the administrator, compiled on the node by bcc."""

import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from daemon_site import ALICE, BOB, SYSCALLS, SYSTEM_PYTHON, RunningDaemon, Site, new_site
from waiting import HANG_S, wait_until

from datacrumbs_runtime.custom.host_program import reasons
from datacrumbs_runtime.custom.plugin import PRELUDE, read_plugin
from datacrumbs_runtime.errors import ConfigurationError
from datacrumbs_runtime.schema.probe_file import Category, ProbeType

EXAMPLES = Path(__file__).resolve().parents[1] / "data/probes"
NAMES = Category(ProbeType.CUSTOM, "NAMES", ("set_name",), plugin="process_names")
RENAME = """
import ctypes, os
print(os.getpid(), flush=True)
for number in range(5):
    ctypes.CDLL(None).prctl(15, b"name-%d" % number, 0, 0, 0)
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="plugins belong to root")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for path in EXAMPLES.iterdir():
        shutil.copy(path, tmp_path)
        (tmp_path / path.name).chmod(0o644)
    tmp_path.chmod(0o755)
    return tmp_path


@needs_root
def test_example_is_read(directory: Path) -> None:
    plugin = read_plugin(directory, "process_names")
    assert plugin.functions == ("set_name",)
    assert [field.label for field in plugin.fields] == ["name", "cgroup"]
    assert plugin.layout.size == 24
    assert "perf_submit" in plugin.source


@needs_root
@pytest.mark.parametrize("name", ["process_names.bpf.c", "process_names.yaml", "."])
def test_plugin_that_others_could_have_written_is_refused(directory: Path, name: str) -> None:
    (directory / name).chmod(0o777)
    with pytest.raises(ConfigurationError, match="others than root could have written it"):
        read_plugin(directory, "process_names")


@needs_root
def test_missing_directory_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="none: No such file or directory"):
        read_plugin(tmp_path / "none", "process_names")


@needs_root
@pytest.mark.parametrize("name", ["../process_names", "", "/etc/passwd", "a\n", ".hidden"])
def test_name_that_leads_elsewhere_is_refused(directory: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="not a name"):
        read_plugin(directory, name)


SAID = {
    "an error": ("x\na.c:1: error: no type\n1 error\n", ["a.c:1: error: no type"]),
    "no headers": (
        "modprobe: x\nchdir(/b): No such file\n",
        ["modprobe: x", "chdir(/b): No such file"],
    ),
    "nothing": ("", []),
}


@pytest.mark.parametrize(("said", "expected"), SAID.values(), ids=SAID.keys())
def test_reason_is_what_the_compiler_said(said: str, expected: list[str]) -> None:
    assert reasons(said) == expected


DECLARATIONS = {
    "not YAML": ("output: [", "not YAML"),
    "a list": ("- a", "not a mapping"),
    "unknown key": ("outputs: events", "unknown key outputs"),
    "no functions": ("output: events", "functions: not a list of names"),
    "output": ("functions: [f]\noutput: a b", "output: not the name"),
    "nothing attached": ("functions: [f]\noutput: events", "attach: nothing is attached"),
    "unknown kind": (
        "functions: [f]\noutput: e\nattach: [{kind: xdp, target: a, program: b}]",
        "xdp: none of kprobe",
    ),
    "unknown type": (
        "functions: [f]\noutput: e\nattach: [{kind: kprobe, target: a, program: b}]\n"
        "fields: [{label: x, type: float}]",
        "x: float: none of u8",
    ),
}


@needs_root
@pytest.mark.parametrize(("text", "message"), DECLARATIONS.values(), ids=DECLARATIONS.keys())
def test_impossible_declaration_is_named(directory: Path, text: str, message: str) -> None:
    (directory / "process_names.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_plugin(directory, "process_names")


@pytest.fixture
def site() -> Iterator[Site]:
    with new_site() as made:
        plugins = made.prefix / "libexec/datacrumbs/probes"
        shutil.copytree(EXAMPLES, plugins)
        for path in (plugins, *plugins.iterdir()):
            path.chmod(0o755)
        yield made


@cache
def kernel_headers() -> dict[str, str] | None:
    """Return the environment in which bcc can compile, or None."""
    text = PRELUDE.partition("BPF_TABLE_PINNED")[0] + "int f(void *ctx) { return 0; }"
    code = f"from bcc import BPF; BPF(text={text!r})"
    candidates = [{}, *({"BCC_KERNEL_SOURCE": path} for path in merged_headers())]
    for environment in candidates:
        done = subprocess.run(
            [SYSTEM_PYTHON, "-c", code],
            capture_output=True,
            check=False,
            timeout=HANG_S,
            env=os.environ | environment,
        )
        if done.returncode == 0:
            return environment
    return None


def merged_headers() -> Iterator[str]:
    """Yield other kernels' headers, good enough for what touches no structure of the kernel.

    Debian splits them into two directories, which bcc does not know.
    """
    import tempfile

    for common in sorted(Path("/usr/src").glob("linux-headers-*-common")):
        own = Path(str(common).removesuffix("-common") + "-amd64")
        if own.is_dir():
            merged = tempfile.mkdtemp(prefix="datacrumbs-test-headers-")
            for source in (common, own):
                subprocess.run(["cp", "-asf", f"{source}/.", merged], check=False)
            yield merged


@pytest.fixture
def headers() -> dict[str, str]:
    """The environment in which bcc can compile."""
    environment = kernel_headers() if os.geteuid() == 0 else None
    if environment is None:
        pytest.skip("bcc cannot compile here: python3-bpfcc or kernel headers are missing")
    return environment


def when_settled(daemon: RunningDaemon) -> dict[str, Any]:
    """Return the status when nothing more comes."""
    before = daemon.status()
    while True:
        time.sleep(1.5)
        now = daemon.status()
        if now["updated"] > before["updated"] and now["events"] == before["events"]:
            return now
        before = now


def names_of(lines: list[dict[str, Any]], done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the names that a process has had."""
    pid = int(done.stdout)
    events = [line for line in lines if line.get("cat") == "NAMES" and line["pid"] == pid]
    return [line["args"]["name"] for line in events]


@pytest.mark.kernel
def test_example_records_the_registered_processes_alone(
    site: Site, headers: dict[str, str]
) -> None:
    site.set(DATACRUMBS_CUSTOM_PROBES="1")
    probes = site.probe_file(ALICE, [SYSCALLS, NAMES])
    # The kernel knows it by its name, whatever else is recorded on this machine.
    run_id = f"run{os.getpid()}"
    with site.running(run_id, probes, **headers) as daemon:
        status = daemon.status()
        own = site.wrapped(ALICE, SYSTEM_PYTHON, "-c", RENAME)
        foreign = site.wrapped(BOB, SYSTEM_PYTHON, "-c", RENAME)
        child = site.wrapped(ALICE, "/bin/sh", "-c", f"{SYSTEM_PYTHON} -c '{RENAME}'; true")
        wait_until(
            lambda: all(
                "name-4" in names_of(site.trace_so_far(run_id), done) for done in (own, child)
            )
        )
        written = when_settled(daemon)
    assert (status["requested"], status["attached"]) == (10, 10)
    assert status["tiers"]["custom"] == "bcc"
    lines = site.trace(run_id)
    events = [line for line in lines if line.get("cat") == "NAMES"]
    for done in (own, child):
        assert names_of(lines, done)[-5:] == [f"name-{number}" for number in range(5)]
    assert int(foreign.stdout) not in {line["pid"] for line in events}
    assert {line["name"] for line in events} == {"set_name"}
    (sums,) = [one for one in written["functions"] if one["category"] == "NAMES"]
    assert (sums["name"], sums["calls"], sums["errors"]) == ("set_name", len(events), 0)
    assert written["events"] == len([line for line in lines if line["ph"] == "X"])
    assert f"custom probe process_names: {len(events)} events" in daemon.output()
    assert not list(Path("/sys/fs/bpf").glob(f"datacrumbs-{run_id}-processes*"))


@pytest.mark.kernel
def test_counted_events_are_as_many_as_traced_ones(site: Site, headers: dict[str, str]) -> None:
    site.set(DATACRUMBS_CUSTOM_PROBES="1")
    probes = {
        mode: site.probe_file(ALICE, [replace(NAMES, mode=mode)], name=f"{mode}.json.gz")
        for mode in ("trace", "profile")
    }
    options = ("--profile-interval-s", "0.2")
    with (
        site.running(f"traced{os.getpid()}", probes["trace"], **headers),
        site.running(f"counted{os.getpid()}", probes["profile"], *options, **headers),
    ):
        processes = [int(site.wrapped(ALICE, SYSTEM_PYTHON, "-c", RENAME).stdout) for _ in "ab"]
    traced = Counter(
        line["pid"] for line in site.trace(f"traced{os.getpid()}") if line["ph"] == "X"
    )
    counted: Counter[int] = Counter()
    for line in site.trace(f"counted{os.getpid()}"):
        assert line["ph"] != "X"
        if line["ph"] == "C":
            assert (line["cat"], line["name"]) == ("NAMES", "set_name")
            assert line["args"]["log2_0"] == line["args"]["count"]
            counted[line["pid"]] += line["args"]["count"]
    assert counted == traced
    assert all(counted[process] >= 5 for process in processes)


@pytest.mark.kernel
def test_custom_probes_are_off_unless_the_administrator_switches_them_on(site: Site) -> None:
    probes = site.probe_file(ALICE, [SYSCALLS, NAMES])
    with site.running("run1", probes, DATACRUMBS_CUSTOM_PROBES="1") as daemon:
        status = daemon.status()
    assert (status["requested"], status["attached"]) == (10, 9)
    ((category, function, reason),) = status["failures"]
    assert (category, function) == ("NAMES", "set_name")
    assert "switched off" in reason
    said = "environment: DATACRUMBS_CUSTOM_PROBES: only the system configuration decides that"
    assert said in daemon.output()


@pytest.mark.kernel
@pytest.mark.parametrize("trouble", ["does not compile", "missing", "unknown function"])
def test_custom_probe_that_fails_stops_no_other(
    site: Site, headers: dict[str, str], trouble: str
) -> None:
    site.set(DATACRUMBS_CUSTOM_PROBES="1")
    category = NAMES
    if trouble == "does not compile":
        source = site.prefix / "libexec/datacrumbs/probes/process_names.bpf.c"
        source.write_text("int broken(")
    elif trouble == "missing":
        category = Category(ProbeType.CUSTOM, "NAMES", ("set_name",), plugin="other")
    else:
        category = Category(ProbeType.CUSTOM, "NAMES", ("other",), plugin="process_names")
    probes = site.probe_file(ALICE, [SYSCALLS, category])
    with site.running("run1", probes, **headers) as daemon:
        status = daemon.status()
        site.workload(ALICE)
    assert (status["requested"], status["attached"]) == (10, 9)
    category_name, _, reason = status["failures"][0]
    assert category_name == "NAMES"
    if trouble == "does not compile":
        assert "error: " in reason
