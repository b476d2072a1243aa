"""The options that Flux gets: what is refused, and what the job carries.

Flux itself is not on every machine; what stands in for it has the part of its interface that
plugins use (flux-core 0.74 to 0.88).
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).resolve().parents[1] / "data/flux/datacrumbs.py"
FLUX = """
class CLIPlugin:
    def __init__(self, prog, prefix="ex", version=None):
        self.prog, self.prefix, self.options = prog, prefix, []

    def add_option(self, name, **arguments):
        self.options.append((name.replace("--", f"--{self.prefix}-", 1), arguments))
"""
SUBMIT = """
import argparse, importlib.util, json, sys
from flux.cli.plugin import CLIPlugin

spec = importlib.util.spec_from_file_location("datacrumbs", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
plugins = [
    value("run")
    for value in vars(module).values()
    if isinstance(value, type) and issubclass(value, CLIPlugin) and value is not CLIPlugin
]
parser = argparse.ArgumentParser()
for plugin in plugins:
    for name, arguments in plugin.options:
        parser.add_argument(name, **arguments)
args = parser.parse_args(sys.argv[2:])

class Jobspec:
    attributes = {}

    def setattr(self, key, value):
        self.attributes[key] = value

try:
    for plugin in plugins:
        plugin.preinit(args)
        plugin.modify_jobspec(args, Jobspec())
except ValueError as error:
    sys.exit(f"flux-run: ERROR: {error}")
print(json.dumps(Jobspec.attributes))
"""


@pytest.fixture
def flux(tmp_path: Path) -> Path:
    package = tmp_path / "lib/flux/cli"
    package.mkdir(parents=True)
    (package / "plugin.py").write_text(FLUX)
    return package.parents[1]


def submit(flux: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SUBMIT, str(PLUGIN), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=flux.parent,
        env={"PYTHONPATH": str(flux)},
    )


def test_job_carries_the_probe_file_by_its_absolute_path(flux: Path) -> None:
    (flux.parent / "probes.json.gz").touch()
    done = submit(flux, "--datacrumbs-enable", "--datacrumbs-probe-file", "probes.json.gz")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "system.datacrumbs": {"enable": "yes", "probe_file": str(flux.parent / "probes.json.gz")}
    }


def test_job_without_the_options_carries_nothing(flux: Path) -> None:
    assert json.loads(submit(flux).stdout) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--datacrumbs-enable"], "--datacrumbs-enable: needs --datacrumbs-probe-file"),
        (["--datacrumbs-probe-file", "x"], "--datacrumbs-probe-file: needs --datacrumbs-enable"),
        (["--datacrumbs-enable", "--datacrumbs-probe-file", "x"], "x: no such file"),
        (["--datacrumbs-enable", "--datacrumbs-probe-file", "."], "no such file"),
    ],
)
def test_impossible_options_are_refused(flux: Path, options: list[str], message: str) -> None:
    done = submit(flux, *options)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stdout == ""
