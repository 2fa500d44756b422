"""A coordinator who lies: it holds its own keys and may send anything. Each test is one attack on a hospital."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from federation import APPROVER, Federation, decide, heart_manifest, key_of
from hospital import SITE, Site, code

from fedward.client import approvals, datasets
from fedward.client.decisions import load
from fedward.client.statements import Approve, Chain, Link, next_link
from fedward.privacy.canonical import canonical_json, digest
from fedward.privacy.errors import IntegrityError, RefusalError
from fedward.privacy.ledger import Budget
from fedward.privacy.signing import Identity, to_text
from fedward.study import messages
from fedward.study.heart import heart_folder
from fedward.study.manifest import SealedManifest
from fedward.study.messages import Refusal, Reply, Result, Standing, Work
from fedward.study.versions import PROTOCOL

ROUNDS = 2


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("attacked"), sites=("cleveland", "hungarian", SITE))
    federation.ready(heart_manifest(training={"rounds": ROUNDS}))
    return federation


@pytest.fixture
def site(template: Federation, tmp_path: Path) -> Site:
    return Site(template.copy(tmp_path / "copy"))


def swapped(sealed: SealedManifest, **changes: object) -> SealedManifest:
    """The sealed study with something of it changed, as its coordinator could seal it anew."""
    return SealedManifest.model_validate_json(json.dumps(sealed.model_dump(mode="json") | changes))


def weaker(sealed: SealedManifest) -> SealedManifest:
    """Alike in everything that people look at, with a hundredth of the noise."""
    roster = [entry.model_dump() for entry in sealed.roster]
    for entry in roster:
        entry["noise_multiplier"] /= 100
    return swapped(sealed, roster=roster)


def raw(site: Site, header: dict[str, object], body: bytes) -> Reply:
    """Any header at all, rightly framed and signed."""
    text = canonical_json({"protocol": PROTOCOL} | header | {"body_sha256": digest(body)})
    framed = b"FWD1" + struct.pack(">I", len(text)) + text + body
    data = framed + site.coordinator.sign("message", framed)
    return messages.open_reply(site.federation.transport.nodes[SITE](data), site.key)[0]


def event_charged(site: Site) -> float:
    with site.home.ledger(witnessed=False) as ledger:
        event = ledger.charges()[-1].charge.event
    assert event is not None
    return event.noise_multiplier


# --- terms ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "term",
    [
        {"noise_multiplier": 0.01},
        {"clipping_norm": 1e9},
        {"sampling_rate": 1.0},
        {"steps": 1000},
        {"epsilon": 1e9},
        {"learning_rate": 1e6},
        {"manifest": "{}"},
    ],
)
def test_terms_slipped_into_a_request_are_refused_not_ignored(site: Site, term: dict[str, object]) -> None:
    body = messages.floats_to_bytes(site.base)
    header: dict[str, object] = {
        "kind": "work",
        "study": site.sealed.digest,
        "round": 1,
        "attempt": 1,
        "base": digest(body),
        "dimension": len(site.base),
        "train": True,
        "evaluate": False,
    }
    assert code(raw(site, header | term, body)) == "malformed"
    assert site.charges() == []
    assert isinstance(raw(site, header, body), Result)  # the same without the term is answered


@pytest.mark.parametrize("dimension", [1, 38, 40, 200_000_000])
def test_a_request_with_another_dimension_is_refused(site: Site, dimension: int) -> None:
    assert code(site.work(dimension=dimension)) == "wrong-shape"
    body = np.zeros(min(dimension, 1000), dtype=np.float32).tobytes()
    assert code(site.work(dimension=dimension, body=body, base=digest(body))) == "wrong-shape"
    assert site.charges() == []


def test_the_noise_is_that_of_the_approved_manifest_whatever_else_was_proposed(site: Site) -> None:
    assert isinstance(site.offer(weaker(site.sealed)), Standing)
    assert isinstance(site.work(), Result)
    assert event_charged(site) == site.sealed.entry(SITE).noise_multiplier


# --- the manifest swapped after its approval ----------------------------------------------------------------------------------


def test_a_manifest_swapped_after_approval_needs_another_approval(site: Site) -> None:
    other = weaker(site.sealed)
    reply = site.offer(other)
    assert isinstance(reply, Standing)
    assert reply.state == "pending"
    assert code(site.work(study=other.digest)) == "not-approved"
    assert site.charges() == []


def put_in_place(site: Site, source: Path, target: Path) -> None:
    """As somebody would who has the home's key: one file's content under another file's name."""
    site.home.write(target, site.home.read(source, "file"))


