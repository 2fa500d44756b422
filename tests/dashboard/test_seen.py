"""The record as one role may see it, over records of many shapes: nothing of another hospital's, nothing nobody thought of."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, make_dataclass, replace
from typing import Any

import pytest
from federation import Federation, heart_manifest
from hypothesis import given, settings
from hypothesis import strategies as st
from monitored import STUDY

from fedward.dashboard.access import LOCAL, Granted
from fedward.dashboard.federation.charges import Charge
from fedward.dashboard.federation.reading import EVERYBODY, Look, Reader, Stamp, Tally
from fedward.dashboard.federation.seen import Seen, named, others, seen
from fedward.dashboard.federation.views import events, overview, participation, privacy
from fedward.dashboard.federation.views import given as given_away
from fedward.dashboard.record import Record
from fedward.dashboard.redaction import OTHER, WITHHELD, Hidden
from fedward.dashboard.views import View
from fedward.privacy.errors import InputError
from fedward.privacy.events import DpEvent
from fedward.server.chronicle import attempts as told_attempts
from fedward.server.chronicle import chronicle
from fedward.server.histories import History
from fedward.server.leases import Lease
from fedward.server.records import (
    ANSWERED,
    ASKED,
    AlarmRow,
    AttemptRow,
    Contribution,
    Evaluation,
    JournalEntry,
    MetricRow,
    Question,
    ReleaseRow,
    SharedMetrics,
    StandingRow,
    StatusRow,
    StudyRow,
)
from fedward.server.verdicts import Verdict
from fedward.server.views import StudyView

POOL = ("va", "va-north", "north", "cleveland", "cleveland-clinic", "st-mary", "mary")
MANIFEST = heart_manifest()
AUDITOR, VIEWER = Granted("auditor", None, 1e9), Granted("viewer", None, 1e9)


def hospital(site: str) -> Granted:
    return Granted("hospital", site, 1e9)


def mark(site: str) -> str:
    """What stands in a site's own texts, and nowhere else; without its name, so that no pattern of names finds it."""
    return f"zq{POOL.index(site)}qz"


def number(site: str) -> float:
    return 7001.25 + POOL.index(site)


@dataclass
class Given(Reader):
    """A record that is made up: all that a reader says."""

    study: StudyRow
    whole: Look
    rows: tuple[StatusRow, ...]
    gave: tuple[SharedMetrics, ...]
    released: tuple[ReleaseRow, ...]
    found: tuple[Verdict, ...]
    measures: tuple[MetricRow, ...]

    def names(self) -> frozenset[str]:
        return frozenset(self.whole.sites)

    def sites_of(self, study: StudyRow) -> frozenset[str]:
        return frozenset(study.invited)

    def stamp(self) -> Stamp:
        return self.whole.stamp

    def lease(self) -> Lease | None:
        return Lease(3, f"home of {self.whole.sites[0]}", "process 7", 1, 2)

    def identities(self) -> dict[str, str]:
        return {site: mark(site) for site in self.whole.sites}

    def coordinator_key(self) -> str | None:
        return "ab" * 32

    def releases(self, study_id: str | None = None) -> list[ReleaseRow]:
        return list(self.released)

    def shared(self, look: Look) -> list[SharedMetrics]:
        return list(self.gave)

    def studies(self) -> tuple[StudyRow, ...]:
        return (self.study,)

    def look(self, key: int) -> Look:
        return self.whole

    def statuses(self, look: Look, newest: int | None = None) -> dict[int, tuple[StatusRow, ...]]:
        return {
            one.attempt: tuple(row for row in self.rows if row.attempt == one.attempt) for one in self.whole.attempts
        }

    def tallies(self, look: Look) -> Mapping[str, Tally]:
        assert look is self.whole  # what is counted is counted in the whole record
        made = {site: Tally() for site in self.whole.sites}
        rounds = {one.attempt: one for one in self.whole.attempts}
        for row in self.rows:
            made[row.site].add(row, rounds[row.attempt], MANIFEST)
        return made

    def metrics(self, look: Look, slices: Sequence[str]) -> list[MetricRow]:
        return list(self.measures)

    def measured(self, look: Look) -> tuple[MetricRow, ...]:
        return self.measures

    def evaluation(self, look: Look, version: int) -> Evaluation | None:
        return Evaluation(version, b"counts", self.whole.sites, self.measures)

    def verdicts(self, look: Look) -> tuple[Verdict, ...] | None:
        assert look is self.whole
        return self.found

    def history(self, look: Look, newest: int | None = None) -> History:
        assert look is self.whole
        view = StudyView(
            key=1, study_id="heart", title="Heart", digest=None, state="running", reason=self.study.reason, wish="run",
            rounds=3, version=1, model=None, epsilon=3.0, delta=1e-3, epsilon_all_others=None, meaning="", secure=None,
            standings=self.whole.standings, attempts=self.whole.attempts, statuses=self.rows, metrics=self.measures,
            questions=() if self.whole.question is None else (self.whole.question,),
            not_releasable=tuple(one.why for one in self.found),
            contributed=tuple(Contribution(site, 1) for site in self.whole.sites),
        )  # fmt: skip
        return History(self.study, view, self.whole.journal, self.whole.alarms, {}, self.gave)


