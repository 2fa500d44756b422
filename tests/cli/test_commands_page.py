"""docs/commands.md: every command and every option stands there, as the program has it."""

from __future__ import annotations

import re

import click
import pytest
import typer

from fedward.cli.main import app
from scripts.command_reference import PAGE, commands, page

ROOT_COMMAND = typer.main.get_group(app)
LEAVES = [(path, command) for path, command in commands(ROOT_COMMAND) if not isinstance(command, click.Group)]


def test_the_page_is_the_program_s() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python scripts/command_reference.py"


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[" ".join(path) for path, _ in LEAVES])
def test_every_option_stands_in_its_command_s_section(path: tuple[str, ...], command: click.Command) -> None:
    """Read from the page itself, without the code that made it."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(f" fedward {' '.join(path)}\n")
    section = rest.partition("\n#")[0]
    assert section, f"fedward {' '.join(path)} is not in {PAGE.name}"
    told = {word for row in re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE) for word in re.split(r"[ ,/]+", row)}
    asked = {option for parameter in command.params if isinstance(parameter, click.Option) for option in parameter.opts}
    assert asked <= told