def test_a_manifest_put_in_the_place_of_the_approved_one_is_refused(site: Site) -> None:
    """Somebody with write access to the proposals, and the coordinator's signature, but not the site's key."""
    other = weaker(site.sealed)
    site.offer(other)
    folder = site.home.path / "proposals"
    put_in_place(site, folder / f"{other.digest}.json", folder / f"{site.sealed.digest}.json")
    assert code(site.work()) == "integrity"
    assert site.charges() == []


def forge(site: Site, study: str, *, signer: Identity, sealer: Identity, by: str = APPROVER) -> None:
    """One more link in the file of decisions, as somebody would write it who has the home's encryption key and these keys."""
    path, decisions = site.home.decisions_file, load(site.home)
    real = next(link.what for link in decisions.links if isinstance(link.what, Approve))
    what = real.model_copy(update={"study": study})
    link = next_link(decisions.links, what, by=by, at=1, site=SITE, identity=sealer, signer=signer)
    link = link.model_copy(update={"site_key": site.key})
    site.home.write(path, Chain(links=(*decisions.links, link)).model_dump_json().encode())


def test_an_approval_replayed_for_another_digest_is_refused(site: Site) -> None:
    other = weaker(site.sealed)
    site.offer(other)
    path = site.home.decisions_file
    whole = site.home.read(path, "decisions")
    site.home.write(path, whole.replace(site.sealed.digest.encode(), other.digest.encode()))
    assert code(site.work(study=other.digest)) == "bad-signature"
    links = load_links(whole)
    moved = Chain(links=(*links, links[-1].model_copy(update={"sequence": len(links) + 1})))
    site.home.write(path, moved.model_dump_json().encode())
    assert code(site.work(study=other.digest)) == "bad-approval"
    assert site.charges() == []


def load_links(data: bytes) -> tuple[Link, ...]:
    return Chain.model_validate_json(data).links


def test_a_coordinator_cannot_approve_for_the_site(site: Site) -> None:
    other = weaker(site.sealed)
    site.offer(other)
    forge(site, other.digest, signer=site.coordinator, sealer=site.coordinator)
    assert code(site.work(study=other.digest)) == "bad-signature"


def test_the_site_s_own_key_approves_nothing(site: Site) -> None:
    """The program's key seals, people's keys approve: who has the machine alone cannot."""
    other = weaker(site.sealed)
    site.offer(other)
    forge(site, other.digest, signer=site.home.identity(), sealer=site.home.identity())
    assert code(site.work(study=other.digest)) == "bad-approval"


def test_a_site_s_signed_reply_is_no_approval(site: Site) -> None:
    """Signatures are bound to their purpose: nothing that a node signs for the network can serve as a decision."""
    other = weaker(site.sealed)
    site.offer(other)
    forge(site, other.digest, signer=key_of(site.home), sealer=site.home.identity())
    path = site.home.decisions_file
    links = load_links(site.home.read(path, "decisions"))
    seal = to_text(site.home.identity().sign("message", links[-1].sealed_bytes()))
    forged = Chain(links=(*links[:-1], links[-1].model_copy(update={"seal": seal})))
    site.home.write(path, forged.model_dump_json().encode())
    assert code(site.work(study=other.digest)) == "bad-signature"


def test_a_refusal_stays_whatever_is_offered_again(site: Site) -> None:
    site.decide("refused")
    for _ in range(2):
        reply = site.offer(site.sealed)
        assert isinstance(reply, Standing)
        assert reply.state == "refused"
    assert code(site.work()) == "refused-here"


