"""A coordinator that lies about keys, cohorts, survivors, models and times, over the real SuperLink and real TLS.

Each test is one of the checks of the page SECURE-AGGREGATION, 1 to 7, and is named after its attack. What a coordinator slips
into requests stands in `test_secure_aggregation_content.py` (8, 9, 12, 13), lying and silent sites, restarts and restored disks
in `test_secure_aggregation_faults.py` (10, 11, 14).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from command import good
from evil import Evil, Setup, Slot, Study, caught, forgiven, refused
from loopback import Loopback

from fedward.privacy.canonical import digest
from fedward.privacy.secagg import ProtocolError, wire
from fedward.privacy.secagg.derivations import self_key
from fedward.privacy.secagg.masks import apply
from fedward.privacy.secagg.shamir import coefficients, combine, to_element
from fedward.privacy.signing import Identity
from fedward.study import messages
from fedward.study.heart import SITES
from fedward.study.messages import Secured, Work
from fedward.study.vectors import vector_digest
from fedward.study.versions import PROTOCOL

pytestmark = pytest.mark.federation

CLEVELAND, HUNGARIAN, SWITZERLAND, COLLUDER = SITES
HONEST = SITES[:3]


@pytest.fixture(scope="module")
def evil(loopback: Loopback) -> Iterator[Evil]:
    evil = Evil(loopback)
    yield evil
    evil.close()


@pytest.fixture(scope="module")
def study(evil: Evil) -> Study:
    """Four sites, t = 3, quorum 3. Round 2 trains, with or without an evaluation; 900 attempts may be wasted."""
    study = evil.study("attacked", training={"rounds": 2}, evaluation={"every": 1}, privacy={"spare_attempts": 900})
    study.round = 2
    return study


@pytest.fixture(scope="module")
def strict(evil: Evil, study: Study) -> Study:
    """The same with a quorum of four, above t."""
    strict = evil.quorum_of(study, 4)
    strict.round = 2
    return strict


@pytest.fixture(scope="module")
def past(study: Study) -> Slot:
    """A confirmed slot of a batch that the study has left since."""
    slot = study.ready().slot().until_confirmed()
    study.now = None
    return slot


@pytest.fixture
def setup(past: Slot, study: Study) -> Setup:
    """The study's open batch."""
    return study.ready()


# --- 1: key substitution ----------------------------------------------------------------------------------------------------


def advert_of(setup: Setup, site: str, signer: Identity) -> bytes:
    """Keys of the coordinator's own in a site's name."""
    keys = wire.Advert(b"\x09" + bytes(31), tuple(bytes([9, slot]) + bytes(30) for slot in range(setup.batch.slots)))
    return wire.seal_advert(setup.batch, setup.index(site), keys, signer)


def test_a_key_substituted_in_an_advert_is_refused_whoever_signs_it(evil: Evil, study: Study) -> None:
    setup = study.begin()
    setup.advertise()
    signers = {"coordinator": evil.identity, "colluder": evil.colluder(COLLUDER), "stranger": Identity.generate()}

    def with_another_key(signer: Identity) -> Callable[[str], bytes]:
        def made(victim: str) -> bytes:
            adverts, target = setup.adverts(), setup.index(HUNGARIAN if victim == CLEVELAND else CLEVELAND)
            adverts[target] = advert_of(setup, setup.members[target], signer)
            return setup.packed("share", b"".join(adverts))

        return made

    for said in evil.spread({name: with_another_key(signer) for name, signer in signers.items()}, HONEST).values():
        caught(evil, said, "key-substituted")
    setup.share()  # the honest adverts are still taken: nothing was dealt to the false ones


def test_a_site_s_own_keys_changed_on_their_way_back_are_refused(evil: Evil, study: Study) -> None:
    """The coordinator lets the site advertise twice, and gives it back what it signed first."""
    setup = study.begin()
    setup.advertise()
    first = setup.adverts()
    assert evil.ask(CLEVELAND, study.advertise()).code == ""  # else the same request would get the same reply
    again = evil.tell_one(CLEVELAND, setup.said["advertise"][CLEVELAND].sent)
    assert again.code == ""
    assert again.body != first[0]
    caught(evil, setup.step("share", CLEVELAND, b"".join(first)), "key-substituted")


