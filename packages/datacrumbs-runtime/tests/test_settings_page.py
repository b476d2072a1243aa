import importlib.util
from pathlib import Path

from datacrumbs_runtime.schema.site_config import settings

ROOT = Path(__file__).resolve().parents[3]


def page() -> str:
    path = ROOT / "tools/settings_reference.py"
    spec = importlib.util.spec_from_file_location("settings_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return "\n".join(module.lines())


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