@st.composite
def records(draw: st.DrawFn) -> Given:
    """Any number of sites, whose rows carry their mark and number; texts beside them may name any site, in any case."""
    sites = tuple(sorted(draw(st.sets(st.sampled_from(POOL), min_size=1))))
    some = st.lists(st.sampled_from(sites), min_size=1, max_size=3)

    def text() -> str:
        """What a coordinator writes: a site's reason stands beside its name."""
        named = draw(st.one_of(st.just([]), some))
        return "; ".join(f"{draw(st.sampled_from([site, site.upper()]))}: {mark(site)}" for site in named)

    numbers = range(1, draw(st.integers(1, 4)) + 1)
    rows = tuple(
        StatusRow(attempt, site, draw(st.sampled_from(["contributed", "refused", "dropped"])), mark(site), number(site))
        for attempt in numbers
        for site in sites
    )
    journal = [JournalEntry(1, 5, "drafted", {"study_id": "heart", "invited": list(sites)})]
    for one in numbers:
        opened = {"run": 1, "round": 1, "attempt": one, "base": "ab", "cohort": list(sites), "seed": mark(sites[0])}
        journal.append(JournalEntry(len(journal) + 1, 5, "opened", opened))
        for site in sites:
            said = {"site": site, "state": "approved", "reason": mark(site)}
            journal.append(JournalEntry(len(journal) + 1, 5, "standing", said))
    journal.append(
        JournalEntry(90, 5, ASKED, {"round": 1, "attempt": 1, "sites": draw(some), "at": 1, "until": 2, "new": text()})
    )
    journal.append(JournalEntry(91, 5, ANSWERED, {"round": 1, "choice": "wait", "by": draw(st.sampled_from(sites))}))
    journal.append(JournalEntry(92, 5, "gates", {"held": False, "missed": [["min_auroc", text()]]}))
    journal.append(JournalEntry(93, 5, "never heard of", {"what": mark(sites[-1])}))
    study = StudyRow(
        key=1, study_id="heart", manifest=MANIFEST.model_dump_json(), invited=sites, sealed=None, signature=None, digest=None,
        state="running", reason=text(), wish="run", created_at=1, changed_at=2,
    )  # fmt: skip
    event = DpEvent(number(sites[0]), 1.0, 1)
    whole = Look(
        stamp=(1,), study=study, manifest=MANIFEST, sealed=None,
        attempts=tuple(AttemptRow(one, 1, "ab", "committed", text(), "cd", 5, 2.0) for one in numbers),
        journal=tuple(journal),
        standings=tuple(StandingRow(site, "approved", mark(site), 5) for site in sites),
        alarms=tuple(AlarmRow(site, mark(site), 5) for site in sites),
        version=1, model="cd",
        question=Question(1, 1, tuple(draw(some)), 1, 2),
        charges={site: Charge({mark(site): replace(event, noise_multiplier=number(site))}, ()) for site in sites},
    )  # fmt: skip
    release = ReleaseRow(
        "heart", 1, 1, "cd", 1, b'{"reason": "%s", "gates": "%s"}' % (text().encode(), mark(sites[0]).encode()), mark(sites[0]),
        5, "ana", 6, "bo", text(),
    )  # fmt: skip
    return Given(
        study, whole, rows,
        gave=tuple(SharedMetrics(site, 1, number(site), None, mark(site).encode()) for site in sites),
        released=(release,),
        found=(
            Verdict("max_site_drop", "most", 0.05, False, number(sites[0]), None, None, sites[0], f"{sites[0]}: {mark(sites[0])}"),
            Verdict("min_auroc", "least", 0.8, False, 0.7, why=text()),
        ),
        measures=(
            MetricRow(1, "everybody", "auroc", 0.8, 0.7, 0.9, 50, 60),
            MetricRow(1, f"site={sites[0]}", "auroc", number(sites[0]), None, None, 5, 6),
        ),
    )  # fmt: skip