def test_different_keys_of_one_site_for_different_peers_open_no_batch(evil: Evil, study: Study) -> None:
    """Both adverts are truly signed; who was dealt to under one does not open boxes of who dealt under the other."""
    setup = study.begin()
    setup.advertise()
    one = setup.adverts()
    assert evil.ask(COLLUDER, study.advertise()).code == ""
    other = [*one[:3], evil.tell_one(COLLUDER, setup.said["advertise"][COLLUDER].sent).body]
    views = {CLEVELAND: one, HUNGARIAN: one, SWITZERLAND: other, COLLUDER: other}
    shared = evil.tell({site: setup.packed("share", b"".join(view)) for site, view in views.items()})
    parts = [wire.split_shares(setup.batch, shared[site].body, site) for site in SITES]

    def delivered(site: str) -> bytes:
        me = setup.index(site)
        boxes = [boxes[me - (me > dealer)] for dealer, (_, boxes) in enumerate(parts) if dealer != me]
        return setup.packed("open", wire.join_delivery([roots for roots, _ in parts], boxes))

    for said in evil.tell({site: delivered(site) for site in SITES}).values():
        caught(evil, said, "adverts-unequal")


def test_a_colluder_s_key_of_small_order_is_refused(evil: Evil, study: Study) -> None:
    """With it every peer's pairwise mask would be known to everyone."""
    setup = study.begin()
    setup.advertise()
    weak = wire.Advert(b"\x01" + bytes(31), (bytes(32),) * setup.batch.slots)
    adverts = [*setup.adverts()[:3], wire.seal_advert(setup.batch, 3, weak, evil.colluder(COLLUDER))]
    for said in evil.tell({site: setup.packed("share", b"".join(adverts)) for site in HONEST}).values():
        caught(evil, said, "weak-key", COLLUDER)


# --- 2: thresholds and cohorts ----------------------------------------------------------------------------------------------


FLOORS: dict[str, tuple[dict[str, object], str]] = {
    "threshold-two-of-four": ({"threshold": 2}, "threshold-too-low"),
    "threshold-one": ({"threshold": 1}, "threshold-too-low"),
    "threshold-none": ({"threshold": 0}, "threshold-too-low"),
    "threshold-beyond-the-cohort": ({"threshold": 5}, "threshold-too-low"),
    "threshold-two-of-three": ({"threshold": 2, "cohort": "three"}, "threshold-too-low"),
    "two-sites": ({"threshold": 2, "cohort": "two"}, "cohort-size"),
    "one-site": ({"threshold": 1, "cohort": "alone"}, "cohort-size"),
    "a-site-twice": ({"cohort": "twice"}, "cohort-foreign"),
    "a-site-not-in-the-roster": ({"cohort": (*HONEST, "zurich")}, "cohort-foreign"),
    "a-sybil-for-a-site": ({"cohort": ("another", *HONEST)}, "cohort-foreign"),
    "not-in-roster-order": ({"cohort": SITES[::-1]}, "cohort-foreign"),
    "without-the-site-itself": ({"cohort": "others"}, "not-a-member"),
    "no-slots": ({"slots": 0}, "malformed"),
}


def cohort_for(site: str, wanted: object) -> object:
    """A cohort with the site that is asked, in roster order."""
    others = [name for name in SITES if name != site]
    named = {
        "alone": {site}, "two": {site, others[0]}, "three": {site, *others[:2]}, "others": set(others),
    }  # fmt: skip
    if wanted == "twice":
        return (site, site, *others[:2])
    return tuple(name for name in SITES if name in named[wanted]) if isinstance(wanted, str) else wanted


