"""What a coordinator slips into the requests of a secure study, over the real SuperLink and real TLS.

Checks 8, 9, 12 and 13 of the page SECURE-AGGREGATION: models that are none, weights, the ring's limits, and types.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enrolled import enrol
from evil import Evil, Setup, Study, assert_exact, caught, mean, refused, site_here
from federation import MemoryTransport, TestClock, heart_manifest
from loopback import Loopback
from numpy.typing import NDArray

from fedward.privacy.canonical import canonical_json, digest
from fedward.privacy.errors import FedwardError
from fedward.privacy.secagg import Block, RingTerms
from fedward.privacy.secagg.derivations import subtracts
from fedward.privacy.secagg.masks import apply
from fedward.privacy.secagg.ring import encode, most_per_member
from fedward.privacy.signing import Identity
from fedward.server.proposal import propose
from fedward.server.store import Store
from fedward.study import messages
from fedward.study.heart import SITES
from fedward.study.kinds import parse_draft
from fedward.study.manifest import MAX_DECLARED_PATIENTS, parse_sealed
from fedward.study.messages import Declare, Declared, Offer, Standing
from fedward.study.schedule import least_noise

pytestmark = pytest.mark.federation

CLEVELAND, HUNGARIAN, SWITZERLAND, VA = SITES


@pytest.fixture(scope="module")
def evil(loopback: Loopback) -> Iterator[Evil]:
    evil = Evil(loopback)
    yield evil
    evil.close()


@pytest.fixture(scope="module")
def study(evil: Evil) -> Study:
    return evil.study("slipped-into", training={"rounds": 2}, evaluation={"every": 1}, privacy={"spare_attempts": 900})


@pytest.fixture
def setup(study: Study) -> Setup:
    return study.ready()


@pytest.fixture
def taught(study: Study, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each site's training yields."""
    draw = np.random.default_rng(8)
    updates: dict[str, Any] = {site: draw.normal(0, 0.05, len(study.base)).astype(np.float32) for site in SITES}
    monkeypatch.setattr("fedward.client.training.train", lambda *_: updates[site_here()])
    return updates


# --- 8: what is no model ------------------------------------------------------------------------------------------------------


def holding(base: NDArray[np.float32], value: float) -> NDArray[np.float32]:
    changed = base.copy()
    changed[7] = value
    return changed


def test_a_base_that_is_no_model_of_the_study_is_refused_with_the_reason_and_costs_nothing(
    evil: Evil, study: Study, setup: Setup
) -> None:
    slot, before, base = setup.slot(), study.all_charges(), study.base
    d = len(base)

    def of(array: NDArray[Any], **changes: object) -> bytes:
        return evil.raw(slot.header(base=digest(array.tobytes()), **changes), array.tobytes())

    cases: dict[str, tuple[bytes, str]] = {
        "nan": (of(holding(base, np.nan)), "not-finite"),
        "signalling-nan": (of(holding(base, np.nan).view("<u4") | np.uint32(1)), "not-finite"),
        "infinity": (of(holding(base, np.inf)), "not-finite"),
        "minus-infinity": (of(holding(base, -np.inf)), "not-finite"),
        "only-nan": (of(np.full(d, np.nan, dtype=np.float32)), "not-finite"),
        "a-missing-coordinate": (of(base[:-1]), "wrong-shape"),
        "an-extra-coordinate": (of(np.append(base, np.float32(0))), "wrong-shape"),
        "one-to-be-broadcast": (of(base[:1]), "wrong-shape"),
        "nothing": (of(base[:0]), "wrong-shape"),
        "float64": (of(base.astype(np.float64)), "wrong-shape"),
        "float16": (of(base.astype(np.float16)), "wrong-shape"),
        "a-cut-number": (evil.raw(slot.header(), base.tobytes()[:-1]), "wrong-shape"),
        "two-models": (of(np.tile(base, 2)), "wrong-shape"),
        "another-dimension-fitting": (of(base[:-1], dimension=d - 1), "wrong-shape"),
        "dimension-one-fitting": (of(base[:1], dimension=1), "wrong-shape"),
        "a-huge-dimension": (of(base, dimension=200_000_000), "wrong-shape"),
        "another-s-name": (evil.raw(slot.header(), holding(base, 1.0).tobytes()), "wrong-base"),
        "another-body": (
            evil.raw(slot.header(body_sha256=digest(base.tobytes())), holding(base, 1.0).tobytes()),
            "malformed",
        ),
    }
    said = evil.spread({name: payload for name, (payload, _) in cases.items()})
    for name, (_, code) in cases.items():
        look = refused if code == "malformed" else partial(caught, evil)  # no header to hold anyone to
        look(said[name], code)
    assert study.all_charges() == before
    assert {one.code for one in slot.masked().values()} == {""}  # the slot is not used up


