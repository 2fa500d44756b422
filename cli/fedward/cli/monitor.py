"""`fedward monitor`: a coordinator's record or a run's folder in the browser, here or, with an access file, for whom it names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward.cli.output import JsonOption, print_json, say

if TYPE_CHECKING:
    from fedward.dashboard.serve import Listener

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="DIR|URL",
        help="A coordinator's folder, its store.sqlite, or a PostgreSQL URL. [default: ~/.fedward/coordinator, without RUN]",
        show_default=False,
    ),
]


def monitor(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN]", help="The folder that `fedward simulate --out` made.", show_default=False),
    ] = None,
    store: StoreOption = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="A port of 127.0.0.1. [default: 8501 or a free one]")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    address: Annotated[
        str | None,
        typer.Option(metavar="IP", help="Another loopback address than 127.0.0.1; beyond loopback: --access."),
    ] = None,
    access: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="For other machines too: an access file, with sign-in (docs/monitor-access.md)."
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Only check the access file, what it names, and its provider; serve nothing."),
    ] = False,
    as_json: bool = JsonOption,
) -> None:
    """Look at a federation, from its coordinator's record, or at a simulated run. Ctrl-C ends it.

    Of a federation: how the study goes, accuracy, fairness, privacy, who took part, models, and the audit log. Of a run: accuracy,
    fairness, and what was run. The page can change nothing, and follows what still goes on. It is served to this machine only; with
    --access to whom the file names, who sign in with their organisation's account, and as what each of them may see.
    """
    from fedward.dashboard.serve import free_port, installed, serve

    installed()
    at = _listener(port, address, access, check)
    if check:
        _tell(at, as_json)
        return
    kind, named = _named(run, store)
    free_port(at.port, at.address)
    if as_json:
        print_json({"address": at.url, kind: named})
    else:
        say(f"The monitor of {named} is at {at.url} (Ctrl-C ends it).")
    serve(kind, named, at, browser)


def _listener(port: int | None, address: str | None, access: Path | None, check: bool) -> Listener:
    from fedward.dashboard.serve import HOST, closed, free_port, here, of_file
    from fedward.privacy.errors import UsageError

    if access is None:
        if check:
            raise UsageError("--check checks an access file", expected="--access FILE beside it", got="no --access")
        closed(address or HOST)
        return here(free_port(port, address or HOST), address or HOST)
    if port is not None or address is not None:
        raise UsageError(
            "--access goes without --port and --address", remedy="write address and port in the file's [listen]"
        )
    return of_file(access)


def _tell(at: Listener, as_json: bool) -> None:
    """What an access file comes to, after a look at its provider."""
    from fedward.dashboard.discovery import discovered

    access = at.access
    if access is None:
        return
    found = discovered(access.provider)
    rules = [
        f"{kind} {name}: {rule.role}{f' {rule.site}' if rule.site else ''}"
        for rule in access.allow
        for kind, name in (("subject", rule.subject), ("group", rule.group), ("email", rule.email))
        if name is not None
    ]
    if as_json:
        made = {
            "url": at.url,
            "address": at.address,
            "port": at.port,
            "issuer": found.issuer,
            "redirect_uri": at.callback,
        }
        print_json(made | {"session_minutes": access.session_minutes, "allow": rules})
        return
    say(f"{at.url} listens at {at.address}, port {at.port}; sessions last {access.session_minutes} minutes at most.")
    say(f"People sign in at {found.issuer}, where {at.callback} must be registered for {access.provider.client_id}.")
    say(f"Let in, the first that fits: {'; '.join(rules)}.")


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
