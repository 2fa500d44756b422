"""`fedward site …`: what hospital IT sees, above all when something is wrong: a clear error, and nothing lost."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from command import Ran, fedward, good
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from federation import Federation, heart_manifest
from hospital import spend
from loopback import Loopback, wait_for

from fedward.client.decisions import load
from fedward.client.enrolment import make_request
from fedward.client.home import SiteHome
from fedward.client.incidents import Incidents
from fedward.privacy.events import DpEvent
from fedward.privacy.ledger import Budget, Charge, Reservation
from fedward.privacy.ledgerfile import connect
from fedward.privacy.signing import Identity, fingerprint
from fedward.server.authority import Authority
from fedward.study.heart import heart_folder
from fedward.study.messages import Offer, pack
from fedward.study.terms import PRIVACY_WORDS

DATA = heart_folder()
EVENT = DpEvent(10.0, 1.0, 1)


def snapshot(folder: Path) -> dict[str, str]:
    """Every file of a home by its content; SQLite's side files change by being read."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.endswith(("-wal", "-shm", ".lock"))]
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in files}


def fails(code: int, error: str, *arguments: object) -> Ran:
    """A command that must fail, first for a person, then for a script."""
    told = fedward(*arguments)
    assert told.code == code, told
    assert told.out == "", told
    assert told.err.startswith("error: "), told
    assert "Traceback" not in told.err
    asked = fedward(*arguments, "--json")
    assert asked.code == code
    assert asked.json["error"] == error, asked.json
    assert asked.json["exit_code"] == code
    return told


def edited(path: Path, change: Callable[[dict[str, object]], object]) -> Path:
    """A JSON file, changed by somebody on its way."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


# --- joining ------------------------------------------------------------------------------------------------------


def test_from_init_to_ledger(fed: Federation, tmp_path: Path) -> None:
    """Each command's JSON holds what the next one needs."""
    home = tmp_path / "hospital"
    made = good("site", "init", "hospital", "--epsilon-budget", 7, "--home", home)
    assert made["budget"] == {"epsilon": 7.0, "delta": 1e-3}
    asked = good("site", "request", "--home", home)
    assert asked["fingerprint"] == made["fingerprint"]
    kit = good("coordinator", "enroll", asked["request"], "--home", fed.home.path)["kit"]
    joined = good("site", "enroll", kit, "--home", home)
    assert (joined["site"], joined["federation"]) == ("hospital", "test")
    registered = good("site", "register", "--study", DATA / "study.toml", "--csv", DATA / "va.csv",
                      "--mapping", DATA / "va.mapping.toml", "--home", home)  # fmt: skip
    assert (registered["patients"], registered["declared_patients"]) == (200, 200)
    assert good("site", "review", "--home", home) == {"proposals": []}
    status = good("site", "status", "--home", home)
    assert status["node"]["state"] == "never started"
    meaning = f"{PRIVACY_WORDS}; covers every patient of this hospital"
    assert status["ledger"] == {"spent": 0.0, "committed": 0.0, "budget": 7.0, "delta": 1e-3, "privacy": meaning}
    assert meaning in fedward("site", "status", "--home", home).out
    assert [dataset["patients"] for dataset in status["datasets"]] == [200]
    assert good("site", "ledger", "--home", home)["charges"] == []


def test_commands_speak_to_people_too(fed: Federation) -> None:
    home, digest = fed.sites["va"].path, fed.sealed().digest
    assert digest[:12] in fedward("site", "review", "--home", home).out
    review = fedward("site", "review", digest[:8], "--home", home).out
    for words in (
        "leaves here",
        "policy       has no objection",
        "costs each training patient at most ε = 3",
        "about 300 patients",
    ):
        assert words in review
    approved = fedward("site", "approve", digest, "--yes", "--as", "tester", "--home", home)
    assert (approved.code, "as tester" in approved.out) == (0, True)
    assert "approved" in fedward("site", "review", "--home", home).out
    assert "decision     approved; approved by tester on" in fedward("site", "review", digest, "--home", home).out
    revoked = fedward("site", "revoke", digest, "--home", home)
    assert (revoked.code, "Revoked" in revoked.out) == (0, True)
    assert "revoked here" in fedward("site", "status", "--home", home).out
    refused = fedward("site", "refuse", digest, "--home", home)
    assert (refused.code, "Refused" in refused.out) == (0, True)
    assert "refused here" in fedward("site", "status", "--home", home).out
    assert "remaining 10.000" in fedward("site", "ledger", "--home", home).out