def test_a_batch_below_the_floors_is_refused_before_training(evil: Evil, study: Study, setup: Setup) -> None:
    before = study.all_charges()
    requests: dict[tuple[str, str], str] = {}

    def asking(name: str) -> Callable[[str], bytes]:
        def made(site: str) -> bytes:
            changes = FLOORS[name][0]
            if "cohort" in changes:
                changes = changes | {"cohort": cohort_for(site, changes["cohort"])}
            request = study.advertise(**changes)
            requests[name, site] = request.batch
            return messages.pack(request, b"", evil.identity)

        return made

    said = evil.spread({name: asking(name) for name in FLOORS})
    for name, (_, code) in FLOORS.items():
        caught(evil, said[name], code)
    header = setup.slot().header()
    later = evil.spread(
        {name: evil.raw(header | {"batch": batch}, study.base.tobytes())
         for (name, _), batch in list(requests.items())[:4]}
    )  # fmt: skip
    for one in later.values():
        forgiven(evil, one, "unknown-batch")
    assert study.all_charges() == before
    assert setup.slot().masked([CLEVELAND])[CLEVELAND].code == ""  # the batch that was there is as it was


def test_a_cohort_below_the_study_s_quorum_is_refused_before_training(evil: Evil, strict: Study) -> None:
    before = strict.all_charges()
    for site, said in evil.tell(
        {site: messages.pack(strict.advertise(cohort=HONEST), b"", evil.identity) for site in HONEST}
    ).items():
        caught(evil, said, "cohort-size")
        assert strict.charges(site) == before[site]


# --- 3: one peer as survivor and as dropped ----------------------------------------------------------------------------------


def test_a_peer_asked_for_as_survivor_and_as_dropped_gives_up_one_secret_at_most(evil: Evil, setup: Setup) -> None:
    """With both, its vector lies open. The colluder signs both sets; each honest site signs one."""
    slot = setup.slot()
    slot.masked()
    without = tuple(site for site in SITES if site != SWITZERLAND)
    slot.confirm([CLEVELAND, SWITZERLAND])
    other = setup.step("confirm", HUNGARIAN, slot.survivors(without))
    assert isinstance(other.reply, Secured)
    caught(evil, setup.step("confirm", CLEVELAND, slot.survivors(without)), "second-survivor-set")
    caught(evil, setup.step("confirm", HUNGARIAN, slot.survivors(SITES)), "second-survivor-set")

    a, c = slot.signatures([CLEVELAND, SWITZERLAND])
    shown = slot.confirmed(SITES, [a, c, slot.signed(COLLUDER, SITES)])
    seeds = setup.step("unmask", CLEVELAND, shown)  # as a survivor: its seed's share
    assert wire.open_reveal(setup.batch, 0, seeds.body, slot.context).survivors == setup.indexes(SITES)

    b, d = other.body, slot.signed(COLLUDER, without)
    forged = slot.signed(CLEVELAND, without, evil.colluder(COLLUDER))
    for victim, signatures, code in (
        (HUNGARIAN, [b, d], "confirmations-too-few"),
        (HUNGARIAN, [a, b, d], "survivors-unequal"),
        (HUNGARIAN, [forged, b, d], "bad-signature"),
        (HUNGARIAN, [b, d, d], "signers-not-distinct"),
        (CLEVELAND, [a, b, d], "second-unmask"),
        (SWITZERLAND, [a, b, d], "survivors-unequal"),
    ):  # as a dropped one: its mask key's share, which nobody gives
        caught(evil, setup.step("unmask", victim, slot.confirmed(without, signatures)), code)
    refused(setup.step("unmask", HUNGARIAN, shown), "survivors-unequal")


# --- 4: a second unmask -------------------------------------------------------------------------------------------------------


def test_a_slot_is_not_unmasked_a_second_time_nor_for_another_set(evil: Evil, setup: Setup) -> None:
    slot = setup.slot()
    slot.run()
    first = slot.said["unmask"][CLEVELAND]
    assert evil.tell_one(CLEVELAND, first.sent).raw == first.raw  # the same bytes say nothing new
    signatures = slot.signatures(SITES)
    caught(evil, setup.step("unmask", CLEVELAND, slot.confirmed(SITES, signatures[:3])), "second-unmask")
    without = tuple(site for site in SITES if site != SWITZERLAND)
    shown = [slot.signed(site, without) for site in without]  # even if all of them played along
    caught(evil, setup.step("unmask", CLEVELAND, slot.confirmed(without, shown)), "second-unmask")
    setup.slot().masked([CLEVELAND])
    forgiven(evil, setup.step("unmask", CLEVELAND, slot.confirmed(SITES, signatures[1:])), "replayed")


