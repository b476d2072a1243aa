"""What is wrong with the command line or a file is told in a line, and leaves nothing behind."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from daemon_site import ALICE, BOB, COMMAND, SYSCALLS, Site, new_site

# Needs root, and accounts to act as.
pytestmark = pytest.mark.kernel

OPTIONS = {
    "no probe file": ([], 2, "Missing argument"),
    "two run ids": (["PROBES", "a", "b"], 2, "unexpected extra argument"),
    "unknown option": (["--frob", "PROBES"], 2, "No such option"),
    "mode": (["--mode", "both", "PROBES"], 2, "--mode: 'both': none of trace, profile"),
    "ring": (["--ring-buffer-bytes", "17", "PROBES"], 2, "not from 4096 to"),
    "size": (["--strings-buffer-bytes", "many", "PROBES"], 2, "not a size such as"),
    "threshold": (["--threshold-ns", "-1", "PROBES"], 2, "not a whole number"),
    "interval": (["--profile-interval-s", "0", "PROBES"], 2, "not from 0.05 to"),
    "inclusion": (["--inclusion-paths", "home", "PROBES"], 2, "not an absolute path"),
    "capture": (["--string-capture-bytes", "0", "PROBES"], 2, "not from 1 to"),
    "log level": (["--log-level", "loud", "PROBES"], 2, "none of debug, info"),
    "pattern": (["--trace-dir-pattern", "/t/%FOO%", "PROBES"], 2, "%FOO% is none of"),
    "tier": (["--max-tier", "fast", "PROBES"], 2, "no tier fast: known are uprobe.session"),
    "user": (["--user", "nobody-here", "PROBES"], 2, "no such user"),
    "json": (["--json", "PROBES"], 2, "--json: only with --check"),
    "space in run id": (["PROBES", "a b"], 2, "not a run id"),
    "path as run id": (["PROBES", "../a"], 2, "not a run id"),
    "empty run id": (["PROBES", ""], 2, "not a run id"),
    "long run id": (["PROBES", "x" * 65], 2, "longer than 64 characters"),
    "prefix": (["--prefix", "/nope", "PROBES"], 1, "no system configuration"),
    "cgroup": (["--cgroup", "/nope", "PROBES"], 1, "--cgroup: "),
    "trace directory": (["--trace-dir-pattern", "/proc/x", "PROBES"], 1, "/proc/x/trace-"),
    "another's probe file": (["--user", BOB, "PROBES"], 1, f"{BOB} must be able to read it"),
}


def forged(path: Path) -> bytes:
    document = json.loads(gzip.decompress(path.read_bytes()))
    document["categories"][0]["functions"].append("unlink")
    return gzip.compress(json.dumps(document).encode())


CONTENTS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda _: b"", "not a probe file"),
    "text": (lambda _: b"hello\n", "not a probe file"),
    "cut short": (lambda path: path.read_bytes()[:-20], "not a probe file"),
    "unsigned": (lambda _: b"{}", "is not signed"),
    "forged": (forged, "signature does not match"),
    "a list": (lambda _: gzip.compress(b"[1, 2]"), "not a probe file"),
    "a bomb": (lambda _: gzip.compress(bytes(200 << 20), 9), "larger than 64 MiB"),
}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with new_site() as made:
        yield made


@pytest.fixture(scope="module")
def probes(site: Site) -> Path:
    return site.probe_file(ALICE, [SYSCALLS])


def refused(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the daemon with arguments that cannot work, and check that nothing is left."""
    prefix = [] if "--prefix" in arguments else ["--prefix", str(site.prefix)]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND.format("datacrumbs"), *prefix, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=site.root,
        env={"PATH": os.environ["PATH"]},
    )
    lines = [line for line in done.stderr.splitlines() if ": info: " not in line]
    assert lines[0].startswith("datacrumbs: error: "), done.stderr
    assert len(lines) == 1 or lines[1].startswith("datacrumbs: hint: "), done.stderr
    assert len(lines) <= 2, done.stderr
    assert site.trace_paths() == []
    assert not site.run_dir.exists() or list(site.run_dir.iterdir()) == []
    return done


@pytest.mark.parametrize(("arguments", "status", "message"), OPTIONS.values(), ids=OPTIONS.keys())
def test_impossible_command_line(
    site: Site, probes: Path, arguments: list[str], status: int, message: str
) -> None:
    done = refused(site, *(str(probes) if word == "PROBES" else word for word in arguments))
    assert done.returncode == status
    assert message in done.stderr


@pytest.mark.parametrize(("content", "message"), CONTENTS.values(), ids=CONTENTS.keys())
def test_impossible_probe_file(
    site: Site, probes: Path, content: Callable[[Path], bytes], message: str
) -> None:
    path = site.shared / "bad.json.gz"
    path.write_bytes(content(probes))
    done = refused(site, str(path))
    assert done.returncode == 1
    assert message in done.stderr


@pytest.mark.parametrize("name", ["missing", "directory", "fifo", "/dev/zero"])
def test_probe_file_that_is_no_file(site: Site, name: str) -> None:
    path = site.shared / name
    if name == "directory" and not path.exists():
        path.mkdir()
    if name == "fifo" and not path.exists():
        os.mkfifo(path)
    done = refused(site, str(path))
    assert done.returncode == 1
    assert f"{path}: " in done.stderr
    assert "hint: datacrumbs_probe_configurator makes probe files" in done.stderr


def test_relative_probe_file_is_found_whoever_opens_it(site: Site, probes: Path) -> None:
    options = ["--prefix", str(site.prefix), "--check", "--user", ALICE]
    relative = str(probes.relative_to(site.root))
    done = subprocess.run(
        [sys.executable, "-c", COMMAND.format("datacrumbs"), *options, relative],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=site.root,
    )
    assert done.returncode == 0, done.stderr
