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


@app.command()
def release(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of `fedward coordinator releases --save`.")],
    fingerprint: Annotated[
        list[str] | None,
        typer.Option("--fingerprint", help="The coordinator's fingerprint as you know it; refused if it differs."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="The model's file: that it is the released one.")
    ] = None,
    as_json: bool = JsonOption,
) -> None:
    """Check a release, offline: the coordinator's signature, its gates, and of an override both persons' signatures."""
    from fedward.privacy.signing import fingerprint as shown
    from fedward.study.releases import check_release, load_release

    said = check_release(*load_release(file), fingerprint or ())
    if model is not None:
        _is_model(model, said.model)
    if as_json:
        known = {"holds": True, "coordinator_fingerprint": shown(said.coordinator_key)}
        compared = {"fingerprint_compared": bool(fingerprint), "model_compared": model is not None}
        print_json(known | compared | said.model_dump(mode="json"))
        return
    say(
        f'Release {said.number} of {said.study_id} ("{said.title}"), of the federation {said.federation}: its signature holds.'
    )
    say(f"The model {said.model}, after round {said.version} of study {said.study}")
    say(f"Released by {said.by}{f' and {said.other}' if said.other else ''}: {said.reason}")
    for gate in said.gates:
        say(f"  {gate.gate}: {'holds' if gate.holds else f'MISSED: {gate.why}'}")
    if said.override is not None:
        say(f"The missed gates were overridden; {' and '.join(one.by for one in said.signatures)} signed the reason.")
    if model is not None:
        say(f"{model} is that model.")
    if not fingerprint:
        say(f"Whose key signed it was not compared: it is {shown(said.coordinator_key)}; give --fingerprint.")


def _is_model(path: Path, name: str) -> None:
    """
    Raises:
        InputError: there is no such file.
        IntegrityError: it holds another model, or is damaged.
    """
    from fedward.privacy.errors import InputError
    from fedward.server.models import check_model

    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}", got=error.strerror, remedy="give the model's file") from None
    check_model(data, name)


app.command("ledger")(ledger.audit)
app.command("certificate")(site_withdraw.certificate)
app.command("export")(audit_log.export)
app.command("verify")(audit_verify.verify)
app.command("show")(audit_log.show)
app.command("prove")(audit_log.prove)
app.command("rotate")(audit_log.rotate)