def test_training_that_yields_what_is_no_update_is_refused_and_the_others_sum_is_exact(
    evil: Evil, study: Study, setup: Setup, taught: dict[str, Any]
) -> None:
    good = taught[VA]
    d = len(good)
    yields: dict[str, tuple[NDArray[Any], str]] = {
        "nan": (holding(good, np.nan), "not-finite"),
        "infinity": (holding(good, np.inf), "not-finite"),
        "minus-infinity": (holding(good, -np.inf), "not-finite"),
        "one-to-be-broadcast": (good[:1], "bad-input"),
        "a-missing-coordinate": (good[:-1], "bad-input"),
        "an-extra-coordinate": (np.append(good, np.float32(0)), "bad-input"),
        "a-matrix": (good.reshape(d, 1), "wrong-shape"),
        "a-scalar": (np.full((), 0.5, dtype=np.float32), "wrong-shape"),
    }
    for name, (update, code) in yields.items():
        taught[VA] = update
        slot = setup.slot()
        said = slot.masked([VA])[VA]
        refused(said, code)
        assert evil.incident(said) is None, name
    taught[VA] = holding(good, np.nan)
    slot = setup.slot()
    slot.masked()
    assert slot.core.survivors == SITES[:3]
    refused(
        setup.step("confirm", VA, slot.survivors(SITES)), "out-of-order"
    )  # it signs for no vector that it never sent
    slot.confirm()
    slot.unmask()
    delta, _ = slot.open()
    assert_exact(slot, delta, mean(study, taught, SITES[:3]))


# --- 9: weights -----------------------------------------------------------------------------------------------------------------


def resealed(study: Study, site: str, patients: object) -> bytes:
    """The study with another declared cohort, as its coordinator would seal it anew."""
    data = study.sealed.model_dump(mode="json")
    for entry in data["roster"]:
        if entry["site"] == site:
            entry["declared_patients"] = patients
    return canonical_json(data) if patients != "1e3" else canonical_json(data).replace(b'"1e3"', b"1e3")


@pytest.fixture(scope="module")
def weightless(study: Study) -> dict[str, bytes]:
    values: dict[str, object] = {
        "zero": 0, "negative": -200, "true": True, "a-fraction": 200.5, "a-float": 200.0, "text": "200", "nothing": None,
        "an-exponent": "1e3", "beyond-its-bound": MAX_DECLARED_PATIENTS + 1, "far-beyond": 10**30, "a-list": [200],
    }  # fmt: skip
    return {name: resealed(study, VA, value) for name, value in values.items()}


def test_a_weight_that_is_none_is_refused_at_the_offer(
    evil: Evil, study: Study, setup: Setup, weightless: Mapping[str, bytes]
) -> None:
    said = evil.spread({name: study.offering(body) for name, body in weightless.items()})
    for one in said.values():
        refused(one, "bad-input")
    slot, before = setup.slot(), study.all_charges()
    for body in weightless.values():
        with pytest.raises(FedwardError):
            parse_sealed(body)
    used = evil.spread(
        {name: evil.raw(slot.header(study=digest(body)), study.base.tobytes())
         for name, body in weightless.items()}
    )  # fmt: skip
    for one in used.values():
        refused(one, "not-approved")
    assert study.all_charges() == before


