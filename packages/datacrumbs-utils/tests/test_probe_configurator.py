"""datacrumbs_probe_configurator as users run it: exit status, output, and what is left behind."""

import gzip
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from datacrumbs_runtime.schema.probe_document import probe_file_from_document
from datacrumbs_runtime.schema.probe_file import read_document

COMMAND = "datacrumbs_probe_configurator"
CONFIG = """\
capture_probes:
  - name: sys
    probe: syscalls
    regex: ^sys_(openat|read|write|close)$
"""
# Stands for the relay: answers as it would, whatever the signer thinks of the request.
SIGNING = """
document = json.load(sys.stdin)
document.update(checksum_algorithm="hmac-sha256", checksum="0" * 64)
document["summary"]["expires"] = 4102444800
json.dump(document, sys.stdout)
"""


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """An installation that has this command and, in tests that need one, a relay."""
    prefix = tmp_path / "prefix"
    (prefix / "bin").mkdir(parents=True)
    script = prefix / "bin" / COMMAND
    script.write_text(
        f"#!{sys.executable}\nfrom datacrumbs_utils.commands.{COMMAND} import main\nmain()\n"
    )
    script.chmod(0o755)
    return prefix


def install_relay(prefix: Path, body: str) -> None:
    relay = prefix / "bin" / f"{COMMAND}_exec"
    relay.write_text(f"#!{sys.executable}\nimport json, sys, time\n{body}\n")
    relay.chmod(0o755)


def install_settings(prefix: Path, **settings: str) -> Path:
    """Leave the file in which an installation keeps its settings."""
    data = prefix / "share" / "datacrumbs" / "data"
    data.mkdir(parents=True)
    path = data / "system-probe-root-node.sqlite"
    with sqlite3.connect(path) as database:
        for table in ("system_configuration", "summary"):
            database.execute(f"CREATE TABLE {table}(key TEXT PRIMARY KEY, value TEXT)")
        rows = settings.items()
        database.executemany("INSERT INTO system_configuration VALUES (?, ?)", rows)
    database.close()
    return path


def run(
    prefix: Path, *arguments: object, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    names = ("DATACRUMBS_", "VERBOSE", "QUIET", "DRY_RUN")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(names)}
    return subprocess.run(
        [prefix / "bin" / COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**clean, "XDG_CACHE_HOME": str(prefix / "cache"), **(env or {})},
    )


@pytest.fixture
def host_yaml(tmp_path: Path) -> Path:
    path = tmp_path / "host.yaml"
    path.write_text(CONFIG)
    return path


def test_a_signed_file_is_written_and_the_status_is_0(prefix: Path, host_yaml: Path) -> None:
    install_relay(prefix, SIGNING)
    output = host_yaml.parent / "new" / "directory" / "probes.json.gz"
    result = run(prefix, host_yaml, output)
    assert (result.returncode, result.stderr) == (0, "")
    assert output.read_bytes()[:2] == b"\x1f\x8b"
    assert output.stat().st_mode & 0o777 == 0o644
    probe_file = probe_file_from_document(read_document(output), "x")
    assert probe_file.checksum == "0" * 64
    assert probe_file.summary.config_file_path == str(host_yaml)
    assert set(probe_file.categories[0].functions) == {"openat", "read", "write", "close"}
    assert f"wrote {output}: 4 functions, signed" in result.stdout
    assert [path.name for path in output.parent.iterdir()] == ["probes.json.gz"]


def test_what_the_signer_changed_in_the_summary_is_kept(prefix: Path, host_yaml: Path) -> None:
    install_relay(prefix, SIGNING)
    output = host_yaml.parent / "probes.json.gz"
    run(prefix, host_yaml, output)
    assert json.loads(gzip.decompress(output.read_bytes()))["summary"]["expires"] == 4102444800


@pytest.mark.parametrize(
    ("relay", "expected"),
    [
        (None, "datacrumbs_probe_configurator_exec: not installed beside this command"),
        (
            'sys.exit("datacrumbs_probe_configurator_exec: error: /run/x.sock: no signer: No s\\n'
            'datacrumbs_probe_configurator_exec: hint: start it")',
            "/run/x.sock: no signer: No s",
        ),
        ("sys.exit(4)", "exit status 4"),
        ("pass", "the signer's answer: not a probe file"),
        ('print("[]")', "the signer's answer: not a probe file: the top level is not an object"),
        ("sys.stdout.write(sys.stdin.read())", "the signer's answer has no signature"),
        (
            SIGNING.replace("json.dump", 'document["categories"] = []; json.dump'),
            "the signer's answer names other functions than were asked for",
        ),
        ("time.sleep(60)", "no answer within 6 s"),
    ],
)
def test_without_a_signature_there_is_no_file(
    prefix: Path, host_yaml: Path, relay: str | None, expected: str
) -> None:
    if relay is not None:
        install_relay(prefix, relay)
    output = host_yaml.parent / "out" / "probes.json.gz"
    result = run(prefix, "--timeout", 1, host_yaml, output)
    assert result.returncode == 1
    assert result.stderr.startswith(f"{COMMAND}: error: ")
    assert expected in result.stderr
    assert list(output.parent.iterdir()) == []


