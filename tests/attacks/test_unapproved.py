"""Attacks on a hospital's approvals: by a coordinator, by one approver alone, by somebody who can write the site's files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from federation import APPROVER, Federation, decide, enter_approver, heart_manifest, key_of
from hospital import SITE, Site, code

from fedward.client import approvals, decisions, registry
from fedward.client.approvers import default_key_file, make_key
from fedward.client.decisions import load
from fedward.client.home import SiteHome
from fedward.client.pausing import pause, resume
from fedward.client.standing import Asked, Decisions
from fedward.client.statements import (
    AddApprover,
    Approve,
    Chain,
    RemoveApprover,
    RequireApprovals,
    check_chain,
    next_link,
)
from fedward.client.withdrawing import withdraw
from fedward.privacy.errors import FedwardError, IntegrityError, RefusalError, UsageError
from fedward.privacy.signing import Identity
from fedward.study import messages
from fedward.study.manifest import SealedManifest
from fedward.study.messages import Result, Standing

ROOT = Path(__file__).parents[2]
DAY_S = 86_400


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("unapproved"), sites=("cleveland", "hungarian", SITE))
    federation.ready(heart_manifest(training={"rounds": 3}, evaluation={"every": 2}, privacy={"epsilon": 1.0}))
    return federation


@pytest.fixture
def site(template: Federation, tmp_path: Path) -> Site:
    return Site(template.copy(tmp_path / "copy"))


def newer(site: Site, seconds: int = 60, **changes: object) -> SealedManifest:
    """The same study proposed again by its coordinator, with some of it changed."""
    data = site.sealed.model_dump() | {"sealed_at": site.sealed.sealed_at + seconds} | changes
    sealed = SealedManifest.model_validate(data)
    assert isinstance(site.offer(sealed), Standing)
    return sealed


def with_training(site: Site, **training: object) -> dict[str, object]:
    manifest = site.sealed.manifest.model_dump()
    return {"manifest": manifest | {"training": manifest["training"] | training}}


def said(site: Site, sealed: SealedManifest) -> str:
    reply = site.offer(sealed)
    assert isinstance(reply, Standing)
    return reply.state


def two(site: Site) -> Identity:
    """A second approver, and a policy that asks for both."""
    home = site.home
    key = make_key(home, "second", default_key_file(home, "second"), None)
    registry.add_approver(home, "second", key.public, by=APPROVER, signer=key_of(home), at=now(site))
    home.policy_file.write_text(
        home.policy_file.read_text().replace("approvals_required = 1", "approvals_required = 2")
    )
    return key


def now(site: Site) -> int:
    return site.federation.clock.unix()


def keep(site: Site, folder: Path) -> Path:
    return Path(shutil.copytree(site.home.path / "approvals", folder))


def put_back(site: Site, folder: Path) -> None:
    shutil.rmtree(site.home.path / "approvals")
    shutil.copytree(folder, site.home.path / "approvals")


# --- by the coordinator ---------------------------------------------------------------------------------------------------


def test_rollback_to_an_older_approved_manifest(site: Site) -> None:
    sealed = newer(site, **with_training(site, rounds=2))
    assert isinstance(site.work(), Result)
    decide(site.home, sealed, "approved", now(site))
    assert code(site.work(attempt=2)) == "superseded"
    assert said(site, site.sealed) == "expired"
    assert isinstance(site.work(study=sealed.digest, attempt=3), Result)
    decide(site.home, sealed, "revoked", now(site))
    assert code(site.work(attempt=4)) == "superseded"  # the newer one is gone, and the older one is not back
    with pytest.raises(RefusalError) as refused:
        decide(site.home, site.sealed, "approved", now(site))
    assert refused.value.code == "superseded"
    with site.home.ledger(witnessed=False) as ledger:
        assert ledger.reservations(at=now(site)) == []


def test_changed_run_configuration(site: Site) -> None:
    for changes in (
        with_training(site, rounds=2),
        with_training(site, server_learning_rate=9.0),
        with_training(site, holdout=0.5),
        {"expires_at": site.sealed.expires_at + 1},
    ):
        sealed = newer(site, 0, **changes)
        assert sealed.digest != site.sealed.digest
        assert code(site.work(study=sealed.digest)) == "not-approved"
    assert isinstance(site.work(), Result)


def test_swapped_roster(site: Site) -> None:
    roster = [entry.model_dump() for entry in site.sealed.roster]
    key = [*({**roster[0], "identity_key": Identity.generate().public},), *roster[1:]]
    name = [{**roster[0], "site": "aaaa"}, *roster[1:]]
    for swapped in (key, name, roster[1:]):
        manifest = site.sealed.manifest.model_dump()
        manifest["federation"] |= {"quorum": 2}
        sealed = newer(site, 0, roster=tuple(swapped), manifest=manifest)
        assert code(site.work(study=sealed.digest)) == "not-approved"
    own = [*roster[:-1], {**roster[-1], "identity_key": Identity.generate().public}]
    assert (
        code(site.offer(SealedManifest.model_validate(site.sealed.model_dump() | {"roster": tuple(own)})))
        == "foreign-key"
    )


def test_expired_approval(site: Site) -> None:
    approvals.approve(
        site.home, site.sealed, by=APPROVER, signer=key_of(site.home), at=now(site), expires_at=now(site) + 10
    )
    assert isinstance(site.work(), Result)
    site.federation.clock.elapsed += 10
    assert code(site.work(attempt=2)) == "approval-expired"
    assert said(site, site.sealed) == "expired"


def test_expired_study(site: Site) -> None:
    site.federation.clock.elapsed += site.sealed.expires_at - site.sealed.sealed_at
    assert code(site.work()) == "expired"
    with pytest.raises(RefusalError) as refused:
        decide(site.home, site.sealed, "approved", now(site))
    assert refused.value.code == "expired"


def test_a_revocation_in_the_middle_of_a_round_keeps_its_answer_here(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = site.federation.transport.nodes[SITE]
    real = node._finder.find  # type: ignore[attr-defined]

    def find(*arguments: object) -> object:
        found = real(*arguments)
        site.decide("revoked")
        return found

    monkeypatch.setattr(node._finder, "find", find)  # type: ignore[attr-defined]
    assert code(site.work()) == "revoked-here"
    assert site.charges() == [(1, 1)]  # it counts all the same
    monkeypatch.undo()
    reply, body = messages.open_reply(node(site.sent), site.key)
    assert (code(reply), body) == ("revoked-here", b"")


def test_an_answer_that_was_kept_is_not_sent_again_after_a_revocation(site: Site) -> None:
    assert isinstance(site.work(), Result)
    site.decide("revoked")
    reply, body = messages.open_reply(site.federation.transport.nodes[SITE](site.sent), site.key)
    assert (code(reply), body) == ("revoked-here", b"")


# --- by one approver ------------------------------------------------------------------------------------------------------


def test_one_approver_signing_twice(site: Site) -> None:
    two(site)
    sealed = newer(site)
    for _ in range(2):
        decide(site.home, sealed, "approved", now(site))
    assert code(site.work(study=sealed.digest)) == "not-approved"
    assert load(site.home).standing(sealed.digest, now(site)).missing == 1
    decide(site.home, sealed, "approved", now(site), "second")
    assert isinstance(site.work(study=sealed.digest), Result)


def test_an_approver_under_a_second_name(site: Site) -> None:
    """With the same key, or with a fresh one: one person makes no second self where two must sign."""
    two(site)
    own = key_of(site.home)
    with pytest.raises(RefusalError) as refused:
        registry.add_approver(site.home, "third", own.public, by=APPROVER, signer=own, at=now(site))
    assert refused.value.code == "approver-key-in-use"
    fresh = Identity.generate()
    after = registry.add_approver(site.home, "third", fresh.public, by=APPROVER, signer=own, at=now(site))
    after = registry.add_approver(site.home, "third", fresh.public, by=APPROVER, signer=own, at=now(site))
    assert "third" not in after.approvers
    with pytest.raises(RefusalError) as refused:
        registry.add_approver(site.home, "fourth", Identity.generate().public, by="third", signer=fresh, at=now(site))
    assert refused.value.code == "not-an-approver"
    with pytest.raises(RefusalError, match="too few") as refused:
        registry.remove_approver(site.home, "second", by=APPROVER, signer=own, at=now(site))


def required(site: Site, number: int) -> None:
    """Whoever may edit the policy file edits it."""
    site.policy(re.sub(r"approvals_required = \d", f"approvals_required = {number}", site.home.policy_file.read_text()))


def refused_as(expected: str, ask: Callable[[], object]) -> None:
    with pytest.raises(RefusalError) as refused:
        ask()
    assert refused.value.code == expected


def test_an_approver_who_edits_the_policy_makes_no_second_self(site: Site) -> None:
    """He lowers the number, removes the other, adds himself under another key, and raises the number again."""
    two(site)
    home, own, sealed, at = site.home, key_of(site.home), newer(site), now(site)
    decide(home, sealed, "approved", at)
    required(site, 1)
    refused_as("approvals-lowered", lambda: registry.remove_approver(home, "second", by=APPROVER, signer=own, at=at))
    fresh = Identity.generate()
    refused_as(
        "approvals-lowered",
        lambda: registry.add_approver(home, "third", fresh.public, by=APPROVER, signer=own, at=at),
    )
    refused_as("approvals-lowered", lambda: decide(home, sealed, "approved", at))
    real = approval(site, sealed)
    for what in (  # with a program of his own
        RequireApprovals(needed=1),
        RemoveApprover(name="second", needed=1),
        AddApprover(name="third", key=fresh.public, needed=1),
        real.model_copy(update={"needed": 1}),
    ):
        forge(home, what, APPROVER, own)
    forge(home, real.model_copy(update={"needed": 1}), "third", fresh)
    for number in (1, 2, 3, 2):
        required(site, number)
        assert sorted(load(home).approvers) == ["second", APPROVER]
        assert code(site.work(study=sealed.digest)) == "not-approved"
    for by in (APPROVER, "second"):
        decide(home, sealed, "approved", at, by)
    assert isinstance(site.work(study=sealed.digest), Result)


def test_one_who_is_left_alone_where_two_must_sign_adds_nobody(site: Site) -> None:
    second = two(site)
    home, own, at = site.home, key_of(site.home), now(site)
    forge(home, RequireApprovals(needed=2), APPROVER, own)
    forge(home, RemoveApprover(name="second", needed=2), "second", second)  # leaves of his own will
    assert list(load(home).approvers) == [APPROVER]
    fresh = Identity.generate()
    for what in (RequireApprovals(needed=3), RequireApprovals(needed=1)):
        forge(home, what, APPROVER, own)
    required(site, 1)
    refused_as(
        "approvals-lowered",
        lambda: registry.add_approver(home, "third", fresh.public, by=APPROVER, signer=own, at=at),
    )
    forge(home, AddApprover(name="third", key=fresh.public, needed=1), APPROVER, own)
    assert list(load(home).approvers) == [APPROVER]
    assert load(home).required == 3


def test_as_many_as_must_sign_make_it_fewer(site: Site) -> None:
    second = two(site)
    home, own, at = site.home, key_of(site.home), now(site)
    assert registry.require_approvals(home, 2, by=APPROVER, signer=own, at=at).required == 2
    with pytest.raises(UsageError, match="2 must sign already"):
        registry.require_approvals(home, 2, by=APPROVER, signer=own, at=at)
    refused_as("too-few-approvers", lambda: registry.require_approvals(home, 3, by=APPROVER, signer=own, at=at))
    refused_as("not-an-approver", lambda: registry.require_approvals(home, 1, by="second", signer=own, at=at))
    required(site, 1)
    for _ in range(2):
        after = registry.require_approvals(home, 1, by=APPROVER, signer=own, at=at)
    assert [(one.what, one.name, one.signed_by, one.needed) for one in after.waiting()] == [
        ("require", "1", (APPROVER,), 2)
    ]
    assert registry.require_approvals(home, 2, by="second", signer=second, at=at).waiting() == []  # says no
    registry.require_approvals(home, 1, by="second", signer=second, at=at)
    after = registry.require_approvals(home, 1, by=APPROVER, signer=own, at=at)
    assert (after.required, after.lowered, after.waiting()) == (1, False, [])
    sealed = newer(site)
    decide(home, sealed, "approved", at)
    assert isinstance(site.work(study=sealed.digest), Result)


def test_a_hospital_that_lost_its_approvers_begins_anew_and_shows_it(site: Site) -> None:
    two(site)
    home, own, at = site.home, key_of(site.home), now(site)
    registry.require_approvals(home, 2, by=APPROVER, signer=own, at=at)
    required(site, 1)
    refused_as("policy-start-over", lambda: registry.start_over(home, by="IT", reason="keys lost", at=at))
    policy = home.policy_file.read_text()
    site.policy(policy.replace("approvers_may_start_over = false", "approvers_may_start_over = true"))
    after = registry.start_over(home, by="IT", reason="keys lost", at=at)
    assert (after.required, dict(after.approvers)) == (1, {})
    assert code(site.work()) == "not-approved"
    site.policy(policy)
    registry.add_approver(home, "new", own.public, by="new", signer=own, at=at)
    assert [(link.by, link.what.kind) for link in load(home).started_over] == [("IT", "started-over")]
    assert "started-over" in [entry.kind for entry in home.audit.entries()]


def test_an_approval_signed_by_a_removed_approver(site: Site) -> None:
    key = make_key(site.home, "second", default_key_file(site.home, "second"), None)
    own = key_of(site.home)
    registry.add_approver(site.home, "second", key.public, by=APPROVER, signer=own, at=now(site))
    sealed = newer(site)
    decide(site.home, sealed, "approved", now(site), "second")
    assert isinstance(site.work(study=sealed.digest), Result)
    registry.remove_approver(site.home, "second", by=APPROVER, signer=own, at=now(site))
    assert code(site.work(study=sealed.digest, attempt=2)) == "not-approved"  # what they had approved
    with pytest.raises(RefusalError) as refused:
        decide(site.home, sealed, "approved", now(site), "second")
    assert refused.value.code == "not-an-approver"
    forge(site.home, approval(site, sealed), "second", key)
    assert code(site.work(study=sealed.digest, attempt=3)) == "not-approved"
    registry.add_approver(site.home, "second", key.public, by=APPROVER, signer=own, at=now(site))
    assert code(site.work(study=sealed.digest, attempt=4)) == "not-approved"  # back again, the old word is not


def approval(site: Site, sealed: SealedManifest) -> Approve:
    real = next(link.what for link in load(site.home).links if isinstance(link.what, Approve))
    return real.model_copy(update={"study": sealed.digest, "sealed_at": sealed.sealed_at})


def forge(home: SiteHome, what: object, by: str, signer: Identity, sealer: Identity | None = None) -> None:
    """A link as somebody writes it who has the home's keys and runs another program."""
    links = load(home).links
    link = next_link(links, what, by=by, at=1, site=SITE, identity=sealer or home.identity(), signer=signer)  # type: ignore[arg-type]
    home.write(home.decisions_file, Chain(links=(*links, link)).model_dump_json().encode())


