"""--probes: sets, YAML files and probe files, told apart by what they are."""

import gzip
import json
import platform
import subprocess
from pathlib import Path

import pytest

from datacrumbs_runtime.errors import ConfigurationError, ProbeFileError, UsageError
from datacrumbs_utils.recording import probes

DOCUMENT = {
    "summary": dict.fromkeys(
        ("config_file_path", "probe_file_path", "hostname", "user", "install_user"), "x"
    ),
    "categories": [{"type": 0, "name": "sys", "functions": ["read"]}],
}
YAML = "capture_probes:\n  - name: sys\n    probe: syscalls\n    functions: [read, write]\n"


def test_built_in_set() -> None:
    loaded = probes.load("posix")
    assert loaded.name == "posix"
    assert "openat" in loaded.probe_file.categories[0].functions


def test_several_sets_are_joined() -> None:
    loaded = probes.load("posix,kernel-io")
    assert loaded.name == "posix+kernel-io"
    assert {"POSIX", "block"} <= {category.name for category in loaded.probe_file.categories}


def test_yaml_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(YAML)
    loaded = probes.load(str(path))
    assert loaded.name == "mine"
    assert loaded.probe_file.categories[0].functions == ("read", "write")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the instruction is x86's")
def test_functions_that_cannot_be_probed_are_a_warning(tmp_path: Path) -> None:
    program = """
        int calls;
        __attribute__((noipa)) int locked(void) { __asm__("lock incl calls(%rip)"); return 1; }
        __attribute__((noipa)) int plain(void) { return 2; }
        int main(void) { return locked() + plain(); }
    """
    subprocess.run(
        ["cc", "-O1", "-fcf-protection=none", "-o", str(tmp_path / "program"), "-xc", "-"],
        input=program.encode(),
        check=True,
    )
    file = tmp_path / "own.yaml"
    file.write_text(
        "capture_probes: [{name: OWN, probe: uprobe, type: binary,"
        f" file: {tmp_path}/program, regex: (locked|plain)}}]"
    )
    found = probes.load(str(file))
    (category,) = found.probe_file.categories
    assert [name.partition(":")[0] for name in category.functions] == ["plain"]
    assert found.warnings == ("OWN: 1 refused: its first instruction has a lock prefix",)


@pytest.mark.parametrize("name", ["p.json.gz", "p.json", "odd-name"])
def test_probe_file_is_known_by_its_bytes(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    data = json.dumps(DOCUMENT).encode()
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    loaded = probes.load(str(path))
    assert loaded.probe_file.categories[0].functions == ("read",)
    assert loaded.name == path.stem


def test_errors_name_the_place(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("capture_probes:\n  - name: a\n   bad: [\n")
    with pytest.raises(ConfigurationError, match=r"broken\.yaml:3:\d+: "):
        probes.load(str(broken))
    unknown = tmp_path / "unknown.yaml"
    unknown.write_text("capture_probes:\n  - name: a\n    probe: syscalls\n    regx: read\n")
    with pytest.raises(ConfigurationError, match=r"unknown\.yaml:4:5: unknown key regx.*regex"):
        probes.load(str(unknown))
    with pytest.raises(UsageError, match="did you mean posix"):
        probes.load("posx")
    with pytest.raises(UsageError, match="is a directory"):
        probes.load(str(tmp_path))
    with pytest.raises(ProbeFileError, match="No such file"):
        probes.load(str(tmp_path / "gone.json.gz"))
    bad = tmp_path / "bad.json"
    bad.write_text('{"a": 1}')
    with pytest.raises(ProbeFileError, match="a: is not a key of probe files"):
        probes.load(str(bad))
