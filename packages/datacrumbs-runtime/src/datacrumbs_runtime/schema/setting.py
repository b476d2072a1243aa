"""What a setting of an installation is: a key, a default, a parser, and who may change it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from datacrumbs_runtime.schema import setting_types


class Group(Enum):
    """Where a setting is at home."""

    INSTALLATION = "installation"
    """Facts of this installation, fixed when it is made."""
    SITE = "site"
    """What the administrator decides, once for all runs."""
    RUN = "run"
    """Defaults of a run, which its options can change."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One key.

    Attributes:
        name: The attribute of :class:`SiteConfig`.
        key: The name in files and in the environment.
        group: Where it is at home.
        meaning: One sentence for the documentation.
        default: Its default as text; ``{name}`` stands for another setting.
        from_environment: Whether a variable of this name in the environment wins over the file.
        parse: From text to value.
        type_name: What kind of value it is, for the documentation.
    """

    name: str
    key: str
    group: Group
    meaning: str
    default: Callable[[], str]
    from_environment: bool
    parse: Callable[[str], Any]
    type_name: str


def setting_field(
    group: Group,
    default: str | Callable[[], str],
    meaning: str,
    parse: Callable[[str], Any],
    type_name: str,
    *,
    environment: bool = False,
) -> Any:
    """Return a field of ``SiteConfig``; see :class:`Setting` for the arguments."""
    return field(
        metadata={
            "group": group,
            "default": default if callable(default) else lambda: default,
            "meaning": meaning,
            "parse": parse,
            "type_name": type_name,
            "environment": environment,
        }
    )


def fact_field(default: str | Callable[[], str], meaning: str) -> Any:
    """Return the field of a path that is fixed when the installation is made."""
    return setting_field(Group.INSTALLATION, default, meaning, setting_types.absolute_path, "path")
