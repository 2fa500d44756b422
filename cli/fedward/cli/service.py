"""`fedward site service` and `fedward coordinator service`: a systemd unit for this machine, shown or installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward.cli.output import JsonOption, print_json, say
from fedward.cli.site_home import DEFAULT_HOME, Home

if TYPE_CHECKING:
    from fedward.client.home import SiteHome

SITE, COORDINATOR = "fedward-site.service", "fedward-coordinator.service"
UNITS = Path("/etc/systemd/system")

User = Annotated[str | None, typer.Option("--user", help="Who runs it; by default the home's owner.")]
Memory = Annotated[str, typer.Option("--memory", help="The most memory that it may use, such as 4G.")]
Passphrase = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file", help="Root's file (0600) with the home's passphrase; handed to this service alone."
    ),
]
Metrics = Annotated[
    int | None, typer.Option("--metrics", help="Also answer Prometheus and health checks at this port of 127.0.0.1.")
]
OnlyTo = Annotated[
    list[str] | None,
    typer.Option(
        "--only-to", help="Let it speak to this address or network alone (repeat it: coordinator, proxy, DNS)."
    ),
]
Install = Annotated[
    bool, typer.Option("--install", help="Write it where systemd looks for it, as root; starting it is left to you.")
]
Folder = Annotated[Path, typer.Option("--units", help="Where systemd looks for units.")]
CoordinatorHome = Annotated[
    Path, typer.Option("--home", envvar="FEDWARD_COORDINATOR_HOME", help="The coordinator's folder.")
]
_DEFAULT_COORDINATOR = Path.home() / ".fedward" / "coordinator"


def site(
    home: Home = DEFAULT_HOME,
    user: User = None,
    memory: Memory = "4G",
    passphrase_file: Passphrase = None,
    metrics: Metrics = None,
    only_to: OnlyTo = None,
    install: Install = False,
    units: Folder = UNITS,
    as_json: bool = JsonOption,
) -> None:
    """Print a systemd unit, hardened, that runs this site's node from the machine's start on; or install it."""
    _give(SITE, _site_unit(home, user, memory, passphrase_file, metrics, only_to), units if install else None, as_json)


def coordinator(
    home: CoordinatorHome = _DEFAULT_COORDINATOR,
    user: User = None,
    memory: Memory = "8G",
    install: Install = False,
    units: Folder = UNITS,
    as_json: bool = JsonOption,
) -> None:
    """Print a systemd unit, hardened, that runs this coordinator's service; or install it."""
    _give(COORDINATOR, _coordinator_unit(home, user, memory), units if install else None, as_json)


def _site_unit(
    home: Path, user: str | None, memory: str, passphrase: Path | None, metrics: int | None, only_to: list[str] | None
) -> str:
    from fedward.cli.units import fill
    from fedward.client.home import SiteHome

    opened = SiteHome.open(home)
    command = [str(_program()), "site", "start", "--home", str(home.resolve())]
    command += [] if metrics is None else ["--metrics", str(metrics)]
    return fill(
        SITE, user=user or _owner(home), home=home, command=command, memory=memory,
        reads=_read_by(opened), credential=passphrase, only_to=only_to or (),
    )  # fmt: skip


def _read_by(home: SiteHome) -> list[Path]:
    """Where its Python, the registered data and mappings lie."""
    from fedward.client import datasets

    found = [datasets.find(home, name) for name in datasets.registered(home)]
    return [Path(sys.base_prefix)] + [Path(path) for dataset in found for path in (dataset.path, dataset.mapping)]


def _coordinator_unit(home: Path, user: str | None, memory: str) -> str:
    from fedward.cli.units import fill
    from fedward.server.home import CoordinatorHome as Opened

    Opened.open(home)
    command = [str(_program()), "coordinator", "start", "--home", str(home.resolve())]
    return fill(
        COORDINATOR, user=user or _owner(home), home=home, command=command, memory=memory, reads=[Path(sys.base_prefix)]
    )


def _owner(home: Path) -> str:
    from fedward.privacy.errors import InputError

    try:
        return home.owner()
    except KeyError:  # a number without a name
        raise InputError(f"nobody on this machine owns {home}", remedy="name a user: --user NAME") from None


def _program() -> Path:
    """The `fedward` that runs now, beside its Python."""
    return Path(sys.executable).with_name("fedward")


def _give(name: str, text: str, units: Path | None, as_json: bool) -> None:
    """Show a unit; or write it into a folder."""
    from fedward.study.files import write_atomic

    if units is None:
        if as_json:
            print_json({"name": name, "unit": text})
        else:
            sys.stdout.write(text)
        return
    path = units / name
    write_atomic(path, text.encode(), 0o644)
    commands = ["systemctl daemon-reload", f"systemctl enable --now {path.stem}"]
    if as_json:
        print_json({"unit": str(path), "next": commands})
        return
    say(f"{path} is written. Nothing runs yet. Next, as root:")
    for command in commands:
        say(f"  {command}")
    say(f"See how far it is shut in: systemd-analyze security {path.name}")
