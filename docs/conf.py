"""Settings of the documentation. The reference of the commands is written while it is built."""

import importlib.metadata
import importlib.util
from pathlib import Path

HERE = Path(__file__).resolve().parent

project = "DataCrumbs"
project_copyright = "The DataCrumbs developers"
release = importlib.metadata.version("datacrumbs-runtime")
extensions = ["myst_parser"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_title = f"DataCrumbs {release}"
html_theme_options = {
    "description": "Why was the I/O slow?",
    "fixed_sidebar": True,
    "page_width": "68rem",
}


def write_command_pages() -> None:
    """Write commands/<command>.md from the click objects of the installed packages."""
    script = HERE.parent / "tools/command_reference.py"
    spec = importlib.util.spec_from_file_location("command_reference", script)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write_reference("markdown", HERE / "commands/generated")


write_command_pages()
