"""The node: every refusal by its code, the charge before the data, and nothing but codes and references leave."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from federation import Federation, heart_manifest, undecide
from hospital import SITE, Site, code, spend

from fedward.client import datasets
from fedward.client.findings import Finder
from fedward.client.home import SiteHome
from fedward.client.incidents import Incidents
from fedward.privacy.canonical import digest
from fedward.privacy.events import DpEvent
from fedward.privacy.ledger import Budget
from fedward.privacy.signing import Identity
from fedward.study import messages
from fedward.study.heart import heart_folder
from fedward.study.manifest import Manifest, SealedManifest
from fedward.study.messages import Declare, Declared, Refusal, Reply, Result, Standing
from fedward.study.metrics import histogram_shape
from fedward.study.schedule import least_noise
from fedward.study.vectors import vector_digest

ROUNDS = 3


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("node"), sites=("cleveland", "hungarian", SITE))
    federation.ready(
        heart_manifest(training={"rounds": ROUNDS}, evaluation={"every": 2}, privacy={"spare_attempts": 12})
    )
    return federation


@pytest.fixture
def site(template: Federation, tmp_path: Path) -> Site:
    return Site(template.copy(tmp_path / "copy"))


# --- what is answered ---------------------------------------------------------------------------------------------------


def test_an_approved_round_is_charged_once_and_answered(site: Site) -> None:
    reply = site.work()
    assert isinstance(reply, Result)
    assert (reply.round, reply.attempt, reply.base) == (1, 1, vector_digest(site.base))
    assert (reply.update_values, reply.histogram_values) == (len(site.base), 0)
    assert np.isfinite(messages.floats_from_bytes(site.body, len(site.base), "u")).all()
    assert site.charges() == [(1, 1)]


def test_the_charge_is_the_event_of_the_approved_terms(site: Site) -> None:
    site.work()
    with site.home.ledger(witnessed=False) as ledger:
        event = ledger.charges()[0].charge.event
    assert event is not None
    assert (event.noise_multiplier, event.sampling_rate, event.steps) == (
        site.sealed.entry(SITE).noise_multiplier,
        1.0,
        1,
    )


def test_a_planned_evaluation_counts_the_held_out_patients_only(site: Site) -> None:
    reply = site.work(round=ROUNDS + 1, train=False, evaluate=True)
    assert isinstance(reply, Result)
    counts = messages.counts_from_bytes(site.body, histogram_shape(site.sealed.manifest))
    with Path(datasets.find(site.home, "heart-4-hospitals").path).open() as file:
        patients = sum(1 for _ in file) - 1
    assert 0.15 * patients < counts[0].sum() < 0.5 * patients
    assert (counts[1:3].sum(axis=0) <= counts[0]).all()
    assert (site.charges(), site.charges("evaluate-without-dp")) == ([], [(ROUNDS + 1, 1)])


def test_a_patient_with_several_encounters_is_registered_and_evaluated_once(site: Site, tmp_path: Path) -> None:
    before = datasets.find(site.home, "heart-4-hospitals")
    site.work(round=ROUNDS + 1, train=False, evaluate=True)
    once = messages.counts_from_bytes(site.body, histogram_shape(site.sealed.manifest))
    csv = own_data(site, tmp_path / "data")
    own = datasets.find(site.home, "heart-4-hospitals")
    lines = csv.read_text().splitlines()
    mapping = csv.with_name("map.toml")
    csv.write_text("\n".join([*lines, *lines[1:]]))
    mapping.write_text(mapping.read_text().replace("[source]", '[source]\nrows = "encounters"'))
    report = datasets.register(site.home, site.sealed.manifest, csv, mapping, 1).report
    assert (report.patients, report.encounters) == (before.patients, 2 * before.patients)
    after = datasets.find(site.home, "heart-4-hospitals")
    assert (after.patients, len({before.cohort, own.cohort, after.cohort})) == (before.patients, 1)
    assert code(site.work(round=ROUNDS + 1, attempt=2, train=False, evaluate=True)) == "data-changed"
    site.decide("approved")
    assert isinstance(site.work(round=ROUNDS + 1, attempt=2, train=False, evaluate=True), Result)
    assert np.array_equal(messages.counts_from_bytes(site.body, histogram_shape(site.sealed.manifest)), once)


def test_the_declared_cohort_is_rounded(site: Site) -> None:
    reply = site.declare()
    assert isinstance(reply, Declared)
    assert reply.patients % 10 == 0
    assert abs(reply.patients - datasets.find(site.home, "heart-4-hospitals").patients) <= 5


@pytest.mark.parametrize("state", ["pending", "approved", "refused", "revoked"])
def test_the_standing_is_what_a_person_decided(site: Site, state: str) -> None:
    if state == "pending":
        undecide(site.home)
    else:
        site.decide(state)
    reply = site.offer(site.sealed)
    assert isinstance(reply, Standing)
    assert (reply.state, reply.study) == (state, site.sealed.digest)


# --- every refusal ------------------------------------------------------------------------------------------------------


def reseal(site: Site, **changes: object) -> SealedManifest:
    return SealedManifest.model_validate_json(json.dumps(site.sealed.model_dump(mode="json") | changes))


def used_up(site: Site) -> Reply:
    for attempt in range(1, site.sealed.manifest.planned_attempts + 1):
        assert isinstance(site.work(attempt=attempt), Result)
    return site.work(attempt=100)


def twice(site: Site) -> Reply:
    assert isinstance(site.work(), Result)
    site.federation.restart(SITE)  # else the same bytes get the same reply
    return site.work()


def evaluated_twice(site: Site) -> Reply:
    """Otherwise a coordinator could ask for the counts of one base after another."""
    assert isinstance(site.work(round=ROUNDS + 1, train=False, evaluate=True), Result)
    other = site.base + 1
    body = other.tobytes()
    return site.work(round=ROUNDS + 1, train=False, evaluate=True, body=body, base=digest(body))


def evaluated_too_often(site: Site) -> Reply:
    for attempt in range(1, site.sealed.manifest.planned_evaluations + 1):
        assert isinstance(site.work(round=ROUNDS + 1, attempt=attempt, train=False, evaluate=True), Result)
    return site.work(round=ROUNDS + 1, attempt=100, train=False, evaluate=True)


def expired(site: Site) -> Reply:
    site.federation.clock.elapsed += site.sealed.expires_at - site.sealed.sealed_at
    return site.work()


def policy(text: str) -> Callable[[Site], Reply]:
    def ask(site: Site) -> Reply:
        site.policy("[policy]\n" + text)
        return site.work()

    return ask


def undecided(site: Site) -> Reply:
    undecide(site.home)
    return site.work()


def refused(site: Site) -> Reply:
    site.decide("refused")
    return site.work()


def revoked(site: Site) -> Reply:
    site.decide("revoked")
    return site.work()


def unregistered(site: Site) -> Reply:
    (site.home.path / "datasets" / "heart-4-hospitals.json").unlink()
    return site.work()


def hidden_cohort(site: Site) -> Reply:
    site.policy("[policy]\nshare_cohort_size = false")
    return site.declare()


def forged_approval(site: Site) -> Reply:
    path = site.home.decisions_file
    site.home.write(path, site.home.read(path, "decisions").replace(b'"tester"', b'"nobody"'))
    return site.work()


def foreign_federation(site: Site) -> Reply:
    return site.offer(reseal(site, federation_id="0" * 32))


def foreign_key(site: Site) -> Reply:
    roster = [entry.model_dump() for entry in site.sealed.roster]
    roster[-1]["identity_key"] = "0" * 64
    return site.offer(reseal(site, roster=roster))


def not_in_roster(site: Site) -> Reply:
    roster = [entry.model_dump() | {"site": f"x{i}"} for i, entry in enumerate(site.sealed.roster)]
    return site.offer(reseal(site, roster=roster))


def base_of(value: float) -> Callable[[Site], Reply]:
    def ask(site: Site) -> Reply:
        base = site.base.copy()
        base[3] = value
        return site.work(body=base.tobytes(), base=digest(base.tobytes()))

    return ask


REFUSALS: dict[str, tuple[Callable[[Site], Reply], str]] = {
    "foreign-signed": (lambda s: s.work(signer=Identity.generate()), "bad-signature"),
    "signed-by-the-site": (lambda s: s.work(signer=s.home.identity()), "bad-signature"),
    "undecided": (undecided, "not-approved"),
    "unknown-study": (lambda s: s.work(study="0" * 64), "not-approved"),
    "refused": (refused, "refused-here"),
    "revoked": (revoked, "revoked-here"),
    "forged-approval": (forged_approval, "bad-signature"),
    "expired": (expired, "expired"),
    "policy-epsilon": (policy("max_epsilon = 1.0"), "policy-epsilon"),
    "policy-delta": (policy("max_delta = 1e-4"), "policy-delta"),
    "policy-patients": (policy("min_patients = 100_000"), "policy-patients"),
    "policy-quorum": (policy("min_quorum = 4"), "policy-quorum"),
    "policy-broken": (policy("max_epsilon = nan"), "bad-input"),
    "policy-cohort-size": (hidden_cohort, "policy-cohort-size"),
    "no-data": (unregistered, "no-data"),
    "declare-no-data": (lambda s: s.declare("another-study"), "no-data"),
    "wrong-base": (lambda s: s.work(base="0" * 64), "wrong-base"),
    "other-base": (lambda s: s.work(body=(s.base + 1).tobytes()), "wrong-base"),
    "wrong-dimension": (lambda s: s.work(dimension=len(s.base) + 1), "wrong-shape"),
    "short-body": (lambda s: s.work(body=s.base.tobytes()[:-4]), "wrong-shape"),
    "no-body": (lambda s: s.work(body=b""), "wrong-shape"),
    "nan-base": (base_of(np.nan), "not-finite"),
    "inf-base": (base_of(np.inf), "not-finite"),
    "later-round": (lambda s: s.work(round=ROUNDS + 1), "unknown-round"),
    "later-evaluation": (lambda s: s.work(round=ROUNDS + 2, train=False, evaluate=True), "unknown-round"),
    "unplanned-evaluation": (lambda s: s.work(round=2, evaluate=True), "unplanned-work"),
    "evaluation-without-training": (lambda s: s.work(round=3, train=False, evaluate=True), "unplanned-work"),
    "nothing-asked": (lambda s: s.work(train=False), "unplanned-work"),
    "already-charged": (twice, "already-charged"),
    "attempts-used-up": (used_up, "attempts-used-up"),
    "evaluated-twice": (evaluated_twice, "already-charged"),
    "evaluated-too-often": (evaluated_too_often, "evaluations-used-up"),
    "foreign-study": (foreign_federation, "foreign-study"),
    "foreign-key": (foreign_key, "foreign-key"),
    "not-in-roster": (not_in_roster, "bad-input"),
    "proposal-by-another": (lambda s: s.offer(s.sealed, Identity.generate()), "bad-signature"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_the_node_refuses_with_its_code_and_charges_nothing_more(site: Site, case: str) -> None:
    ask, expected = REFUSALS[case]
    reply = ask(site)
    assert code(reply) == expected
    assert site.body == b""
    charged = {"already-charged": 1, "attempts-used-up": site.sealed.manifest.planned_attempts}
    assert len(site.charges()) == charged.get(case, 0)
    assert isinstance(reply, Refusal)
    assert site.logged()[-1]["reference"] == reply.reference  # the hospital finds the whole story in its own log


LIES = {"wrong-base", "wrong-shape", "not-finite", "unknown-round", "unplanned-work"}


@pytest.mark.parametrize("case", [case for case in REFUSALS if REFUSALS[case][1] in LIES])
def test_a_request_that_no_honest_coordinator_sends_is_kept_as_evidence(site: Site, case: str) -> None:
    ask, expected = REFUSALS[case]
    reply = ask(site)
    kept = Incidents(site.home.incidents_folder)
    (incident,) = kept.list()
    assert (incident.code, incident.blamed, incident.reference) == (expected, "coordinator", reply.reference)
    request, _ = messages.open_request(kept.evidence(incident.reference), site.home.kit().coordinator_key)
    assert request.kind == "work"


@pytest.mark.parametrize("case", ["undecided", "expired", "policy-epsilon", "no-data", "already-charged"])
def test_a_request_that_merely_comes_at_a_bad_time_is_no_lie(site: Site, case: str) -> None:
    REFUSALS[case][0](site)
    assert Incidents(site.home.incidents_folder).list() == []


@pytest.mark.parametrize("data", [b"", b"FWD1", b"x" * 1000, b"FWD1" + b"\xff" * 200])
def test_bytes_that_are_no_message_are_answered_with_a_refusal(site: Site, data: bytes) -> None:
    reply, _ = messages.open_reply(site.federation.transport.nodes[SITE](data), site.key)
    assert code(reply) == "malformed"
    assert reply.request == digest(data)


def test_a_study_without_dp_is_refused_where_the_policy_requires_it(tmp_path: Path) -> None:
    federation = Federation(tmp_path, sites=("cleveland", "hungarian", SITE))
    federation.ready(heart_manifest(privacy={"mechanism": "none", "epsilon": None, "delta": None}))
    site = Site(federation)
    site.policy("[policy]\nrequire_secure_aggregation = false")
    assert code(site.work()) == "policy-requires-dp"
    site.policy("[policy]\nrequire_dp = false\nrequire_secure_aggregation = false")
    assert isinstance(site.work(), Result)  # and the change binds at once
    with site.home.ledger(witnessed=False) as ledger:
        assert (ledger.unprotected, ledger.spent()) == (1, 0.0)


def test_little_left_means_more_noise_and_the_whole_study_fits(tmp_path: Path) -> None:
    federation = Federation(tmp_path, sites=("cleveland", "hungarian", SITE), budget=Budget(2.0, 1e-3))
    federation.ready(heart_manifest(training={"rounds": ROUNDS}))
    site = Site(federation)
    assert site.sealed.entry(SITE).noise_multiplier > least_noise(site.sealed.manifest)  # of a study that asks for 3
    planned = site.sealed.manifest.planned_attempts
    for attempt in range(1, planned + 1):
        assert isinstance(site.work(attempt=attempt), Result)
    assert code(site.work(attempt=planned + 1)) == "attempts-used-up"
    with site.home.ledger(witnessed=False) as ledger:
        assert 1.0 < ledger.spent() <= 2.0


def test_too_little_left_ends_at_planning(site: Site) -> None:
    with site.home.ledger(witnessed=False) as ledger:
        for number, sigma in enumerate((0.49, 1.0, 2.0, 4.0, 8.0, 16.0)):  # until hardly anything is left
            if ledger.fits([DpEvent(sigma, 1.0, 1)]):
                spend(ledger, DpEvent(sigma, 1.0, 1), f"{number:064x}")
        after = ledger.head
    assert code(site.declare()) == "budget-exhausted"
    assert ledger.head == after  # a question costs nothing


def test_a_declaration_speaks_of_the_draft_that_it_carries(site: Site) -> None:
    reply = site.declare()
    assert isinstance(reply, Declared)
    assert reply.noise_multiplier == least_noise(site.sealed.manifest) == site.sealed.entry(SITE).noise_multiplier
    draft = site.sealed.manifest.canonical
    ask = Declare(study_id=site.sealed.manifest.study.id, nonce="0" * 64)
    assert code(site.ask(ask, b"")) == "malformed"
    assert code(site.ask(ask, draft.replace(b'"epsilon":3.0', b'"epsilon":3.00'))) == "malformed"
    assert code(site.ask(Declare(study_id="another", nonce="0" * 64), draft)) == "malformed"


# --- the charge comes first -----------------------------------------------------------------------------------------------


def own_data(site: Site, folder: Path, mark: str = "", patient: str = "") -> Path:
    """The site's data registered from a copy that a test may change; `mark` is put into names and a column of its own."""
    folder.mkdir(parents=True)
    csv, mapping = folder / f"{mark}data.csv", folder / f"{mark}map.toml"
    lines = (heart_folder() / f"{SITE}.csv").read_text().splitlines()
    text = (heart_folder() / f"{SITE}.mapping.toml").read_text()
    header = lines[0].split(",")
    text = text.replace(f'patient_id = "{header[0]}"', f'patient_id = "{mark}{header[0]}"')
    text = text.replace('from = "', f'from = "{mark}')
    rows = [f"{patient}{line},{mark}NOTE" for line in lines[1:]]
    csv.write_text("\n".join([",".join(mark + name for name in [*header, "notes"]), *rows]))
    mapping.write_text(text)
    datasets.register(site.home, site.sealed.manifest, csv, mapping, 0)
    site.decide("approved")
    return csv