def everything(record: Reader | Seen, key: int = 1) -> str:
    """All that a page can ask for, but the manifest, which every hospital signed."""
    look = record.look(key)
    plain = replace(look, manifest=None, study=replace(look.study, manifest=""))  # type: ignore[arg-type]
    history = record.history(look)
    said = [
        plain, look.sites, record.lease(), record.identities(), record.coordinator_key(), record.releases(), record.shared(look),
        [replace(row, manifest="") for row in record.studies()], record.statuses(look), record.tallies(look),
        record.metrics(look, EVERYBODY), record.measured(look), record.evaluation(look, look.version), record.verdicts(look),
        replace(history, study=replace(history.study, manifest="")), history.by_attempt, history.asked,
    ]  # fmt: skip
    return "\n".join(map(repr, said)).casefold()


def names_of(said: str, sites: Sequence[str]) -> set[str]:
    """Sites that are named: longest first, so that a name within another is not found there."""
    found = set()
    for site in sorted(sites, key=len, reverse=True):
        said, times = re.subn(rf"(?<![a-z0-9]){site}(?![a-z0-9])", "·", said)
        if times:
            found.add(site)
    return found


@settings(max_examples=150)
@given(records(), st.sampled_from(POOL))
def test_nothing_of_another_hospital_is_in_anything_that_a_page_can_ask_for(record: Given, own: str) -> None:
    sites = record.whole.sites
    if own not in sites:
        with pytest.raises(InputError, match="no study number 1"):
            seen(record, hospital(own)).look(1)
        assert seen(record, hospital(own)).studies() == ()
        return
    said = everything(seen(record, hospital(own)))
    assert names_of(said, sites) == {own}
    assert [site for site in sites if mark(site) in said] == [own]
    assert [site for site in sites if str(number(site)) in said] == [own]
    whole = everything(record)  # the same look finds all of them in the whole
    assert names_of(whole, sites) == set(sites)
    assert all(mark(site) in whole and str(number(site)) in whole for site in sites)


@given(records())
def test_a_viewer_gets_nothing_of_any_hospital(record: Given) -> None:
    said = everything(seen(record, VIEWER))
    assert names_of(said, record.whole.sites) == set()
    assert not any(mark(site) in said or str(number(site)) in said for site in record.whole.sites)


