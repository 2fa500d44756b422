"""What the stages say, with real nodes: each request made once, each reply checked against it, and a sum of survivors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import Federation, heart_manifest
from secured import SETUP, SLOT, Hand, Said, Truth, ready, secure_study

from fedward.privacy.errors import FedwardError, InputError, IntegrityError, RefusalError
from fedward.privacy.secagg.faults import ProtocolError
from fedward.privacy.signing import Identity
from fedward.server.exchanges import PlainExchange, SecureExchange, SetupExchange
from fedward.study import messages
from fedward.study.heart import SITES
from fedward.study.messages import Work
from fedward.study.secure import batch_of
from fedward.study.vectors import vector_digest


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("exchanges"))
    ready(federation, secure_study(training={"rounds": 3}, evaluation={"every": 2}, privacy={"spare_attempts": 9}))
    return federation


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedward.study.models.entry_points", lambda **_: ())  # the search for others' models takes long


@pytest.fixture
def hand(template: Federation, tmp_path: Path) -> Hand:
    return Hand(template.copy(tmp_path / "copy"))


def setup_of(hand: Hand, name: str = "b" * 32) -> SetupExchange:
    return SetupExchange(hand.sealed, batch_of(hand.sealed, name, SITES, 3, 4), hand.identity)


def answers(hand: Hand, exchange: Any, stage: str, sites: Sequence[str] = SITES) -> dict[str, Said]:
    """What the nodes answer to a stage; nothing is admitted yet."""
    return {site: hand.tell(site, payload) for site, payload in exchange.requests(stage, sites).items()}


def until(hand: Hand, stage: str, earlier: dict[str, dict[str, Said]] | None = None) -> tuple[Any, dict[str, Said]]:
    """The exchange at a stage, with every node's answer to it at hand and those before it admitted, and kept in `earlier`."""
    exchange: Any = setup_of(hand)
    for name in (*SETUP, *SLOT):
        if name == "masked":
            exchange = SecureExchange(
                hand.sealed, exchange.finish(), hand.request(exchange.finish(), 0), hand.base, hand.identity
            )
        said = answers(hand, exchange, name)
        if earlier is not None:
            earlier[name] = said
        if name == stage:
            return exchange, said
        for one in said.values():
            exchange.admit(one.site, name, one.raw)
    raise AssertionError(stage)


# --- requests ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [*SETUP, *SLOT])
def test_whoever_is_asked_again_is_asked_the_same(hand: Hand, stage: str) -> None:
    exchange, _ = until(hand, stage)
    first = exchange.requests(stage, SITES)
    assert list(first) == list(SITES)
    assert exchange.requests(stage, ("va",)) == {"va": first["va"]}
    assert exchange.requests(stage, SITES) == first
    # Only boxes differ by site: all else must be equal for all, or the sites' masks do not cancel.
    assert len(set(first.values())) == (len(SITES) if stage == "open" else 1)


def test_a_request_names_the_batch_and_carries_what_its_step_needs(hand: Hand) -> None:
    earlier: dict[str, dict[str, Said]] = {}
    until(hand, "unmask", earlier)
    assert list(earlier) == [*SETUP, *SLOT]
    for stage, said in earlier.items():
        request, body = messages.open_request(said["va"].sent, hand.identity.public)
        assert (request.kind, request.study, request.batch) == (stage, hand.sealed.digest, "b" * 32)  # type: ignore[union-attr]
        assert bool(body) == (stage != "advertise")


# --- replies ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [*SETUP, *SLOT])
def test_a_reply_counts_for_its_site_its_stage_and_its_request_alone(hand: Hand, stage: str) -> None:
    exchange, said = until(hand, stage)
    true = said["va"].raw
    with pytest.raises(FedwardError) as caught:
        exchange.admit("cleveland", stage, true)  # of another site
    assert caught.value.code == "bad-signature"
    forged = messages.pack(said["va"].reply, said["va"].body, Identity.generate())
    with pytest.raises(IntegrityError):
        exchange.admit("va", stage, forged)
    late = messages.pack(said["va"].reply.model_copy(update={"request": "0" * 64}), said["va"].body, va(hand))
    with pytest.raises(InputError) as caught:
        exchange.admit("va", stage, late)
    assert caught.value.code == "stale"
    other_batch = said["va"].reply.model_copy(update={"batch": "c" * 32})
    with pytest.raises(InputError) as caught:
        exchange.admit("va", stage, messages.pack(other_batch, said["va"].body, va(hand)))
    assert caught.value.code == "wrong-kind"
    for body in (b"", said["va"].body[:-1], said["va"].body + b"\0", bytes(len(said["va"].body))):
        with pytest.raises(ProtocolError) as refused:
            exchange.admit("va", stage, messages.pack(said["va"].reply, body, va(hand)))
        assert refused.value.blamed == "va"
    exchange.admit("va", stage, true)
    with pytest.raises(ProtocolError) as refused:
        exchange.admit("va", stage, true)
    assert refused.value.code == "repeated"


def va(hand: Hand) -> Identity:
    return hand.federation.sites["va"].identity()


@pytest.mark.parametrize(
    ("stage", "before"), [("share", "advertise"), ("open", "share"), ("confirm", "masked"), ("unmask", "confirm")]
)
def test_an_answer_to_the_stage_before_is_stale(hand: Hand, stage: str, before: str) -> None:
    earlier: dict[str, dict[str, Said]] = {}
    exchange, _ = until(hand, stage, earlier)
    with pytest.raises(FedwardError) as caught:
        exchange.admit("va", stage, earlier[before]["va"].raw)
    assert caught.value.code == "stale"