@pytest.mark.parametrize("way", ["removed", "changed", "mapping"])
def test_the_charge_counts_before_data_is_read_and_changed_data_is_refused(
    site: Site, tmp_path: Path, way: str
) -> None:
    csv = own_data(site, tmp_path / "data")
    if way == "removed":
        csv.unlink()
    elif way == "changed":
        csv.write_text(csv.read_text() + "\n")
    else:
        (csv.parent / "map.toml").write_text((csv.parent / "map.toml").read_text() + "\n# changed")
    assert code(site.work()) == "data-changed"
    assert site.charges() == [(1, 1)]


def test_no_row_is_read_when_the_ledger_refuses(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(site.work(), Result)
    site.federation.restart(SITE)
    monkeypatch.setattr(datasets, "load", lambda *_: pytest.fail("data was read"))
    assert code(site.work()) == "already-charged"


def test_the_charge_is_durable_when_the_data_is_opened(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[tuple[int, int]]] = []
    real = datasets.load

    def load(home: SiteHome, dataset: datasets.Dataset, manifest: Manifest) -> object:
        seen.append(site.charges())  # through a connection of its own
        return real(home, dataset, manifest)

    monkeypatch.setattr(datasets, "load", load)
    assert isinstance(site.work(), Result)
    assert seen == [[(1, 1)]]


def test_a_charge_survives_the_node_s_death_and_is_not_made_twice(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Finder, "find", die)
        with pytest.raises(KeyboardInterrupt):
            site.work()
    site.federation.restart(SITE)
    assert site.charges() == [(1, 1)]
    assert code(site.work()) == "already-charged"
    assert isinstance(site.work(attempt=2), Result)


def test_an_answer_after_the_deadline_is_charged_once_and_the_next_attempt_anew(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node's process is stopped while it works (SIGSTOP), past the round's deadline, and goes on then."""

    def spent() -> float:
        with site.home.ledger(witnessed=False) as ledger:
            return ledger.spent()

    real, clock = Finder.find, site.federation.clock

    def stopped(*given: object) -> object:
        clock.sleep(3600)
        return real(*given)  # type: ignore[arg-type]

    before = spent()
    with monkeypatch.context() as patch:
        patch.setattr(Finder, "find", stopped)
        assert isinstance(site.work(), Result)
    late, once = site.raw, spent()
    assert once > before
    node = site.federation.transport.nodes[SITE]
    assert node(site.sent) == late  # it comes again: the same noise, no new draw
    assert (site.charges(), spent()) == ([(1, 1)], once)
    first = site.sent
    assert isinstance(site.work(attempt=2), Result)
    twice = spent()
    assert site.charges() == [(1, 1), (1, 2)]
    assert twice > once
    for sent in (
        first,
        site.sent,
    ):  # the attempt that was given up, and, after a restart, both: nothing is drawn for them
        site.federation.restart(SITE)
        reply, _ = messages.open_reply(site.federation.transport.nodes[SITE](sent), site.key)
        assert code(reply) == "already-charged"
    assert (site.charges(), spent()) == ([(1, 1), (1, 2)], twice)


def test_data_registered_again_is_what_trains_next(site: Site, tmp_path: Path) -> None:
    """Kept data is kept for one registration only; and the ledger goes on, whatever data is registered."""
    assert isinstance(site.work(), Result)
    csv = own_data(site, tmp_path / "data")
    csv.unlink()
    assert code(site.work(attempt=2)) == "data-changed"
    assert site.charges() == [(1, 1), (1, 2)]


# --- nothing else leaves ----------------------------------------------------------------------------------------------------

CANARY = "xQzCANARYzQx"


def test_no_canary_leaves_whatever_goes_wrong(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted in patients, cells, column names, file and folder names; then everything is made to fail in turn."""
    left: list[bytes] = []
    node = site.federation.transport.nodes[SITE]
    site.federation.transport.nodes[SITE] = lambda data: left.append(node(data)) or left[-1]
    csv = own_data(site, tmp_path / CANARY, mark=CANARY, patient=CANARY)
    good = csv.read_text()
    assert good.count(CANARY) > 400
    assert isinstance(site.declare(), Declared)
    assert isinstance(site.work(), Result)
    assert isinstance(site.work(round=3, evaluate=True), Result)

    broken = [
        good.replace(",", ";"),
        good.splitlines()[0],
        good + "\n" + good.splitlines()[1],
        good.replace(good.split(",")[1], f"{CANARY}gone", 1),
        good + f"\n{CANARY}," * 3,
        good.replace(good.splitlines()[1].split(",")[1], CANARY),
        "\0" + good,
        "",
    ]
    for number, text in enumerate(broken, start=2):
        csv.write_text(text)
        dataset = datasets.find(site.home, "heart-4-hospitals")
        forged = dataset.model_copy(update={"source_sha256": digest(text.encode()), "registered_at": number})
        path = site.home.path / "datasets" / "heart-4-hospitals.json"
        site.home.write(path, forged.model_dump_json().encode())
        assert isinstance(site.work(attempt=number), Refusal)
        assert isinstance(site.work(round=ROUNDS + 1, attempt=number, train=False, evaluate=True), Refusal)
    site.home.write(path, f'{{"csv": "{CANARY}"}}'.encode())
    assert code(site.work(attempt=50)) == "damaged"
    path.unlink()
    assert code(site.declare()) == "no-data"

    def fail(*_: object) -> None:
        raise ValueError(f"row 7 of {CANARY} has the value {CANARY}")

    monkeypatch.setattr(datasets, "find", fail)
    assert code(site.work(attempt=51)) == "internal-error"
    site.policy(f'[policy]\n{CANARY} = "{CANARY}"')
    assert code(site.declare()) == "bad-input"

    assert len(left) == 3 + 2 * len(broken) + 4
    forms = [
        CANARY.lower(),
        CANARY[::-1].lower(),
        CANARY.encode().hex(),
        base64.b64encode(CANARY.encode()).decode()[:14].lower(),
    ]
    for data in left:
        seen = data.lower()
        assert not any(form.encode() in seen for form in forms)
    assert CANARY in site.home.log_file.read_text()  # the hospital itself is told all of it


def test_a_refusal_is_a_code_and_a_reference_and_nothing_of_the_text(site: Site) -> None:
    (site.home.path / "datasets" / "heart-4-hospitals.json").unlink()
    reply = site.work()
    assert set(reply.model_dump()) == {
        "protocol",
        "body_sha256",
        "kind",
        "site",
        "request",
        "code",
        "blames",
        "reference",
    }
    text = str(site.logged()[-1]["text"])
    assert "fedward site register" in text
    assert b"register" not in site.raw


def test_two_refusals_cannot_be_linked_by_their_references(site: Site) -> None:
    first, second = site.work(study="0" * 64), site.work(study="0" * 64)
    assert isinstance(first, Refusal)
    assert isinstance(second, Refusal)
    assert first.reference != second.reference


def test_the_log_is_the_hospital_s_alone(site: Site) -> None:
    assert site.home.log_file.parent.stat().st_mode & 0o077 == 0


def test_replies_of_two_rounds_have_different_noise(site: Site) -> None:
    updates = []
    for attempt in (1, 2):
        assert isinstance(site.work(attempt=attempt), Result)
        updates.append(messages.floats_from_bytes(site.body, len(site.base), "u"))
    site.federation.restart(SITE)
    assert isinstance(site.work(attempt=3), Result)
    updates.append(messages.floats_from_bytes(site.body, len(site.base), "u"))
    assert not any(np.isclose(a, b, rtol=1e-6).any() for a, b in pairwise(updates))


def test_a_damaged_kept_proposal_is_refused(site: Site) -> None:
    path = site.home.path / "proposals" / f"{site.sealed.digest}.json"
    kept = site.home.read(path, "proposal").decode()
    for text in ("[]", "{}", '{"sealed": "x"}', "{"):
        site.home.write(path, text.encode())
        assert code(site.work()) in {"integrity", "bad-input"}
        path.write_text(text)
        assert code(site.work()) == "damaged"
    site.home.write(path, kept.replace('\\"rounds\\":3', '\\"rounds\\":9').encode())
    assert code(site.work()) == "bad-signature"
    other = path.with_name("f" * 64 + ".json")
    shutil.move(path, other)
    site.home.write(path, kept.encode())
    assert isinstance(site.work(), Result)
    assert site.charges() == [(1, 1)]
