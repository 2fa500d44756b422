"""The node under secure aggregation: its place, its slots, its charge, its memory of the last reply, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import Federation, heart_manifest
from secured import (
    SETUP,
    SLOT,
    Hand,
    Said,
    Truth,
    check_slots,
    context_of,
    decide,
    ready,
    secure_study,
    undecide,
    vector_of,
)

from fedward.client import datasets
from fedward.client.findings import Finder
from fedward.client.incidents import Incident, Incidents
from fedward.client.node import SiteNode
from fedward.privacy.canonical import digest
from fedward.privacy.secagg import SiteParty
from fedward.privacy.secagg.coordinator import OpenBatch
from fedward.server.exchanges import SecureExchange, SetupExchange
from fedward.study import messages
from fedward.study.heart import SITES
from fedward.study.messages import Advertise, Declare, Refusal, Secured, Work
from fedward.study.metrics import histogram_shape
from fedward.study.secure import batch_of, secure_terms
from fedward.study.vectors import vector_digest

SITE, ROUNDS = "va", 3


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("secure-node"))
    study = {"training": {"rounds": ROUNDS}, "evaluation": {"every": 2}, "privacy": {"spare_attempts": 12}}
    ready(federation, secure_study(**study))
    return federation


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedward.study.models.entry_points", lambda **_: ())  # the search for others' models takes long


@pytest.fixture
def hand(template: Federation, tmp_path: Path) -> Hand:
    return Hand(template.copy(tmp_path / "copy"))


def charges(hand: Hand, site: str = SITE) -> list[tuple[int, int, str]]:
    with hand.federation.sites[site].ledger(witnessed=False) as ledger:
        made = [entry.charge for entry in ledger.charges()]
    return [(charge.round, charge.attempt, charge.purpose) for charge in made]


def incidents(hand: Hand, site: str = SITE) -> list[Incident]:
    return Incidents(hand.federation.sites[site].incidents_folder).list()


def masked(hand: Hand, opened: OpenBatch, slot: int = 0, **changes: Any) -> Said:
    """The site's answer to a request for a masked vector; `body` is the base model's bytes."""
    body = changes.pop("body", messages.floats_to_bytes(hand.base))
    return hand.ask(SITE, hand.request(opened, slot, **changes), body)


def advertise(hand: Hand, **changes: Any) -> Said:
    fields = {"study": hand.sealed.digest, "batch": "b" * 32, "cohort": SITES, "threshold": 3, "slots": 4}
    return hand.ask(SITE, Advertise.model_validate(fields | changes))


# --- what is answered -------------------------------------------------------------------------------------------------------


def test_a_slot_sums_what_the_sites_found_and_charges_each_once(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = Truth(monkeypatch)
    opened = hand.set_up()
    exchange = hand.slot(opened, 0, round=3, evaluate=True)
    said = [one for stage in SLOT for one in hand.stage(exchange, stage, SITES)]
    found = exchange.gather(SITES)
    assert found.delta is not None
    np.testing.assert_array_equal(found.delta, truth.delta(1, SITES, hand.sealed))
    np.testing.assert_array_equal(found.counts, truth.counted(1, SITES))
    for site in SITES:
        assert charges(hand, site) == [(3, 1, "train"), (3, 1, "evaluate-without-dp")]
    check_slots(said)


def test_the_terms_come_from_the_approved_study(hand: Hand) -> None:
    opened = hand.set_up()
    said = masked(hand, opened)
    terms = secure_terms(hand.sealed, 4, dimension=len(hand.base), train=True, evaluate=False)
    context = context_of(said)
    assert context.terms == terms.ring.digest
    assert (context.slot, context.round, context.attempt, context.base.hex()) == (0, 1, 1, vector_digest(hand.base))
    assert len(vector_of(said)) == len(hand.base)


def test_a_masked_vector_shows_nothing_of_the_site_s(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uniform on the ring: each of its bits is set about half of the time, in two slots independently."""
    truth = Truth(monkeypatch)
    opened = hand.set_up()
    vectors = [vector_of(masked(hand, opened, slot, round=3, evaluate=True)) for slot in (0, 1)]
    assert len(vectors[0]) == len(hand.base) + int(np.prod(histogram_shape(hand.sealed.manifest)))
    for vector in (*vectors, vectors[0] ^ vectors[1]):
        bits = np.unpackbits(vector.view(np.uint8).reshape(-1, 4), axis=1)
        assert np.abs(bits.mean(axis=0) - 0.5).max() < 5.5 * 0.5 / np.sqrt(len(vector))
    assert not (vectors[0] == truth.encoded[SITE, 1]).any()
    assert not (truth.updates[SITE, 1] == truth.updates[SITE, 2]).any(), "the noise of one attempt served another"


