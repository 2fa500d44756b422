"""A hospital that lies, with its own true key. It is refused by name, and the model is the honest sites' alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from federation import Federation, heart_manifest
from observed import Recorder, asked, committed, outcomes, run, state, statuses

from fedward.privacy.canonical import digest
from fedward.privacy.errors import RefusalError
from fedward.privacy.signing import Identity
from fedward.server.proposal import collect_standings, propose
from fedward.server.transport import Delivery
from fedward.study import messages
from fedward.study.heart import SITES
from fedward.study.messages import Declared, Refusal, Reply, Result, Standing
from fedward.study.metrics import histogram_shape
from fedward.study.models import build, to_vector

LIAR = "va"
HONEST = tuple(site for site in SITES if site != LIAR)

Lie = Callable[[Result, bytes], tuple[Reply, bytes] | bytes]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("lied-to"))
    federation.ready(heart_manifest(training={"rounds": 1}))
    return federation


@pytest.fixture
def federation(template: Federation, tmp_path: Path) -> Federation:
    return template.copy(tmp_path / "copy")


def tell(federation: Federation, lie: Lie, signer: Identity | None = None, at: tuple[int, ...] = (1, 2)) -> None:
    """Let the liar's node do its work, and send something else in its place in these rounds."""
    node = federation.transport.nodes[LIAR]
    identity = federation.sites[LIAR].identity()

    def answer(data: bytes) -> bytes:
        true = node(data)
        reply, body = messages.open_reply(true, identity.public)
        if not isinstance(reply, Result) or reply.round not in at:
            return true
        told = lie(reply, body)
        return told if isinstance(told, bytes) else messages.pack(*told, signer or identity)

    federation.transport.nodes[LIAR] = answer


def update_of(*values: float) -> Lie:
    def lie(reply: Result, body: bytes) -> tuple[Reply, bytes]:
        update = np.frombuffer(body[: 4 * reply.update_values], dtype="<f4").copy()
        update[: len(values)] = values
        return reply, update.tobytes() + body[4 * reply.update_values :]

    return lie


def header(**changes: object) -> Lie:
    return lambda reply, body: (reply.model_copy(update=changes), body)


def declared(request: str) -> Declared:
    return Declared(site=LIAR, request=request, study_id="heart-4-hospitals", patients=5, noise_multiplier=1.0)


LIES: dict[str, tuple[Lie, str]] = {
    "nan": (update_of(np.nan), "not-finite"),
    "infinity": (update_of(np.inf), "not-finite"),
    "huge": (update_of(3e38), "out-of-bounds"),
    "a-hundred-times": (
        lambda reply, body: (reply, (np.frombuffer(body, dtype="<f4") * 100).astype("<f4").tobytes()),
        "out-of-bounds",
    ),
    "short": (lambda reply, body: (reply, body[:-4]), "wrong-shape"),
    "long": (lambda reply, body: (reply, body + bytes(4)), "wrong-shape"),
    "other-shape": (
        lambda reply, body: (reply.model_copy(update={"update_values": reply.update_values - 1}), body[:-4]),
        "wrong-shape",
    ),
    "another's-name": (header(site="cleveland"), "wrong-site"),
    "another-kind": (
        lambda reply, _: (declared(reply.request), b""),
        "wrong-kind",
    ),
    "garbage": (lambda *_: b"\xff" * 100, "malformed"),
    "nothing": (lambda *_: b"", "malformed"),
    "cut": (lambda reply, body: messages.pack(reply, body, Identity.generate())[:50], "malformed"),
}