# --- 5: survivor sets ---------------------------------------------------------------------------------------------------------


def test_a_false_survivor_set_is_signed_by_nobody(evil: Evil, setup: Setup) -> None:
    slot = setup.slot()
    slot.masked()
    head = slot.context.digest
    others = {site: tuple(name for name in SITES if name != site) for site in SITES}
    cases: dict[str, tuple[bytes | Callable[[str], bytes], str]] = {
        "a-fifth-site": (head + b"\x1f", "survivors-not-in-cohort"),
        "the-last-bit": (head + b"\x8f", "survivors-not-in-cohort"),
        "two-of-four": (lambda site: slot.survivors([site, others[site][0]]), "survivors-too-few"),
        "itself-alone": (lambda site: slot.survivors([site]), "survivors-too-few"),
        "without-the-site": (lambda site: slot.survivors(others[site]), "not-a-survivor"),
        "nobody": (slot.survivors([]), "not-a-survivor"),
        "a-longer-bitmap": (head + b"\x0f\x00", "malformed"),
        "no-bitmap": (head, "malformed"),
    }

    def confirming(body: bytes | Callable[[str], bytes]) -> Callable[[str], bytes]:
        return lambda site: setup.packed("confirm", body if isinstance(body, bytes) else body(site))

    said = evil.spread({name: confirming(body) for name, (body, _) in cases.items()})
    for name, (_, code) in cases.items():
        caught(evil, said[name], code)
    slot.confirm()  # no set was signed in this slot yet
    assert sorted(slot.core.confirmations) == sorted(slot.signatures(SITES))


def test_a_survivor_set_under_the_quorum_is_signed_by_nobody_though_it_reaches_t(evil: Evil, strict: Study) -> None:
    setup = strict.ready()
    slot = setup.slot()
    slot.masked()
    for said in evil.tell({site: setup.packed("confirm", slot.survivors(HONEST)) for site in HONEST}).values():
        caught(evil, said, "survivors-too-few")
    slot.confirm()
    shown = slot.confirmed(SITES, slot.signatures(HONEST))
    caught(evil, setup.step("unmask", CLEVELAND, shown), "confirmations-too-few")
    assert slot.unmask()[CLEVELAND].code == ""


def test_a_set_that_its_survivors_did_not_all_confirm_is_not_unmasked(evil: Evil, setup: Setup) -> None:
    slot = setup.slot()
    slot.until_confirmed()
    a, b, c, d = slot.signatures(SITES)
    head, everyone = slot.context.digest, SITES
    false_of_d = slot.signed(COLLUDER, HONEST)
    forged = slot.signed(COLLUDER, SITES, Identity.generate())
    by_another = slot.signed(SWITZERLAND, SITES, evil.colluder(COLLUDER))
    beyond = c[:5] + struct.pack(">H", 4) + c[7:]
    cases: dict[str, tuple[bytes, str]] = {
        "too-few": (slot.confirmed(everyone, [a, b]), "confirmations-too-few"),
        "nobody": (slot.confirmed(everyone, []), "confirmations-too-few"),
        "one-twice": (slot.confirmed(everyone, [a, b, b]), "signers-not-distinct"),
        "one-three-times": (slot.confirmed(everyone, [a, a, a]), "signers-not-distinct"),
        "out-of-order": (slot.confirmed(everyone, [b, a, c]), "signers-not-distinct"),
        "a-signer-outside-the-set": (slot.confirmed(HONEST, [a, b, c, d]), "signers-not-distinct"),
        "a-signer-outside-the-cohort": (slot.confirmed(everyone, [a, b, beyond]), "signers-not-distinct"),
        "a-smaller-set": (slot.confirmed(HONEST, [a, b, c]), "survivors-unequal"),
        "a-set-of-two": (slot.confirmed([CLEVELAND, HUNGARIAN], [a, b]), "survivors-unequal"),
        "a-fifth-site": (head + b"\x1f" + struct.pack(">H", 3) + a + b + c, "survivors-not-in-cohort"),
        "one-over-another-set": (slot.confirmed(everyone, [a, b, false_of_d]), "survivors-unequal"),
        "a-stranger-s-signature": (slot.confirmed(everyone, [a, b, forged]), "bad-signature"),
        "another-site-s-signature": (slot.confirmed(everyone, [a, b, by_another]), "bad-signature"),
        "a-signature-changed": (slot.confirmed(everyone, [a, b, c[:-1] + bytes([c[-1] ^ 1])]), "bad-signature"),
        "more-than-there-are": (head + b"\x0f" + struct.pack(">H", 5) + a + b + c + d, "malformed"),
        "fewer-than-it-says": (head + b"\x0f" + struct.pack(">H", 4) + a + b + c, "malformed"),
        "cut": (head, "malformed"),
    }
    said = evil.spread({name: setup.packed("unmask", body) for name, (body, _) in cases.items()})
    for name, (_, code) in cases.items():
        caught(evil, said[name], code)
    slot.unmask()  # all of them still reveal for the set that they confirmed
    slot.open()


