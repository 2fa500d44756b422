"""`fedward`: one command. Sub-commands import what they need when they run, so that help is instant."""

from __future__ import annotations

import copy
import os
import sys
import traceback
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import click
import typer

from fedward.cli import (
    audit,
    coordinator,
    demo,
    example,
    explain,
    monitor,
    plan,
    privacy,
    report,
    simulate,
    site,
    sweep,
)
from fedward.cli.output import print_error, stderr
from fedward.privacy.durable import disk_error, is_disk_error
from fedward.privacy.errors import FedwardError, UsageError

INTERRUPTED = 130

app = typer.Typer(
    name="fedward",
    help=(
        "Hospitals train one model together; no patient record leaves any of them.\n\n"
        "Try it: fedward demo. Hospital IT: fedward site --help. Coordinators: fedward coordinator --help."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback with local variables could show patients' values
)
app.add_typer(site.app, name="site")
app.add_typer(coordinator.app, name="coordinator")
app.add_typer(audit.app, name="audit")
app.add_typer(privacy.app, name="privacy")
app.command("demo")(demo.demo)
app.command("example")(example.example)
app.command("explain")(explain.explain)
app.command("monitor")(monitor.monitor)
app.command("plan")(plan.plan)
app.command("report")(report.report)
app.command("simulate")(simulate.simulate)
app.command("sweep")(sweep.sweep)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"fedward {version('fedward')}\n")
        raise typer.Exit


@app.callback()
def _root(
    _show: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    pass


def run(arguments: list[str] | None = None) -> None:
    """The console script. Exits with 0, an error's own code, 2 for wrong usage, or 130 after Ctrl-C."""
    given = sys.argv[1:] if arguments is None else arguments
    sys.exit(_code(given))


@cache
def _commands(first: str) -> click.Command:
    """The command tree, or of it what a first word names: to build it whole takes longer than most commands do."""
    named = copy.copy(app)
    named.registered_groups = [group for group in app.registered_groups if group.name == first]
    named.registered_commands = [command for command in app.registered_commands if command.name == first]
    return typer.main.get_command(named if named.registered_groups or named.registered_commands else app)


def _code(arguments: list[str]) -> int:
    try:
        result = _commands(arguments[0] if arguments else "")(arguments, prog_name="fedward", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except click.exceptions.Exit as exit_:
        code = exit_.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except Exception as error:  # noqa: BLE001  # a traceback, or a foreign error's text, could show patients' values
        return _failed(error, as_json="--json" in arguments)
    if code == INTERRUPTED:  # Typer turns some of a person's Ctrl-C into this code by itself
        stderr.print("interrupted; nothing that was recorded is lost")
    return code


def _failed(error: Exception, *, as_json: bool) -> int:
    """Tell an error; its exit code."""
    if isinstance(error, BrokenPipeError):  # whoever read the output has left
        return FedwardError.exit_code
    if isinstance(error, click.ClickException):
        if not as_json:
            error.show()
            return error.exit_code
        error = UsageError(error.format_message())
    told = error if isinstance(error, FedwardError) else _unexpected(error)
    print_error(told, as_json=as_json)
    return told.exit_code


def _unexpected(error: Exception) -> FedwardError:
    """A bug, or a system that fails in a way that nobody foresaw: its kind and its place, none of its values."""
    if isinstance(error, OSError) and is_disk_error(error):
        return disk_error(error, "the disk takes nothing more")
    if isinstance(error, OSError) and error.errno is not None:
        place = f": {error.filename}" if error.filename is not None else ""
        return FedwardError("the system refused", got=f"{os.strerror(error.errno)}{place}", code="system")
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return FedwardError(
        "an error that Fedward did not foresee",
        got=f"{type(error).__name__}{where}",
        remedy="report it; nothing that was recorded is lost",
        code="internal-error",
    )


if __name__ == "__main__":
    run()