def test_a_policy_that_asks_for_two_later_asks_it_of_what_was_approved_before(site: Site) -> None:
    assert isinstance(site.work(), Result)
    two(site)
    assert code(site.work(attempt=2)) == "not-approved"
    site.policy(site.home.policy_file.read_text().replace("approvals_required = 2", "approvals_required = 1"))
    assert isinstance(site.work(attempt=3), Result)


def test_one_signature_of_two_is_not_enough_once_the_policy_is_loosened(site: Site) -> None:
    two(site)
    sealed = newer(site)
    decide(site.home, sealed, "approved", now(site))
    site.policy(site.home.policy_file.read_text().replace("approvals_required = 2", "approvals_required = 1"))
    assert code(site.work(study=sealed.digest)) == "not-approved"


def test_an_approval_of_other_data(site: Site) -> None:
    path = site.home.path / "datasets" / "heart-4-hospitals.json"
    kept = site.home.read(path, "dataset")
    assert b'"cohort"' in kept
    other = re.sub(rb'("cohort": ?")[0-9a-f]{64}', rb"\g<1>" + b"0" * 64, kept)
    site.home.write(path, other)
    assert code(site.work()) == "data-changed"


def test_an_approval_above_the_ceiling(site: Site) -> None:
    policy = site.home.policy_file.read_text()
    for line, expected in (
        ("max_epsilon = 0.5", "policy-epsilon"),
        ("max_rounds = 2", "policy-rounds"),
        ('allowed_models = ["mlp"]', "policy-model"),
        ('allowed_algorithms = ["fedavg"]', "policy-algorithm"),
        ('denied_columns = ["age"]', "policy-column"),
    ):
        name = line.split(" = ", maxsplit=1)[0]
        kept = "\n".join(one for one in policy.splitlines() if not one.startswith(f"{name} ="))
        site.policy(f"{kept}\n{line}\n")
        with pytest.raises(RefusalError) as refused:
            decide(site.home, site.sealed, "approved", now(site))
        assert refused.value.code == expected
        assert code(site.work()) == expected  # tightened after approval: ceilings hold at each request
        decide(site.home, site.sealed, "approved", now(site), unchecked=True)  # by another program
        assert code(site.work()) == expected
    site.policy(policy)
    assert isinstance(site.work(), Result)