def test_the_signer_s_hint_reaches_the_user(prefix: Path, host_yaml: Path) -> None:
    install_relay(
        prefix,
        'sys.stderr.write("datacrumbs_probe_configurator_exec: error: x: refused\\n'
        'datacrumbs_probe_configurator_exec: hint: ask the administrator\\n"); sys.exit(4)',
    )
    result = run(prefix, host_yaml, host_yaml.parent / "o.json.gz")
    assert result.stderr == (
        f"{COMMAND}: error: x: refused\n{COMMAND}: hint: ask the administrator\n"
    )


def test_a_file_of_before_stays_when_signing_fails(prefix: Path, host_yaml: Path) -> None:
    output = host_yaml.parent / "probes.json.gz"
    output.write_text("of before")
    assert run(prefix, host_yaml, output).returncode == 1
    assert output.read_text() == "of before"


def test_dry_run_neither_signs_nor_writes(prefix: Path, host_yaml: Path) -> None:
    install_relay(prefix, 'open("/nonexistent/called")')
    output = host_yaml.parent / "new" / "probes.json.gz"
    result = run(prefix, host_yaml, output, "--dry-run")
    assert result.returncode == 0
    assert not output.parent.exists()
    assert "syscalls/btf" in result.stdout
    assert run(prefix, host_yaml, output, env={"DRY_RUN": "yes"}).returncode == 0
    assert not output.parent.exists()


def test_json_is_the_report_and_nothing_else(prefix: Path, host_yaml: Path) -> None:
    install_relay(prefix, SIGNING)
    output = host_yaml.parent / "probes.json.gz"
    report = json.loads(run(prefix, host_yaml, output, "--json").stdout)
    assert report["functions"] == 4
    assert report["probe_file"] == str(output)
    (category,) = report["categories"]
    assert (category["name"], category["selected"], category["arguments_known"]) == ("sys", 4, 4)
    assert category["found"] > 300


def test_list_shows_functions_and_signatures(prefix: Path, host_yaml: Path) -> None:
    result = run(prefix, host_yaml, "--list")
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [row[:2] for row in rows] == [["sys", name] for name in sorted(row[1] for row in rows)]
    signatures = {row[1]: row[2] for row in rows}
    assert signatures["read"].startswith("long read(unsigned int fd, char *buf, size_t count)")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("sys_openat", "openat: in sys: regex ^sys_(openat|read|write|close)$ matches"),
        ("fsync", "fsync: not in sys: regex ^sys_(openat|read|write|close)$ does not match"),
        ("fsyn", "fsyn: no entry looks where it would be (did you mean fsync?)"),
    ],
)
def test_explain_says_why(prefix: Path, host_yaml: Path, function: str, expected: str) -> None:
    result = run(prefix, host_yaml, "--explain", function)
    assert result.returncode == 0
    assert result.stdout.startswith(expected)


def test_explain_tells_excluded_and_refused_functions(prefix: Path, host_yaml: Path) -> None:
    host_yaml.write_text(
        CONFIG
        + "    exclude: [read]\n"
        + "  - {name: libc, probe: uprobe, file: 'soname:libc.so.6', regex: _?setjmp}\n"
    )
    result = run(prefix, host_yaml, "--explain", "read", "--explain", "_setjmp")
    excluded, refused = result.stdout.splitlines()[:2]
    assert excluded == "read: not in sys: excluded: exclude read"
    assert "not in libc: cannot be probed" in refused


def test_quiet_says_nothing(prefix: Path, host_yaml: Path) -> None:
    install_relay(prefix, SIGNING)
    result = run(prefix, "--quiet", host_yaml, host_yaml.parent / "o.json.gz")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_verbose_says_each_step(prefix: Path, host_yaml: Path) -> None:
    assert "looking for sys" in run(prefix, "-v", "-n", host_yaml).stderr


@pytest.mark.parametrize(
    ("arguments", "expected", "status"),
    [
        ((), "Usage:", 2),
        (("posix",), "OUT.JSON.GZ is missing", 2),
        (("posx", "-n"), "there is no probe set 'posx'", 2),
        (("posix", "-n", "--define", "x"), "--define x: not KEY=VALUE", 2),
        (("posix", "-n", "--nonsense"), "No such option", 2),
        (("/nowhere.yaml", "-n"), "/nowhere.yaml: No such file or directory", 1),
        (("/etc", "-n"), "/etc: not a regular file", 1),
        (("posix", "/proc/x/y.json.gz"), "/proc/x: ", 1),
        (("posix", "/etc"), "/etc: is a directory", 1),
    ],
)
def test_wrong_usage_is_2_and_failure_is_1(
    prefix: Path, arguments: tuple[str, ...], expected: str, status: int
) -> None:
    result = run(prefix, *arguments)
    assert result.returncode == status
    assert expected in result.stderr
    assert "Traceback" not in result.stderr


