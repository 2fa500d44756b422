"""`fedward site withdraw`: stop the use of data for good, and get a signed certificate; `fedward audit certificate` checks it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward.cli.asking import confirm
from fedward.cli.output import JsonOption, print_json, say
from fedward.cli.site_home import DEFAULT_HOME, Home
from fedward.cli.site_signer import As, KeyFile, signer

if TYPE_CHECKING:
    from fedward.study.withdrawal import Certificate


def withdraw(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="A study's id, or the first digits of a digest.")
    ] = None,
    home: Home = DEFAULT_HOME,
    every: Annotated[bool, typer.Option("--all", help="Withdraw from every study.")] = False,
    by: As = None,
    key: KeyFile = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; it stands in the certificate. No patient's data.")] = "",
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Where the certificates are written, as JSON and as text.")
    ] = Path(),
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: bool = JsonOption,
) -> None:
    """Stop the use of this hospital's data in a study, for good; list the affected models; write a signed certificate.

    The registration is closed: to take part again, the data must be registered anew, proposed and approved. Models that were
    trained so far contain the contribution, and cannot be made to forget it.
    """
    from fedward.client.home import SiteHome
    from fedward.client.withdrawing import named, study_ids, withdraw
    from fedward.privacy.errors import UsageError

    opened = SiteHome.open(home)
    if (study is None) is not every:
        raise UsageError("say which data to withdraw", expected="a study, or --all, and not both")
    names = study_ids(opened) if study is None else [named(opened, study)]
    if not yes and not as_json:
        confirm(f"Withdraw this hospital's data from {', '.join(names) or 'nothing'}, for good?")
    who, identity = signer(opened, by, key)
    now = int(time.time())
    made = [withdraw(opened, name, by=who, signer=identity, at=now, reason=reason) for name in names]
    files = [_write(out, certificate) for certificate in made]
    if as_json:
        print_json(
            {
                "withdrawn": names,
                "by": who,
                "certificates": [str(file) for file in files],
                "affected": [one.model_dump(mode="json") for certificate in made for one in certificate.affected],
            }
        )
        return
    for certificate, file in zip(made, files, strict=True):
        _say(certificate)
        say(f"Certificate: {file}, and as text beside it. Anyone checks it with: fedward audit certificate {file}")


def certificate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A certificate of `fedward site withdraw`.")],
    fingerprint: Annotated[
        list[str] | None,
        typer.Option(
            "--fingerprint", help="The site's fingerprint, from the roster or by telephone; refused if it differs."
        ),
    ] = None,
    as_json: bool = JsonOption,
) -> None:
    """Check a certificate of withdrawal, offline: both signatures, and, with --fingerprint, whose they are."""
    from fedward.privacy.signing import fingerprint as shown
    from fedward.study.withdrawal import check_certificate, load_certificate

    read = load_certificate(file)
    check_certificate(read, fingerprint or ())
    if as_json:
        known = {"holds": True, "site_fingerprint": shown(read.site_key), "fingerprint_compared": bool(fingerprint)}
        print_json(known | read.model_dump(mode="json"))
        return
    _say(read)
    say("Both signatures hold.")
    if not fingerprint:
        say("Whose keys they are was not compared: give --fingerprint with the site's, as you know it from elsewhere.")


def _say(certificate: Certificate) -> None:
    from fedward.study.withdrawal import certificate_lines

    for line in certificate_lines(certificate):
        say(line)


def _write(folder: Path, certificate: Certificate) -> Path:
    from fedward.study.files import write_atomic
    from fedward.study.withdrawal import certificate_lines

    file = folder / f"{certificate.site}-{certificate.study_id}-withdrawal-{certificate.at}.json"
    write_atomic(file, certificate.model_dump_json(indent=1).encode())
    write_atomic(file.with_suffix(".txt"), "\n".join([*certificate_lines(certificate), ""]).encode())
    return file