def test_a_weight_changed_mid_study_is_never_used(
    evil: Evil, study: Study, setup: Setup, taught: dict[str, NDArray[np.float32]]
) -> None:
    other = resealed(study, VA, 10 * study.sealed.entry(VA).declared_patients)
    offered = evil.tell({site: study.offering(other) for site in SITES})
    for one in offered.values():
        assert isinstance(one.reply, Standing)
        assert one.reply.state == "pending"
    before = study.all_charges()
    slot = setup.slot()
    for header in (
        slot.header(study=digest(other)),
        study.advertise(study=digest(other)).model_dump(mode="json", exclude={"body_sha256"}),
    ):
        body = study.base.tobytes() if header["kind"] == "masked" else b""
        for one in evil.tell({site: evil.raw(header, body) for site in SITES}).values():
            refused(one, "not-approved")
    assert study.all_charges() == before
    delta, _ = slot.run()
    assert_exact(slot, delta, mean(study, taught, SITES))


# --- 12: the ring's limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [-1, 1])
def test_every_coordinate_at_its_most_is_summed_exactly_for_200_sites(sign: int) -> None:
    """Encoded, masked pairwise and by itself, summed and unmasked, with the largest terms of 32 bits."""
    n, most = 200, most_per_member(32, 200)
    assert most == 10_737_418
    terms = RingTerms(32, n, (Block("update", 3, most),))
    key = {(i, j): digest(f"{i}/{j}".encode()).encode()[:32] for i in range(n) for j in range(i, n)}
    total = np.zeros(3, dtype=terms.dtype)
    for i in range(n):
        vector = np.zeros(3, dtype=terms.dtype)
        encode(
            np.full(3, sign * 1.0),
            bound=2.0,
            weight=1.0,
            grid=1.0 / most,
            most=most,
            out=vector,
            entropy=bytes,
        )
        pairs = [(key[min(i, j), max(i, j)], subtracts(i, j)) for j in range(n) if j != i]
        apply(vector, [(key[i, i], False), *pairs])
        total += vector
    apply(total, [(key[i, i], True) for i in range(n)])
    (opened,) = terms.open_sum(total, n)
    assert opened.tolist() == [sign * n * most] * 3


def test_every_site_at_its_bound_is_summed_exactly_over_the_wire(
    study: Study, setup: Setup, taught: dict[str, NDArray[np.float32]]
) -> None:
    """One coordinate of every site holds its whole bound, the largest of which is the ring's most; then a little more."""
    for sign, beyond in ((1, 1.0), (-1, 1000.0)):
        slot = setup.slot()
        for site in SITES:
            taught[site] = np.zeros(len(study.base), dtype=np.float32)
            taught[site][3] = sign * beyond * np.float32(slot.terms.bounds[site])
        delta, _ = slot.run()
        bounds = {site: slot.terms.bounds[site] for site in SITES}
        held = {site: vector.astype(np.float64).clip(-bounds[site], bounds[site]) for site, vector in taught.items()}
        assert_exact(slot, delta, mean(study, held, SITES))


class Declaring:
    """A hospital that declares what it likes."""

    def __init__(self, site: str, patients: int) -> None:
        self.site, self.patients, self.identity = site, patients, Identity.generate()
        self.offered = 0

    def answers(self, coordinator: str) -> Callable[[bytes], bytes]:
        return lambda data: self._answer(data, coordinator)

    def _answer(self, data: bytes, coordinator: str) -> bytes:
        request, body = messages.open_request(data, coordinator)
        if isinstance(request, Declare):
            reply: Any = Declared(
                site=self.site,
                request=digest(data),
                study_id=request.study_id,
                patients=self.patients,
                noise_multiplier=least_noise(parse_draft(body)),
            )
        else:
            assert isinstance(request, Offer)
            self.offered += 1
            reply = Standing(site=self.site, request=digest(data), study=request.study, state="pending", at=0)
        return messages.pack(reply, b"", self.identity)


