"""`fedward monitor`: a coordinator's record or a run's folder in the browser, on this machine alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedward.cli.output import JsonOption, print_json, say


def monitor(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN]", help="The folder that `fedward simulate --out` made.", show_default=False),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            metavar="DIR|URL",
            help="A coordinator's folder, its store.sqlite, or a PostgreSQL URL. [default: ~/.fedward/coordinator, without RUN]",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="A port of 127.0.0.1. [default: 8501 or a free one]")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    as_json: bool = JsonOption,
) -> None:
    """Look at a federation, from its coordinator's record, or at a simulated run. Ctrl-C ends it.

    Of a federation: how the study goes, accuracy, fairness, privacy, who took part, models, and the audit log. Of a run: accuracy,
    fairness, and what was run. The page is served to this machine only, can change nothing, and follows what still goes on.
    """
    from fedward.dashboard.serve import HOST, free_port, installed, serve

    installed()
    kind, named = _named(run, store)
    chosen = free_port(port)
    address = f"http://{HOST}:{chosen}"
    if as_json:
        print_json({"address": address, kind: named})
    else:
        say(f"The monitor of {named} is at {address} (Ctrl-C ends it).")
    serve(kind, named, chosen, browser)


def _named(run: Path | None, store: str | None) -> tuple[str, str]:
    """What to show, looked at once so that what is wrong with it is said here: "run" or "store", and its place.

    Raises:
        UsageError: both are named.
        FedwardError: it is none, or cannot be read.
    """
    from fedward.privacy.errors import UsageError

    if run is not None and store is not None:
        raise UsageError(
            "the monitor shows one thing", expected="RUN or --store", got="both", remedy="leave one of them out"
        )
    if run is not None:
        from fedward.dashboard.record import read

        read(run)
        return "run", str(run.absolute())
    from fedward.dashboard.federation.place import place

    found = place(store)
    found.open().close()
    if isinstance(found.store, str) and found.home is None:
        return "store", found.store
    return "store", str(Path(found.shown).absolute())
