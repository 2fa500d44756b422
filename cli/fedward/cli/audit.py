"""`fedward audit …`: check evidence without trusting whoever made it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedward.cli import audit_log, audit_verify, ledger, site_withdraw
from fedward.cli.output import JsonOption, print_json, say, table

app = typer.Typer(
    help="Audit logs, and checks of evidence that trust nobody who made the file.",
    no_args_is_help=True,
)


@app.callback()
def _audit() -> None:
    pass


@app.command()
def transcript(
    file: Annotated[
        Path, typer.Argument(metavar="TRANSCRIPT.json", help="A file of `fedward coordinator transcript`.")
    ],
    digest: Annotated[
        str,
        typer.Option(
            metavar="DIGEST", help="The study digest that your hospital approved, or its first 12 digits or more."
        ),
    ] = "",
    as_json: bool = JsonOption,
) -> None:
    """Check a study's secure sums: every site's signature on its keys, and on the set of sites of every sum.

    It holds that each sum was over a set that at least the threshold and the quorum of sites signed, that no slot was used
    twice, and that all were told the same model and terms. It holds no update and no share, so it shows nothing of a patient.
    """
    from fedward.privacy.errors import IntegrityError, UsageError
    from fedward.study.transcript import check_transcript, load_transcript

    if digest and len(digest) < 12:
        raise UsageError("the digest is too short to tell studies apart", expected="12 digits or more")
    report = check_transcript(load_transcript(file))
    if not report.sealed.digest.startswith(digest):
        raise IntegrityError(
            "the transcript is of another study", expected=f"digest {digest}", got=f"digest {report.sealed.digest}"
        )
    if as_json:
        print_json(
            {
                "study": report.sealed.manifest.study.id,
                "digest": report.sealed.digest,
                "digest_compared": bool(digest),
                "holds": True,
                "sums": [vars(one) for one in report.sums],
            }
        )
        return
    say(f'"{report.sealed.manifest.study.title}" ({report.sealed.digest}): every signature holds')
    rows = [
        (str(one.round), str(one.attempt), one.outcome, ", ".join(one.survivors), f"{len(one.signers)} signed")
        for one in report.sums
    ]
    table("Secure sums that could be opened", ("round", "attempt", "outcome", "over", "confirmed"), rows)
    if not digest:
        say("The digest was not compared: give --digest with the one that your hospital approved.")


app.command("ledger")(ledger.audit)
app.command("certificate")(site_withdraw.certificate)
app.command("export")(audit_log.export)
app.command("verify")(audit_verify.verify)
app.command("show")(audit_log.show)
app.command("prove")(audit_log.prove)
app.command("rotate")(audit_log.rotate)
