"""`fedward monitor`: a run's folder in the browser, on this machine alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedward.cli.output import JsonOption, print_json, say


def monitor(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder that `fedward simulate --out` made.")],
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="A port of 127.0.0.1. [default: 8501 or a free one]")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    as_json: bool = JsonOption,
) -> None:
    """Look at a simulated run, finished or not: accuracy, fairness, and what was run. Ctrl-C ends it.

    The page is served to this machine only, can change nothing, and follows a run that still goes on.
    """
    from fedward.dashboard.record import read
    from fedward.dashboard.serve import HOST, free_port, installed, serve

    installed()
    read(run)
    chosen = free_port(port)
    address = f"http://{HOST}:{chosen}"
    if as_json:
        print_json({"address": address, "run": str(run.absolute())})
    else:
        say(f"The monitor of {run} is at {address} (Ctrl-C ends it).")
    serve(run, chosen, browser)