def test_approve_asks_and_no_answer_is_no_approval(fed: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    home, digest = fed.sites["va"].path, fed.sealed().digest
    monkeypatch.setattr("builtins.input", lambda *_: "n")
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda *_: "n")
    ran = fedward("site", "approve", digest, "--home", home)
    assert (ran.code, "nothing was done" in ran.err) == (2, True)
    assert good("site", "review", digest, "--home", home)["state"] == "pending"


def test_init_twice_keeps_the_first_site(tmp_path: Path) -> None:
    good("site", "init", "a", "--home", tmp_path)
    before = snapshot(tmp_path)
    fails(2, "usage", "site", "init", "b", "--home", tmp_path)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "options",
    [
        ["--epsilon-budget", "0"],
        ["--epsilon-budget", "-1"],
        ["--epsilon-budget", "nan"],
        ["--epsilon-budget", "inf"],
        ["--delta", "0"],
        ["--delta", "1"],
        ["--delta", "nan"],
    ],
    ids=" ".join,
)
def test_init_with_an_impossible_budget_makes_nothing(tmp_path: Path, options: list[str]) -> None:
    home = tmp_path / "home"
    fails(3, "bad-input", "site", "init", "a", *options, "--home", home)
    assert not (home / "site.json").exists()
    good("site", "init", "a", "--home", home)  # the same folder is still good


