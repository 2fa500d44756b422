"""`fedward site …`: what hospital IT does. Keys and data stay in the site's home folder."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedward.cli import (
    ledger,
    service,
    site_approver,
    site_backup,
    site_data,
    site_decisions,
    site_doctor,
    site_joining,
    site_migrate,
    site_pause,
    site_policy,
    site_support,
    site_vault,
    site_withdraw,
)
from fedward.cli.output import JsonOption, note, print_json, say, shown, table
from fedward.cli.site_home import DEFAULT_HOME, Home

if TYPE_CHECKING:
    from fedward.client.home import SiteHome
    from fedward.client.incidents import Incident
    from fedward.study.kinds import AnySealed

app = typer.Typer(
    help=(
        "Run a hospital's node: join, register data, approve studies, see what was spent.\n\n"
        "Order: init, approver add, (the coordinator answers with a kit), enroll, doctor, register, start, review, approve."
    ),
    no_args_is_help=True,
)


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="The site's name: lower-case letters, digits, - and _.")],
    home: Home = DEFAULT_HOME,
    epsilon_budget: Annotated[
        float, typer.Option(help="Lifetime ε that all studies together may cost a patient of this hospital.")
    ] = 10.0,
    delta: Annotated[float, typer.Option(help="δ of the lifetime budget; it must lie below 1/patients.")] = 1e-3,
    passphrase: Annotated[
        bool,
        typer.Option("--passphrase", help="Lock the home by a passphrase: asked, or from FEDWARD_PASSPHRASE_FILE."),
    ] = False,
    key_file: Annotated[
        Path | None,
        typer.Option(help="Lock the home by this key file, made where it is missing; by one inside it if not given."),
    ] = None,
    approver: Annotated[
        str | None,
        typer.Option("--approver", metavar="NAME", help="Enter the first approver too, with a key of their own."),
    ] = None,
    approver_unencrypted: Annotated[
        bool, typer.Option("--approver-unencrypted", help="Keep the approver's key without a passphrase.")
    ] = False,
    as_json: bool = JsonOption,
) -> None:
    """Make a site: keys, a default policy, an empty privacy ledger, and the request file to join. Nothing is sent."""
    import re

    from fedward.client.home import SiteHome
    from fedward.privacy.errors import InputError
    from fedward.privacy.ledger import Budget
    from fedward.privacy.signing import fingerprint
    from fedward.study.fields import NAME
    from fedward.study.terms import PRIVACY_WORDS

    if not re.fullmatch(NAME, name):
        raise InputError("the site's name cannot be used", expected="lower-case letters, digits, - and _", got=name)
    secret = site_vault.new_passphrase() if passphrase else None
    made = SiteHome.create(home, name, Budget(epsilon_budget, delta), passphrase=secret, key_file=key_file)
    public, requested = fingerprint(made.identity().public), site_joining.write_request(made)
    if approver is not None:
        site_approver.enter_first(made, approver, unencrypted=approver_unencrypted)
    if as_json:
        print_json(
            {
                "site": name,
                "approver": approver,
                "home": str(home),
                "request": str(requested),
                "fingerprint": public,
                "budget": {"epsilon": epsilon_budget, "delta": delta},
                "privacy": PRIVACY_WORDS,
            }
        )
        return
    say(f'Site "{name}" lives in {home}. Its private keys were made here and stay here.')
    say(f"Its fingerprint is {public}")
    say(f"Lifetime privacy budget: ε = {epsilon_budget:g}, δ = {delta:g}. Policy: {made.policy_file}")
    say(f"What it means: {PRIVACY_WORDS}.")
    say(f"Approver: {approver}" if approver else "Nobody may approve a study here yet: fedward site approver add NAME")
    say(f"Send {requested} to the coordinator and read them the fingerprint by telephone. It holds public keys only.")
    say("Next, with the kit that comes back: fedward site enroll KIT")


app.command("request")(site_joining.request)
app.command("enroll")(site_joining.enroll)
app.command("rotate")(site_joining.rotate)
app.command("register")(site_data.register)
app.command("data")(site_data.data)
app.add_typer(site_data.exclude, name="exclude")


@app.command()
def review(
    study: Annotated[
        str | None, typer.Argument(metavar="[DIGEST]", help="A proposal; without it, list them all.")
    ] = None,
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Show what a study would do here: its manifest, the data it would use, and the ε that it would cost."""
    from fedward.cli.review import as_data, print_review
    from fedward.client import approvals
    from fedward.client.home import SiteHome

    opened = SiteHome.open(home)
    if study is not None:
        sealed = approvals.proposal(opened, study)
        print_json(as_data(opened, sealed)) if as_json else print_review(opened, sealed)
        return
    listed = [_line(opened, sealed) for sealed in approvals.proposals(opened)]
    if as_json:
        print_json({"proposals": listed})
    elif not listed:
        say("No study has been proposed to this site yet. Proposals arrive while the node runs: fedward site start")
    else:
        rows = [(line["study"], line["digest"][:12], line["title"], line["state"]) for line in listed]
        table("Proposed studies", ("study", "digest", "title", "state here"), rows)
        say("See one whole: fedward site review DIGEST")