def test_a_site_that_sent_no_vector_signs_no_set(evil: Evil, setup: Setup) -> None:
    setup.slot().masked([CLEVELAND])
    slot = setup.slot()
    slot.masked([HUNGARIAN, SWITZERLAND, COLLUDER])
    caught(evil, setup.step("confirm", CLEVELAND, slot.survivors(SITES)), "replayed")


# --- 6: different models or terms for one site --------------------------------------------------------------------------------


def test_a_different_base_model_for_one_site_opens_nothing_and_is_named(evil: Evil, study: Study, setup: Setup) -> None:
    slot = setup.slot()
    odd = setup.slot(slot.context.slot, attempt=slot.context.attempt, base=study.another_base())
    victim = SITES[3]
    slot.masked(HONEST)
    odd.masked([victim])
    with pytest.raises(ProtocolError) as named:  # at the coordinator, if it were honest
        slot.core.masked(victim, odd.said["masked"][victim].body)
    assert (named.value.code, named.value.blamed) == ("base-mismatch", victim)

    confirmed = evil.tell(
        {site: setup.packed("confirm", slot.survivors(SITES)) for site in HONEST}
        | {victim: setup.packed("confirm", odd.survivors(SITES))}
    )
    a, b, c, d = (confirmed[site].body for site in SITES)
    shown = {site: slot.confirmed(SITES, [a, b, d]) for site in HONEST} | {victim: odd.confirmed(SITES, [a, b, c])}
    for said in evil.tell({site: setup.packed("unmask", body) for site, body in shown.items()}).values():
        caught(evil, said, "base-mismatch")  # at every site: nothing was revealed

    # With the three alone, who are enough, every seed is known. Without the pairwise masks, which did not cancel, there is no sum.
    told = setup.packed("unmask", slot.confirmed(SITES, [a, b, c]))
    revealed = evil.tell(dict.fromkeys(HONEST, told))
    total = np.zeros(slot.terms.ring.length, dtype=slot.terms.ring.dtype)
    for one in (*slot.said["masked"].values(), *odd.said["masked"].values()):
        total += np.frombuffer(one.body[wire.masked_size(0) :], dtype=total.dtype)
    weights = coefficients([1, 2, 3])
    reveals = [wire.open_reveal(setup.batch, i, revealed[site].body, slot.context) for i, site in enumerate(HONEST)]
    for dealer in range(4):
        seed = combine([to_element(reveal.shares[dealer][0]) for reveal in reveals], weights).to_bytes(32, "big")
        context = odd.context if dealer == 3 else slot.context
        apply(total, [(self_key(seed, context, dealer), True)])
    with pytest.raises(ProtocolError) as garbage:
        slot.terms.decode(slot.terms.ring.open_sum(total, 4), SITES)
    assert garbage.value.code == "sum-out-of-bounds"