def test_an_approval_that_holds_longer_than_the_policy_allows(site: Site) -> None:
    site.policy(site.home.policy_file.read_text().replace("expiry_days = 365", "expiry_days = 2"))
    signer = key_of(site.home)
    with pytest.raises(RefusalError) as refused:
        approvals.approve(
            site.home, site.sealed, by=APPROVER, signer=signer, at=now(site), expires_at=now(site) + 3 * DAY_S
        )
    assert refused.value.code == "policy-expiry"
    site.federation.clock.elapsed += 2 * DAY_S  # also for what was approved before the policy was tightened
    assert code(site.work()) == "approval-expired"


# --- by somebody who writes the site's files ------------------------------------------------------------------------------


def test_replayed_approval_after_revoke(site: Site, tmp_path: Path) -> None:
    chain = site.home.decisions_file.read_bytes()
    kept = keep(site, tmp_path / "before")
    site.decide("revoked")
    site.home.decisions_file.write_bytes(chain)
    assert code(site.work()) == "decisions-rolled-back"
    put_back(site, kept)  # with the head that belonged to it
    assert code(site.work()) == "decisions-rolled-back"
    decisions._seen.clear()  # as in a new process
    site.federation.restart(SITE)
    assert code(site.work()) == "decisions-rolled-back"
    assert site.charges() == []


