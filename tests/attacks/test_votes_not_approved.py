"""Attacks on votes for features: asked for where no hospital approved them, and votes that no patients can have cast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import fedward
from federation import Federation, heart_manifest
from hospital import SITE, Site, code
from voting import allow_votes

from fedward.privacy.canonical import digest
from fedward.privacy.errors import FedwardError
from fedward.server.admission import Limits, admit
from fedward.study import messages
from fedward.study.manifest import SealedManifest, parse
from fedward.study.messages import Result, Standing, Work
from fedward.study.metrics import histogram_shape
from fedward.study.vectors import vector_digest
from fedward.study.votes import given_shape, voted_features


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("votes"), sites=("cleveland", "hungarian", SITE))
    federation.ready(heart_manifest(training={"rounds": 3}, evaluation={"every": 1}))
    return federation


@pytest.fixture
def site(template: Federation, tmp_path: Path) -> Site:
    """A hospital that would let votes go, and approved a study without."""
    made = Site(template.copy(tmp_path / "copy"))
    allow_votes(made.home)
    return made


def asking(sealed: SealedManifest) -> SealedManifest:
    data = sealed.manifest.model_dump(mode="json")
    data["evaluation"]["influence"] = True
    return sealed.model_copy(update={"manifest": parse(data), "sealed_at": sealed.sealed_at + 60})


def test_votes_asked_of_a_study_that_was_approved_without(site: Site) -> None:
    reply = site.work(round=4, train=False, evaluate=True)
    assert isinstance(reply, Result)
    assert reply.histogram_values == np.prod(histogram_shape(site.sealed.manifest))
    other = asking(site.sealed)
    assert other.digest != site.sealed.digest
    assert code(site.work(study=other.digest, round=4, attempt=2, train=False, evaluate=True)) == "not-approved"
    offered = site.offer(other)
    assert isinstance(offered, Standing)
    assert offered.state == "pending"
    review = fedward("site", "review", other.digest, "--home", site.home.path).out
    assert "votes of held-out patients for a feature: nothing before, on now" in review
    assert "each test patient votes for one of the 13 features" in review
    assert code(site.work(study=other.digest, round=4, attempt=3, train=False, evaluate=True)) == "not-approved"


def test_votes_asked_by_a_request_of_another_form(site: Site) -> None:
    class Asking(Work):
        influence: bool = True

    request = Asking(
        study=site.sealed.digest, round=4, attempt=1, base=vector_digest(site.base), dimension=len(site.base),
        train=False, evaluate=True,
    )  # fmt: skip
    assert code(site.ask(request, messages.floats_to_bytes(site.base))) == "malformed"


def test_more_votes_than_held_out_patients(site: Site) -> None:
    """A site's votes in a plain sum, signed by its own key: one vote more than it has patients, or for no feature at all."""
    manifest = asking(site.sealed).manifest
    shape, identity = given_shape(manifest), site.home.identity()
    request = Work(study="1" * 64, round=2, attempt=1, base="2" * 64, dimension=3, train=False, evaluate=True)
    asked = digest(messages.pack(request, bytes(12), site.coordinator))
    counts = np.zeros(shape, dtype=np.int64)
    counts[0, 4] = (30, 12)

    def told(votes: dict[int, int], voted: int) -> Any:
        block = counts.copy()
        for cell, number in votes.items():
            block[-1].reshape(-1)[cell] = number
        reply = Result(site=SITE, request=asked, study="1" * 64, round=2, attempt=1, base="2" * 64, update_values=0,
                       histogram_values=block.size)  # fmt: skip
        return admit(
            messages.pack(reply, messages.counts_to_bytes(block), identity), site=SITE, key=identity.public,
            request=request, request_digest=asked, limits=Limits(shape, 50, 1.0, voted=voted),
        ).counts  # fmt: skip

    features = voted_features(manifest)
    assert told({0: 30, 5: 12}, features)[-1].sum() == 42  # type: ignore[index]
    for lie in ({0: 31, 5: 12}, {0: 2**62, 1: 2**62, 2: 2**62}, {features: 1}):
        with pytest.raises(FedwardError) as caught:
            told(lie, features)
        assert caught.value.code == "out-of-bounds"


def test_a_site_that_votes_more_than_it_has_patients_is_out_of_a_plain_sum(tmp_path: Path) -> None:
    federation = Federation(tmp_path, sites=("cleveland", "hungarian", "switzerland", SITE))
    manifest = heart_manifest(training={"rounds": 1}, evaluation={"influence": True})
    federation.ready(manifest)
    node, identity = federation.transport.nodes[SITE], federation.sites[SITE].identity()

    def answer(data: bytes) -> bytes:
        true = node(data)
        reply, body = messages.open_reply(true, identity.public)
        if not isinstance(reply, Result) or not reply.histogram_values:
            return true
        counts = np.frombuffer(body, dtype="<i8").reshape(given_shape(manifest)).copy()
        counts[-1, 0, 0] = counts[0].sum() + 1
        return messages.pack(reply, counts.tobytes(), identity)

    federation.transport.nodes[SITE] = answer
    federation.run()
    found = federation.store.evaluation(federation.key, 1)
    assert found is not None
    assert SITE not in found.sites
    told = next(
        row for row in federation.store.statuses(federation.key) if row.site == SITE and row.status == "refused"
    )
    assert "more votes" in (told.reason or "")