def proposed(folder: Path, sites: list[Declaring], **privacy: object) -> tuple[Store, int, FedwardError | None]:
    """What becomes of a proposal to hospitals that declare these cohorts: the real one, with a dictionary for a network."""
    coordinator = Identity.generate()
    store = Store.open(folder / "store.sqlite")
    for site in sites:
        enrol(store, site.site, site.identity.public, site.identity.public, 0)
    manifest = heart_manifest(secure=True, privacy=privacy)
    key = store.create_study(manifest.study.id, manifest.model_dump_json(), tuple(site.site for site in sites), 0)
    transport = MemoryTransport({site.site: site.answers(coordinator.public) for site in sites})
    try:
        propose(store, transport, TestClock(), store.study(key), coordinator, "f" * 32, lambda _: None)
    except FedwardError as error:
        return store, key, error
    return store, key, None


def absurd(count: int, patients: int = MAX_DECLARED_PATIENTS) -> list[Declaring]:
    return [Declaring(f"site-{index:02d}", patients) for index in range(count)]


def test_cohorts_that_would_overflow_the_ring_are_refused_at_planning_by_name(tmp_path: Path) -> None:
    """Ten sites of a hundred million patients just fit 32 bits, an eleventh does not."""
    for name in ("ten", "eleven", "wide", "beyond"):
        (tmp_path / name).mkdir()
    store, key, error = proposed(tmp_path / "ten", absurd(10))
    assert error is None
    assert store.study(key).sealed is not None

    eleven = absurd(11)
    store, key, error = proposed(tmp_path / "eleven", eleven)
    assert error is not None
    assert error.code == "ring-overflow"
    assert "histogram" in error.text()
    assert "11 sites" in error.text()
    assert store.study(key).sealed is None
    assert sum(site.offered for site in eleven) == 0

    store, key, error = proposed(tmp_path / "wide", absurd(11), ring_bits=64)
    assert error is None

    sites = [*absurd(3, 200), Declaring("site-99", MAX_DECLARED_PATIENTS + 1)]
    store, key, error = proposed(tmp_path / "beyond", sites)
    assert error is None
    sealed = store.study(key).sealed
    assert sealed is not None
    assert [entry.site for entry in parse_sealed(sealed).roster] == ["site-00", "site-01", "site-02"]
    assert "more patients than a study takes" in {row.site: row.reason for row in store.standings(key)}["site-99"]


@pytest.mark.parametrize("bits", [32, 64])
def test_terms_one_step_beyond_the_ring_are_refused_for_200_sites(bits: int) -> None:
    most = (2 ** (bits - 1) - 1) // 200
    RingTerms(bits, 200, (Block("update", 1, most),))
    with pytest.raises(FedwardError) as refusal:
        RingTerms(bits, 200, (Block("update", 1, most + 1),))
    assert refusal.value.code == "ring-overflow"


# --- 13: types ------------------------------------------------------------------------------------------------------------------


def lies(fields: Mapping[str, list[object]]) -> dict[str, dict[str, object]]:
    return {f"{field}={json.dumps(value)[:40]}": {field: value} for field, many in fields.items() for value in many}


MASKED_LIES = lies(
    {
        "round": [True, "1", 1.0, None, [1], 0, 10_002],
        "attempt": [True, "1", None, 0],
        "slot": [False, "0", 0.0, None, -1, 64],
        "dimension": [True, "39", None],
        "train": [1, "true", None, []],
        "evaluate": [0, "false", "", {}],
        "base": [None, "A" * 64, "0" * 64 + "\n", ["0" * 64]],
        "setup": [None, "0x" + "0" * 62],
        "batch": [1, "../" * 10 + "ab"],
        "study": [None, "../approvals"],
        "body_sha256": [None, ""],
        "kind": [None, True, "Masked", "work2", "secured", ["masked"], "__class__"],
        "extra": [None],
        "__reduce__": ["os.system"],
    }
)
ADVERTISE_LIES = lies(
    {
        "threshold": [True, "3", 3.0, None],
        "slots": [True, "4", 65],
        "cohort": [None, "cleveland", [], [1, 2, 3], {"cleveland": 1}, [None], ["va"] * 201],
        "quorum": [1],
        "keys": [["0" * 64]],
    }
)