def test_an_evaluation_slipped_to_one_site_opens_nothing_and_is_named(evil: Evil, study: Study, setup: Setup) -> None:
    """Terms are derived from the approved study and from what is asked for: who is asked for more has other terms."""
    base = study.another_base()
    slot = setup.slot(base=base)
    odd = setup.slot(slot.context.slot, attempt=slot.context.attempt, base=base, evaluate=True)
    victim = SITES[3]
    slot.masked(HONEST)
    odd.masked([victim])
    message = odd.said["masked"][victim].body
    assert len(message) > len(slot.said["masked"][CLEVELAND].body)
    with pytest.raises(ProtocolError):
        slot.core.masked(victim, message)
    confirmed = evil.tell(
        {site: setup.packed("confirm", slot.survivors(SITES)) for site in HONEST}
        | {victim: setup.packed("confirm", odd.survivors(SITES))}
    )
    a, b, c, d = (confirmed[site].body for site in SITES)
    shown = {site: slot.confirmed(SITES, [a, b, d]) for site in HONEST} | {victim: odd.confirmed(SITES, [a, b, c])}
    for said in evil.tell({site: setup.packed("unmask", body) for site, body in shown.items()}).values():
        caught(evil, said, "terms-mismatch")


def test_terms_cannot_be_sent(evil: Evil, study: Study, setup: Setup) -> None:
    slot, before = setup.slot(), study.all_charges()
    slipped: list[dict[str, object]] = [
        {"terms": slot.context.terms.hex()}, {"grid": 1.0}, {"ring_bits": 64}, {"update_bound": 1e9},
        {"noise_multiplier": 0.0}, {"clipping_norm": 1e9}, {"weight": 1.0}, {"declared_patients": 1},
        {"members": 3}, {"threshold": 2}, {"quorum": 1}, {"colluders": 1},
    ]  # fmt: skip
    said = evil.spread({str(term): evil.raw(slot.header(**term), study.base.tobytes()) for term in slipped})
    for one in said.values():
        refused(one, "malformed")
    assert study.all_charges() == before
    assert slot.masked([CLEVELAND])[CLEVELAND].code == ""  # the same without them


# --- 7: replays ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def others_batch(strict: Study) -> Slot:
    """A confirmed slot of another study at the same sites."""
    return strict.ready().slot().until_confirmed()


def test_an_advert_replayed_from_another_batch_or_study_is_refused(
    evil: Evil, study: Study, past: Slot, others_batch: Slot
) -> None:
    setup = study.begin(slots=past.batch.slots)
    setup.advertise()

    def replaying(old: Setup) -> bytes:
        adverts = [*setup.adverts()[:3], old.adverts()[3]]
        return setup.packed("share", b"".join(adverts))

    said = evil.spread({"batch": replaying(past.setup), "study": replaying(others_batch.setup)}, HONEST)
    for one in said.values():
        caught(evil, one, "replayed")


def test_a_box_on_another_way_does_not_open_even_if_its_sender_signs_it(
    evil: Evil, study: Study, past: Slot, others_batch: Slot
) -> None:
    """The two ways of a pair share a channel secret: only the context keeps one's box from passing for the other's."""
    setup = study.begin(slots=past.batch.slots)
    setup.advertise()
    setup.share()
    reflected = setup.box(CLEVELAND, COLLUDER)  # cleveland's own box, back to it
    stolen = setup.box(HUNGARIAN, COLLUDER)  # hungarian's for another recipient
    old = past.setup.box(COLLUDER, CLEVELAND)  # the right way, in another batch
    foreign = others_batch.setup.box(COLLUDER, CLEVELAND)  # and in another study
    honest = setup.delivery(CLEVELAND)
    signed = {
        box: honest.signed_for(COLLUDER, CLEVELAND, box) for box in (reflected, stolen, old, foreign)
    }  # the colluder signs them as what it dealt to cleveland
    cases = [
        (honest.with_box(COLLUDER, reflected), "box-changed", "coordinator"),
        (honest.with_box(COLLUDER, stolen), "box-changed", "coordinator"),
        (honest.with_box(COLLUDER, old), "box-changed", "coordinator"),
        (honest.with_box(COLLUDER, foreign), "box-changed", "coordinator"),
        (honest.with_box(HUNGARIAN, honest.boxes[SWITZERLAND]), "box-changed", "coordinator"),
        (honest.with_roots(COLLUDER, past.setup.delivery(CLEVELAND).roots[COLLUDER]), "replayed", "coordinator"),
        (honest.with_roots(COLLUDER, honest.roots[HUNGARIAN]), "wrong-sender", "coordinator"),
        (signed[reflected], "box-invalid", COLLUDER),
        (signed[stolen], "box-invalid", COLLUDER),
        (signed[old], "box-invalid", COLLUDER),
        (signed[foreign], "box-invalid", COLLUDER),
    ]
    for delivery, code, blamed in cases:
        caught(evil, setup.step("open", CLEVELAND, delivery.packed), code, blamed)
    setup.open()  # the true ones still open