@pytest.mark.parametrize("name", ["St. Mary", "../a", "", "A", "a" * 65])
def test_init_with_an_impossible_name_makes_nothing(tmp_path: Path, name: str) -> None:
    fails(3, "bad-input", "site", "init", name, "--home", tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_no_home_no_kit_no_file(tmp_path: Path) -> None:
    assert "fedward site init" in fails(3, "bad-input", "site", "status", "--home", tmp_path / "none").err
    good("site", "init", "a", "--home", tmp_path)
    assert fedward("site", "start", "--home", tmp_path).code == 3
    fails(3, "bad-input", "site", "enroll", tmp_path / "none.json", "--home", tmp_path)
    fails(3, "bad-input", "site", "review", "abc", "--home", tmp_path)
    (tmp_path / "kit.json").write_text("{}")
    assert "is no kit" in fails(3, "bad-input", "site", "enroll", tmp_path / "kit.json", "--home", tmp_path).err


def fresh_kit(fed: Federation, tmp_path: Path) -> tuple[Path, Path]:
    """A new site's home and the kit that it was sent."""
    home = tmp_path / "new"
    good("site", "init", "new", "--home", home)
    request = good("site", "request", "--home", home)["request"]
    return home, Path(good("coordinator", "enroll", request, "--home", fed.home.path)["kit"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("host", "evil.example"),
        ("port", 1),
        ("federation_name", "Other"),
        ("coordinator_key", "0" * 64),
        ("site", "va"),
    ],
)
def test_tampered_kit_is_refused(fed: Federation, tmp_path: Path, field: str, value: object) -> None:
    home, kit = fresh_kit(fed, tmp_path)
    edited(kit, lambda data: data.update({field: value}))
    before = snapshot(home)
    fails(5, "bad-signature", "site", "enroll", kit, "--home", home)
    assert snapshot(home) == before


def test_kit_with_another_cas_certificate_is_refused(fed: Federation, tmp_path: Path) -> None:
    home, kit = fresh_kit(fed, tmp_path)
    foreign = Authority.create("other", datetime.now(UTC)).issue_site(
        make_request(SiteHome.open(home)), datetime.now(UTC)
    )
    edited(kit, lambda data: data.update(certificate=foreign.decode()))
    fails(5, "bad-signature", "site", "enroll", kit, "--home", home)


def test_kit_of_an_unexpected_coordinator_is_refused(fed: Federation, tmp_path: Path) -> None:
    home, kit = fresh_kit(fed, tmp_path)
    wrong = "-".join(["0000"] * 8)
    told = fails(5, "integrity", "site", "enroll", kit, "--fingerprint", wrong, "--home", home)
    assert wrong in told.err
    assert not (home / "federation.json").exists()
    right = good("site", "enroll", kit, "--home", home)["coordinator"]
    good("site", "enroll", kit, "--fingerprint", right.upper(), "--home", home)


def test_kit_for_another_site_is_refused(fed: Federation, tmp_path: Path) -> None:
    _, kit = fresh_kit(fed, tmp_path)
    good("site", "init", "other", "--home", tmp_path / "other")
    fails(5, "integrity", "site", "enroll", kit, "--home", tmp_path / "other")


# --- data ---------------------------------------------------------------------------------------------------------


def rows() -> list[list[str]]:
    """Cleveland's export, its line of names first."""
    return [line.split(",") for line in (DATA / "cleveland.csv").read_text().splitlines()]


def without_column(table: list[list[str]]) -> list[list[str]]:
    return [row[:1] + row[2:] for row in table]


def cell(row: int, name: str, text: str) -> Callable[[list[list[str]]], list[list[str]]]:
    def change(table: list[list[str]]) -> list[list[str]]:
        table[row][table[0].index(name)] = text
        return table

    return change


SECRET = "zz-4711"  # noqa: S105  # a patient's value, which no message may repeat


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (without_column, "bad-input", "age_years"),
        (cell(7, "age_years", SECRET), "data-refused", "not a number"),
        (cell(7, "age_years", "-3"), "data-refused", "outside the study's bounds"),
        (cell(7, "age_years", "nan"), "data-refused", "not a number"),
        (cell(7, "chest_pain", SECRET), "data-refused", "a code that the mapping does not know"),
        (cell(7, "record_id", "CLE-0001"), "data-refused", "an earlier row"),
        (cell(7, "angiography_grade", ""), "data-refused", "no outcome"),
        (lambda table: table[:0], "bad-input", "is empty"),
        (lambda table: table[:1], "bad-input", "no rows"),
        (lambda table: [*table, ["a", "b"]], "bad-input", "more or fewer cells"),
    ],
    ids=["column missing", "wrong type", "negative", "nan", "unknown level", "patient twice", "no outcome", "empty",
         "only names", "ragged"],
)  # fmt: skip
def test_bad_data_is_refused_and_the_earlier_registration_stays(
    fed: Federation, tmp_path: Path, change: Callable[[list[list[str]]], list[list[str]]], error: str, words: str
) -> None:
    home = fed.sites["cleveland"].path
    csv = tmp_path / "bad.csv"
    csv.write_text("\n".join(",".join(row) for row in change(rows())))
    before = snapshot(home)
    told = fails(3, error, "site", "register", "--study", DATA / "study.toml", "--csv", csv,
                 "--mapping", DATA / "cleveland.mapping.toml", "--home", home)  # fmt: skip
    assert words in told.err
    assert SECRET not in told.err
    after = snapshot(home)
    report = "datasets/heart-4-hospitals.report.json"  # says why the newer file was refused
    assert {k: v for k, v in after.items() if k != report} == {k: v for k, v in before.items() if k != report}


