"""docs/commands.md, from the program: every command and option, as its help says it.

`python scripts/command_reference.py` writes the page; tests/cli/test_commands_page.py fails while it is not the program's.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import typer

from fedward.cli.main import app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "commands.md"
FIRST = ("site", "coordinator", "audit", "explain")
HEAD = """\
# Commands

`fedward site` is for a hospital, `fedward coordinator` for a coordinator, `fedward audit` for an auditor, the rest for researchers.
Every command has `--help`, and `--json` prints one object. Exit codes: 0 done, 1 something else failed, 2 wrong usage, 3 bad input,
4 refused, 5 a signature, digest or chain does not hold, 6 unreachable, 130 interrupted. An error's code is explained by
`fedward explain CODE` ([troubleshooting](troubleshooting.md)); states, outcomes and reasons too ([runbook](runbook.md)).

This page is made from the program (`python scripts/command_reference.py`).
"""


def page() -> str:
    """The whole page."""
    root = typer.main.get_group(app)
    parts = [HEAD]
    for name in (*FIRST, *(name for name in root.commands if name not in FIRST)):
        for path, command in commands(root.commands[name], (name,)):
            parts.append(_section(" ".join(("fedward", *path)), command, level=2 if len(path) == 1 else 3))
    return "\n".join(parts)


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below one, groups included, in the order of the help."""
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))


def _section(name: str, command: click.Command, level: int) -> str:
    lines = [f"{'#' * level} {name}\n", _plain(command.help or "").strip() + "\n"]
    if not isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        records = [record for one in command.params if (record := one.get_help_record(context)) is not None]
        lines += ["| | |", "|---|---|", *(f"| `{_cell(left)}` | {_cell(right)} |" for left, right in records), ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    home = str(Path.home())
    return _plain(re.sub(r"\s+", " ", text).replace(home, "~")).replace("|", "\\|").strip()


def _plain(text: str) -> str:
    """Without what click and Typer put in for the terminal."""
    return text.replace("\b", "").replace("\f", "").replace("\\[", "[")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
