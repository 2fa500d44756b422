"""A coordinator takes a hospital's yes or no to its demands for an oracle, and searches for a count by proposing thresholds.

Without a person at the hospital it gets no answer at all: a draft, a proposal and a request for work are answered alike whatever is
demanded, and no patient's row is read. A person's yes answers the one study that they approved; a no is one word, whichever demand
failed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from demanding import FAILING, JUST_MET, proposal
from federation import Federation, decide, heart_manifest
from hospital import SITE, Site, code

from fedward.client import approvals, datasets, door, exclusions
from fedward.client.door import Asked
from fedward.privacy.errors import IntegrityError, RefusalError
from fedward.study.changes import changes
from fedward.study.manifest import SealedManifest
from fedward.study.messages import (
    Declare,
    Declared,
    Offer,
    Refusal,
    Reply,
    Result,
    Standing,
)

THRESHOLDS = (10, 50, 100, 150, 190, 200, 210, 250, 500, 10_000)
"""The hospital has 200 patients."""
ROOT = Path(__file__).parents[2]
NEW = {"request", "study", "reference"}
"""What every reply has afresh, whatever it says."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("oracle"), sites=("cleveland", "hungarian", SITE))
    manifest = heart_manifest(training={"rounds": 2}, privacy={"epsilon": 1.0})
    federation.register(manifest)
    federation.propose(manifest)
    return federation