def test_binary_data_and_missing_files_are_refused(fed: Federation, tmp_path: Path) -> None:
    home = fed.sites["cleveland"].path
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\x00\xff\xfe" * 100)
    study, mapping = DATA / "study.toml", DATA / "cleveland.mapping.toml"
    for csv in (binary, tmp_path / "none.csv", tmp_path):
        fails(3, "bad-input", "site", "register", "--study", study, "--csv", csv, "--mapping", mapping, "--home", home)
    fails(3, "bad-input", "site", "register", "--study", study, "--csv", DATA / "cleveland.csv",
          "--mapping", tmp_path / "none.toml", "--home", home)  # fmt: skip
    fails(3, "bad-input", "site", "register", "--study", tmp_path / "none.toml", "--csv", DATA / "cleveland.csv",
          "--mapping", mapping, "--home", home)  # fmt: skip


def test_a_hospital_is_told_how_the_sites_updates_are_combined(tmp_path: Path) -> None:
    """It approves a sum that compares its update with the others' ones, and in which its size does not count."""
    federation = Federation(tmp_path)
    manifest = heart_manifest(training={"aggregation": "trimmed-mean", "byzantine": 1})
    federation.register(manifest)
    digest = federation.propose(manifest).digest
    review = " ".join(fedward("site", "review", digest, "--home", federation.sites["va"].path).out.split())
    assert "combines the sites' updates by trimmed-mean, against 1 site that may send anything" in review
    assert "OFF" in review


def test_five_patients_of_one_class_register_with_a_warning_and_policy_refuses_them(
    fed: Federation, tmp_path: Path
) -> None:
    home, digest = fed.sites["cleveland"].path, fed.sealed().digest
    table = rows()
    healthy = [row for row in table[1:] if row[-1] == "0"][:5]
    csv = tmp_path / "five.csv"
    csv.write_text("\n".join(",".join(row) for row in [table[0], *healthy]))
    done = good("site", "register", "--study", DATA / "study.toml", "--csv", csv,
                "--mapping", DATA / "cleveland.mapping.toml", "--home", home)  # fmt: skip
    assert done["patients"] == 5
    assert done["report"]["warnings"]
    assert done["declared_patients"] == 10  # what may leave says no more than "few"
    told = fails(4, "policy-patients", "site", "approve", digest, "--yes", "--home", home)
    assert "5 patients" in told.err
    assert good("site", "review", digest, "--home", home)["state"] == "pending"


# --- deciding -----------------------------------------------------------------------------------------------------


def test_approve_needs_data(fed: Federation) -> None:
    home, digest = fed.sites["va"].path, fed.sealed().digest
    shutil.rmtree(home / "datasets")
    assert "fedward site register" in fails(3, "no-data", "site", "approve", digest, "--yes", "--home", home).err
    assert "none is registered" in fedward("site", "review", digest, "--home", home).out


def test_policy_refuses_by_its_code_and_a_broken_policy_refuses_everything(fed: Federation) -> None:
    home, digest = fed.sites["va"].path, fed.sealed().digest
    policy = home / "policy.toml"
    text = policy.read_text()
    policy.write_text(text.replace("max_epsilon = 5.0", "max_epsilon = 0.5"))
    fails(4, "policy-epsilon", "site", "approve", digest, "--yes", "--home", home)
    policy.write_text(text.replace("max_epsilon", "max_epsilom"))
    assert "max_epsilom" in fails(3, "bad-input", "site", "approve", digest, "--yes", "--home", home).err
    policy.write_text("")
    fails(3, "bad-input", "site", "approve", digest, "--yes", "--home", home)
    assert good("site", "ledger", "--home", home)["spent"] == 0


def test_study_over_the_budget_is_refused(tmp_path: Path) -> None:
    federation = Federation(tmp_path, budget=Budget(4.0, 1e-3))
    manifest = heart_manifest()
    federation.register(manifest)
    digest = federation.propose(manifest).digest
    with federation.sites["va"].ledger() as book:  # meanwhile another study spends
        spend(book, DpEvent(1.2, 1.0, 1))
    told = fails(4, "budget-exhausted", "site", "approve", digest, "--yes", "--home", federation.sites["va"].path)
    assert "ε at most 4" in told.err