# --- the roster -----------------------------------------------------------------------------------------------------------------


def test_a_roster_with_this_site_s_key_swapped_is_refused(site: Site) -> None:
    roster = [entry.model_dump() for entry in site.sealed.roster]
    roster[-1]["identity_key"] = Identity.generate().public
    assert code(site.offer(swapped(site.sealed, roster=roster))) == "foreign-key"


def test_a_roster_with_another_site_s_key_swapped_is_another_study(site: Site) -> None:
    """The coordinator plays a hospital itself: what people approved names the real one's key."""
    roster = [entry.model_dump() for entry in site.sealed.roster]
    roster[0]["identity_key"] = Identity.generate().public
    other = swapped(site.sealed, roster=roster)
    site.offer(other)
    assert other.digest != site.sealed.digest
    assert code(site.work(study=other.digest)) == "not-approved"


def test_a_roster_that_declares_another_cohort_is_another_study(site: Site) -> None:
    """With a larger N₀ this site's weight, with a smaller one its step, would be another."""
    roster = [entry.model_dump() for entry in site.sealed.roster]
    roster[-1]["declared_patients"] = 1
    other = swapped(site.sealed, roster=roster)
    site.offer(other)
    assert code(site.work(study=other.digest)) == "not-approved"


# --- other coordinators -----------------------------------------------------------------------------------------------------------


def test_a_proposal_by_another_coordinator_is_refused_and_not_kept(site: Site) -> None:
    stranger = Identity.generate()
    theirs = swapped(site.sealed, coordinator_key=stranger.public)
    before = len(approvals.proposals(site.home))
    assert code(site.offer(theirs, stranger)) == "bad-signature"
    assert code(site.offer(theirs)) == "foreign-study"  # signed by ours, but another's
    assert code(site.offer(site.sealed, stranger)) == "bad-signature"
    assert len(approvals.proposals(site.home)) == before


def test_a_message_s_signature_is_no_manifest_s(site: Site) -> None:
    other = weaker(site.sealed)
    signature = site.coordinator.sign("message", other.canonical)
    with pytest.raises(IntegrityError):
        approvals.receive(site.home, other.canonical, signature)


@pytest.mark.parametrize("request_", ["declare", "offer", "work"])
def test_every_kind_of_request_needs_the_coordinator_s_signature(site: Site, request_: str) -> None:
    site.coordinator = Identity.generate()
    ask = {
        "declare": site.declare,
        "offer": lambda: site.offer(site.sealed, site.federation.home.identity()),
        "work": site.work,
    }
    assert code(ask[request_]()) == "bad-signature"
    assert site.charges() == []


# --- replays ----------------------------------------------------------------------------------------------------------------------


def test_a_request_replayed_is_charged_once_and_answered_once(site: Site) -> None:
    """Two releases of one sum under one charge would halve the noise."""
    assert isinstance(site.work(), Result)
    node, first = site.federation.transport.nodes[SITE], site.raw
    for _ in range(3):
        assert node(site.sent) == first  # the same bytes say nothing new
    site.federation.restart(SITE)
    reply, _ = messages.open_reply(site.federation.transport.nodes[SITE](site.sent), site.key)
    assert code(reply) == "already-charged"
    assert site.charges() == [(1, 1)]


def test_an_attempt_replayed_with_another_base_is_refused(site: Site) -> None:
    assert isinstance(site.work(), Result)
    other = (site.base + 1).tobytes()
    assert code(site.work(body=other, base=digest(other))) == "already-charged"
    assert site.charges() == [(1, 1)]


def test_an_attempt_is_not_free_because_its_data_was_registered_again(site: Site) -> None:
    assert isinstance(site.work(), Result)
    folder = heart_folder()
    manifest = site.sealed.manifest
    datasets.register(site.home, manifest, folder / f"{SITE}.csv", folder / f"{SITE}.mapping.toml", 99)
    site.federation.restart(SITE)  # the first reply is forgotten
    assert code(site.work()) == "already-charged"
    assert isinstance(site.work(attempt=2), Result)
    assert site.charges() == [(1, 1), (1, 2)]


