"""How the documentation is built. References of commands and settings are written meanwhile."""

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

project = "DataCrumbs"
project_copyright = "The DataCrumbs developers"
release = importlib.metadata.version("datacrumbs-runtime")
extensions = ["myst_parser"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
# "--option" is two hyphens, not a dash.
smartquotes = False
html_theme = "alabaster"
html_static_path = ["_static"]
html_title = f"DataCrumbs {release}"
html_theme_options = {
    "description": "Why was the I/O slow?",
    "fixed_sidebar": True,
    # Narrower windows have the navigation above the text.
    "page_width": "72rem",
}


def tool(name: str) -> Any:
    """Return a module of tools/."""
    path = HERE.parent / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool("command_reference").write_reference("markdown", HERE / "commands/generated")
tool("settings_reference").write_settings(HERE / "administrator/generated/settings.md")
