"""`fedward site backup` and `fedward site restore`: a site's home in one file, and back in the name of a person."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward.cli.asking import confirm
from fedward.cli.output import JsonOption, print_json, say
from fedward.cli.site_home import DEFAULT_HOME, Home

if TYPE_CHECKING:
    from fedward.client.ledgers import Statement


def backup(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new file.")],
    home: Home = DEFAULT_HOME,
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="Include the keys, under a passphrase of the backup's own.")
    ] = False,
    new_file: Annotated[
        Path | None,
        typer.Option("--passphrase-file", help="A file (mode 0600) that holds that passphrase; else it is asked."),
    ] = None,
    as_json: bool = JsonOption,
) -> None:
    """Write this site's home to one file, signed by the site. The node may run meanwhile.

    What lies encrypted stays so. Without --with-keys the file opens nothing by itself: keep a copy of the folder `keys` elsewhere.
    """
    from fedward.cli.site_vault import new_passphrase
    from fedward.client.backup import make_backup
    from fedward.client.home import SiteHome
    from fedward.privacy.errors import UsageError

    if new_file is not None and not with_keys:
        raise UsageError("--passphrase-file is for --with-keys", remedy="add --with-keys, or leave it out")
    passphrase = new_passphrase(new_file) if with_keys else None
    made = make_backup(SiteHome.open(home), out, int(time.time()), passphrase=passphrase)
    if as_json:
        print_json({"site": made.site, "file": str(out), "files": len(made.files), "with_keys": made.with_keys,
                    "ledger": made.ledger_head, "audit_entries": made.audit_size, "at": made.made_at})  # fmt: skip
        return
    say(f'{out} holds the home of site "{made.site}": {len(made.files)} files, {out.stat().st_size} bytes.')
    say(f"The ledger's head in it is {made.ledger_head}")
    say(
        "It holds the keys, under its passphrase."
        if made.with_keys
        else "It holds no keys: keep a copy of the folder `keys` elsewhere, or the backup cannot be opened."
    )


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of `fedward site backup`.")],
    by: Annotated[str, typer.Option("--by", help="Who decides; it stands in the ledger for good.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it stands in the ledger for good.")],
    home: Home = DEFAULT_HOME,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="FOLDER", help="A copy of the home's folder `keys`, if the backup holds none."),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            "--head", metavar="SEQUENCE:DIGEST", help="The newest head of this site's ledger that the coordinator has."
        ),
    ] = None,
    none_approved: Annotated[
        bool,
        typer.Option(
            "--none-approved", help="No study was approved here since the backup: what was reserved counts as spent."
        ),
    ] = False,
    write_off: Annotated[
        bool,
        typer.Option("--write-off", help="Nobody knows what was lost: the whole budget counts as spent, for good."),
    ] = False,
    passphrase_file: Annotated[
        Path | None,
        typer.Option("--passphrase-file", help="A file (mode 0600) with the backup's passphrase; else it is asked."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: bool = JsonOption,
) -> None:
    """Put this site's home back from a backup. What may have been spent since counts as spent; nothing runs before a new approval.

    Copying old files back is a rollback, and the node refuses to run on them; this says who restored, and why. What lies in the
    home's place now is moved aside.
    """
    from fedward.client.restoring import restore as put_back
    from fedward.privacy.errors import UsageError
    from fedward.privacy.ledgerexport import parse_head
    from fedward.study.passphrases import PASSPHRASE_FILE

    if none_approved and write_off:
        raise UsageError(
            "--none-approved and --write-off exclude each other", remedy="say --write-off if you do not know"
        )
    statement: Statement | None = "write-off" if write_off else "none-approved" if none_approved else None
    if write_off and not yes and not as_json:
        confirm("Write the whole privacy budget off? No study will ever be admitted here again.")
    if passphrase_file is not None:
        os.environ[PASSPHRASE_FILE] = str(passphrase_file)
    done = put_back(
        file, home, by=by, reason=reason, at=int(time.time()), keys=keys,
        head=None if head is None else parse_head(head), statement=statement,
    )  # fmt: skip
    if as_json:
        print_json({"site": done.manifest.site, "home": str(home), "made_at": done.manifest.made_at, "lost": done.recovered.lost,
                    "entry": done.recovered.entry.sequence, "moved": None if done.moved is None else str(done.moved)})  # fmt: skip
        return
    made = f"{datetime.fromtimestamp(done.manifest.made_at, UTC):%Y-%m-%d %H:%M} UTC"
    say(f'The home of site "{done.manifest.site}" is that of {made}, in {home}.')
    if done.moved is not None:
        say(f"What lay there is now {done.moved}")
    counted = {
        "nothing": "nothing was missing, and nothing more counts as spent",
        "charges": "everything that was reserved counts as spent",
        "anything": "the whole budget counts as spent; no study is admitted any more",
    }[done.recovered.lost]
    say(f"The ledger: {counted}. Entry {done.recovered.entry.sequence} says so, in the name of {by}.")
    say(
        "Decisions are put aside: nothing runs here until people review and approve again. Before they do, put in again what"
    )
    say(
        f"changed since {made}: patients who opted out, the policy, registered data, approvers. Then: fedward site doctor"
    )
    if done.recovered.lost != "nothing":
        say(
            "Tell the coordinator: it may raise an alarm about this site's ledger, which a person there clears by name."
        )