@pytest.fixture
def site(template: Federation, tmp_path: Path) -> Site:
    return Site(template.copy(tmp_path / "copy"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every time that a hospital's rows are read."""
    made: list[str] = []
    read = datasets.read_site_table

    def watched(*args: Any, **named: Any) -> Any:
        made.append("read")
        return read(*args, **named)

    monkeypatch.setattr(datasets, "read_site_table", watched)
    return made


def told(reply: Reply) -> dict[str, Any]:
    return {name: value for name, value in reply.model_dump(mode="json").items() if name not in NEW}


def work(site: Site, sealed: SealedManifest, **changes: Any) -> Reply:
    return site.work(study=sealed.digest, **changes)


def test_ten_drafts_tell_nothing(site: Site, reads: list[str]) -> None:
    """They are answered by a program: so they are answered alike."""
    replies = [site.declare(manifest=proposal(site, {"min_patients": least}).manifest) for least in THRESHOLDS]
    plain = site.declare()
    assert isinstance(plain, Declared)
    assert all(told(reply) == told(plain) for reply in replies)
    assert reads == []


def test_ten_proposals_that_nobody_decided_about_tell_nothing(site: Site, reads: list[str]) -> None:
    offers, works = [], []
    for seconds, least in enumerate(THRESHOLDS):
        sealed = proposal(site, {"min_patients": least, "min_positive": least}, seconds)
        offers.append(site.offer(sealed))
        works.append(work(site, sealed))
    assert {told(reply)["state"] for reply in offers} == {"pending"}
    assert len({str(told(reply)) for reply in offers}) == 1
    assert {code(reply) for reply in works} == {"not-approved"}
    assert len({str(told(reply)) for reply in works}) == 1
    assert reads == []
    assert site.charges() == []


def test_a_person_who_cannot_approve_it_leaves_no_trace_that_the_coordinator_sees(site: Site) -> None:
    sealed = proposal(site, {"min_patients": 210})
    offered, asked = told(site.offer(sealed)), told(work(site, sealed))
    entries = site.home.audit.size
    with pytest.raises(RefusalError) as refused:
        decide(site.home, sealed, "approved", site.federation.clock.unix())
    assert refused.value.code == "not-eligible"
    assert "patients: 200 here, and the study asks for at least 210" in refused.value.text()
    assert site.home.audit.size == entries  # the coordinator hears how many there are
    assert (told(site.offer(sealed)), told(work(site, sealed))) == (offered, asked)


def test_a_yes_answers_the_study_that_it_was_said_to_and_no_other(site: Site, reads: list[str]) -> None:
    approved, others = proposal(site, {"min_patients": 200}), THRESHOLDS[6:]
    site.offer(approved)
    decide(site.home, approved, "approved", site.federation.clock.unix())
    assert isinstance(work(site, approved), Result)
    reads.clear()
    for seconds, least in enumerate(others, 100):
        sealed = proposal(site, {"min_patients": least}, seconds)
        reply = site.offer(sealed)
        assert isinstance(reply, Standing)
        assert (reply.state, code(work(site, sealed))) == ("pending", "not-approved")
        with pytest.raises(RefusalError, match="does not meet"):
            approvals.check_approvable(site.home, sealed, site.federation.clock.unix())
    reads.clear()
    assert isinstance(work(site, approved, round=2, attempt=2), Result)
    assert reads == []  # the yes was read off patients that were in memory anyway


def test_a_no_is_the_same_word_whichever_demand_failed(site: Site) -> None:
    """`unchecked`: another program approved it here. The node holds the demand against the patients all the same."""
    replies: list[Reply] = []
    for seconds, (name, demand) in enumerate(FAILING.items()):
        sealed = proposal(site, demand, seconds)
        site.offer(sealed)
        decide(site.home, sealed, "approved", site.federation.clock.unix(), unchecked=True)
        replies.append(work(site, sealed))
        assert code(replies[-1]) == "not-eligible", name
        assert b"asks for" not in site.raw
        found = site.logged()[-1]
        assert "and the study asks for at least" in str(found), name
    assert len({str({k: v for k, v in told(reply).items() if k != "head"}) for reply in replies}) == 1
    assert site.charges() == []


def test_who_approves_is_shown_that_the_number_changed(site: Site) -> None:
    old = proposal(site, {"min_patients": 190})
    assert changes(old, proposal(site, {"min_patients": 200})) == [
        "patients that it demands of a hospital: 190 before, 200 now"
    ]
    assert changes(site.sealed, old) == [
        "what it demands of a hospital's patients: nothing before, min_patients 190 groups none now"
    ]
    groups = {"groups": [{"column": "sex", "min_patients": 190, "min_levels": 1}]}
    (line,) = changes(proposal(site, JUST_MET), proposal(site, JUST_MET | groups))
    assert "group sizes that it demands of a hospital: " in line


def test_no_threshold_tells_a_count_to_the_last_patient(site: Site) -> None:
    for least in (1, 9, 199, 201):
        with pytest.raises(ValueError, match="eligibility"):
            proposal(site, {"min_patients": least})


def test_the_door_lets_the_no_out_only_where_work_was_asked_for(site: Site) -> None:
    """Should the node ever hold a draft or a proposal against the patients, its answer stays here."""
    nothing = {"nonce": "0" * 64}
    digest_ = site.sealed.digest
    closed = [
        Declare(study_id="heart-4-hospitals", **nothing),  # type: ignore[arg-type]
        Offer(study=digest_, signature="AA==", **nothing),  # type: ignore[arg-type]
        None,
    ]
    refusal = Refusal(site=SITE, request="a" * 64, code="not-eligible", reference="0" * 12)
    for request in closed:
        asked = Asked(SITE, "a" * 64, request, study=lambda _: site.sealed, batch=lambda *_: None)  # type: ignore[arg-type,return-value]
        with pytest.raises(IntegrityError, match='"code"'):
            door.release(refusal, b"", asked, site.home.identity())
        door.release(refusal.model_copy(update={"code": "not-approved"}), b"", asked, site.home.identity())


def test_the_page_says_what_the_program_answers(site: Site) -> None:
    """Each row of the page's table, played."""
    page = (ROOT / "docs" / "eligibility.md").read_text(encoding="utf-8").split("## What the coordinator learns")[1]
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| ")][1:]
    unmet, met = proposal(site, {"min_patients": 210}, 1), proposal(site, {"min_patients": 200}, 2)
    heard: list[object] = []
    declared = site.declare(manifest=unmet.manifest)
    assert isinstance(declared, Declared)
    heard.append("the rounded count that it hears anyway")
    heard.append(said(site, unmet))
    heard.append(code(work(site, unmet)))
    waiting = said(site, unmet)
    decide(site.home, unmet, "refused", site.federation.clock.unix())
    heard.append(f"{waiting}; {said(site, unmet)} if somebody refuses it")
    site.offer(met)
    decide(site.home, met, "approved", site.federation.clock.unix())
    heard.append(said(site, met))
    assert isinstance(work(site, met), Result)
    heard.append("the work")
    exclusions.add(site.home, identifiers(site)[:1])
    heard.append(code(work(site, met, round=2, attempt=2)))
    assert [row[1].strip().replace("`", "") for row in rows] == heard


def said(site: Site, sealed: SealedManifest) -> str:
    reply = site.offer(sealed)
    assert isinstance(reply, Standing)
    return reply.state


def identifiers(site: Site) -> list[str]:
    path = Path(datasets.find(site.home, "heart-4-hospitals").path)
    return [line.split(",")[0] for line in path.read_text().splitlines()[1:]]
