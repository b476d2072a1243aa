"""What all commands have in common."""

import pkgutil
from importlib import import_module
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

import datacrumbs_runtime.commands
import datacrumbs_utils.commands


def commands() -> list[click.Command]:
    packages: tuple[ModuleType, ...] = (datacrumbs_runtime.commands, datacrumbs_utils.commands)
    names = [
        f"{package.__name__}.{module.name}"
        for package in packages
        for module in pkgutil.iter_modules(package.__path__)
    ]
    found: list[click.Command] = [import_module(name).command for name in names]
    assert [command.name for command in found] == [name.rpartition(".")[2] for name in names]
    return found


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.name)
def test_command_tells_its_version_and_how_it_is_used(command: click.Command) -> None:
    version = CliRunner().invoke(command, ["--version"], prog_name=command.name)
    assert (version.exit_code, version.output.split()[0]) == (0, f"{command.name},")
    assert version.output.strip().endswith(datacrumbs_runtime.__version__)
    for option in ("-h", "--help"):
        usage = CliRunner().invoke(command, [option], prog_name=command.name)
        assert usage.exit_code == 0
        assert usage.output.startswith(f"Usage: {command.name} ")
