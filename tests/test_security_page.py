"""SECURITY.md names tests that exist, pages that exist, and commands that exist."""

from __future__ import annotations

import re
from pathlib import Path

import click
import typer

from fedward.cli.main import app

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_every_test_that_it_names_exists() -> None:
    named = set(re.findall(r"`(tests/[^`]+\.py)`", TEXT))
    assert len(named) > 15
    assert sorted(name for name in named if not (ROOT / name).is_file()) == []


def test_every_row_of_the_attackers_names_a_test() -> None:
    table = TEXT.partition("| who | what they could try |")[2].partition("\n\n")[0].splitlines()[2:]
    assert len(table) > 8
    assert [row for row in table if "`tests/" not in row] == []


def test_every_page_that_it_links_to_exists() -> None:
    pages = re.findall(r"\]\(((?!http)[^)#]+)", TEXT)
    assert pages
    assert [page for page in pages if not (ROOT / page).is_file()] == []


def test_every_command_that_it_names_exists() -> None:
    for line in re.findall(r"`fedward ([a-z -]+)", TEXT):
        command: click.Command = typer.main.get_command(app)
        for word in line.split():
            if isinstance(command, click.Group) and not word.startswith("-"):
                command = command.commands[word]