def test_boxes_delivered_again_are_answered_alike_and_changed_ones_never(evil: Evil, study: Study) -> None:
    setup = study.begin()
    setup.advertise()
    setup.share()
    first = setup.open()[CLEVELAND]
    assert evil.tell_one(CLEVELAND, first.sent).raw == first.raw
    changed = setup.delivery(CLEVELAND)
    box = changed.boxes[COLLUDER]
    for false in (
        changed.with_box(COLLUDER, bytes([box[0] ^ 1]) + box[1:]),
        changed.signed_for(COLLUDER, CLEVELAND, box[::-1]),
    ):
        forgiven(evil, setup.step("open", CLEVELAND, false.packed), "out-of-order")
    again = evil.tell_one(CLEVELAND, first.sent)
    assert again.raw == first.raw, again.code
    setup.finish()
    assert setup.slot().masked([CLEVELAND])[CLEVELAND].code == ""


def test_a_survivor_set_replayed_from_another_slot_batch_or_study_is_not_signed(
    evil: Evil, study: Study, past: Slot, others_batch: Slot, setup: Setup
) -> None:
    late = setup.slot()
    late.masked()
    slot = setup.slot()
    slot.masked()
    refusals = evil.tell(
        {
            CLEVELAND: setup.packed("confirm", past.survivors(SITES)),
            HUNGARIAN: setup.packed("confirm", others_batch.survivors(SITES)),
            SWITZERLAND: past.setup.packed("confirm", past.survivors(SITES)),
            COLLUDER: setup.packed("confirm", late.survivors(SITES)),
        }
    )
    caught(evil, refusals[CLEVELAND], "replayed")
    caught(evil, refusals[HUNGARIAN], "replayed")
    forgiven(evil, refusals[SWITZERLAND], "unknown-batch")
    forgiven(evil, refusals[COLLUDER], "replayed")  # of the slot before, it may just be late
    foreign = evil.raw(
        {"protocol": PROTOCOL, "kind": "confirm", "study": study.digest, "batch": others_batch.batch.batch},
        others_batch.survivors(SITES),
    )
    forgiven(evil, evil.tell_one(CLEVELAND, foreign), "unknown-batch")
    slot.confirm()


def test_confirmations_replayed_from_another_slot_batch_or_study_open_nothing(
    evil: Evil, past: Slot, others_batch: Slot, setup: Setup
) -> None:
    late = setup.slot().until_confirmed()
    slot = setup.slot().until_confirmed()
    a, b = slot.signatures([CLEVELAND, HUNGARIAN])
    for old in (late, past, others_batch):
        (c,) = old.signatures([SWITZERLAND])
        caught(evil, setup.step("unmask", CLEVELAND, slot.confirmed(SITES, [a, b, c])), "replayed")
    whole = late.confirmed(SITES, late.signatures(SITES))
    forgiven(evil, setup.step("unmask", HUNGARIAN, whole), "replayed")
    caught(evil, setup.step("unmask", HUNGARIAN, past.confirmed(SITES, past.signatures(SITES))), "replayed")
    slot.unmask()
    slot.open()


def test_a_request_for_a_vector_replayed_from_another_batch_or_study_is_refused_and_costs_nothing(
    evil: Evil, study: Study, past: Slot, others_batch: Slot, setup: Setup
) -> None:
    before = study.all_charges()
    slot = setup.slot()
    body = study.base.tobytes()
    said = evil.spread(
        {
            "setup": evil.raw(slot.header(setup=past.request.setup), body),
            "other study's setup": evil.raw(slot.header(setup=others_batch.request.setup), body),
            "batch": evil.raw(slot.header(batch=past.request.batch), body),
            "other study's batch": evil.raw(slot.header(batch=others_batch.request.batch), body),
            "whole": past.packed(),
        }
    )
    caught(evil, said["setup"], "replayed")
    caught(evil, said["other study's setup"], "replayed")
    for name in ("batch", "other study's batch", "whole"):
        forgiven(evil, said[name], "unknown-batch")
    assert study.all_charges() == before
    assert slot.masked([CLEVELAND])[CLEVELAND].code == ""