def test_tampered_proposal_is_refused(fed: Federation) -> None:
    """A proposal edited on the hospital's disk: fewer noise, the same file name."""
    home, digest = fed.sites["va"].path, fed.sealed().digest
    file = home / "proposals" / f"{digest}.json"
    text = fed.sites["va"].read(file, "proposal").decode().replace('\\"epsilon\\":3.0', '\\"epsilon\\":4.0')
    assert '\\"epsilon\\":4.0' in text
    fed.sites["va"].write(file, text.encode())
    for command in (("review", digest), ("approve", digest, "--yes"), ("refuse", digest), ("review",)):
        fails(5, "bad-signature", "site", *command, "--home", home)
    assert [link.what.kind for link in load(SiteHome.open(home)).links] == ["approver-added"]


def test_forged_approval_is_refused(fed: Federation) -> None:
    """Somebody who can write the site's files turns a refusal into a revocation that a later approval would overrule."""
    home, digest = fed.sites["va"].path, fed.sealed().digest
    good("site", "refuse", digest, "--home", home)
    file = fed.sites["va"].decisions_file
    fed.sites["va"].write(file, fed.sites["va"].read(file, "decisions").replace(b'"refused"', b'"revoked"'))
    fails(5, "bad-signature", "site", "review", digest, "--home", home)


# --- keys and the ledger ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["identity.pem", "tls.pem", "node.pem"])
def test_key_that_others_may_read_is_refused(fed: Federation, key: str) -> None:
    home = fed.sites["va"].path
    (home / "keys" / key).chmod(0o644)
    told = fails(5, "integrity", "site", "request", "--home", home)
    assert f"chmod 600 {home / 'keys' / key}" in told.err


@pytest.mark.timeout(30)
@pytest.mark.parametrize("key", ["identity.pem", "tls.pem", "node.pem", "patients.key"])
def test_node_does_not_start_with_a_key_that_others_may_read(fed: Federation, key: str) -> None:
    home = fed.sites["va"].path
    (home / "keys" / key).chmod(0o640)
    with signals_kept():
        ran = fedward("site", "start", "--home", home)
    assert ran.code == 5, ran
    assert "0600" in ran.err