@given(records(), st.sampled_from(POOL))
def test_sums_are_those_of_the_whole(record: Given, own: str) -> None:
    if own not in record.whole.sites:
        return
    part = seen(record, hospital(own))
    look, whole = part.look(1), record.whole
    assert (len(look.sites), named(look), others(look)) == (len(whole.sites), (own,), len(whole.sites) - 1)
    for attempt, rows in record.statuses(whole).items():
        assert Counter(one.status for one in part.statuses(look)[attempt]) == Counter(one.status for one in rows)
        apart = [one for one in part.statuses(look)[attempt] if one.site == OTHER]
        assert [one.status for one in apart] == sorted(one.status for one in apart)  # in no order of their own
    sums, all_ = part.tallies(look), record.tallies(whole).values()
    assert sums[own] == record.tallies(whole)[own]
    assert sum(one.trained for one in sums.values()) == sum(one.trained for one in all_)
    assert sum((Counter(one.statuses) for one in sums.values()), Counter()) == sum(
        (Counter(one.statuses) for one in all_), Counter()
    )
    evaluation = part.evaluation(look, 1)
    assert evaluation is not None
    assert (len(evaluation.sites), evaluation.counts) == (len(whole.sites), b"counts")
    verdicts = part.verdicts(look)
    assert verdicts is not None
    assert [one.holds for one in verdicts] == [one.holds for one in record.found]
    assert chronicle(part.history(look))  # it can be told
    assert len(told_attempts(part.history(look))) == len(whole.attempts)


def test_whoever_sees_everything_gets_the_reader_itself(record: Federation) -> None:
    reader = Reader(record.store)
    assert seen(reader, LOCAL) is reader
    assert seen(reader, AUDITOR) is reader
    assert reader.told("va is late") == "va is late"
    assert seen(reader, VIEWER).told("va is late") == WITHHELD


def test_what_the_part_is_made_from_is_not_left_in_what_all_share(record: Federation) -> None:
    """The reader is every session's: after a hospital's look it still says all of it, and the other way round."""
    reader = Reader(record.store)
    key = record.store.find(STUDY).key
    before = everything(reader, key)
    part = seen(reader, hospital("va"))
    first = everything(part, key)
    assert names_of(first, tuple(record.sites)) == {"va"}
    assert names_of(before, tuple(record.sites)) == set(record.sites)
    assert (part.look(key).sealed, part.history(part.look(key)).sealed) == (None, None)
    assert everything(reader, key) == before == everything(Reader(record.store), key)
    assert everything(seen(reader, hospital("va")), key) == first
    assert set(reader.tallies(reader.look(key))) == set(record.sites)
    assert reader.verdicts(reader.look(key)) is not None


def test_pages_count_those_who_are_not_told_apart(record: Federation) -> None:
    """No chart or table has a row for each of them: what is laid out by hospital has one's own, and others by what they did."""
    reader = Reader(record.store)
    key = record.store.find(STUDY).key
    for part, own in ((seen(reader, hospital("va")), ["va"]), (seen(reader, VIEWER), [])):
        look = part.look(key)
        history, apart = part.history(look), len(record.sites) - len(own)
        grid = participation.grid(look, history)
        rows = grid[grid["hospital"].str.startswith("others: ")]
        assert sorted(set(grid["hospital"]) - set(rows["hospital"])) == own
        assert set(rows["seconds"].isna()) == {True}
        told = rows.groupby("attempt")["why"].agg(lambda why: sum(int(one.split(" of ")[0]) for one in why))
        assert set(told) == {apart}  # in each attempt all of them, each once
        assert list(participation.sites(look, part.tallies(look), history)["hospital"]) == [
            *own, f"{apart} other hospitals together",
        ]  # fmt: skip
        assert list(participation.answers(look, part.statuses(look))["hospital"]) == own
        assert set(participation.causes(look, history)["hospital"]) == set(own)
        assert list(given_away.by_site(look, part.shared(look))["hospital"]) == own
        assert [one.site for one in privacy.costs(look, part.tallies(look))] == own
        assert list(overview.standings(look)["hospital"]) == [*own, f"{apart} other hospitals"]
        whole = reader.look(key)
        assert overview.sentence(look, part.statuses(look)) == overview.sentence(whole, reader.statuses(whole))
        said = " ".join(events.told(history)["what"])
        assert f"{OTHER} and {OTHER}" not in said
        assert f"{OTHER}, {OTHER}" not in said


