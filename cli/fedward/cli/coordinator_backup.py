"""`fedward coordinator backup` and `fedward coordinator restore`: the coordinator's home in one file, and back by a person."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from fedward.cli.asking import confirm, new_secret, secret
from fedward.cli.coordinator_home import DEFAULT_HOME, Home
from fedward.cli.output import JsonOption, print_json, say

PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="A file (mode 0600) that holds the backup's passphrase; else it is asked."),
]


def backup(
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="The new file.")],
    home: Home = DEFAULT_HOME,
    passphrase_file: PassphraseFile = None,
    as_json: bool = JsonOption,
) -> None:
    """Write the coordinator's home to one file: store, models, audit log, keys, settings, operators. The service may run.

    The file is signed, and encrypted under a passphrase of its own: who has both has the coordinator's keys. A store in PostgreSQL
    is in it too, as it was at one instant, and can be restored into either kind of store.
    """
    from fedward.server.backup import make_backup
    from fedward.server.home import CoordinatorHome

    made = make_backup(CoordinatorHome.open(home), dest, int(time.time()), _passphrase(passphrase_file, new=True))
    size = dest.stat().st_size
    if as_json:
        print_json({"federation": made.name, "file": str(dest), "files": len(made.files), "bytes": size, "at": made.made_at,
                    "audit_entries": made.audit_size, "store_format": made.store_format})  # fmt: skip
        return
    say(f'{dest} holds the coordinator of "{made.name}": {len(made.files)} files, {size} bytes, encrypted.')
    say("Keep it on another machine, and its passphrase elsewhere: without it nobody can read the backup.")


def restore(
    src: Annotated[Path, typer.Argument(metavar="SRC", help="A file of `fedward coordinator backup`.")],
    by: Annotated[str, typer.Option("--by", help="Who decides; it stands in the record for good.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it stands in the record for good.")],
    home: Home = DEFAULT_HOME,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            metavar="sqlite|URL",
            help="Where the record shall lie: a SQLite file, or an empty PostgreSQL database.",
        ),
    ] = None,
    passphrase_file: PassphraseFile = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: bool = JsonOption,
) -> None:
    """Put the coordinator's home back from a backup. What happened since is lost to it; the hospitals still know, and count it.

    Be sure that the machine that is replaced is off for good. What lies in the home's place now is moved aside.
    """
    from fedward.server.restoring import restore as put_back

    if not yes and not as_json:
        confirm("Is the coordinator that this replaces off for good? Two of one federation must never run.")
    done = put_back(
        src, home, _passphrase(passphrase_file, new=False), by=by, reason=reason, at=int(time.time()), store=store
    )
    if as_json:
        print_json({"federation": done.manifest.name, "home": str(home), "made_at": done.manifest.made_at,
                    "moved": None if done.moved is None else str(done.moved), "newer_audit_log_kept": done.kept_log,
                    "studies": list(done.studies)})  # fmt: skip
        return
    made = f"{datetime.fromtimestamp(done.manifest.made_at, UTC):%Y-%m-%d %H:%M} UTC"
    say(f'The coordinator of "{done.manifest.name}" is that of {made}, in {home}.')
    if done.moved is not None:
        say(f"What lay there is now {done.moved}")
    if done.kept_log:
        say("The audit log that lay there was whole and newer, and is kept.")
    else:
        say(
            f"Its audit log ends at {done.manifest.audit_size} entries. Hospitals that saw more say `split-view`: tell them why."
        )
    say(f"Do again what was done since {made}: hospitals enrolled or revoked, operators added or removed.")
    say(
        f"Attempts go on with higher numbers; what was charged stays charged. Next: fedward coordinator start --home {home}"
    )


def _passphrase(file: Path | None, *, new: bool) -> str:
    """From the file, from FEDWARD_PASSPHRASE_FILE or systemd's credential, or typed; a new one twice.

    Raises:
        InputError: there is none.
    """
    from fedward.privacy.errors import InputError
    from fedward.study.passphrases import PASSPHRASE_FILE, SHORTEST_PASSPHRASE, given_passphrase, read_passphrase

    given = given_passphrase() if file is None else read_passphrase(file)
    if given is not None:
        return given
    what = "passphrase of the backup"
    if not sys.stdin.isatty():
        raise InputError(
            "a backup is under a passphrase, and nobody gave it",
            remedy=f"run this in a terminal, or give --passphrase-file, or name a file (mode 0600) in {PASSPHRASE_FILE}",
            code="locked",
        )
    if new:
        return new_secret(f"New {what}", f"a {what}", PASSPHRASE_FILE, SHORTEST_PASSPHRASE)
    return secret(what.capitalize(), f"the {what}", PASSPHRASE_FILE)
