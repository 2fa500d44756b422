"""The frames and sentences of a federation's pages, on the record of studies that real nodes took part in."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import histories
import numpy as np
import pandas as pd
import pytest
from federation import Federation
from monitored import STUDY, sized

from fedward.dashboard.federation.reading import EVERYBODY, Look, Reader
from fedward.dashboard.federation.record import Entries, copied, load_sightings
from fedward.dashboard.federation.views import (
    accuracy,
    auditing,
    contrasts,
    counts,
    fairness,
    gates,
    given,
    models,
    overview,
    participation,
    privacy,
    promise,
)
from fedward.privacy.errors import IntegrityError
from fedward.server.comparing import compare
from fedward.server.records import MetricRow, ReleaseRow, SharedMetrics
from fedward.server.verdicts import Verdict
from fedward.study.metrics import SMALL, bin_centres
from fedward.study.metrics.measures import auroc
from fedward.study.schedule import study_costs
from fedward.study.shared_metrics import SiteFigures
from fedward.study.site_metrics import METRICS


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return histories.template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def federation(template: Federation, tmp_path: Path) -> Federation:
    return template.copy(tmp_path / "copy")


@pytest.fixture(scope="module")
def reader(record: Federation) -> Reader:
    return Reader(record.store)


@pytest.fixture(scope="module")
def look(record: Federation, reader: Reader) -> Look:
    return reader.look(record.store.find(STUDY).key)


def seen(federation: Federation) -> tuple[Reader, Look]:
    reader = Reader(federation.store)
    return reader, reader.look(federation.key)


# Study


def test_a_completed_study_in_a_sentence_and_figures(reader: Reader, look: Look) -> None:
    statuses = reader.statuses(look)
    assert overview.sentence(look, statuses) == "Completed: 5 of 5 rounds committed. 4 of 4 hospitals contributed."
    labels = [label for label, _, _ in overview.figures(look, statuses, reader.metrics(look, EVERYBODY))]
    assert labels == ["Rounds committed", "Hospitals in the newest round", "AUROC so far"]
    frame = overview.rounds(look, statuses)
    assert list(frame["outcome"]).count("too few hospitals") == 1
    assert list(frame["round"]) == [1, 2, 3, 4, 4, 5, 6]
    assert frame["what"].iloc[-1] == "test of the last model"
    assert list(overview.curve(reader.metrics(look, EVERYBODY))["round"]) == [1, 2, 3, 4, 5]


def test_what_is_left_follows_from_the_newest_rounds(look: Look) -> None:
    running = replace(look, study=replace(look.study, state="running"), version=2, attempts=look.attempts[:3])
    apart = overview.pace(running.attempts)
    assert apart is not None
    assert overview.remaining(running) == pytest.approx(3 * apart)
    assert overview.remaining(look) is None  # it has ended
    assert [overview.about(one) for one in (0.2, 7, 43, 400, 9000, 300_000)] == [
        "Less than a second", "About 7 s", "About 45 s", "About 7 min", "About 2 h", "About 3 d",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("life", "says"),
    [
        (histories.stopped, "Stopped. A person stopped it"),
        (histories.quorum_missed, "Failed."),
        (histories.completed, "Completed: 3 of 3 rounds committed."),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_how_a_study_ended(federation: Federation, life: histories.Callable[[Federation], None], says: str) -> None:
    life(federation)
    reader, look = seen(federation)
    assert overview.sentence(look, reader.statuses(look)).startswith(says.partition(" A person")[0])


def test_a_study_that_has_not_begun(federation: Federation) -> None:
    reader, look = seen(federation)
    assert "nobody has launched it" in overview.sentence(look, {})
    assert overview.rounds(look, {}).empty
    assert participation.sentence(look, reader.history(look)) == "No round has ended yet."
    assert accuracy.sentence(look, [], 0) == "No model has been evaluated yet."
    assert models.sentence(look, [], None, ("no round of training is committed",)).endswith("committed.")


def test_an_alarm_is_said_with_what_helps(federation: Federation) -> None:
    histories.alarmed(federation)
    _, look = seen(federation)
    [(what, command)] = overview.notices(look)
    assert "va: its ledger went back" in what
    assert command.startswith("fedward coordinator clear-alarm va --by NAME")


# Accuracy


def test_the_newest_metrics_are_the_stores(record: Federation, reader: Reader, look: Look) -> None:
    metrics = reader.metrics(look, EVERYBODY)
    newest = {row.name: row for row in record.store.metrics(look.study.key, newest=True) if row.slice == "everybody"}
    table = accuracy.table(metrics).set_index("metric")
    for name, (label, _) in accuracy.NAMES.items():
        assert table.loc[label, "value"] == newest[name].value
    assert accuracy.sentence(look, metrics, 4).startswith("AUROC .")
    assert "4 hospitals, after round 5. The study asks for at least .800" in accuracy.sentence(look, metrics, 4)


def made_sums(data: list[list[int]], deviation: float = 0.0) -> counts.Sums:
    whole = np.array([data], dtype=np.int64)
    return counts.Sums(whole, ("everybody",), bin_centres(len(data), 1.0), deviation, 1, ("a", "b"))


def test_no_point_of_a_curve_shows_a_few_patients() -> None:
    """Bins are joined until each has `SMALL` of both; the curve through them starts at none and ends at all."""
    rng = np.random.default_rng(3)
    made = made_sums(rng.integers(0, 9, (40, 2)).tolist())
    assert all((made.counts[0][start:end].sum(axis=0) >= SMALL).all() for start, end in made.joined)
    assert [made.joined[0][0], made.joined[-1][1]] == [0, 40]
    frame = counts.roc(made)
    assert list(frame.iloc[0][["false", "true"]]) == [0, 0]
    assert list(frame.iloc[-1][["false", "true"]]) == [1, 1]
    joined = np.array([made.counts[0][start:end].sum(axis=0) for start, end in made.joined], dtype=float)
    assert np.trapezoid(frame["true"], frame["false"]) == pytest.approx(float(auroc(joined)))
    few = made_sums([[3, 1], [2, 10]])
    assert few.joined == []
    assert all(one.empty for one in (counts.roc(few), counts.precision(few), counts.reliability(few)))


def test_the_operating_point_is_on_the_metrics(reader: Reader, look: Look) -> None:
    metrics = accuracy.newest(reader.metrics(look, EVERYBODY))
    made = counts.sums(look, reader.evaluation(look, 5))
    assert made is not None
    false, true, _ = counts.operating(made)
    assert true == pytest.approx(metrics["sensitivity"].value)
    assert 1 - false == pytest.approx(metrics["specificity"].value)
    frame = counts.reliability(made)
    assert frame["patients"].sum() == made.counts[0].sum()
    assert ((frame["low"] <= frame["observed"]) & (frame["observed"] <= frame["high"])).all()


def test_what_hospitals_gave_away_is_shown_and_nothing_else(look: Look) -> None:
    nothing = (None,) * len(METRICS)
    rest = (nothing,) * len(fairness.groups(look))

    def gave(site: str, everybody: tuple[int | None, ...], alone: int | None) -> SharedMetrics:
        made = SiteFigures(site=site, study=look.study.digest or "", round=6, values=(everybody, *rest), alone=alone)
        return SharedMetrics(site, made.version, made.auroc, made.auroc_alone, made.canonical)

    shared = [gave("cleveland", nothing, None), gave("va", (40, 30, 80, 20), 75)]
    frame = given.by_site(look, shared).set_index("hospital")
    assert dict(frame["shown"]) == {
        "cleveland": "suppressed", "hungarian": "not shared", "switzerland": "not shared", "va": "shared",
    }  # fmt: skip
    assert (frame.loc["va", "value"], frame.loc["va", "alone"], frame.loc["va", "patients"]) == (0.8, 0.75, 70)
    assert frame.loc["va", "version"] == 5
    # By hand: SE² = (.16 + 29 (.6667 − .64) + 39 (.7111 − .64)) / 1200.
    assert (frame.loc["va", "high"] - 0.8) / 1.96 == pytest.approx(0.0556, abs=0.0001)


# Fairness


def test_suppressed_groups_are_never_zero(reader: Reader, look: Look) -> None:
    """One group is too small, and its complement would give it away; the others are shown."""
    measured = sized(reader.measured(look), {"sex=female": 5, "sex=male": 295})
    assert fairness.hidden(look, measured) == {"sex=female", "sex=male"}
    frame = fairness.heat(look, measured)
    hidden = frame[frame["group"].isin({"sex: female", "sex: male"})]
    assert set(hidden["shown"]) == {"suppressed"}
    assert hidden[["value", "low", "high", "shade"]].isna().all(axis=None)
    assert set(hidden["told"]) == {f"< {SMALL}"}
    assert set(frame[~frame.index.isin(hidden.index)]["shown"]) <= {"estimate", "undefined"}
    groups = ["everybody", *(fairness.group(name) for name in fairness.groups(look))]
    assert list(dict.fromkeys(frame["group"])) == groups
    gaps = fairness.gaps(look, reader.metrics(look, fairness.attributes(look)), measured)
    assert set(gaps["attribute"]) == {"age"}


def test_a_groups_distance_is_what_it_is_and_its_interval_covers() -> None:
    """Coverage by simulation: a group is a random part of everybody, so the true difference is zero."""
    rng = np.random.default_rng(11)
    shape = np.array([[9, 1], [7, 3], [5, 5], [3, 7], [1, 9]]) / 50
    held, found = 0, []
    for _ in range(60):
        everybody = rng.multinomial(600, shape.reshape(-1)).reshape(5, 2)
        group = rng.binomial(everybody, 0.4)
        made = counts.Sums(
            np.stack([everybody, group]).astype(np.int64), ("everybody", "g"), bin_centres(5, 1.0), 0.0, 1, ("a",)
        )
        value, low, high = contrasts.contrasts(made)["g", "auroc"]
        assert value == pytest.approx(float(auroc(group.astype(float)) - auroc(everybody.astype(float))))
        held += low <= 0 <= high
        found.append((value, (high - low) / 2 / 1.96))
    assert held >= 52  # 57 of 60 expected at 95%
    values, deviations = np.array(found).T
    assert deviations.mean() == pytest.approx(values.std(), rel=0.25)


def test_the_largest_gap_is_the_surest(look: Look, reader: Reader) -> None:
    measured = sized(reader.measured(look))
    made = {(name, metric): (0.0, -0.1, 0.1) for name in fairness.groups(look) for metric in contrasts.CONTRASTED}
    assert "No group's" in fairness.sentence(look, measured, made)
    made["sex=female", "sensitivity"] = (-0.09, -0.17, -0.01)
    made["sex=male", "auroc"] = (-0.2, -0.5, 0.1)
    assert fairness.sentence(look, measured, made) == (
        "Largest gap below everybody: sensitivity, sex: female, −.090 (−.170 to −.010)."
    )


def test_gates_say_what_was_found_or_that_it_is_not_known(look: Look) -> None:
    held = Verdict("min_auroc", "least", 0.8, True, 0.9, 0.85, 0.95)
    failed = Verdict("max_equalized_odds_gap", "most", 0.2, False, 0.3, 0.1, 0.4, "sex", "above its limit")
    unknown = Verdict("max_site_drop", "most", 0.05, False, why="no hospital shares it")
    assert [gates.mark(one).word for one in (held, failed, unknown)] == ["holds", "does not hold", "not known"]
    assert gates.sentence([held]) == "All 1 gate holds."
    assert gates.sentence([held, failed]).startswith("1 of 2 gates hold; not: equalised-odds gap")
    assert "no hospital shares it" in gates.told(unknown)
    assert list(gates.table([held, failed])["stands"]) == ["holds", "does not hold"]
    assert "AUROC over all held-out patients: at least 0.8" in gates.asked(look)


# Privacy


def test_what_was_spent_lies_within_what_was_promised(record: Federation, reader: Reader, look: Look) -> None:
    tallies = reader.tallies(look)
    found = {one.site: one for one in privacy.costs(look, tallies)}
    assert look.sealed is not None
    for site, one in found.items():
        assert one.promised == study_costs(look.sealed, site)["coordinator"]
        assert 0 < one.spent == one.forecast < one.promised  # it has ended, and spare attempts are left
    assert found["va"].spent < found["hungarian"].spent  # it was away twice
    # What its ledgers say: VA was asked in four rounds of this study, and in both of the pilot.
    with record.sites["va"].ledger(witnessed=False) as ledger:
        charged = [entry for entry in ledger.charges() if entry.charge.purpose == "train"]
    assert len(charged) == tallies["va"].trained + 2
    assert privacy.sentence(look, list(found.values())).startswith("This study has cost each patient ε at most")
    assert set(privacy.table(list(found.values()))["lifetime budget"]) == {"not shared"}
    assert "unit: patient" in promise.words_of(look)


def test_numbers_of_attempts_are_rounded_up_never_down() -> None:
    asked = {f"s{number}": (number, number % 7) for number in range(50)}
    levels = privacy._levels(asked)
    assert len({one for one, _ in levels.values()}) <= privacy.LEVELS
    assert all(levels[site][0] >= one and levels[site][1] >= two for site, (one, two) in asked.items())
    assert max(one for one, _ in levels.values()) == 49


# Participation


def test_who_was_missing_and_why(reader: Reader, look: Look) -> None:
    history = reader.history(look)
    said = participation.sentence(look, history)
    assert said.startswith("4 of 4 hospitals contributed to the newest attempt. cleveland was not there in round 4")
    assert said.endswith("back in round 4.")
    grid = participation.grid(look, history)
    assert len(grid) == 4 * len(look.attempts)
    sites = participation.sites(look, reader.tallies(look), history).set_index("hospital")
    assert sites.loc["va", "rounds contributed"] == 4
    assert sites.loc["hungarian", "rounds contributed"] == 5
    why = participation.causes(look, history)
    assert "not reachable when the attempt began, so not asked" in set(why["why"])
    took = participation.answers(look, reader.statuses(look)).set_index("hospital")
    assert (took["low"] <= took["value"]).all()


def test_a_refusal_is_told_with_its_code(federation: Federation) -> None:
    histories.refused(federation)
    reader, look = seen(federation)
    grid = participation.grid(look, reader.history(look))
    assert "refused" in set(grid[grid["hospital"] == "va"]["status"])
    why = participation.causes(look, reader.history(look))
    assert why[why["hospital"] == "va"]["what to do"].str.startswith("fedward explain ").any()


# Models


def release(number: int, look: Look, **changes: object) -> ReleaseRow:
    made = ReleaseRow(STUDY, number, look.study.key, "ab" * 32, 5, b"{}", "cd", 10 * number, "ana")
    return replace(made, **changes)  # type: ignore[arg-type]


def test_the_newest_release_that_was_not_rolled_back_is_in_use(look: Look) -> None:
    first = release(1, look)
    second = release(2, look, withdrawn_at=30, withdrawn_by="bo", withdrawn_why="wrong data")
    assert models.sentence(look, [first, second], None, ()).startswith(f"Release {STUDY} v1: Gates: not evaluated yet.")
    table = models.table([first, second])
    assert list(table["stands"]) == ["rolled back", "in use"]
    assert "bo: wrong data" in table["why"].iloc[0]
    assert "none may be used yet" in models.sentence(look, [], None, ())


def test_two_studies_side_by_side(record: Federation, reader: Reader, look: Look) -> None:
    pilot = reader.look(record.store.find("heart-pilot").key)
    made = compare(reader.history(look), reader.history(pilot))
    facts = models.facts(made, look, pilot).set_index("what")
    assert list(facts.columns) == [STUDY, "heart-pilot"]
    assert list(facts.loc["rounds committed"]) == ["5 of 5", "2 of 2"]
    frame = models.side_by_side(made, look, pilot)
    shown = frame[(frame["group"] == "everybody") & (frame["metric"] == "AUROC")]
    assert list(shown["study"]) == [STUDY, "heart-pilot"]
    hidden = fairness.hidden(look, reader.measured(look)) | fairness.hidden(pilot, reader.measured(pilot))
    assert not set(frame["group"]) & {fairness.group(name) for name in hidden}


# Audit


def verified(federation: Federation, key: str | None) -> dict[str, auditing.Check]:
    home = federation.home
    sites = Reader(federation.store).identities()
    with copied(home.path) as log:
        made = list(auditing.checks(log, home.settings.federation_id, key, load_sightings(home.path), sites))
    return {check.name: check for check in made}


def test_an_untouched_log_holds_and_stays_untouched(record: Federation) -> None:
    before = {path: path.stat().st_mtime_ns for path in (record.home.path / "audit").rglob("*")}
    entries = Entries(record.home.path).all()
    found = verified(record, Reader(record.store).coordinator_key())
    assert {check.holds for check in found.values()} == {True}
    assert f"{len(entries)} entries" in found["Every entry and every hash"].found
    assert "by 4 of 4 hospitals" in found["The hospitals' countersignatures"].found
    assert {path: path.stat().st_mtime_ns for path in (record.home.path / "audit").rglob("*")} == before
    assert auditing.sentence(len(entries), list(found.values()), [], 4).startswith("Verified: ")


def test_a_changed_entry_is_found_and_named(federation: Federation) -> None:
    histories.completed(federation)
    file = min((federation.home.path / "audit" / "entries").glob("*.log"))
    reading = Entries(federation.home.path)
    assert reading.all()
    file.write_bytes(file.read_bytes().replace(b'"at":1', b'"at":2', 1))
    with pytest.raises(IntegrityError, match="entry 0 of the audit log was changed"):
        Entries(federation.home.path).all()


def test_a_foreign_signature_does_not_hold(record: Federation) -> None:
    found = verified(record, "ab" * 32)
    assert found["The coordinator's own signature"].holds is False
    assert auditing.sentence(9, list(found.values()), [], 4).startswith("The record does NOT hold")


def test_entries_are_searched_and_only_new_ones_are_read(federation: Federation) -> None:
    reading = Entries(federation.home.path)
    before = reading.all()
    federation.home.record("login", site="va", key="ab" * 32, at=5)
    after = reading.all()
    assert after[: len(before)] == before
    assert all(old is new for old, new in zip(before, after, strict=False))
    table = auditing.table(after, "login VA")
    assert list(table["kind"]) == ["login"]
    assert auditing.table(after, "nothing like that").empty


def test_undefined_is_said_and_never_drawn() -> None:
    row = MetricRow(1, "everybody", "auroc", None, None, None, 0, 9)
    assert all(math.isnan(one) for one in overview.estimate(row))
    assert overview.curve([row]).empty
    assert overview.newest_auroc([row]) is None
    assert isinstance(accuracy.table([row]), pd.DataFrame)