# --- a reply that was lost ----------------------------------------------------------------------------------------------------


def conversation(hand: Hand) -> list[Said]:
    """All that the coordinator and the site say in a setup and a slot, each request sent twice in a row."""
    said: list[Said] = []
    members = tuple(hand.federation.sites)
    setup = SetupExchange(hand.sealed, batch_of(hand.sealed, "b" * 32, members, 3, 4), hand.identity)
    slot: SecureExchange | None = None
    for stage in (*SETUP, *SLOT):
        if stage == "masked":
            slot = hand.slot(setup.finish(), 0, round=3, evaluate=True)
        exchange = setup if slot is None else slot
        for site, payload in exchange.requests(stage, members).items():
            one = hand.tell(site, payload)
            if site == SITE:
                said.append(one)
                draft = hand.sealed.manifest
                hand.ask(SITE, Declare(study_id=draft.study.id, nonce="0" * 64), draft.canonical)
                said.append(hand.tell(site, payload))
            exchange.admit(site, stage, one.raw)
    assert slot is not None
    slot.gather(members)
    return said


def test_the_same_bytes_get_the_reply_that_they_got_and_no_second_charge(hand: Hand) -> None:
    said = conversation(hand)
    assert [one.kind for one in said] == [kind for kind in (*SETUP, *SLOT) for _ in range(2)]
    for first, again in zip(said[::2], said[1::2], strict=True):
        assert isinstance(first.reply, Secured)
        assert again.raw == first.raw
    assert charges(hand) == [(3, 1, "train"), (3, 1, "evaluate-without-dp")]
    assert incidents(hand) == []