@contextmanager
def signals_kept() -> Iterator[None]:
    """`start` takes SIGINT and SIGTERM for itself; a test gives them back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def charged(home: SiteHome, count: int = 2) -> None:
    with home.ledger() as ledger:
        ledger.reserve(Reservation("ab" * 32, "earlier", (EVENT,) * count, 2_000_000_000, "cd" * 32), at=1_900_000_000)
        for round_ in range(1, count + 1):
            ledger.charge(Charge("ab" * 32, "earlier", round_, round_, EVENT), at=1_900_000_000)


def drop_last_charge(home: SiteHome) -> None:
    with closing(connect(home.ledger_file, home.ledger_key)) as connection:
        connection.execute("DROP TRIGGER entries_no_DELETE")
        connection.execute("DELETE FROM entries WHERE sequence = (SELECT max(sequence) FROM entries)")
        connection.commit()


def change_charge(home: SiteHome) -> None:
    with closing(connect(home.ledger_file, home.ledger_key)) as connection:
        connection.execute("DROP TRIGGER entries_no_UPDATE")
        connection.execute("UPDATE entries SET body = replace(body, '10.0', '1000.0')")
        connection.commit()


def damage(home: SiteHome) -> None:
    for path in home.path.glob("ledger.sqlite-*"):
        path.unlink()
    home.ledger_file.write_bytes(b"this was a ledger" * 100)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("tamper", "error"),
    [(drop_last_charge, "ledger-rolled-back"), (change_charge, "ledger-broken"), (damage, "ledger-broken")],
)
def test_tampered_ledger_is_refused_by_every_command(
    fed: Federation, tamper: Callable[[SiteHome], None], error: str
) -> None:
    home, digest = fed.sites["va"], fed.sealed().digest
    charged(home)
    assert len(good("site", "ledger", "--home", home.path)["charges"]) == 2
    tamper(home)
    fails(5, error, "site", "ledger", "--home", home.path)
    fails(5, error, "site", "status", "--home", home.path)
    fails(5, error, "site", "approve", digest, "--yes", "--home", home.path)
    with signals_kept():
        assert fedward("site", "start", "--home", home.path).code == 5


def test_lost_ledger_is_not_silently_a_new_one(fed: Federation) -> None:
    home = fed.sites["va"]
    charged(home)
    for path in home.path.glob("ledger.sqlite*"):
        path.unlink()
    ran = fedward("site", "ledger", "--home", home.path)
    assert ran.code in {3, 5}
    assert not home.ledger_file.exists()
    assert fedward("site", "init", "va", "--home", home.path).code == 2


def test_ledger_shows_each_charge(fed: Federation) -> None:
    charged(fed.sites["va"], 3)
    book = good("site", "ledger", "--home", fed.sites["va"].path)
    assert [(c["round"], c["attempt"], c["study_id"]) for c in book["charges"]] == [
        (n, n, "earlier") for n in (1, 2, 3)
    ]
    assert 0 < book["spent"] < 10
    assert book["remaining"] == pytest.approx(10 - book["spent"])
    shown = fedward("site", "ledger", "--home", fed.sites["va"].path).out
    assert "3 charges" in shown


# --- incidents ----------------------------------------------------------------------------------------------------


def lie(fed: Federation, number: int = 1, *, signer: Identity | None = None, **changes: object) -> tuple[str, bytes]:
    """A lie on record at VA: its reference, and the request that proves it."""
    request = Offer(study=fed.sealed().digest, nonce=f"{number:064x}", signature="c2ln")
    data = pack(request, b"", signer or fed.home.identity())
    fields: dict[str, object] = {
        "reference": f"{number:012x}",
        "at": 1_900_000_000,
        "code": "second-unmask",
        "what": "a second survivor set [bold]for[/bold] one attempt",
        "study": fed.sealed().digest,
        "stage": "unmask",
        "blamed": "coordinator",
        "evidence": data,
    }
    made = Incidents(fed.sites["va"].incidents_folder).record(**(fields | changes))  # type: ignore[arg-type]
    return made.reference, data


def test_no_incident_is_told_as_such(fed: Federation) -> None:
    home = fed.sites["va"].path
    assert fedward("site", "incidents", "--home", home) == Ran(0, "no incident on record\n", "")
    assert good("site", "incidents", "--home", home) == {"incidents": [], "not_recorded": 0}
    assert not (home / "incidents").exists()
    assert "fedward site init" in fails(3, "bad-input", "site", "incidents", "--home", home / "none").err


def test_incidents_are_listed_newest_last(fed: Federation) -> None:
    home, digest = fed.sites["va"].path, fed.sealed().digest
    _, data = lie(fed)
    lie(fed, 2, evidence=data)
    lie(fed, 3, evidence=b"", study="", stage="", blamed="", code="replay", what="\x1b[2Jhid")
    ran = fedward("site", "incidents", "--home", home)
    assert ran.out.splitlines() == [
        f"2030-03-17 17:46:40 UTC  second-unmask  blamed: coordinator  study: {digest[:12]}  stage: unmask  "
        "reference: 000000000001",
        "  a second survivor set [bold]for[/bold] one attempt",
        f"  evidence kept: {len(data)} bytes, SHA-256 {sha256(data).hexdigest()}; it came 2 times",
        "2030-03-17 17:46:40 UTC  replay  blamed: nobody  reference: 000000000003",
        "  �[2Jhid",
        "Take out the evidence of one: fedward site incidents --evidence REFERENCE --out FILE",
    ]
    assert (ran.code, ran.err) == (0, "")
    listed = good("site", "incidents", "--home", home)
    assert listed["not_recorded"] == 0
    assert [incident["code"] for incident in listed["incidents"]] == ["second-unmask", "replay"]
    assert listed["incidents"][0] == {
        "reference": "000000000001",
        "at": 1_900_000_000,
        "code": "second-unmask",
        "what": "a second survivor set [bold]for[/bold] one attempt",
        "study": digest,
        "stage": "unmask",
        "blamed": "coordinator",
        "evidence_sha256": sha256(data).hexdigest(),
        "evidence_bytes": len(data),
        "kept": True,
        "times": 2,
    }


def test_what_was_not_kept_or_is_damaged_is_told(fed: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    home = fed.sites["va"].path
    monkeypatch.setattr("fedward.client.incidents.MAX_INCIDENTS", 2)
    monkeypatch.setattr("fedward.client.incidents.MAX_ONE_EVIDENCE_BYTES", 10)
    for number in range(1, 6):
        lie(fed, number)
    next((home / "incidents").glob("000001-*.json")).write_text("{")
    ran = fedward("site", "incidents", "--home", home)
    assert ran.code == 0
    assert "damaged-record  blamed: nobody  reference: 000000000001" in ran.out
    assert "evidence not kept, for its size: " in ran.out
    assert f"and 3 more, not recorded: the folder was full. To make room, move {home / 'incidents'} away." in ran.out
    assert "Take out" not in ran.out
    listed = good("site", "incidents", "--home", home)
    assert (listed["not_recorded"], listed["incidents"][0]["code"]) == (3, "damaged-record")
    told = fails(
        3, "no-evidence", "site", "incidents", "--evidence", f"{2:012x}", "--out", home / "out", "--home", home
    )
    assert "was not kept" in told.err


def test_evidence_is_taken_out_and_proves_the_lie_to_anyone(fed: Federation, tmp_path: Path) -> None:
    home, key = fed.sites["va"].path, fed.home.identity().public
    reference, data = lie(fed)
    out, script = tmp_path / "lie.fwd1", tmp_path / "script.fwd1"
    ran = fedward("site", "incidents", "--evidence", reference, "--out", out, "--home", home)
    assert (ran.code, ran.err, out.read_bytes()) == (0, "", data)
    assert "Checked now: signed by the coordinator.\n" in ran.out
    for words in (f"{len(data)} bytes", str(out), sha256(data).hexdigest(), key, fingerprint(key)):
        assert words in ran.out
    # As the output says: no code of Fedward's is needed.
    taken = out.read_bytes()
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(taken[-64:], b"fedward/message" + b"\0" + taken[:-64])
    assert good("site", "incidents", "--evidence", reference, "--out", script, "--home", home) == {
        "reference": reference,
        "out": str(script),
        "bytes": len(data),
        "sha256": sha256(data).hexdigest(),
        "coordinator": fingerprint(key),
        "coordinator_key": key,
        "signed": True,
    }


def test_evidence_that_the_coordinator_did_not_sign_is_told(fed: Federation, tmp_path: Path) -> None:
    home = fed.sites["va"].path
    reference, _ = lie(fed, signer=Identity.generate())
    ran = fedward("site", "incidents", "--evidence", reference, "--out", tmp_path / "a", "--home", home)
    assert "Checked now: not signed by the coordinator's key.\n" in ran.out
    assert (
        good("site", "incidents", "--evidence", reference, "--out", tmp_path / "b", "--home", home)["signed"] is False
    )


def test_evidence_is_never_written_over_a_file_nor_under_a_wrong_name(fed: Federation, tmp_path: Path) -> None:
    home, out = fed.sites["va"].path, tmp_path / "out"
    reference, _ = lie(fed)
    told = fails(3, "no-evidence", "site", "incidents", "--evidence", "f" * 12, "--out", out, "--home", home)
    assert reference in told.err
    for alone in (("--evidence", reference), ("--out", out)):
        assert "belong together" in fails(2, "usage", "site", "incidents", *alone, "--home", home).err
    assert not out.exists()
    out.write_text("mine")
    fails(2, "usage", "site", "incidents", "--evidence", reference, "--out", out, "--home", home)
    assert out.read_text() == "mine"
    next((home / "incidents").glob("*.fwd1")).write_bytes(b"other")
    fails(5, "damaged-evidence", "site", "incidents", "--evidence", reference, "--out", tmp_path / "b", "--home", home)
    assert not (tmp_path / "b").exists()


# --- the node's process -------------------------------------------------------------------------------------------


@contextmanager
def started(home: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`fedward site start` as a process of its own, ended by its own number."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "fedward.cli.main", "site", "start", "--home", str(home)], stdout=out, stderr=out
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def node(home: Path) -> dict[str, object]:
    state: dict[str, object] = good("site", "status", "--home", home)["node"]
    return state


def test_node_without_a_coordinator_keeps_trying_alone_and_ends_in_order(fed: Federation, tmp_path: Path) -> None:
    home, log = fed.sites["va"].path, tmp_path / "log"
    with started(home, log) as process:
        wait_for("the node tries", lambda: node(home)["state"] == "retrying", 30, log.read_text)
        assert node(home)["pid"] == process.pid
        with signals_kept():
            second = fedward("site", "start", "--home", home)
        assert second.code == 2
        assert "runs already" in second.err
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    assert node(home)["state"] == "stopped"


def give_certificate(home: Path, authority: Authority, now: datetime) -> None:
    """Replace the certificate that the coordinator issued."""
    certificate = authority.issue_site(make_request(SiteHome.open(home)), now)
    (home / "site.pem").write_bytes(certificate)


def test_expired_certificate_is_named_and_what_to_do(fed: Federation) -> None:
    home = fed.sites["va"].path
    give_certificate(home, fed.home.authority(), datetime.now(UTC) - timedelta(days=500))
    with signals_kept():
        ran = fedward("site", "start", "--home", home)
    assert ran.code == 5
    assert "not valid now" in ran.err
    assert "fresh request" in ran.err


def test_certificate_about_to_expire_is_told(fed: Federation, tmp_path: Path) -> None:
    home, log = fed.sites["va"].path, tmp_path / "log"
    give_certificate(home, fed.home.authority(), datetime.now(UTC) - timedelta(days=390))
    with started(home, log):
        wait_for("the warning", lambda: "expires in" in log.read_text(), 30, log.read_text)


@pytest.mark.federation
def test_foreign_certificate_is_refused_and_the_node_keeps_trying_until_it_is_renewed(
    loopback: Loopback, tmp_path: Path
) -> None:
    home, log = tmp_path / "va", tmp_path / "log"
    loopback.stop_node("va")
    try:
        shutil.copytree(loopback.sites["va"], home)
        good_certificate = (home / "site.pem").read_bytes()
        give_certificate(home, Authority.create("other", datetime.now(UTC)), datetime.now(UTC))
        with started(home, log) as process:
            wait_for("the refusal", lambda: node(home)["state"] == "certificate-refused", 30, log.read_text)
            assert "still valid?" in str(node(home)["text"])
            assert process.poll() is None
            (home / "site.pem").write_bytes(good_certificate)
            wait_for("the connection", lambda: node(home)["state"] == "connected", 30, log.read_text)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        assert "certificate-refused: " in log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        loopback.start_node("va")
    loopback.await_connected()


def test_a_node_key_is_what_flower_takes(fed: Federation) -> None:
    """The request's node key is one that the coordinator's service can register."""
    key = serialization.load_pem_public_key(make_request(fed.sites["va"]).node_key.encode())
    assert getattr(key, "key_size", 0) == 384