def test_a_header_of_other_types_is_refused_and_costs_nothing(evil: Evil, study: Study, setup: Setup) -> None:
    slot, before = setup.slot(), study.all_charges()
    body = study.base.tobytes()
    advertise = study.advertise().model_dump(mode="json", exclude={"body_sha256"})
    cases: dict[str, bytes | Callable[[str], bytes]] = {
        name: evil.raw(slot.header(**lie), body) for name, lie in MASKED_LIES.items()
    }
    cases |= {f"advertise {name}": evil.raw(advertise | lie) for name, lie in ADVERTISE_LIES.items()}
    for field in slot.header():
        cases[f"without {field}"] = evil.raw({k: v for k, v in slot.header().items() if k != field}, body)
    true = canonical_json({"body_sha256": digest(body)} | slot.header())
    cases |= {
        "spaces": evil.raw(json.dumps(json.loads(true)).encode(), body),
        "another order": evil.raw(json.dumps(dict(reversed(json.loads(true).items())), separators=(",", ":")).encode(), body),
        "a field twice": evil.raw(true[:-1] + b',"train":true}', body),
        "a field twice, the first false": evil.raw(b'{"attempt":1,' + true[1:], body),
        "an escaped letter": evil.raw(true.replace(b'"masked"', b'"\\u006dasked"'), body),
        "an integer as 1e0": evil.raw(true.replace(b'"round":1', b'"round":1e0'), body),
        "NaN": evil.raw(true.replace(b'"round":1', b'"round":NaN'), body),
        "a list": evil.raw(b"[" + true + b"]", body),
        "text": evil.raw(json.dumps(true.decode()).encode(), body),
        "null": evil.raw(b"null", body),
        "nothing": evil.raw(b"", body),
        "deep": evil.raw(b"[" * 20_000 + b"]" * 20_000, body),
        "not UTF-8": evil.raw(true.replace(b"masked", b"mask\xff\xfe"), body),
        "no JSON": evil.raw(b"\x00" * 64, body),
    }  # fmt: skip
    said = evil.spread(cases)
    wrong = {name: one.code for name, one in said.items() if one.code != "malformed"}
    assert wrong == {}
    assert all(one.body == b"" for one in said.values())
    assert study.all_charges() == before
    assert slot.masked([CLEVELAND])[CLEVELAND].code == ""  # the same, rightly typed


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def test_a_pickle_in_any_body_is_refused_and_never_executed(
    evil: Evil, study: Study, setup: Setup, tmp_path: Path
) -> None:
    mark = tmp_path / "executed"
    bombs = [pickle.dumps(Bomb(mark), protocol) for protocol in (0, 2, 5)]
    array = tmp_path / "array.npy"
    np.save(array, np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    bombs.append(array.read_bytes())
    assert pickle.loads(bombs[0]) is None  # noqa: S301 - it does what it is for
    assert mark.exists()
    mark.unlink()

    slot = setup.slot()
    slot.masked()
    fresh, before = setup.slot(), study.all_charges()
    for bomb in bombs:
        steps = evil.spread({"confirm": setup.packed("confirm", bomb), "unmask": setup.packed("unmask", bomb)})
        for one in steps.values():
            assert one.code in {"malformed", "survivors-not-in-cohort"}
            caught(evil, one, one.code)
        said = evil.tell(
            {
                CLEVELAND: evil.raw(fresh.header(base=digest(bomb)), bomb),
                HUNGARIAN: evil.raw(bomb),
                SWITZERLAND: bomb,
                VA: study.offering(bomb),
            }
        )
        assert [said[site].code for site in SITES] == ["wrong-shape", "malformed", "malformed", "bad-input"]
    begun = study.begin()
    begun.advertise()
    for one in evil.tell({site: begun.packed("share", bomb) for site, bomb in zip(SITES, bombs, strict=True)}).values():
        caught(evil, one, "malformed")
    begun.share()
    for one in evil.tell({site: begun.packed("open", bomb) for site, bomb in zip(SITES, bombs, strict=True)}).values():
        caught(evil, one, "malformed")
    assert study.all_charges() == before
    assert not mark.exists()