# --- further ------------------------------------------------------------------------------------------------------------------


def test_an_update_is_never_given_bare(evil: Evil, study: Study) -> None:
    before = study.all_charges()
    for evaluate in (False, True):
        request = Work(
            study=study.digest, round=study.round, attempt=study.next_attempt(), base=vector_digest(study.base),
            dimension=len(study.base), train=True, evaluate=evaluate,
        )  # fmt: skip
        said = evil.tell(dict.fromkeys(SITES, messages.pack(request, study.base.tobytes(), evil.identity)))
        for one in said.values():
            caught(evil, one, "not-masked")
    assert study.all_charges() == before


def test_an_approval_revoked_within_a_slot_ends_it_and_no_share_leaves(
    evil: Evil, loopback: Loopback, study: Study, setup: Setup
) -> None:
    slot = setup.slot()
    slot.masked()
    good("site", "revoke", study.digest, "--home", loopback.sites[HUNGARIAN])
    try:
        slot.confirm()
        good("site", "revoke", study.digest, "--home", loopback.sites[CLEVELAND])
        slot.unmask()
    finally:
        loopback.approve(study.digest, [CLEVELAND, HUNGARIAN])
    assert {site: said.code for site, said in slot.said["confirm"].items()} == dict.fromkeys(SITES, "") | {
        HUNGARIAN: "revoked-here"
    }
    refused(slot.said["unmask"][CLEVELAND], "revoked-here")
    refused(slot.said["unmask"][HUNGARIAN], "revoked-here")
    with pytest.raises(ProtocolError) as few:
        slot.open()
    assert few.value.code == "survivors-too-few"


def counting(setup: Setup, base: np.ndarray) -> Slot:
    """An attempt that only evaluates."""
    return setup.slot(base=base, round=3, train=False, evaluate=True)


@pytest.fixture(scope="module")
def counts(evil: Evil, study: Study) -> Study:
    """The same study again, of which only the last model's evaluation is asked for."""
    return evil.quorum_of(study, 3)


def test_counts_of_one_model_are_summed_for_one_set_of_sites_whatever_the_attempt(evil: Evil, counts: Study) -> None:
    """Two sums that differ in one site are that site's counts. The same set again says nothing new."""
    setup = counts.ready()
    base, other = counts.another_base(), counts.another_base()
    _, first = counting(setup, base).run(HONEST)
    assert first is not None

    whole = counting(setup, base)
    whole.masked()
    request = setup.packed("confirm", whole.survivors(SITES))
    said = evil.tell(dict.fromkeys(SITES, request))
    for site in HONEST:
        forgiven(evil, said[site], "differencing")
    assert said[COLLUDER].code == ""  # it helped with no sum yet
    forged = whole.confirmed(SITES, [whole.signed(site, SITES) for site in SITES])
    refused(setup.step("unmask", CLEVELAND, forged), "differencing")

    _, again = counting(setup, base).run(HONEST)
    assert again is not None
    np.testing.assert_array_equal(again, first)
    _, of_all = counting(setup, other).run()  # another model may be counted by another set
    assert of_all is not None


def test_what_a_hospital_keeps_can_be_listed_taken_out_and_checked_by_anyone(
    evil: Evil, loopback: Loopback, study: Study, setup: Setup, tmp_path: Path
) -> None:
    said = setup.step("confirm", CLEVELAND, b"\x00" * 33)
    incident = evil.incident(said)
    assert incident is not None
    assert incident.reference in {one["reference"] for one in evil.listed(CLEVELAND)}
    out = tmp_path / "evidence.fwd1"
    taken = good(
        "site", "incidents", "--evidence", incident.reference, "--out", out, "--home", loopback.sites[CLEVELAND]
    )
    assert taken["signed"] is True
    assert taken["coordinator_key"] == evil.identity.public
    assert taken["sha256"] == digest(said.sent)
