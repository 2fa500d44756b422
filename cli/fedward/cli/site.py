"""`fedward site …`: what hospital IT does. Keys and data stay in the site's home folder."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedward.cli import ledger
from fedward.cli.output import JsonOption, note, print_json, say, shown, table
from fedward.cli.site_home import DEFAULT_HOME, Home

if TYPE_CHECKING:
    from fedward.client.home import SiteHome
    from fedward.client.incidents import Incident
    from fedward.study.kinds import AnySealed

app = typer.Typer(
    help=(
        "Run a hospital's node: join, register data, approve studies, see what was spent.\n\n"
        "Order: init, request, (the coordinator enrolls), enroll, register, start, review, approve."
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
    as_json: bool = JsonOption,
) -> None:
    """Make a site: keys, a default policy and an empty privacy ledger. Nothing leaves."""
    import re

    from fedward.client.home import SiteHome
    from fedward.privacy.errors import InputError
    from fedward.privacy.ledger import Budget
    from fedward.privacy.signing import fingerprint
    from fedward.study.fields import NAME
    from fedward.study.terms import PRIVACY_WORDS

    if not re.fullmatch(NAME, name):
        raise InputError("the site's name cannot be used", expected="lower-case letters, digits, - and _", got=name)
    made = SiteHome.create(home, name, Budget(epsilon_budget, delta))
    public = fingerprint(made.identity().public)
    if as_json:
        print_json(
            {
                "site": name,
                "home": str(home),
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
    say(f"Next: fedward site request --home {home}")


@app.command()
def request(
    home: Home = DEFAULT_HOME,
    out: Annotated[Path | None, typer.Option("--out", help="Where to write the request.")] = None,
    as_json: bool = JsonOption,
) -> None:
    """Write a request to join, for the coordinator. It holds public keys only."""
    from fedward.client.enrolment import make_request
    from fedward.client.home import SiteHome
    from fedward.privacy.signing import fingerprint
    from fedward.study.files import write_atomic

    made = make_request(SiteHome.open(home))
    path = out or home / f"{made.site}.request.json"
    write_atomic(path, made.model_dump_json(indent=1).encode())
    if as_json:
        print_json({"site": made.site, "request": str(path), "fingerprint": fingerprint(made.identity_key)})
        return
    say(f"Send {path} to the coordinator, and read them this fingerprint by telephone:")
    say(f"  {fingerprint(made.identity_key)}")
    say("Next, with the kit that comes back: fedward site enroll KIT")


@app.command()
def enroll(
    kit_file: Annotated[Path, typer.Argument(metavar="KIT", help="The signed kit from the coordinator.")],
    home: Home = DEFAULT_HOME,
    coordinator_fingerprint: Annotated[
        str | None,
        typer.Option(
            "--fingerprint", help="The coordinator's fingerprint as heard by telephone; refused if it differs."
        ),
    ] = None,
    as_json: bool = JsonOption,
) -> None:
    """Join the federation with the kit that the coordinator signed."""
    from fedward.client.enrolment import accept_kit
    from fedward.client.home import SiteHome
    from fedward.privacy.signing import fingerprint
    from fedward.study.enrolment import JoinKit
    from fedward.study.files import read_model

    kit = read_model(kit_file, JoinKit, "kit")
    accept_kit(SiteHome.open(home), kit, coordinator_fingerprint, datetime.now(UTC))
    seen = fingerprint(kit.coordinator_key)
    if as_json:
        print_json(
            {
                "site": kit.site,
                "federation": kit.federation_name,
                "coordinator": seen,
                "address": f"{kit.host}:{kit.port}",
            }
        )
        return
    say(f'Site "{kit.site}" has joined "{kit.federation_name}" at {kit.host}:{kit.port}.')
    if coordinator_fingerprint is None:
        say(f"Compare the coordinator's fingerprint by telephone before you approve anything: {seen}")
    say("Next: fedward site register --study STUDY.toml --csv FILE --mapping FILE")


@app.command()
def register(
    study: Annotated[Path, typer.Option("--study", help="The study's TOML file, as the coordinator circulated it.")],
    csv: Annotated[Path, typer.Option("--csv", help="This hospital's data, one row a patient.")],
    mapping: Annotated[Path, typer.Option("--mapping", help="TOML: local columns and codes to the study's.")],
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Check this hospital's data against a study and register it. Nothing leaves but a rounded count."""
    from fedward.client import datasets
    from fedward.client.home import SiteHome
    from fedward.study.kinds import load

    done = datasets.register(SiteHome.open(home), load(study), csv, mapping, int(time.time()))
    if as_json:
        print_json({"study": done.dataset.study_id, "patients": done.dataset.patients,
                    "declared_patients": done.dataset.declared_patients, "report": done.report.to_json()})  # fmt: skip
        return
    for line in done.report.lines():
        say(line)
    say(f'Registered {done.dataset.patients} patients for study "{done.dataset.study_id}".')
    say(f"What may leave of this, if your policy allows: the count, rounded to {done.dataset.declared_patients}.")


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

    decision = approvals.decision_on(home, sealed.digest)
    state = "pending" if decision is None else decision.state
    return {
        "study": sealed.manifest.study.id,
        "digest": sealed.digest,
        "title": sealed.manifest.study.title,
        "state": state,
    }