@pytest.mark.parametrize("case", LIES)
def test_a_lie_is_refused_by_name_and_moves_no_model(federation: Federation, case: str) -> None:
    lie, expected = LIES[case]
    tell(federation, lie, at=(1,))
    recorder = Recorder(federation, skip=LIAR)
    run(federation)
    assert state(federation) == "completed"
    status, reason = statuses(federation, 1)[LIAR]
    assert (status, reason.split(":")[0]) == ("refused", expected)
    model = recorder.model_after(federation.sealed(), 1, HONEST)
    np.testing.assert_allclose(committed(federation, 1), model, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("by", ["stranger", "other-site", "coordinator"])
def test_a_reply_signed_by_another_key_is_refused_by_name(federation: Federation, by: str) -> None:
    signers = {
        "stranger": Identity.generate(),
        "other-site": federation.sites["cleveland"].identity(),
        "coordinator": federation.home.identity(),
    }
    tell(federation, header(), signers[by], at=(1,))
    run(federation)
    status, reason = statuses(federation, 1)[LIAR]
    assert (status, reason.split(":")[0]) == ("refused", "bad-signature")
    assert outcomes(federation)[0] == (1, "committed")


def test_another_site_s_reply_passed_off_as_one_s_own_is_refused(federation: Federation) -> None:
    stolen: dict[str, bytes] = {}
    true = federation.transport.nodes["cleveland"]
    federation.transport.nodes["cleveland"] = lambda data: stolen.setdefault(digest(data), true(data))
    tell(federation, lambda reply, _: stolen[reply.request])
    run(federation)
    assert state(federation) == "completed"
    assert statuses(federation, 1)[LIAR][1].startswith("bad-signature")


STALE: dict[str, Lie] = {
    "other-request": header(request="0" * 64),
    "other-study": header(study="0" * 64),
    "other-base": header(base="0" * 64),
    "other-round": header(round=7),
    "other-attempt": header(attempt=7),
}


@pytest.mark.parametrize("case", STALE)
def test_a_reply_to_something_else_counts_for_nothing(federation: Federation, case: str) -> None:
    tell(federation, STALE[case], at=(1,))
    recorder = Recorder(federation, skip=LIAR)
    run(federation)
    assert statuses(federation, 1)[LIAR] == ("dropped", "no answer: others were waiting")
    assert f"ignored a late reply of {LIAR}" in federation.said
    model = recorder.model_after(federation.sealed(), 1, HONEST)
    np.testing.assert_allclose(committed(federation, 1), model, rtol=1e-5, atol=1e-6)


def test_yesterday_s_reply_replayed_counts_for_nothing(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    federation.ready(heart_manifest(training={"rounds": 2}))
    kept: list[bytes] = []
    identity = federation.sites[LIAR].identity()

    def replay(reply: Result, body: bytes) -> bytes:
        kept.append(messages.pack(reply, body, identity))
        return kept[0]

    tell(federation, replay)
    run(federation)
    assert statuses(federation, 1)[LIAR][0] == "contributed"
    assert statuses(federation, 2)[LIAR] == ("dropped", "no answer: others were waiting")


def test_a_reply_sent_three_times_counts_once(federation: Federation) -> None:
    recorder = Recorder(federation)
    send = federation.transport.send

    def thrice(requests: dict[str, bytes]) -> None:
        send(requests)
        federation.transport._arrived = [d for d in federation.transport._arrived for _ in range(3)]

    federation.transport.send = thrice  # type: ignore[assignment,method-assign]
    run(federation)
    model = recorder.model_after(federation.sealed(), 1, SITES)
    np.testing.assert_allclose(committed(federation, 1), model, rtol=1e-5, atol=1e-6)


def test_two_answers_to_one_request_are_one_and_it_is_the_first(federation: Federation) -> None:
    """The second is as valid as the first, and says something else; so does one that comes when the round is over."""
    identity = federation.sites[LIAR].identity()
    recorder = Recorder(federation)
    send = federation.transport.send
    late: list[Delivery] = []

    def doubled(requests: dict[str, bytes]) -> None:
        send(requests)
        arrived, federation.transport._arrived = federation.transport._arrived, late[:]
        for delivery in arrived:
            federation.transport._arrived.append(delivery)
            other = _another(delivery, identity)
            if other is not None:
                federation.transport._arrived.append(other)
                late.append(other)

    federation.transport.send = doubled  # type: ignore[assignment,method-assign]
    run(federation)
    assert state(federation) == "completed"
    assert late
    assert statuses(federation, 1)[LIAR] == statuses(federation, 2)[LIAR] == ("contributed", "")
    model = recorder.model_after(federation.sealed(), 1, SITES)
    np.testing.assert_allclose(committed(federation, 1), model, rtol=1e-5, atol=1e-6)


def _another(delivery: Delivery, identity: Identity) -> Delivery | None:
    """Another update of the liar, as well signed; None if this is none."""
    if delivery.site != LIAR or delivery.payload is None:
        return None
    reply, body = messages.open_reply(delivery.payload, identity.public)
    if not isinstance(reply, Result) or not reply.update_values:
        return None
    return Delivery(LIAR, messages.pack(reply, bytes(len(body)), identity))


@pytest.mark.parametrize("value", [-0.0, 1e-45, -1e-45, 1e-38])
def test_the_least_numbers_are_numbers(federation: Federation, value: float) -> None:
    """Zeros with a sign and numbers below float32's normal ones are admitted as they are, and the sum is as exact with them."""
    size = len(committed_base(federation))
    tell(federation, update_of(*[value] * size), at=(1,))
    recorder = Recorder(federation)
    run(federation)
    assert statuses(federation, 1)[LIAR] == ("contributed", "")
    model = recorder.model_after(federation.sealed(), 1, SITES)
    assert np.isfinite(committed(federation, 1)).all()
    np.testing.assert_allclose(committed(federation, 1), model, rtol=1e-5, atol=1e-6)


def committed_base(federation: Federation) -> np.ndarray:
    return to_vector(build(federation.sealed().manifest))


def test_a_liar_cannot_refuse_for_another(federation: Federation) -> None:
    """A refusal in another's name is not by that other's key."""
    identity = federation.sites[LIAR].identity()
    true = federation.transport.nodes["cleveland"]

    def forged(data: bytes) -> bytes:
        if isinstance(messages.open_request(data, federation.home.identity().public)[0], messages.Work):
            refusal = Refusal(site="cleveland", request=digest(data), code="not-approved", reference="0" * 12)
            return messages.pack(refusal, b"", identity)
        return true(data)

    federation.transport.nodes["cleveland"] = forged
    run(federation)
    assert statuses(federation, 1)["cleveland"][1].startswith("bad-signature")


# --- evaluation -------------------------------------------------------------------------------------------------------------


def counts_lie(change: Callable[[np.ndarray], None]) -> Lie:
    def lie(reply: Result, body: bytes) -> tuple[Reply, bytes]:
        counts = np.frombuffer(body, dtype="<i8").copy()
        change(counts)
        return reply, counts.tobytes()

    return lie


COUNT_LIES = {
    "negative": counts_lie(lambda c: c.__setitem__(0, -1)),
    "more-than-declared": counts_lie(lambda c: c.__setitem__(0, 100_000)),
    "wraps-around": counts_lie(lambda c: c.__setitem__(slice(0, 4), 2**62)),
    "largest": counts_lie(lambda c: c.fill(2**63 - 1)),
    "more-in-a-group": counts_lie(lambda c: c.__setitem__(-1, 50)),
}


@pytest.mark.parametrize("case", COUNT_LIES)
def test_counts_that_cannot_be_are_refused_and_the_metrics_are_the_others(federation: Federation, case: str) -> None:
    tell(federation, COUNT_LIES[case], at=(2,))
    run(federation)
    assert state(federation) == "completed"
    assert statuses(federation, 2)[LIAR][1].startswith("out-of-bounds")
    rows = [row for row in federation.store.metrics(federation.key) if row.slice == "everybody"]
    assert all(0 < row.positives + row.negatives < 300 for row in rows)
    least = {"calibration_gap": -1}  # it is the one with a sign
    assert [row for row in rows if row.value is None or not least.get(row.name, 0) <= row.value <= 1] == []


def test_counts_are_of_the_study_s_shape(federation: Federation) -> None:
    size = int(np.prod(histogram_shape(federation.sealed().manifest)))
    tell(federation, lambda r, b: (r.model_copy(update={"histogram_values": size - 1}), b[:-8]), at=(2,))
    run(federation)
    assert statuses(federation, 2)[LIAR][1].startswith("wrong-shape")


# --- without differential privacy, where neither clipping nor noise bounds an update -------------------------------------------


def bare(folder: Path, **privacy: object) -> Federation:
    federation = Federation(folder)
    for home in federation.sites.values():
        home.policy_file.write_text("[policy]\nrequire_dp = false\nrequire_secure_aggregation = false")
    without = {"mechanism": "none", "epsilon": None, "delta": None}
    federation.ready(heart_manifest(training={"rounds": 1}, privacy=without | privacy))
    return federation


@pytest.mark.parametrize("value", [3e38, 101.0])
def test_an_update_that_would_burst_the_model_is_refused_and_the_others_go_on(tmp_path: Path, value: float) -> None:
    federation = bare(tmp_path)
    tell(federation, update_of(value), at=(1,))
    recorder = Recorder(federation, skip=LIAR)
    run(federation)
    assert state(federation) == "completed"
    status, reason = statuses(federation, 1)[LIAR]
    assert (status, reason.split(":")[0]) == ("refused", "out-of-bounds")
    model = recorder.model_after(federation.sealed(), 1, HONEST)
    np.testing.assert_allclose(committed(federation, 1), model, rtol=1e-5, atol=1e-6)


def test_an_honest_update_is_clipped_at_its_site_to_the_bound_that_the_coordinator_admits(tmp_path: Path) -> None:
    federation = bare(tmp_path, update_bound=1e-3)
    recorder = Recorder(federation)
    run(federation)
    assert {status for status, _ in statuses(federation, 1).values()} == {"contributed"}
    norms = [
        float(np.linalg.norm(update.astype(float))) for (attempt, _), update in recorder.updates.items() if attempt == 1
    ]
    np.testing.assert_allclose(norms, [1e-3] * len(SITES), rtol=1e-6)


# --- at the proposal --------------------------------------------------------------------------------------------------------------


def proposing(federation: Federation, told: Callable[[Reply], Reply]) -> None:
    """Answers to declarations and offers that are changed and signed again."""
    node = federation.transport.nodes[LIAR]
    identity = federation.sites[LIAR].identity()

    def answer(data: bytes) -> bytes:
        reply, body = messages.open_reply(node(data), identity.public)
        return messages.pack(told(reply), body, identity)

    federation.transport.nodes[LIAR] = answer


@pytest.mark.parametrize(
    "change",
    [
        {"patients": 0},
        {"patients": 2**53 - 1},
        {"patients": 100_000_001},
        {"study_id": "another"},
        {"site": "cleveland"},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": 1e-3},
        {"noise_multiplier": 1e9},  # its noise would drown everybody else's sum
    ],
)
def test_a_cohort_that_cannot_be_leaves_the_site_out_and_the_study_goes_on(
    template: Federation, tmp_path: Path, change: dict[str, object]
) -> None:
    federation = template.copy(tmp_path / "copy")
    proposing(federation, lambda r: r.model_copy(update=change) if isinstance(r, Declared) else r)
    sealed = federation.propose(heart_manifest(training={"rounds": 1}))
    assert tuple(entry.site for entry in sealed.roster) == HONEST
    standings = {row.site: row.state for row in federation.store.standings(federation.key)}
    assert standings[LIAR] == "absent"


def test_too_few_honest_declarations_seal_nothing(template: Federation, tmp_path: Path) -> None:
    federation = template.copy(tmp_path / "copy")
    federation.transport.offline = {"cleveland"}
    proposing(federation, lambda r: r.model_copy(update={"patients": 0}) if isinstance(r, Declared) else r)
    key = federation.store.create_study("again", heart_manifest().model_dump_json(), SITES, 0)
    with pytest.raises(RefusalError, match="too few sites take part") as caught:
        propose(
            federation.store,
            federation.transport,
            federation.clock,
            federation.store.study(key),
            federation.home.identity(),
            federation.home.settings.federation_id,
            federation.said.append,
        )
    assert f"{LIAR}: too few patients: it declares 0" in caught.value.text()
    assert "cleveland: unreachable" in caught.value.text()
    assert federation.store.study(key).sealed is None


@pytest.mark.parametrize("change", [{"study": "0" * 64}, {"request": "0" * 64}, {"site": "cleveland"}])
def test_an_approval_of_something_else_is_no_approval(federation: Federation, change: dict[str, object]) -> None:
    proposing(federation, lambda r: r.model_copy(update=change) if isinstance(r, Standing) else r)
    store, key = federation.store, federation.key
    store.set_standing(key, LIAR, "pending", "", None, 0)
    known = collect_standings(
        store, federation.transport, federation.clock, store.study(key), federation.home.identity()
    )
    assert known[LIAR] != "approved"
    assert all(known[site] == "approved" for site in HONEST)


def test_a_site_s_lie_is_not_a_reason_to_ask_the_others_again(federation: Federation) -> None:
    """Each honest site is asked once an attempt, and so charged once."""
    tell(federation, lambda *_: b"garbage")
    run(federation)
    times = [(site, request.attempt) for site, request in asked(federation)]
    assert len(set(times)) == len(times)
