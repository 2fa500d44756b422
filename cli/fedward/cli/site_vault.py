"""`fedward site passphrase` and `fedward site log`: what unlocks a site's encrypted home, and its log, read through it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fedward.cli.asking import new_secret
from fedward.cli.output import JsonOption, print_json, say
from fedward.cli.site_home import DEFAULT_HOME, Home


def new_passphrase(file: Path | None = None) -> str:
    """A passphrase from a file with checked permissions, from FEDWARD_PASSPHRASE_FILE, or typed twice.

    Raises:
        InputError: there is none, or others may read the file.
    """
    import sys

    from fedward.client.unlock import passphrase
    from fedward.study.passphrases import PASSPHRASE_FILE, SHORTEST_PASSPHRASE, read_passphrase

    if file is not None:
        return read_passphrase(file)
    if not sys.stdin.isatty():
        return passphrase()
    what = "new passphrase of this site's home"
    return new_secret(what.capitalize(), f"a {what}", PASSPHRASE_FILE, SHORTEST_PASSPHRASE)


def passphrase(
    home: Home = DEFAULT_HOME,
    new_file: Annotated[
        Path | None,
        typer.Option("--new-file", help="A file (mode 0600) that holds the new passphrase; else it is asked."),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", help="Unlock by this key file instead, which is made where it is missing."),
    ] = None,
    as_json: bool = JsonOption,
) -> None:
    """Change what unlocks this site's home: a new passphrase, or a key file. No other file is written again.

    The old one is asked for, or comes from FEDWARD_PASSPHRASE_FILE. A running node goes on; its next start needs the new one.
    """
    from fedward.client.home import SiteHome
    from fedward.client.unlock import DEFAULT_KEY_FILE, home_key, keep_key, kept_under

    opened = SiteHome.open(home)
    key = home_key(opened.path)
    if key_file is not None:
        keep_key(opened.path, key, key_file=key_file)
    else:
        keep_key(opened.path, key, passphrase=new_passphrase(new_file))
    under = kept_under(opened.path)
    inside = opened.path / DEFAULT_KEY_FILE
    if under.under == "passphrase" or (opened.path / under.key_file).resolve() != inside.resolve():
        inside.unlink(
            missing_ok=True
        )  # else it would lie there as if it opened something; or a change was cut off here
    if as_json:
        print_json({"site": opened.site, "under": under.under, "key_file": under.key_file})
        return
    say(
        f'The home of "{opened.site}" now opens by {"its passphrase" if under.under == "passphrase" else under.key_file}.'
    )
    say("Without it nobody can read this site's keys and ledger. Keep a copy where the hospital keeps such things.")


def log(
    home: Home = DEFAULT_HOME,
    reference: Annotated[str | None, typer.Option(help="Only what has this reference, as a refusal names it.")] = None,
    event: Annotated[str | None, typer.Option(help="Only this event, such as charged, refused or error.")] = None,
    since: Annotated[str | None, typer.Option(help="Only from this time on: 2026-11-26 or 2026-11-26T09:30.")] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Only so many, the newest.")] = None,
    as_json: bool = JsonOption,
) -> None:
    """Read this site's own log, decrypted. It is for this hospital alone: it may quote patients' values."""
    from collections import deque

    from fedward.client.home import SiteHome
    from fedward.client.log import read_log

    opened = SiteHome.open(home)
    lines = (
        line
        for line in read_log(opened.log_file, opened.unsealer(opened.log_file))
        if (reference is None or line.get("reference") == reference)
        and (event is None or line["event"] == event)
        and (since is None or str(line["at"]) >= since)
    )
    kept = deque(lines, maxlen=last)
    if as_json:
        print_json({"lines": list(kept)})
        return
    for line in kept:
        say(_as_text(line))
    if not kept:
        say("The log holds no such line.")


def _as_text(line: dict[str, Any]) -> str:
    rest = " ".join(
        f"{name}={value}"
        for name, value in line.items()
        if name not in {"at", "event", "text"} and value not in ("", None)
    )
    return "  ".join(part for part in (str(line["at"]), str(line["event"]), str(line["text"]), rest) if part)