def _line(home: SiteHome, sealed: AnySealed) -> dict[str, str]:
    from fedward.client import approvals

    state = approvals.standing_of(home, sealed.digest, int(time.time())).state
    return {
        "study": sealed.manifest.study.id,
        "digest": sealed.digest,
        "title": sealed.manifest.study.title,
        "state": state,
    }


app.command("approve")(site_decisions.approve)
app.command("refuse")(site_decisions.refuse)
app.command("revoke")(site_decisions.revoke)
app.add_typer(site_approver.app, name="approver")
app.command("pause")(site_pause.pause)
app.command("resume")(site_pause.resume)
app.command("withdraw")(site_withdraw.withdraw)
app.add_typer(site_policy.app, name="policy")


@app.command()
def start(
    home: Home = DEFAULT_HOME,
    metrics: Annotated[
        int | None,
        typer.Option(
            "--metrics",
            metavar="PORT",
            min=0,
            max=65_535,
            help="Answer Prometheus and health checks at this port of 127.0.0.1 (0: a free one). Off by default.",
        ),
    ] = None,
) -> None:
    """Run this hospital's node until Ctrl-C or SIGTERM. It makes one outbound connection and opens no port to others.

    Told to end, it answers the request under way or abandons it after 20 s, and signs off at the coordinator.
    """
    from fedward.cli.lifeline import end_with_parent
    from fedward.client.home import SiteHome
    from fedward.client.running import run_node

    end_with_parent()
    run_node(SiteHome.open(home), note, metrics=metrics)


@app.command()
def status(home: Home = DEFAULT_HOME, as_json: bool = JsonOption) -> None:
    """Show this site: federation, node, data, studies and budget."""
    from fedward.client.budgets import against_all_others
    from fedward.client.datasets import find, registered
    from fedward.client.decisions import load
    from fedward.client.home import SiteHome
    from fedward.client.node_state import node_state
    from fedward.study.terms import all_others_words

    opened = SiteHome.open(home)
    data: dict[str, Any] = {"site": opened.site, "home": str(home), "federation": None, "node": node_state(opened)}
    if opened.kit_file.is_file():
        kit = opened.kit()
        data["federation"] = {"name": kit.federation_name, "address": f"{kit.host}:{kit.port}"}
    data["datasets"] = [find(opened, study).model_dump(mode="json") for study in registered(opened)]
    if data["federation"]:
        from fedward.client import approvals

        data["studies"] = [_line(opened, sealed) for sealed in approvals.proposals(opened)]
    paused = load(opened).paused
    data["paused"] = None if paused is None else {"by": paused.by, "at": paused.at, "reason": paused.what.reason}  # type: ignore[union-attr]
    book = opened.ledger()
    data["ledger"] = {
        "spent": book.spent(), "committed": book.committed(at=int(time.time())),
        "budget": book.budget.epsilon, "delta": book.budget.delta, "privacy": ledger.meaning(book.chain),
    }  # fmt: skip
    if as_json:
        print_json(data)
        return
    joined = data["federation"]
    member = f'member of "{joined["name"]}" at {joined["address"]}' if joined else "not enrolled"
    say(f'Site "{data["site"]}" in {home}: {member}')
    node = {"handled": "connected"}.get(data["node"]["state"], data["node"]["state"])
    say(f"Node: {node}" + (f" ({data['node']['text']})" if data["node"]["text"] else ""))
    if data["paused"]:
        say(
            f"PAUSED by {data['paused']['by']}: it works on nothing until `fedward site resume`. {data['paused']['reason']}"
        )
    for dataset in data["datasets"]:
        say(f"Data for {dataset['study_id']}: {dataset['patients']} patients from {dataset['source']}")
    for line in data.get("studies", []):
        say(f"Study {line['study']} ({line['digest'][:12]}): {line['state']} here")
    say(
        f"Privacy spent: ε = {shown(data['ledger']['spent'])} of {book.budget.epsilon:g} at δ = {book.budget.delta:g}; "
        f"{shown(data['ledger']['committed'])} with all that is reserved"
    )
    others = against_all_others(book)
    if others is not None:
        say(f"Against {all_others_words()}: ε = {shown(others[0])}; {shown(others[1])} with all that is reserved")
    say(f"What it means: {data['ledger']['privacy']}")


app.command("passphrase")(site_vault.passphrase)
app.command("log")(site_vault.log)
app.command("ledger")(ledger.ledger)
app.command("ledger-recover")(ledger.recover)
app.command("doctor")(site_doctor.doctor)
app.command("service")(service.site)
app.command("backup")(site_backup.backup)
app.command("restore")(site_backup.restore)
app.command("migrate")(site_migrate.migrate)
app.command("support")(site_support.support)


