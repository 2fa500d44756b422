"""What holds of a completed study's record, its ledgers and everything that left a hospital, whatever died on the way."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from federation import Federation
from secured import Said, check_slots, check_sums

from fedward.server import models as model_files
from fedward.study.messages import Masked, Result, Secured, open_reply, open_request

Place = tuple[int, int]
"""A round and an attempt."""


@dataclass
class Released:
    """Every update and every count that left a hospital, masked or not: what an eavesdropper would have, lost replies
    included. A reply that is sent again, byte by byte, says nothing new. `said` is what was said of secure sums."""

    updates: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    counts: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    said: list[Said] = field(default_factory=list)
    _seen: set[bytes] = field(default_factory=set)

    def note(self, federation: Federation, site: str, request: bytes, payload: bytes) -> None:
        if payload in self._seen:
            return
        self._seen.add(payload)
        asked, _ = open_request(request, federation.home.identity().public)
        reply, body = open_reply(payload, federation.sites[site].identity().public)
        if isinstance(reply, Result):
            self._release(site, reply.round, reply.attempt, bool(reply.update_values), bool(reply.histogram_values))
        if isinstance(reply, Secured):
            self.said.append(Said(site, asked, request, reply, body, payload))
            if isinstance(asked, Masked):
                self._release(site, asked.round, asked.attempt, asked.train, asked.evaluate)

    def _release(self, site: str, round_: int, attempt: int, update: bool, counts: bool) -> None:
        self.updates[site, round_, attempt] += update
        self.counts[site, round_, attempt] += counts

    def of(self, what: Counter[tuple[str, int, int]], site: str) -> set[Place]:
        """Where a site released something; under one charge it may do so once."""
        found = {(round_, attempt): times for (name, round_, attempt), times in what.items() if name == site and times}
        assert set(found.values()) <= {1}, f"{site} released twice under one charge"
        return set(found)


def check_study(federation: Federation, released: Released, rounds: int) -> None:
    """Assert that a study of `rounds` training rounds completed, and that nothing counted twice or uncharged."""
    _check_record(federation, rounds)
    _check_journal(federation)
    if federation.sealed().manifest.privacy.secure_aggregation:
        contributed = {row.site for row in federation.store.statuses(federation.key) if row.status == "contributed"}
        assert {said.site for said in released.said if said.kind == "masked"} >= contributed
        check_slots(released.said)
        check_sums(federation)
    for site in federation.sites:
        _check_site(federation, released, rounds, site)


def _check_record(federation: Federation, rounds: int) -> None:
    study, attempts = federation.store.study(federation.key), federation.store.attempts(federation.key)
    assert study.state == "completed", study.reason
    assert all(attempt.outcome for attempt in attempts), "an attempt was left open"
    committed = [attempt for attempt in attempts if attempt.outcome == "committed"]
    assert [attempt.round for attempt in committed] == list(range(1, rounds + 2))  # the one after the last evaluates
    # Each round starts from the model that the round before committed, and the last one is the study's.
    assert [attempt.base for attempt in committed][1:] == [attempt.model for attempt in committed][:-1]
    checkpoint = federation.store.checkpoint(federation.key)
    assert checkpoint is not None
    assert (checkpoint.version, checkpoint.model) == (rounds, committed[rounds - 1].model)
    model_files.load_model(federation.home.models_folder, checkpoint.model)
    statuses = federation.store.statuses(federation.key)
    assert all(row.reason for row in statuses if row.status != "contributed"), "a site was left out without a reason"
    named = Counter(row.attempt for row in statuses)
    assert named == dict.fromkeys((a.attempt for a in attempts), len(federation.sites)), "a site without a status"


def _check_journal(federation: Federation) -> None:
    journal = federation.store.journal(federation.key)
    opened = [entry.data["attempt"] for entry in journal if entry.kind == "opened"]
    closed = [entry.data["attempt"] for entry in journal if entry.kind == "closed"]
    assert opened == list(range(1, len(opened) + 1)), "an attempt's number was used again, or left out"
    assert closed == opened
    assert [entry.kind for entry in journal].count("started") == 1


def _check_site(federation: Federation, released: Released, rounds: int, site: str) -> None:
    with federation.sites[site].ledger() as ledger:
        ledger.verify()
        charges = [entry.charge for entry in ledger.charges()]
    entered = Counter((charge.round, charge.attempt, charge.purpose) for charge in charges)
    assert set(entered.values()) <= {1}, "an attempt was charged twice"
    trained = {(charge.round, charge.attempt) for charge in charges if charge.purpose.startswith("train")}
    evaluated = {(charge.round, charge.attempt) for charge in charges if charge.purpose.startswith("evaluate")}
    attempts = federation.store.attempts(federation.key)
    assert trained | evaluated <= {(a.round, a.attempt) for a in attempts}, "a charge for what was never journalled"
    updates, counts = released.of(released.updates, site), released.of(released.counts, site)
    assert updates <= trained, "an update left without a charge"
    assert counts <= evaluated, "counts left without an entry"
    round_of = {a.attempt: a.round for a in attempts if a.outcome == "committed" and a.round <= rounds}
    contributed = {
        (round_of[row.attempt], row.attempt)
        for row in federation.store.statuses(federation.key)
        if row.site == site and row.status == "contributed" and row.attempt in round_of
    }
    assert contributed <= updates
    assert len(trained) >= len(contributed)