def test_a_plain_round_is_remembered_as_well(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    federation.ready(heart_manifest(training={"rounds": 1}))
    hand = Hand(federation)
    fields = {"study": hand.sealed.digest, "round": 1, "attempt": 1, "base": vector_digest(hand.base),
              "dimension": len(hand.base), "train": True, "evaluate": False}  # fmt: skip
    first, again = (hand.ask(SITE, Work.model_validate(fields), messages.floats_to_bytes(hand.base)) for _ in range(2))
    assert first.code == ""
    assert again.raw == first.raw
    assert charges(hand) == [(1, 1, "train")]
    federation.restart(SITE)
    assert hand.tell(SITE, first.sent).code == "already-charged"
    assert charges(hand) == [(1, 1, "train")]


@pytest.mark.parametrize("kind", ["share", "open", "masked", "confirm", "unmask"])
def test_a_restarted_node_has_forgotten_its_batch_and_charges_nothing(hand: Hand, kind: str) -> None:
    said = {one.kind: one for one in conversation(hand)}
    before = charges(hand)
    hand.federation.restart(SITE)
    again = hand.tell(SITE, said[kind].sent)
    assert again.code == "unknown-batch"
    assert again.body == b""
    assert charges(hand) == before
    assert incidents(hand) == []


@pytest.mark.parametrize("restarted", [False, True], ids=["alive", "restarted"])
def test_a_new_batch_gives_no_second_vector_for_an_attempt_that_was_charged(hand: Hand, restarted: bool) -> None:
    assert masked(hand, hand.set_up(), 1).code == ""  # attempt 2
    if restarted:
        hand.federation.restart(SITE)
    other = hand.set_up(name="c" * 32)
    for slot, attempt in ((0, 2), (1, 1)):
        said = masked(hand, other, slot, attempt=attempt)
        assert said.code == "attempt-replayed"
        assert said.body == b""
    assert charges(hand) == [(1, 2, "train")]
    assert masked(hand, other, 2, attempt=3).code == ""
    assert charges(hand) == [(1, 2, "train"), (1, 3, "train")]


def second_study(hand: Hand) -> Hand:
    """Another study of the same sites, approved, with a batch of its own."""
    manifest = secure_study(study={"id": "another-study"}, training={"rounds": 1})
    ready(hand.federation, manifest)
    return Hand(hand.federation)


@pytest.mark.parametrize("kind", ["masked", "confirm", "unmask"])
def test_a_lost_reply_is_repeated_though_another_study_was_served_meanwhile(hand: Hand, kind: str) -> None:
    """A node serves all studies: their messages come in any order, and a reply of each may be lost."""
    other = second_study(hand)
    other_batch = other.set_up(name="d" * 32)
    opened = hand.set_up()
    exchange = hand.slot(opened)
    for stage in SLOT:
        said = {one.site: one for one in hand.stage(exchange, stage, SITES)}
        if stage == kind:
            break
    assert other.ask(SITE, other.request(other_batch), messages.floats_to_bytes(other.base)).code == ""
    again = hand.tell(SITE, said[SITE].sent)
    assert again.code == ""
    assert again.raw == said[SITE].raw
    assert [charge for charge in charges(hand) if charge == (1, 1, "train")] == [(1, 1, "train")] * 2  # one a study
    assert incidents(hand) == [], "an honest coordinator is accused"


def test_a_refusal_that_was_lost_and_asked_for_again_accuses_nobody(hand: Hand) -> None:
    """The request came, was charged and failed; its refusal was lost, and an honest coordinator sends it again."""
    opened = hand.set_up()
    lose_data(hand)
    first = masked(hand, opened)
    assert first.code == "data-changed"
    assert charges(hand) == [(1, 1, "train")]
    again = hand.tell(SITE, first.sent)
    assert isinstance(again.reply, Refusal)
    assert charges(hand) == [(1, 1, "train")]
    assert incidents(hand) == [], "an honest coordinator is accused"


def lose_data(hand: Hand) -> None:
    """The site's data is registered from a file that is gone."""
    home = hand.federation.sites[SITE]
    known = datasets.find(home, hand.sealed.manifest.study.id)
    path = home.path / "export.csv"
    path.write_bytes(Path(known.path).read_bytes())
    datasets.register(home, hand.sealed.manifest, path, Path(known.mapping), 0)
    path.unlink()


# --- refusals -------------------------------------------------------------------------------------------------------------------


def expired(hand: Hand, opened: OpenBatch) -> Said:
    hand.federation.clock.elapsed += hand.sealed.expires_at
    said = masked(hand, opened)
    hand.federation.clock.elapsed = 0
    return said


def undecided(hand: Hand, opened: OpenBatch) -> Said:
    undecide(hand.federation, SITE)
    said = masked(hand, opened)
    decide(hand.federation, SITE, "approved")
    return said


def refused(hand: Hand, opened: OpenBatch) -> Said:
    decide(hand.federation, SITE, "refused")
    said = masked(hand, opened)
    decide(hand.federation, SITE, "approved")
    return said


def under_policy(text: str) -> Callable[[Hand, OpenBatch], Said]:
    def ask(hand: Hand, opened: OpenBatch) -> Said:
        path = hand.federation.sites[SITE].policy_file
        before = path.read_text()
        path.write_text("[policy]\n" + text)
        said = masked(hand, opened)
        path.write_text(before)
        return said

    return ask


def nan_base(hand: Hand, opened: OpenBatch) -> Said:
    base = hand.base.copy()
    base[3] = np.nan
    return masked(hand, opened, body=base.tobytes(), base=digest(base.tobytes()))


REFUSED: dict[str, tuple[Callable[[Hand, OpenBatch], Said], str]] = {
    "undecided": (undecided, "not-approved"),
    "refused": (refused, "refused-here"),
    "expired": (expired, "expired"),
    "policy-epsilon": (under_policy("max_epsilon = 1.0"), "policy-epsilon"),
    "policy-patients": (under_policy("min_patients = 100_000"), "policy-patients"),
    "unknown-study": (lambda h, o: masked(h, o, study="0" * 64), "not-approved"),
    "unknown-batch": (lambda h, o: masked(h, o, batch="c" * 32), "unknown-batch"),
    "other-setup": (lambda h, o: masked(h, o, setup="0" * 64), "replayed"),
    "no-such-slot": (lambda h, o: masked(h, o, 4), "slot-used"),
    "wrong-base": (lambda h, o: masked(h, o, base="0" * 64), "wrong-base"),
    "other-base": (lambda h, o: masked(h, o, body=(h.base + 1).tobytes()), "wrong-base"),
    "short-base": (lambda h, o: masked(h, o, body=h.base.tobytes()[:-4]), "wrong-shape"),
    "nan-base": (nan_base, "not-finite"),
    "wrong-dimension": (lambda h, o: masked(h, o, dimension=len(h.base) + 1), "wrong-shape"),
    "unplanned-evaluation": (lambda h, o: masked(h, o, evaluate=True), "unplanned-work"),
    "nothing-asked": (lambda h, o: masked(h, o, train=False), "unplanned-work"),
    "later-round": (lambda h, o: masked(h, o, round=ROUNDS + 1), "unknown-round"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_takes_no_slot_and_no_charge_and_reads_no_data(
    hand: Hand, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    ask, code = REFUSED[case]
    opened = hand.set_up()
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load", lambda *_: pytest.fail("data was read"))
        said = ask(hand, opened)
    assert (said.code, said.body) == (code, b"")
    assert charges(hand) == []
    assert masked(hand, opened).code == ""  # the slot is still there
    assert charges(hand) == [(1, 1, "train")]


@pytest.mark.parametrize("kind", ["share", "open", "confirm", "unmask"])
def test_a_study_that_is_revoked_meanwhile_gets_nothing_more(hand: Hand, kind: str) -> None:
    """A person's word binds at once, also in the middle of a setup or of a sum."""
    members = tuple(hand.federation.sites)
    exchange: SetupExchange | SecureExchange
    exchange = SetupExchange(hand.sealed, batch_of(hand.sealed, "b" * 32, members, 3, 4), hand.identity)
    for stage in (*SETUP, *SLOT):
        if stage == "masked":
            assert isinstance(exchange, SetupExchange)
            exchange = hand.slot(exchange.finish(), 0)
        requests = exchange.requests(stage, members)
        if stage == kind:
            break
        for site, payload in requests.items():
            exchange.admit(site, stage, hand.tell(site, payload).raw)
    decide(hand.federation, SITE, "revoked")
    said = hand.tell(SITE, requests[SITE])
    assert (said.code, said.body) == ("revoked-here", b"")


def test_no_batch_no_vector(hand: Hand) -> None:
    opened = hand.set_up()
    hand.federation.restart(SITE)
    assert masked(hand, opened).code == "unknown-batch"
    assert charges(hand) == []


def test_a_batch_that_is_not_open_serves_no_slot(hand: Hand) -> None:
    opened = hand.set_up()
    assert advertise(hand, batch="c" * 32).code == ""
    assert masked(hand, opened, batch="c" * 32).code == "out-of-order"
    assert charges(hand) == []
    assert incidents(hand) == []


def test_an_update_is_never_asked_for_bare(hand: Hand) -> None:
    """However approved, charged or planned: under secure aggregation the plain request is a lie, and kept as evidence."""
    fields = {"study": hand.sealed.digest, "round": 1, "attempt": 1, "base": vector_digest(hand.base),
              "dimension": len(hand.base), "train": True, "evaluate": False}  # fmt: skip
    said = hand.ask(SITE, Work.model_validate(fields), messages.floats_to_bytes(hand.base))
    assert (said.code, said.body, said.reply.blames) == ("not-masked", b"", "coordinator")  # type: ignore[union-attr]
    assert charges(hand) == []
    (kept,) = incidents(hand)
    assert (kept.code, kept.stage, kept.blamed) == ("not-masked", "work", "coordinator")
    evidence = Incidents(hand.federation.sites[SITE].incidents_folder).evidence(kept.reference)
    assert evidence == said.sent


def test_a_plain_study_sets_up_no_batch(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    federation.ready(heart_manifest(training={"rounds": 1}))
    assert advertise(Hand(federation)).code == "not-secure"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"threshold": 2}, "threshold-too-low"),
        ({"cohort": SITES[2:]}, "cohort-size"),
        ({"cohort": (SITE,)}, "cohort-size"),
        ({"cohort": (*SITES[:3], "westward")}, "cohort-foreign"),
        ({"cohort": SITES[:3]}, "not-a-member"),
        ({"slots": 0}, "malformed"),
    ],
    ids=["threshold", "two sites", "one site", "a stranger", "without this site", "no slots"],
)
def test_a_batch_below_the_floors_is_a_lie_that_leaves_the_old_place_alone(
    hand: Hand, changes: dict[str, Any], code: str
) -> None:
    opened = hand.set_up()
    assert advertise(hand, **changes).code == code
    assert [one.code for one in incidents(hand)] == [code]
    assert masked(hand, opened).code == ""


# --- slot, charge, data: in this order ------------------------------------------------------------------------------------------


def test_the_slot_is_consumed_before_the_charge_and_the_charge_is_durable_before_data_is_read(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = hand.set_up()
    seen: list[str] = []
    take, charge, load, mask = SiteParty.take, SiteNode._charge, datasets.load, SiteParty.mask

    def spy(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            seen.append(f"{name} with {len(charges(hand))}")  # through a connection of its own
            return real(*arguments, **named)

        return call

    monkeypatch.setattr(SiteParty, "take", spy("take", take))
    monkeypatch.setattr(SiteNode, "_charge", spy("charge", charge))
    monkeypatch.setattr(datasets, "load", spy("load", load))
    monkeypatch.setattr(SiteParty, "mask", spy("mask", mask))
    assert masked(hand, opened).code == ""
    assert seen == ["take with 0", "charge with 0", "load with 1", "mask with 1"]


@pytest.mark.parametrize(("owner", "fails"), [(SiteNode, "_charge"), (Finder, "find")])
def test_a_slot_whose_attempt_failed_is_gone_and_the_next_one_serves(
    hand: Hand, monkeypatch: pytest.MonkeyPatch, owner: type, fails: str
) -> None:
    opened = hand.set_up()

    def fail(*_: object) -> None:
        raise ValueError("row 7 has the value 12")

    with monkeypatch.context() as patch:
        patch.setattr(owner, fails, fail)
        said = masked(hand, opened)
    assert (said.code, said.body) == ("internal-error", b"")
    before = [] if fails == "_charge" else [(1, 1, "train")]
    assert charges(hand) == before
    assert masked(hand, opened, 0, attempt=2).code == "slot-used"
    assert masked(hand, opened, 1, attempt=1).code == "attempt-replayed"
    assert charges(hand) == before
    assert masked(hand, opened, 1, attempt=2).code == ""
    assert charges(hand) == [*before, (1, 2, "train")]


def test_without_a_reservation_there_is_no_vector(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    ready(federation, secure_study(training={"rounds": 2}))
    hand = Hand(federation)
    opened = hand.set_up(slots=9)
    with federation.sites[SITE].ledger() as ledger:
        ledger.release(hand.sealed.digest, "expired", at=0)
    said = masked(hand, opened, 0)
    assert (said.code, said.body) == ("not-reserved", b"")
    assert charges(hand) == []


def test_attempts_beyond_the_plan_give_no_vector(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    ready(federation, secure_study(training={"rounds": 1}, privacy={"spare_attempts": 1}))
    hand = Hand(federation)
    opened = hand.set_up(slots=9)
    assert [masked(hand, opened, slot).code for slot in range(3)] == ["", "", "attempts-used-up"]
    codes = [masked(hand, opened, slot, round=2, train=False, evaluate=True).code for slot in range(3, 6)]
    assert codes == ["", "", "evaluations-used-up"]


# --- secrets and sums ------------------------------------------------------------------------------------------------------------


def test_no_secret_of_a_batch_touches_the_disk(hand: Hand) -> None:
    opened = hand.set_up()
    party = hand.federation.transport.nodes[SITE]._places.find(hand.sealed.digest, "b" * 32).party  # type: ignore[attr-defined]
    secrets = [*party._secrets.seeds, *party._secrets.masks, *(s for held in party._secrets.held for s in held.shares)]
    kept = [bytes(secret) for secret in secrets]
    assert len(kept) == 2 * 4 + 4 * 2 * 4
    exchange = hand.slot(opened, 0, round=3, evaluate=True)
    for stage in SLOT:
        hand.stage(exchange, stage, SITES)
    for home in (hand.federation.home.path, *(home.path for home in hand.federation.sites.values())):
        for path in (path for path in home.rglob("*") if path.is_file()):
            data = path.read_bytes()
            assert not any(secret in data or secret.hex().encode() in data for secret in kept), path


@pytest.mark.parametrize("remembered", ["in memory", "on disk"])
def test_counts_are_opened_for_one_set_of_sites(hand: Hand, remembered: str) -> None:
    opened = hand.set_up()
    exchange = hand.slot(opened, 0, round=3, evaluate=True)
    for stage in SLOT:
        hand.stage(exchange, stage, SITES)
    record = hand.federation.sites[SITE].opened_folder / f"{hand.sealed.digest}.jsonl"
    assert [json.loads(line) for line in record.read_text().splitlines()] == [
        {"base": vector_digest(hand.base), "sites": list(SITES)}
    ]
    if remembered == "on disk":
        for site in SITES:
            hand.federation.restart(site)
        opened = hand.set_up(name="c" * 32)
    fewer = hand.slot(opened, 1, round=3, evaluate=True)
    hand.stage(fewer, "masked", SITES[1:])
    for site, payload in fewer.requests("confirm", SITES[1:]).items():
        assert hand.tell(site, payload).code == "differencing"
    assert incidents(hand) == []
    noised = hand.slot(opened, 2, round=3, evaluate=False)
    for stage in SLOT:
        hand.stage(noised, stage, SITES[1:])
    assert noised.gather(SITES[1:]).delta is not None
    again = hand.slot(opened, 3, round=3, evaluate=True)
    for stage in SLOT:
        hand.stage(again, stage, SITES)
    assert again.gather(SITES).counts is not None


def test_a_site_whose_disk_is_full_reveals_no_share(hand: Hand) -> None:
    opened = hand.set_up()
    exchange = hand.slot(opened, 0, round=3, evaluate=True)
    hand.stage(exchange, "masked", SITES)
    hand.stage(exchange, "confirm", SITES)
    folder = hand.federation.sites[SITE].opened_folder
    folder.write_text("in the way")  # as a disk that takes nothing
    said = hand.tell(SITE, exchange.requests("unmask", SITES)[SITE])
    assert (said.code, said.body) == ("disk", b"")
    folder.unlink()
    assert hand.tell(SITE, said.sent).body == b"", "shares left that were refused before"
    hand.stage(exchange, "unmask", SITES[:3])
    assert exchange.gather(SITES).counts is not None  # the others suffice