def test_deleted_decisions(site: Site) -> None:
    """As if nobody had ever been an approver here: whoever comes first would be one."""
    shutil.rmtree(site.home.path / "approvals")
    assert code(site.work()) == "decisions-rolled-back"
    decisions._seen.clear()  # as in a new process
    assert code(site.work()) == "decisions-rolled-back"
    with pytest.raises(IntegrityError) as refused:
        enter_approver(site.home, "intruder")
    assert refused.value.code == "decisions-rolled-back"


def test_a_head_that_is_taken_away(site: Site) -> None:
    site.home.decisions_head_file.unlink()
    assert code(site.work()) == "decisions-rolled-back"


def test_copied_approval_from_another_hospital(site: Site) -> None:
    """The same study, the same approver's key at both: a decision of the one is none of the other."""
    other = site.federation.sites["cleveland"]
    undone = load(site.home).links
    for name in ("decisions_file", "decisions_head_file"):
        path = getattr(site.home, name)
        site.home.write(path, other.read(getattr(other, name), "decisions"))
    assert code(site.work()) == "bad-approval"
    with pytest.raises(IntegrityError):
        check_chain(load(other).links, SITE, [site.key])
    check_chain(undone, SITE, [site.key])


@pytest.mark.parametrize("sealed_by_site", [True, False])
def test_a_forged_registry(site: Site, sealed_by_site: bool) -> None:
    """Another approver's entry, signed by himself; sealed with the site's key, or with one of his own."""
    forger, home = Identity.generate(), site.home
    sealed = newer(site)
    forge(
        home,
        AddApprover(name="forger", key=forger.public, needed=1),
        "forger",
        forger,
        None if sealed_by_site else forger,
    )
    if not sealed_by_site:
        assert code(site.work()) == "bad-approval"
        return
    assert "forger" not in load(home).approvers
    forge(home, approval(site, sealed), "forger", forger)
    assert code(site.work(study=sealed.digest)) == "not-approved"
    whole = home.read(home.decisions_file, "decisions")
    home.write(home.decisions_file, whole.replace(key_of(home).public.encode(), forger.public.encode()))
    assert code(site.work()) == "bad-signature"