@app.command()
def metrics(
    study: Annotated[str, typer.Argument(metavar="DIGEST", help="The study's digest, or its first digits.")],
    home: Home = DEFAULT_HOME,
    release: Annotated[
        Path | None,
        typer.Option(
            "--release",
            metavar="FILE",
            help="Write what may leave to a new file, if the policy's share_metrics allows; once a study, then the same.",
        ),
    ] = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="Train this hospital's own model first, to compare; it stays here.")
    ] = False,
    as_json: bool = JsonOption,
) -> None:
    """Show this hospital's own metrics of a study as they may leave: rounded, small counts suppressed. Nothing is sent."""
    from fedward.cli.site_metrics import release_metrics, show_metrics
    from fedward.client import approvals
    from fedward.client.home import SiteHome
    from fedward.privacy.errors import InputError, UsageError
    from fedward.study.manifest import SealedManifest

    opened = SiteHome.open(home)
    sealed = approvals.proposal(opened, study)
    if not isinstance(sealed, SealedManifest):
        raise InputError("an exploration trains no model, so it has no metrics", code="no-metrics")
    if release is not None:
        if alone:
            raise UsageError(
                "--alone and --release are two steps", remedy="look at what --alone shows, then release it"
            )
        release_metrics(opened, sealed, release, as_json=as_json)
    else:
        show_metrics(opened, sealed, train=alone, as_json=as_json)


@app.command()
def incidents(
    home: Home = DEFAULT_HOME,
    evidence: Annotated[
        str | None,
        typer.Option(
            "--evidence", metavar="REFERENCE", help="Take out the signed bytes of this incident; needs --out."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The new file for them; never overwritten.")
    ] = None,
    as_json: bool = JsonOption,
) -> None:
    """List the lies that this site was told, or take out the evidence of one. Nothing leaves."""
    from fedward.client.home import SiteHome
    from fedward.client.incidents import Incidents
    from fedward.privacy.errors import UsageError

    opened = SiteHome.open(home)
    if evidence is not None and out is not None:
        _take_evidence(opened, evidence, out, as_json=as_json)
        return
    if evidence is not None or out is not None:
        raise UsageError(
            "--evidence and --out belong together", remedy="fedward site incidents --evidence REFERENCE --out FILE"
        )
    kept = Incidents(opened.incidents_folder)
    listed, more = kept.list(), kept.not_recorded()
    if as_json:
        print_json({"incidents": [asdict(incident) for incident in listed], "not_recorded": more})
        return
    for incident in listed:
        _say_incident(incident)
    if more:
        say(f"and {more} more, not recorded: the folder was full. To make room, move {opened.incidents_folder} away.")
    if any(incident.kept for incident in listed):
        say("Take out the evidence of one: fedward site incidents --evidence REFERENCE --out FILE")
    if not listed and not more:
        say("no incident on record")


def _say_incident(incident: Incident) -> None:
    """Lines, not a table: in a narrow terminal a table would break references in two."""
    at = f"{datetime.fromtimestamp(incident.at, UTC):%Y-%m-%d %H:%M:%S}"
    parts = [f"{at} UTC", incident.code, f"blamed: {incident.blamed or 'nobody'}"]
    parts += [f"study: {incident.study[:12]}"] if incident.study else []
    parts += [f"stage: {incident.stage}"] if incident.stage else []
    say("  ".join([*parts, f"reference: {incident.reference or 'none'}"]))
    say(f"  {incident.what}")
    if incident.evidence_bytes:
        came = f"; it came {incident.times} times" if incident.times > 1 else ""
        kept = "kept" if incident.kept else "not kept, for its size"
        say(f"  evidence {kept}: {incident.evidence_bytes} bytes, SHA-256 {incident.evidence_sha256}{came}")


def _take_evidence(home: SiteHome, reference: str, out: Path, *, as_json: bool) -> None:
    from fedward.client.incidents import Incidents, signed_by
    from fedward.privacy.canonical import digest
    from fedward.privacy.signing import fingerprint
    from fedward.study.files import write_new

    key = home.kit().coordinator_key
    data = Incidents(home.incidents_folder).evidence(reference)
    write_new(out, data)
    signed = signed_by(data, key)
    if as_json:
        print_json({"reference": reference, "out": str(out), "bytes": len(data), "sha256": digest(data),
                    "coordinator": fingerprint(key), "coordinator_key": key, "signed": signed})  # fmt: skip
        return
    say(f"Wrote {len(data)} bytes to {out}; their SHA-256 is {digest(data)}")
    say("Checked now: " + ("signed by the coordinator." if signed else "not signed by the coordinator's key."))
    say(f"The coordinator's key, from the kit, is {key}")
    say(f"and its fingerprint {fingerprint(key)}")
    say(
        "Whoever has that key can check it: the last 64 bytes are its Ed25519 signature of "
        '"fedward/message", one zero byte and all the bytes before them.'
    )