def test_definitions_win_over_the_environment_and_the_installation(
    prefix: Path, host_yaml: Path
) -> None:
    install_settings(prefix, NAME="installed", DATACRUMBS_MAX_RUNTIME_FUNCTIONS="3")
    host_yaml.write_text(
        "capture_probes:\n  - {name: @NAME@, probe: syscalls, regex: (read|write)}"
    )

    def name(*arguments: str, **env: str) -> str:
        result = run(prefix, host_yaml, "-n", "--json", *arguments, env=env)
        return str(json.loads(result.stdout)["categories"][0]["name"])

    assert name() == "installed"
    assert name(NAME="environment") == "environment"
    assert name("--define", "NAME=defined", NAME="environment") == "defined"
    host_yaml.write_text(CONFIG)
    result = run(prefix, host_yaml, "-n")
    assert result.returncode == 1
    assert "4 functions are selected, 3 are allowed" in result.stderr


def test_an_exclusion_template_is_left_in_the_data_directory(prefix: Path, host_yaml: Path) -> None:
    install_relay(prefix, SIGNING)
    data = host_yaml.parent / "data"
    data.mkdir()
    host_yaml.write_text(f"data_dir: {data}\n" + CONFIG)
    env = {"DATACRUMBS_INSTALL_USER": "adm", "DATACRUMBS_INSTALL_HOST": "node"}
    output = host_yaml.parent / "o.json.gz"
    assert run(prefix, host_yaml, output, env=env).returncode == 0
    template = data / "probes-exclusion-adm-node.json"
    assert json.loads(template.read_text()) == [{"type": 0, "name": "sys", "functions": []}]
    template.write_text('[{"type": 0, "name": "sys", "functions": ["read"]}]')
    report = json.loads(run(prefix, host_yaml, output, "--json", env=env).stdout)
    assert report["categories"][0]["excluded"] == {"probes-exclusion-adm-node.json": 1}


def test_hostile_names_are_names(prefix: Path, tmp_path: Path) -> None:
    install_relay(prefix, SIGNING)
    strange = tmp_path / "$(touch pwned);`id` x.yaml"
    strange.write_text(CONFIG)
    output = tmp_path / "$(touch pwned2).json.gz"
    assert run(prefix, strange, output).returncode == 0
    assert output.exists()
    assert not list(tmp_path.glob("pwned*"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a file that only root can write")
def test_a_site_that_switched_signing_off_gets_an_unsigned_file(
    prefix: Path, host_yaml: Path
) -> None:
    install_settings(prefix, DATACRUMBS_DISABLE_PROBE_SIGNING="1")
    output = host_yaml.parent / "o.json.gz"
    result = run(prefix, host_yaml, output)
    assert result.returncode == 0
    assert "NOT SIGNED: DATACRUMBS_DISABLE_PROBE_SIGNING" in result.stderr
    assert "4 functions, NOT SIGNED" in result.stdout
    assert probe_file_from_document(read_document(output), "x").checksum is None


def test_users_cannot_switch_signing_off(prefix: Path, host_yaml: Path) -> None:
    path = install_settings(prefix, DATACRUMBS_DISABLE_PROBE_SIGNING="1")
    path.chmod(0o666)
    output = host_yaml.parent / "o.json.gz"
    for env in ({}, {"DATACRUMBS_DISABLE_PROBE_SIGNING": "1"}):
        assert run(prefix, host_yaml, output, env=env).returncode == 1
        assert not output.exists()


def test_a_terminal_sees_progress(prefix: Path, host_yaml: Path) -> None:
    main, terminal = os.openpty()
    result = subprocess.run(
        [prefix / "bin" / COMMAND, host_yaml, "--dry-run"],
        stdout=subprocess.PIPE,
        stderr=terminal,
        check=False,
        timeout=120,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(terminal)
    shown = os.read(main, 1 << 16).decode(errors="replace")
    os.close(main)
    assert result.returncode == 0
    assert "looking for sys" in shown or "placing sys" in shown or "done" in shown
    assert b"looking for" not in result.stdout


def test_the_summary_names_reasons_and_costs(prefix: Path, host_yaml: Path) -> None:
    host_yaml.write_text(
        "capture_probes:\n"
        "  - {name: libc, probe: uprobe, file: 'soname:libc.so.6', functions: [_setjmp, malloc]}\n"
    )
    result = run(prefix, host_yaml, "-n")
    header, row, *notes = result.stdout.splitlines()
    assert header.split() == [
        "entry",
        "probe",
        "found",
        "selected",
        "excluded",
        "refused",
        "expensive",
        "arguments",
    ]
    assert row.split()[:2] == ["libc", "uprobe/binary"]
    assert row.split()[3:7] == ["1", "0", "1", "1"]
    assert any("1 refused: returns twice" in note for note in notes)
    assert any("1 expensive, up to 9 us a call: malloc" in note for note in notes)
