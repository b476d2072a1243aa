import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from datacrumbs_runtime.schema.site_config import settings

ROOT = Path(__file__).resolve().parents[3]


def reference() -> Any:
    path = ROOT / "tools/settings_reference.py"
    spec = importlib.util.spec_from_file_location("settings_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page() -> str:
    return "\n".join(reference().lines())


def test_every_setting_is_on_the_page() -> None:
    text = page()
    assert [setting.key for setting in settings() if f"| `{setting.key}` |" not in text] == []


def test_every_variable_that_setup_exports_is_on_the_page() -> None:
    setup = ROOT / "packages/datacrumbs-utils/data/datacrumbs_setup.in"
    exported = {
        word.partition("=")[0]
        for line in setup.read_text().splitlines()
        for word in line.split()
        if line.strip().startswith("export DATACRUMBS_") and word.startswith("DATACRUMBS_")
    }
    assert len(exported) > 8
    text = page()
    assert {name for name in exported if f"`{name}`" not in text} == set()


def test_manual_page_has_what_the_page_has() -> None:
    keys = set(re.findall(r"\| `?(DATACRUMBS_[A-Z_]+)", page()))
    manual = reference().manual_page()
    assert set(re.findall(r"\.TP\n\\fB(DATACRUMBS_[A-Z_]+)", manual)) == keys
    assert "`" not in manual


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is missing")
def test_manual_page_is_rendered_without_a_warning(tmp_path: Path) -> None:
    manual = tmp_path / "datacrumbs_settings.7"
    reference().write_settings(manual)
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tascii", manual], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    # Bold is a character, a step back, and the character again.
    shown = re.sub(r".\x08", "", done.stdout)
    assert re.search(r"default:\s+/var/log/datacrumbs/traces/%YY%/%MM%/%DD%;\s+also", shown)
