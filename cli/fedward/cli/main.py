"""`fedward`: one command. Sub-commands import what they need when they run, so that help is instant."""

from __future__ import annotations

import sys
from importlib.metadata import version

import click
import typer

from fedward.cli import coordinator, demo, example, site
from fedward.cli.output import print_error, stderr
from fedward.privacy.errors import FedwardError

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
app.command("demo")(demo.demo)
app.command("example")(example.example)


@app.callback()
def _root(
    show_version: bool = typer.Option(False, "--version", help="Show the version and exit.", is_eager=True),
) -> None:
    if show_version:
        sys.stdout.write(f"fedward {version('fedward')}\n")
        raise typer.Exit


def run(arguments: list[str] | None = None) -> None:
    """The console script. Exits with 0, an error's own code, 2 for wrong usage, or 130 after Ctrl-C."""
    given = sys.argv[1:] if arguments is None else arguments
    sys.exit(_code(given))


def _code(arguments: list[str]) -> int:
    try:
        result = app(arguments, prog_name="fedward", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except FedwardError as error:
        print_error(error, as_json="--json" in arguments)
        return error.exit_code
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        stderr.print("interrupted; nothing that was recorded is lost")
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        return 1


if __name__ == "__main__":
    run()