@app.command()
def approve(
    study: Annotated[str, typer.Argument(metavar="DIGEST", help="The study's digest, or its first digits.")],
    home: Home = DEFAULT_HOME,
    by: Annotated[str | None, typer.Option("--by", help="Who decides; the login name by default.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: bool = JsonOption,
) -> None:
    """Approve one study, by its digest. This node trains nothing that was not approved."""
    import getpass

    from fedward.cli.review import print_review
    from fedward.client import approvals, datasets
    from fedward.client.budgets import cost
    from fedward.client.home import SiteHome
    from fedward.privacy.errors import RefusalError

    opened = SiteHome.open(home)
    sealed = approvals.proposal(opened, study)
    dataset = datasets.find(opened, sealed.manifest.study.id)
    found = approvals.objections_here(opened, sealed, dataset)
    if found:
        raise RefusalError("this hospital's policy refuses the study", got="; ".join(o.text for o in found),
                           remedy=f"reject it, or change {opened.policy_file}", code=found[0].code)  # fmt: skip
    _, after = cost(opened, sealed)
    budget = opened.ledger().budget
    if not after <= budget.epsilon:
        raise RefusalError(
            "the study does not fit into what is left of the privacy budget",
            expected=f"ε at most {budget.epsilon:g} in all",
            got=f"{shown(after)} with this study",
            remedy="reject it, or ask for a study with a smaller ε",
            code="budget-exhausted",
        )
    if not yes and not as_json:
        print_review(opened, sealed)
        typer.confirm("Approve this study for this hospital?", abort=True)
    decision = approvals.decide(opened, sealed, "approved", by or getpass.getuser(), int(time.time()))
    if as_json:
        print_json(decision.model_dump())
        return
    say(
        f'Approved "{sealed.manifest.study.title}" ({sealed.digest[:12]}) as {decision.by}. The running node sees it at once.'
    )


@app.command()
def reject(
    study: Annotated[str, typer.Argument(metavar="DIGEST", help="The study's digest, or its first digits.")],
    home: Home = DEFAULT_HOME,
    by: Annotated[str | None, typer.Option("--by", help="Who decides; the login name by default.")] = None,
    as_json: bool = JsonOption,
) -> None:
    """Reject a study, or withdraw an approval. It binds from the next request on."""
    import getpass

    from fedward.client import approvals
    from fedward.client.home import SiteHome

    opened = SiteHome.open(home)
    sealed = approvals.proposal(opened, study)
    decision = approvals.decide(opened, sealed, "rejected", by or getpass.getuser(), int(time.time()))
    if as_json:
        print_json(decision.model_dump())
        return
    say(f'Rejected "{sealed.manifest.study.title}" ({sealed.digest[:12]}). What was spent stays in the ledger.')


@app.command()
def start(home: Home = DEFAULT_HOME) -> None:
    """Run this hospital's node until Ctrl-C or SIGTERM. It makes one outbound connection and opens no port."""
    from fedward.cli.lifeline import end_with_parent
    from fedward.client.home import SiteHome
    from fedward.client.running import run_node

    end_with_parent()
    run_node(SiteHome.open(home), note)


@app.command()
def status(home: Home = DEFAULT_HOME, as_json: bool = JsonOption) -> None:
    """Show this site: federation, node, data, studies and budget."""
    from fedward.client.budgets import against_all_others
    from fedward.client.home import SiteHome
    from fedward.client.running import node_state
    from fedward.study.terms import all_others_words

    opened = SiteHome.open(home)
    data: dict[str, Any] = {"site": opened.site, "home": str(home), "federation": None, "node": node_state(opened)}
    if opened.kit_file.is_file():
        kit = opened.kit()
        data["federation"] = {"name": kit.federation_name, "address": f"{kit.host}:{kit.port}"}
    data["datasets"] = [json.loads(path.read_text()) for path in sorted((home / "datasets").glob("*.json"))
                        if not path.name.endswith(".report.json")]  # fmt: skip
    if data["federation"]:
        from fedward.client import approvals

        data["studies"] = [_line(opened, sealed) for sealed in approvals.proposals(opened)]
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
    say(f"Node: {data['node']['state']}" + (f" ({data['node']['text']})" if data["node"]["text"] else ""))
    for dataset in data["datasets"]:
        say(f"Data for {dataset['study_id']}: {dataset['patients']} patients from {dataset['csv']}")
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


app.command("ledger")(ledger.ledger)
app.command("ledger-recover")(ledger.recover)


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
    as_json: bool = JsonOption,
) -> None:
    """Show this hospital's own metrics of a study as they may leave: rounded, small counts suppressed. Nothing is sent."""
    from fedward.cli.site_metrics import release_metrics, show_metrics
    from fedward.client import approvals
    from fedward.client.home import SiteHome
    from fedward.privacy.errors import InputError
    from fedward.study.manifest import SealedManifest

    opened = SiteHome.open(home)
    sealed = approvals.proposal(opened, study)
    if not isinstance(sealed, SealedManifest):
        raise InputError("an exploration trains no model, so it has no metrics", code="no-metrics")
    if release is not None:
        release_metrics(opened, sealed, release, as_json=as_json)
    else:
        show_metrics(opened, sealed, as_json=as_json)


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
    from fedward.client.incidents import Incidents, signed_by, write_new
    from fedward.privacy.canonical import digest
    from fedward.privacy.signing import fingerprint

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