def test_a_reply_of_another_kind_is_refused(hand: Hand) -> None:
    exchange, said = until(hand, "masked")
    result = messages.Result(
        site="va", request=said["va"].reply.request, study=hand.sealed.digest, round=1, attempt=1,
        base=vector_digest(hand.base), update_values=0, histogram_values=0,
    )  # fmt: skip
    with pytest.raises(InputError, match="wrong kind"):
        exchange.admit("va", "masked", messages.pack(result, b"", va(hand)))


@pytest.mark.parametrize("stage", SLOT)
def test_a_site_that_has_no_place_any_more_is_known_to_have_left(hand: Hand, stage: str) -> None:
    exchange, _ = until(hand, stage)
    hand.federation.restart("va")
    again = answers(hand, exchange, stage, ("va",))["va"]
    with pytest.raises(RefusalError) as caught:
        exchange.admit("va", stage, again.raw)
    assert caught.value.code == "unknown-batch"
    assert exchange.left == {"va"}


def test_a_site_that_refuses_for_another_reason_keeps_its_place(hand: Hand) -> None:
    exchange, said = until(hand, "masked")
    refusal = messages.Refusal(site="va", request=said["va"].reply.request, code="budget-exhausted", reference="0" * 12)
    with pytest.raises(RefusalError) as caught:
        exchange.admit("va", "masked", messages.pack(refusal, b"", va(hand)))
    assert caught.value.code == "budget-exhausted"
    assert exchange.left == set()


def test_who_a_site_blames_is_said(hand: Hand) -> None:
    exchange, said = until(hand, "open")
    refusal = messages.Refusal(
        site="va", request=said["va"].reply.request, code="box-invalid", blames="cleveland", reference="0" * 12
    )
    with pytest.raises(RefusalError, match="va refused: box-invalid, blaming cleveland"):
        exchange.admit("va", "open", messages.pack(refusal, b"", va(hand)))


# --- the sum ----------------------------------------------------------------------------------------------------------------


def test_an_unfinished_setup_is_no_batch(hand: Hand) -> None:
    exchange, said = until(hand, "open")
    for site in SITES[:3]:
        exchange.admit(site, "open", said[site].raw)
    with pytest.raises(ProtocolError, match="va") as caught:
        exchange.finish()
    assert caught.value.code == "setup-incomplete"


@pytest.mark.parametrize("summed", [SITES, SITES[1:]], ids=["all", "three"])
def test_the_sum_is_of_the_survivors_and_of_nobody_else(
    hand: Hand, monkeypatch: pytest.MonkeyPatch, summed: tuple[str, ...]
) -> None:
    truth = Truth(monkeypatch)
    opened = hand.set_up()
    exchange = hand.slot(opened, 0, round=3, evaluate=True)
    hand.stage(exchange, "masked", summed)
    assert exchange.survivors == summed
    hand.stage(exchange, "confirm", summed)
    assert len(exchange.confirmations) == len(summed)
    hand.stage(exchange, "unmask", summed[:3])
    for sites in (SITES[:3], tuple(reversed(summed)), summed[:-1]):
        with pytest.raises(IntegrityError, match="survivors"):
            exchange.gather(sites)
    found = exchange.gather(summed)
    assert found.delta is not None
    np.testing.assert_array_equal(found.delta, truth.delta(1, summed, hand.sealed))
    np.testing.assert_array_equal(found.counts, truth.counted(1, summed))


def test_a_sum_that_too_few_help_to_open_stays_closed(hand: Hand) -> None:
    opened = hand.set_up()
    exchange = hand.slot(opened)
    hand.stage(exchange, "masked", SITES)
    hand.stage(exchange, "confirm", SITES)
    hand.stage(exchange, "unmask", SITES[:2])
    with pytest.raises(ProtocolError) as caught:
        exchange.gather(SITES)
    assert caught.value.code == "survivors-too-few"


@pytest.mark.parametrize("least", ["masked", "confirm"])
def test_the_next_stage_is_not_asked_for_below_the_floor(hand: Hand, least: str) -> None:
    opened = hand.set_up()
    exchange = hand.slot(opened)
    hand.stage(exchange, "masked", SITES[:2] if least == "masked" else SITES)
    if least == "confirm":
        hand.stage(exchange, "confirm", SITES[:2])
    with pytest.raises(ProtocolError) as caught:
        exchange.requests(SLOT[SLOT.index(least) + 1], SITES)
    assert caught.value.code == "survivors-too-few"


def test_a_plain_round_sums_what_was_admitted_in_the_order_given(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    federation.ready(heart_manifest(training={"rounds": 1}))
    hand = Hand(federation)
    request = Work(study=hand.sealed.digest, round=1, attempt=1, base=vector_digest(hand.base),
                   dimension=len(hand.base), train=True, evaluate=False)  # fmt: skip
    exchange = PlainExchange(hand.sealed, request, hand.base, hand.identity)
    said = answers(hand, exchange, "work")
    assert len({one.sent for one in said.values()}) == 1
    for site in SITES[:3]:
        exchange.admit(site, "work", said[site].raw)
    updates = [np.frombuffer(said[site].body, dtype="<f4").astype(float) for site in SITES[:3]]
    weights = [hand.sealed.entry(site).declared_patients for site in SITES[:3]]
    found = exchange.gather(SITES[:3])
    assert found.counts is None
    np.testing.assert_allclose(found.delta, np.average(updates, axis=0, weights=weights), rtol=1e-12)