def test_a_foreign_look_is_not_answered(record: Federation) -> None:
    """A look at the whole record is no key to the rest of it."""
    reader = Reader(record.store)
    whole = reader.look(record.store.find(STUDY).key)
    with pytest.raises(KeyError):
        seen(reader, hospital("va")).history(whole)


# What nobody has thought of yet

FOR_SEEN_ALONE = {"names", "sites_of"}
"""What the reader says of the whole federation: a page is not to ask."""


def test_every_method_of_the_reader_has_a_part_for_roles() -> None:
    """A new method of the reader: say here, or in `Seen`, what of it a hospital and a viewer see."""
    whole, part = (
        {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}
        for kind in (Reader, Seen)
    )
    assert whole - FOR_SEEN_ALONE == part
    assert not hasattr(Seen, "__getattr__")
    for name in part:
        assert inspect.signature(getattr(Reader, name)).parameters == inspect.signature(getattr(Seen, name)).parameters


CLASSIFIED: dict[type, str] = {
    Look: "stamp study manifest sealed attempts journal standings alarms version model question count_deviation charges",
    Tally: "statuses committed trained evaluated",
    History: "study view journal alarms evidence shared calibration",
    StudyView: "key study_id title digest state reason wish rounds version model epsilon delta epsilon_all_others meaning secure "
    "standings attempts statuses metrics kind answers questions not_releasable code contributed",
    StudyRow: "key study_id manifest invited sealed signature digest state reason wish created_at changed_at code",
    AttemptRow: "attempt round base outcome reason model opened_at seconds",
    StatusRow: "attempt site status reason seconds",
    StandingRow: "site state reason at",
    AlarmRow: "site what at",
    Question: "round attempt sites at until choice",
    JournalEntry: "sequence at kind data",
    MetricRow: "version slice name value low high positives negatives",
    Evaluation: "version counts sites metrics",
    SharedMetrics: "site version auroc alone figures signature at",
    Contribution: "site rounds",
    ReleaseRow: "study_id number study model version statement signature released_at by withdrawn_at withdrawn_by withdrawn_why",
    Verdict: "gate side limit holds value low high of why",
    Lease: "token home shown taken_at until",
    Record: "path identity study environment options scores curve seeds diverged finished summary",
    View: "models lead curve hospitals gains groups gaps spreads extras hidden",
}


@pytest.mark.parametrize("kind", CLASSIFIED, ids=lambda kind: kind.__name__)
def test_every_field_of_every_row_was_thought_of(kind: type) -> None:
    """A new field: say in `redaction` or `seen` what of it a hospital and a viewer see, and then name it here."""
    assert {one.name for one in fields(kind)} == set(CLASSIFIED[kind].split())


SITE_ROWS: dict[str, Any] = {
    "statuses": StatusRow(1, "va", "dropped", "no answer", 1.0),
    "standings": StandingRow("va", "approved", "", 5),
    "attempts": AttemptRow(1, 1, "ab", "committed", "", None, 5, 1.0),
    "verdicts": Verdict("min_auroc", "least", 0.8, True, 0.9),
    "alarms": AlarmRow("cleveland", "went back", 5),
    "journal": JournalEntry(1, 5, "opened", {"attempt": 1}),
}


@pytest.mark.parametrize("method", SITE_ROWS)
def test_a_field_that_comes_later_is_left_out(method: str) -> None:
    row = SITE_ROWS[method]
    later = make_dataclass("Later", [("diagnosis", str, "of a patient")], bases=(type(row),), frozen=True)
    made = later(**{one.name: getattr(row, one.name) for one in fields(row)})
    assert "of a patient" in repr(made)
    found = getattr(Hidden(hospital("cleveland"), ["cleveland", "va"]), method)([made])
    assert len(found) == 1
    assert "of a patient" not in repr(found)