def test_a_link_left_out_moved_or_changed(site: Site) -> None:
    site.decide("revoked")
    site.decide("approved")
    whole, key = load(site.home).links, site.key
    for number in range(len(whole) - 1):
        with pytest.raises(IntegrityError):
            check_chain([*whole[:number], *whole[number + 1 :]], SITE, [key])
        swapped = [*whole]
        swapped[number], swapped[number + 1] = swapped[number + 1], swapped[number]
        with pytest.raises(IntegrityError):
            check_chain(swapped, SITE, [key])
    for number, link in enumerate(whole):
        for change in ({"at": link.at + 1}, {"by": "other"}, {"signature": ""}, {"seal": ""}, {"key": ""}):
            with pytest.raises(IntegrityError):
                check_chain([*whole[:number], link.model_copy(update=change), *whole[number + 1 :]], SITE, [key])


def test_paused_it_works_on_nothing_also_after_a_restart_and_in_the_middle_of_a_round(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = site.federation.transport.nodes[SITE]
    real = node._finder.find  # type: ignore[attr-defined]

    def find(*arguments: object) -> object:
        found = real(*arguments)
        pause(site.home, by="anyone", at=now(site))
        return found

    monkeypatch.setattr(node._finder, "find", find)  # type: ignore[attr-defined]
    assert code(site.work()) == "paused"
    assert site.charges() == [(1, 1)]
    site.federation.restart(SITE)
    assert code(site.work(attempt=2)) == code(site.declare()) == "paused"
    assert said(site, site.sealed) == "approved"
    site.policy(
        site.home.policy_file.read_text().replace("resume_needs_approver = false", "resume_needs_approver = true")
    )
    with pytest.raises(RefusalError):
        resume(site.home, by="anyone", signer=None, at=now(site))
    with pytest.raises(RefusalError):
        resume(site.home, by=APPROVER, signer=Identity.generate(), at=now(site))
    resume(site.home, by=APPROVER, signer=key_of(site.home), at=now(site))
    assert isinstance(site.work(attempt=2), Result)


def test_withdrawn_data_stay_withdrawn(site: Site, tmp_path: Path) -> None:
    assert isinstance(site.work(), Result)
    kept = Path(shutil.copytree(site.home.path / "datasets", tmp_path / "datasets"))
    certificate = withdraw(site.home, "heart-4-hospitals", by=APPROVER, signer=key_of(site.home), at=now(site))
    (affected,) = certificate.affected
    assert (affected.study, affected.rounds, affected.charges, affected.answers) == (site.sealed.digest, (1, 1), 1, 1)
    assert affected.epsilon is not None
    assert 0 < affected.epsilon <= 1.0
    assert len(affected.last_base) == 64
    assert code(site.work(attempt=2)) == "withdrawn"
    assert said(site, site.sealed) == "withdrawn"
    shutil.copytree(kept, site.home.path / "datasets", dirs_exist_ok=True)  # the registration put back
    assert code(site.declare()) == "withdrawn"
    sealed = newer(site)
    for study in (site.sealed, sealed):
        with pytest.raises(RefusalError) as refused:
            decide(site.home, study, "approved", now(site))
        assert refused.value.code == "withdrawn"
    with site.home.ledger(witnessed=False) as ledger:
        assert ledger.reservations(at=now(site)) == []


# --- off is impossible ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("needed", [0, 4, -1, True, "1", 1.0])
def test_a_policy_cannot_ask_for_nobody(site: Site, needed: object) -> None:
    shown = str(needed).lower() if isinstance(needed, bool) else repr(needed).replace("'", '"')
    site.policy(
        f"[policy]\nrequire_secure_aggregation = false\nrequire_evaluation_noise = false\napprovals_required = {shown}"
    )
    assert code(site.work()) == "bad-input"


def test_no_setting_of_a_policy_and_no_variable_switches_approval_off(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a policy and the environment say, a study that nobody approved is not run."""
    from fedward.client.policy import Policy

    sealed = newer(site)
    for name, field in Policy.model_fields.items():
        if field.annotation is bool:
            for value in ("true", "false"):
                site.policy(f"[policy]\n{name} = {value}")
                assert code(site.work(study=sealed.digest)) == "not-approved"
    sources = [path.read_text() for folder in ("client", "cli") for path in (ROOT / folder).rglob("*.py")]
    variables = {name for text in sources for name in re.findall(r"FEDWARD_[A-Z_]+", text)}
    assert variables
    site.policy("[policy]")
    for name in variables - {"FEDWARD_SITE_HOME"}:
        monkeypatch.setenv(name, "1")
    assert code(site.work(study=sealed.digest)) == "not-approved"


def test_every_path_to_the_data_goes_by_the_approval() -> None:
    """In the node's source: each kind of request that reaches data or a batch asks for the approval first."""
    text = (ROOT / "client/fedward/client/node.py").read_text()
    bodies = dict(re.findall(r"    def (_\w+)\(self.*?(?=\n    def |\nclass |\ndef |\Z)", text, re.DOTALL) and [
        (match[1], match[0]) for match in re.finditer(r"    def (_\w+)\((?:.|\n)*?(?=\n    def |\n    @|\ndef |\Z)", text)
    ])  # fmt: skip
    asks = {"_work": "self._admit(request)", "_masked": "self._admit(request)", "_advertise": "self._approved(request.study)",
            "_step": "approvals.require_approved(", "_admit": "self._approved(request.study)",
            "_approved": "approvals.require_approved("}  # fmt: skip
    for name, call in asks.items():
        code_lines = [line for line in bodies[name].splitlines()[1:] if "=" in line or "approvals." in line]
        assert call in code_lines[0], name


def test_nobody_approves_where_nobody_is_an_approver(tmp_path: Path) -> None:
    federation = Federation(tmp_path, sites=("cleveland", "hungarian", SITE))
    home = federation.sites[SITE]
    stranger = Identity.generate()
    with pytest.raises(RefusalError) as refused:
        approvals.require_approver(Decisions((), Asked(1, 365)), "x", stranger)
    assert refused.value.code == "not-an-approver"
    with pytest.raises(RefusalError):
        registry.start_over(home, by="it", reason="keys are lost", at=1)
    home.policy_file.write_text(
        home.policy_file.read_text().replace("approvers_may_start_over = false", "approvers_may_start_over = true")
    )
    assert registry.start_over(home, by="it", reason="keys are lost", at=1).approvers == {}
    with pytest.raises(FedwardError):
        registry.remove_approver(home, APPROVER, by=APPROVER, signer=stranger, at=1)
    with pytest.raises(UsageError):
        make_key(home, APPROVER, default_key_file(home, APPROVER), None)  # the old file is never overwritten
    enter_approver(home, "fresh")
    assert set(load(home).approvers) == {"fresh"}
