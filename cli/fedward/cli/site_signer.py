"""How a command finds the approver who signs: `--as NAME`, their key file, and their passphrase."""

from __future__ import annotations

import getpass
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward.cli.asking import new_secret, secret

if TYPE_CHECKING:
    from fedward.client.home import SiteHome
    from fedward.privacy.signing import Identity

PASSPHRASE_FILE = "FEDWARD_APPROVER_PASSPHRASE_FILE"  # noqa: S105 - the name of a variable

As = Annotated[
    str | None,
    typer.Option("--as", metavar="NAME", help="The approver who signs; may be left out where there is only one."),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key", metavar="FILE", help="Their key file, if it is not in the site's folder: on a USB stick, say."
    ),
]


def signer(home: SiteHome, name: str | None, key: Path | None) -> tuple[str, Identity]:
    """The approver's name and their key, which their passphrase opens.

    Raises:
        UsageError: there are several approvers, or none, and no name was given.
        InputError, IntegrityError: as `approvers.load_key`.
    """
    from fedward.client.approvers import default_key_file, load_key

    found = name or only_approver(home)
    return found, load_key(home, key or default_key_file(home, found), lambda: passphrase(found))


def only_approver(home: SiteHome) -> str:
    """The one approver of a small hospital. Raises: UsageError where there is not exactly one."""
    from fedward.client.decisions import load
    from fedward.privacy.errors import UsageError

    names = sorted(load(home).approvers)
    if len(names) != 1:
        raise UsageError(
            "it is not clear who signs",
            expected="--as NAME",
            got=f"approvers {', '.join(names)}" if names else "no approver yet",
            remedy="name one of them" if names else "add the first: fedward site approver add NAME",
        )
    return names[0]


def login() -> str:
    """Who is logged in here, for what needs no approver."""
    from fedward.client.statements import APPROVER

    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        name = ""
    return name if re.fullmatch(APPROVER, name) else f"user {os.getuid()}"


def passphrase(name: str, file: Path | None = None, *, new: bool = False) -> str:
    """An approver's passphrase: from a file that only its owner reads, or typed, twice if it is new.

    Raises:
        InputError: the file is missing, nobody can type it here, or a new one is too short or differs three times.
        IntegrityError: others may read the file.
    """
    from fedward.client.approvers import MIN_PASSPHRASE
    from fedward.study.files import read_secret

    path = file or (Path(os.environ[PASSPHRASE_FILE]) if os.environ.get(PASSPHRASE_FILE) else None)
    if path is not None:
        return read_secret(path, f"the passphrase of {name}").decode(errors="replace").rstrip("\r\n")
    if new:
        return new_secret(f"New passphrase of {name}", f"a passphrase for {name}", PASSPHRASE_FILE, MIN_PASSPHRASE)
    return secret(f"Passphrase of {name}", f"the passphrase of {name}", PASSPHRASE_FILE)