def test_all_attempts_and_rounds_together_stay_within_the_plan(site: Site) -> None:
    """Asking for round 1 for ever, or for every pair of numbers, gives no more than was approved."""
    done = 0
    for attempt in range(1, 6):
        for round_ in (1, 2):
            done += isinstance(site.work(round=round_, attempt=attempt), Result)
    assert done == site.sealed.manifest.planned_attempts == len(site.charges())
    with site.home.ledger(witnessed=False) as ledger:
        assert ledger.spent() <= site.sealed.manifest.privacy.epsilon  # type: ignore[operator]


def test_a_study_proposed_again_opens_no_fresh_budget(tmp_path: Path) -> None:
    """Each study keeps its ε; the lifetime budget is the hospital's, whatever digests its coordinator makes."""
    federation = Federation(tmp_path, sites=("cleveland", "hungarian", SITE), budget=Budget(4.0, 1e-3))
    federation.ready(heart_manifest(training={"rounds": ROUNDS}))
    site, codes = Site(federation), set()
    for again in range(3):
        sealed = swapped(site.sealed, sealed_at=site.sealed.sealed_at + again)
        site.offer(sealed)
        try:
            decide(site.home, sealed, "approved", site.federation.clock.unix())
        except RefusalError as error:
            codes.add(error.code)
        for attempt in range(1, sealed.manifest.planned_attempts + 1):
            reply = site.work(study=sealed.digest, attempt=attempt)
            codes.add(reply.code if isinstance(reply, Refusal) else "trained")
    assert codes == {"trained", "budget-exhausted", "not-approved"}
    with site.home.ledger(witnessed=False) as ledger:
        assert ledger.spent() <= 4.0


# --- what it can learn ------------------------------------------------------------------------------------------------------------


def test_a_base_made_to_single_out_a_patient_moves_the_sum_by_no_more_than_the_norm(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the base, what a round releases is a clipped sum with the approved noise."""
    seen: list[float] = []
    draws = site.federation.transport.nodes[SITE]._finder._draws  # type: ignore[attr-defined]
    real = draws.gaussian

    def gaussian(shape: tuple[int, ...], sigma: float) -> np.ndarray:
        seen.append(sigma)
        return np.asarray(real(shape, sigma) * 0)

    monkeypatch.setattr(draws, "gaussian", gaussian)
    spike = np.zeros(len(site.base), dtype=np.float32)
    spike[3] = 1e4
    assert isinstance(site.work(body=spike.tobytes(), base=digest(spike.tobytes())), Result)
    update = messages.floats_from_bytes(site.body, len(spike), "u").astype(float)
    privacy, entry = site.sealed.manifest.privacy, site.sealed.entry(SITE)
    assert set(seen) == {site.sealed.entry(SITE).noise_multiplier * privacy.clipping_norm}
    patients = datasets.find(site.home, "heart-4-hospitals").patients
    expected = entry.declared_patients * (1 - site.sealed.manifest.training.holdout)
    assert np.linalg.norm(update) * expected <= privacy.clipping_norm * patients


def test_no_request_tells_which_studies_a_site_has_data_for_beyond_its_own_code(site: Site) -> None:
    """An unknown study is refused by the same code whether it was proposed, refused elsewhere, or never heard of."""
    replies = [site.work(study=digest(bytes([i]))) for i in range(3)]
    assert {code(reply) for reply in replies} == {"not-approved"}
    reply = site.declare("unknown")
    assert code(reply) == "no-data"


def test_a_work_request_made_for_one_attempt_fits_no_other_kind(site: Site) -> None:
    data = messages.pack(
        Work(study=site.sealed.digest, round=1, attempt=1, base="0" * 64, dimension=1, train=True, evaluate=False),
        b"",
        site.coordinator,
    )
    turned = data.replace(b'"kind":"work"', b'"kind":"offe"')
    reply, _ = messages.open_reply(site.federation.transport.nodes[SITE](turned), site.key)
    assert code(reply) == "bad-signature"
