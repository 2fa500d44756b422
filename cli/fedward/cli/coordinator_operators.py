"""`fedward coordinator operator …`: who may work with a coordinator from another machine, and as what."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from fedward.cli.coordinator_home import DEFAULT_HOME, Home, open_coordinator
from fedward.cli.output import JsonOption, print_json, say

app = typer.Typer(
    help=(
        "Let people work from other machines, each with a certificate that says who they are and what they may do.\n\n"
        "Order: request (where they work), add (on the coordinator's machine), whoami (where they work)."
    ),
    no_args_is_help=True,
)


@app.command()
def request(
    name: Annotated[str, typer.Argument(help="The person's or script's name, as the audit log will have it.")],
    folder: Annotated[Path, typer.Option("--folder", help="Where key and request are written.")] = Path(),
    as_json: bool = JsonOption,
) -> None:
    """Make a key here, and the request for its certificate, which goes to the coordinator. The key stays here."""
    from fedward.study.access import request_access

    made = request_access(name, folder)
    if as_json:
        print_json({"request": str(made), "key": str(made.with_suffix(".key"))})
        return
    say(f"Send {made} to the coordinator. {made.with_suffix('.key')} stays here: it is the secret.")


@app.command()
def add(
    request_file: Annotated[Path, typer.Argument(metavar="REQUEST", help="NAME.csr, as `request` wrote it.")],
    role: Annotated[str, typer.Option("--role", help="coordinator, auditor or viewer.")],
    out: Annotated[Path | None, typer.Option("--out", help="Where to write NAME.access.json.")] = None,
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Give access: a viewer sees studies and alarms; an auditor sites and transcripts too; a coordinator does everything."""
    from fedward.privacy.errors import InputError
    from fedward.server.control.roles import ROLES
    from fedward.server.home import CoordinatorHome
    from fedward.server.operators import Operators
    from fedward.study.access import SUFFIX
    from fedward.study.files import write_atomic

    chosen = next((one for one in ROLES if one == role), None)
    if chosen is None:
        raise InputError(f'no role "{role}"', expected=", ".join(ROLES))
    try:
        asked = request_file.read_bytes()
    except OSError:
        raise InputError(f"{request_file} cannot be read", remedy="give the path of NAME.csr") from None
    access = Operators(CoordinatorHome.open(home)).add(asked, chosen, datetime.now(UTC))
    path = out or request_file.with_name(f"{access.name}{SUFFIX}")
    write_atomic(path, access.model_dump_json(indent=1).encode())
    if as_json:
        print_json({"name": access.name, "role": access.role, "access": str(path)})
        return
    say(
        f'"{access.name}" may work as {access.role}. Send {path} back, to lie beside {access.name}.key. It holds no secret.'
    )
    say(f"There: fedward coordinator whoami --home {path.name}")


@app.command("list")
def list_(home: Home = DEFAULT_HOME, as_json: bool = JsonOption) -> None:
    """Who has, or had, access, and until when."""
    from fedward.server.home import CoordinatorHome
    from fedward.server.operators import LOCAL, Operators

    known = Operators(CoordinatorHome.open(home)).all()
    if as_json:
        print_json({"operators": [one.model_dump() for one in known]})
        return
    if all(one.name == LOCAL for one in known):
        say("Nobody has access from another machine: fedward coordinator operator add REQUEST --role …")
    for one in known:
        where = "  (commands of this machine)" if one.name == LOCAL else ""
        say(f"{one.name}  {one.role}  {_state(one.removed_at, one.expires_at)}{where}")


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="Whose access ends.")],
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """End somebody's access at once, open connections included."""
    from fedward.server.home import CoordinatorHome
    from fedward.server.operators import Operators

    removed = Operators(CoordinatorHome.open(home)).remove(name, int(time.time()))
    if as_json:
        print_json(removed.model_dump())
        return
    say(f'"{name}" has no access any more.')


def whoami(home: Home = DEFAULT_HOME, as_json: bool = JsonOption) -> None:
    """Ask the coordinator's service who you are there, and what you may do."""
    from fedward.privacy.errors import UsageError
    from fedward.server.control.remote import RemoteCoordinator

    coordinator = open_coordinator(home)
    if not isinstance(coordinator, RemoteCoordinator):
        raise UsageError(
            "whoami asks a service, and this home's does not run", expected="an access file, or the home of a running service",
            got=str(home), remedy="--home NAME.access.json, or fedward coordinator start",
        )  # fmt: skip
    told = coordinator.whoami()
    if as_json:
        print_json({"name": told.name, "role": told.role, "may": list(told.may), "federation": told.federation})
        return
    say(f'You are {told.name}, {told.role} of "{told.federation}". You may: {", ".join(told.may)}.')


def _state(removed_at: int, expires_at: int) -> str:
    if removed_at:
        return f"removed on {datetime.fromtimestamp(removed_at, UTC):%Y-%m-%d}"
    until = f"{datetime.fromtimestamp(expires_at, UTC):%Y-%m-%d}"
    return f"expired on {until}" if expires_at <= time.time() else f"until {until}"
