"""A hospital's person, or a viewer, looks for another hospital's part on the pages of a coordinator's record.

Every page is laid out by Streamlit over a record that real nodes made, and everything that goes to the browser is searched: texts,
tables, the numbers behind charts, alternatives of charts, files to download.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import monitored
import pytest
from federation import Federation, decide
from histories import DiedError, after, lived
from streamlit import config
from streamlit.testing.v1 import AppTest
from watching import Sent, sent

from fedward.client.home import SiteHome
from fedward.dashboard import gatekeeper
from fedward.dashboard.access import LOCAL, Granted, visible
from fedward.dashboard.federation.pages import FEDERATION
from fedward.dashboard.federation.pages import frame as frames
from fedward.dashboard.federation.reading import Reader
from fedward.dashboard.federation.views import given, privacy
from fedward.privacy.errors import IntegrityError
from fedward.privacy.ledger import Budget
from fedward.server.records import ASKED, ReleaseRow, SharedMetrics
from fedward.study.metrics import slice_names
from fedward.study.shared_metrics import SiteFigures
from fedward.study.site_metrics import METRICS

pytestmark = pytest.mark.timeout(600)

SITES = ("cleveland", "hungarian", "switzerland", "va")
PAGES = [name for _, name, _ in FEDERATION]
ALONE, ASKING = "heart-trio", "heart-asking"
SECONDS = {"cleveland": 0.6137, "hungarian": 0.5371, "switzerland": 0.4219, "va": 1.9463}
"""How long each hospital's answers take, and a little longer with each attempt."""
BUDGETS = {"cleveland": 10.0, "hungarian": 4.7, "switzerland": 4.0, "va": 4.3}
"""So that each adds noise of its own to its updates, and has an ε of its own."""
REASONS = {
    site: f"the {thing} has a fault" for site, thing in zip(SITES, ("lift", "pump", "well", "roof"), strict=True)
}
"""What each hospital's people say, in words that nobody else uses."""
VIEWER = Granted("viewer", None, 4e9, "vera")


def hospital(site: str) -> Granted:
    return Granted("hospital", site, 4e9, "ada")


def made(folder: Path) -> Federation:
    """A record with everything on it: absences, refusals, alarms, shared metrics, releases, a question, a study of three alone."""
    create = SiteHome.create
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SiteHome, "create", lambda at, site, _: create(at, site, Budget(BUDGETS[site], 1e-3)))
        federation = monitored.monitored(folder)
        store, now = federation.store, federation.clock.unix()
        key, study = federation.key, federation.sealed()
        values = {site: 30 + 10 * place for place, site in enumerate(("cleveland", "hungarian", "va"))}
        for site, area in values.items():
            store.share(key, gave(study.digest, site, area), "ab" * 32)
        statement = b'{"reason": "hungarian and va are content", "gates": "va"}'
        for number in (1, 2):
            store.add_release(
                monitored.STUDY,
                lambda n: ReleaseRow(monitored.STUDY, n, key, f"{n}c" * 32, 5, statement, "5e" * 32, now, "ana"),
                now,
            )
            if number == 1:
                store.withdraw_release(monitored.STUDY, "bo", "switzerland measured wrongly", now)
        for site in SITES:
            store.raise_alarm(site, f"its ledger went back: {REASONS[site]}", now)
            store.set_standing(key, site, "refused", REASONS[site], None, now)
        without(federation, "va")
        asking(federation)
    slowed(federation)
    return federation


def slowed(federation: Federation) -> None:
    """Each hospital's answers took a time of its own: the network of the tests has all of them arrive at once."""
    with sqlite3.connect(federation.home.path / "store.sqlite") as store:
        for site, seconds in SECONDS.items():
            store.execute(
                "UPDATE statuses SET seconds = ? + 0.0101 * attempt WHERE site = ? AND seconds IS NOT NULL",
                (seconds, site),
            )


def gave(study: str, site: str, area: int) -> SharedMetrics:
    """What a hospital gave away, with an area under the curve and counts of its own."""
    groups = ((None,) * len(METRICS),) * len(slice_names(monitored.study())[1:])
    everybody = (1000 + area, 700 + 3 * area, area + 31, 20)
    figures = SiteFigures(site=site, study=study, round=6, values=(everybody, *groups), alone=area + 33)
    return SharedMetrics(site, 5, figures.auroc, figures.auroc_alone, figures.canonical, "ef" * 32, 5)


def without(federation: Federation, site: str) -> None:
    """A study that one hospital was never asked to join."""
    home = federation.sites.pop(site)
    federation.ready(monitored.manifest(ALONE, "Three hospitals alone", rounds=1))
    lived(federation)
    federation.sites[site] = home


def asking(federation: Federation) -> None:
    """A study in the middle of a round that waits for two hospitals; its coordinator's process died, and one hospital said no."""
    sealed = federation.ready(monitored.manifest(ASKING, "A study that asks", rounds=3))
    decide(federation.sites["cleveland"], sealed, "refused", federation.clock.unix())
    send, seen = federation.transport.send, list[str]()

    def dying(requests: object) -> None:
        if seen:
            raise DiedError
        send(requests)  # type: ignore[arg-type]

    federation.transport.send = dying  # type: ignore[method-assign]
    lived(federation, after(1, lambda: seen.append("round 2")))
    federation.transport.send = send  # type: ignore[method-assign]
    open_ = federation.store.attempts(federation.key)[-1]
    assert open_.outcome is None
    asked = {"round": open_.round, "attempt": open_.attempt, "sites": ["hungarian", "va"], "until": 9_999_999_999}
    federation.store.note(federation.key, ASKED, asked, federation.clock.unix())


@dataclass(frozen=True)
class Known:
    """What the record has of each site alone: numbers as they are written, texts, keys."""

    numbers: dict[str, set[str]]
    texts: dict[str, set[str]]

    def found(self, said: str, site: str) -> list[str]:
        """What of a site stands in a text."""
        name = rf"(?<![A-Za-z0-9])(?i:{site})(?![A-Za-z0-9])"
        numbers = (rf"(?<![\d.]){re.escape(one)}(?!\d)" for one in self.numbers[site])
        found = (
            re.search(f".{{,40}}{one}.{{,40}}", said) for one in (name, *numbers, *map(re.escape, self.texts[site]))
        )
        return [one[0] for one in found if one is not None]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return made(tmp_path_factory.mktemp("record"))


@pytest.fixture(scope="module")
def known(record: Federation) -> Known:
    """By site; numbers that two sites share, or that are the whole study's, tell of none."""
    reader, store = Reader(record.store), record.store
    numbers: dict[str, set[str]] = {site: set() for site in SITES}
    texts = {site: {REASONS[site]} for site in SITES}
    common: set[str] = set()
    for row in store.studies():
        look = reader.look(row.key)
        common |= {repr(one.seconds) for one in look.attempts}
        for rows in reader.statuses(look).values():
            for status in rows:
                if status.seconds is not None:
                    numbers[status.site].add(repr(status.seconds))
        for cost in privacy.costs(look, reader.tallies(look)):
            numbers[cost.site] |= {repr(cost.spent), repr(cost.forecast), repr(cost.promised)}
            numbers[cost.site] |= {f"ε at most {cost.spent:.2f}", f"{cost.spent:.2f} spent"}
        for verdict in reader.verdicts(look) or ():
            common.add(repr(verdict.value))
        for entry in look.sealed.roster if look.sealed is not None else ():
            numbers[entry.site].add(repr(entry.noise_multiplier))
            texts[entry.site].add(entry.identity_key)
        for one in store.shared(row.key):
            texts[one.site].add(one.figures.decode())
        for line in given.by_site(look, store.shared(row.key)).dropna(subset=["value"]).to_dict("records"):
            numbers[str(line["hospital"])] |= {repr(line["low"]), repr(line["high"]), repr(float(line["patients"]))}
    found = {site: set(numbers[site]) for site in SITES}
    for site in SITES:
        others = set().union(*(found[one] for one in SITES if one != site))
        numbers[site] = {one for one in found[site] - common if one not in others and len(one) > 3}
    assert all(len(one) > 3 for one in numbers.values())  # there is something to look for
    assert len({next(iter(one)) for one in texts.values()}) == len(SITES)
    return Known(numbers, texts)


@pytest.fixture(autouse=True)
def loopback_server() -> Iterator[None]:
    before = config.get_option("server.address")
    config.set_option("server.address", "127.0.0.1")
    yield
    config.set_option("server.address", before)


def looking(
    record: Federation, name: str, granted: Granted, study: str = monitored.STUDY, **acts: object
) -> tuple[Sent, AppTest]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gatekeeper, "judged", lambda: granted)
        return sent(name, record.home.path, study=str(record.store.find(study).key), **acts)  # type: ignore[arg-type]


STUDIES = (monitored.STUDY, ASKING, monitored.PILOT)


@pytest.mark.parametrize("name", PAGES)
def test_no_page_sends_a_hospital_anything_of_another(record: Federation, known: Known, name: str) -> None:
    """After the coordinator has looked at the same pages in the same process: nothing of that is left in what sessions share."""
    for study in STUDIES:
        looking(record, name, LOCAL, study)
    for own in ("va", "cleveland"):
        for study in STUDIES:
            said = looking(record, name, hospital(own), study)[0].all()
            assert "This page is not for your role" not in said
            assert {site: known.found(said, site) for site in SITES if site != own} == {
                s: [] for s in SITES if s != own
            }, study


@pytest.mark.parametrize("name", PAGES)
def test_no_page_sends_a_viewer_anything_of_any_hospital(record: Federation, known: Known, name: str) -> None:
    for study in (*STUDIES, ALONE):
        said = looking(record, name, VIEWER, study)[0].all()
        assert {site: known.found(said, site) for site in SITES} == {site: [] for site in SITES}, study
        assert ("This page is not for your role" in said) is not visible(VIEWER, name)


def test_its_own_part_is_there_and_the_same_search_finds_all_of_the_coordinator_s(
    record: Federation, known: Known
) -> None:
    """Otherwise the tests above would pass over empty pages, or with a search that finds nothing."""
    for own, granted in (("va", hospital("va")), ("cleveland", hospital("cleveland")), ("all", LOCAL)):
        pages = {name: looking(record, name, granted)[0].all() for name in PAGES}
        for site in SITES if own == "all" else (own,):
            assert all(site in pages[name] for name in ("study", "privacy", "participation", "audit")), site
            assert REASONS[site] in pages["study"]
            assert ("fedward coordinator clear-alarm" in pages["study"]) is (own == "all")  # who can give that command
            cost = next(one for one in costs(record) if one.site == site)
            assert repr(cost.spent) in pages["privacy"]
            assert known.numbers[site] & set(re.findall(r"[\d.]+", pages["participation"])), "its seconds"
            if site != "switzerland":  # which gave nothing away
                assert site in pages["accuracy"]
        assert "AUROC ." in pages["accuracy"]
        assert "sex: female" in pages["fairness"]
        assert "Release heart-4-hospitals v2" in pages["models"]


def costs(record: Federation) -> list[privacy.Cost]:
    reader = Reader(record.store)
    look = reader.look(record.store.find(monitored.STUDY).key)
    return privacy.costs(look, reader.tallies(look))


def test_sums_and_groups_are_the_same_for_every_role(record: Federation) -> None:
    """What is no hospital's is neither cut nor computed of a part."""
    whole = {name: looking(record, name, LOCAL)[1] for name in ("accuracy", "fairness")}
    for granted in (hospital("va"), VIEWER):
        for name, app in whole.items():
            part = looking(record, name, granted)[1]
            assert [one.value for one in part.subheader] == [one.value for one in app.subheader]
            shown = [(one.proto.alt, one.proto.spec) for one in part.get("vega_lite_chart")]
            assert [one for one in shown if "hospital" not in one[0].lower()] == [
                (one.proto.alt, one.proto.spec)
                for one in app.get("vega_lite_chart")
                if "hospital" not in one.proto.alt.lower() and "with the common threshold" not in one.proto.alt
            ]  # the thresholds' analysis is for those who see everything
            assert len(shown) >= 2


def test_a_study_that_a_hospital_was_not_asked_to_join_is_not_there(record: Federation) -> None:
    for name in PAGES:
        said = looking(record, name, hospital("va"), ALONE)[0].all()  # by its address
        assert ALONE not in said
        assert "Three hospitals alone" not in said
    assert ALONE in looking(record, "study", hospital("cleveland"))[0].all()
    assert ALONE in looking(record, "study", VIEWER)[0].all()
    nobody = looking(record, "study", hospital("elsewhere"))[0].all()
    assert "has proposed no study to your hospital" in nobody
    assert "heart" not in nobody
    assert str(record.home.path) not in nobody


def test_comparing_two_studies(record: Federation, known: Known) -> None:
    def choose(app: AppTest) -> None:
        app.selectbox(key="beside").select_index(0)

    for granted, own in ((hospital("va"), "va"), (VIEWER, "")):
        found, app = looking(record, "models", granted, act=choose)
        said = found.all()
        assert "4 other hospitals" in said if not own else "4: va, 3 other hospitals" in said
        assert [known.found(said, site) for site in SITES if site != own] == [[]] * (3 if own else 4)
        assert ALONE not in app.selectbox(key="beside").options or not own


def test_the_model_card_is_for_coordinators_and_auditors(record: Federation) -> None:
    found, _ = looking(record, "models", LOCAL)
    assert sum(b"cleveland" in one.lower() for one in found.files) >= 2
    for granted in (hospital("cleveland"), VIEWER):
        found, app = looking(record, "models", granted)
        assert "card" not in "".join(one.proto.label for one in app.get("download_button"))
        assert "ask them for it" in found.all()


def test_the_audit_log_is_checked_whole_and_told_in_part(record: Federation, known: Known) -> None:
    def verify(app: AppTest) -> None:
        next(one for one in app.button if "Verify" in one.label).click()

    found, app = looking(record, "audit", hospital("va"), act=verify)
    assert str(app.subheader[0].value).startswith("Verified")
    said = found.all()
    assert "countersigned by 4 of 4 hospitals" in said
    assert said.count("check_circle: holds") >= 6
    assert [known.found(said, site) for site in SITES if site != "va"] == [[], [], []]
    assert not app.text_input


def test_a_check_that_fails_at_another_hospital_is_told_without_its_name(
    record: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was verified in this session by whoever saw everything, before the list made him a hospital's person."""
    app = looking(record, "audit", LOCAL)[1]
    from fedward.dashboard.federation.views.auditing import Check

    size = int(re.findall(r"\d+", str(app.subheader[0].value))[0])
    fails = Check("The hospitals' countersignatures", False, "hungarian countersigned 90 entries, and the log has 12")
    monkeypatch.setattr(gatekeeper, "judged", lambda: hospital("va"))
    app.session_state["verified"] = (size, [fails])
    app.run()
    shown = " ".join(str(one.value) for one in (*app.subheader, *app.markdown))
    assert "does NOT hold" in shown
    assert "hungarian" not in shown


def test_an_error_is_told_without_its_words(record: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: object) -> None:
        raise IntegrityError("hungarian's entry was changed", got=str(record.home.path), code="audit-changed")

    monkeypatch.setattr(frames, "reader_of", damaged)
    said = looking(record, "study", LOCAL)[0].all()
    assert "hungarian's entry was changed" in said
    for granted in (hospital("va"), VIEWER):
        said = looking(record, "study", granted)[0].all()
        assert "The record cannot be shown now. Code: audit-changed." in said
        assert "hungarian" not in said
        assert str(record.home.path) not in said


def test_a_role_that_is_taken_away_while_a_page_is_open(record: Federation, known: Known) -> None:
    """One session: first as the coordinator, then as a hospital's person, then as a viewer."""
    for name in ("participation", "privacy", "study"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gatekeeper, "judged", lambda: LOCAL)
            app = looking(record, name, LOCAL)[1]
            for granted, own in ((hospital("va"), "va"), (VIEWER, "")):
                patch.setattr(gatekeeper, "judged", lambda granted=granted: granted)
                app.run()
                said = Sent()
                for block in app:
                    said.texts.append(str(getattr(block, "proto", "")))
                assert [site for site in SITES if site != own and known.found(said.all(), site)] == []


def test_a_new_page_is_nobody_s_until_somebody_gives_it_to_a_role(
    record: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    page = gatekeeper.kept("anything-new", shown.append)
    monkeypatch.setattr(gatekeeper, "_not_for", lambda granted: shown.append(f"not for {granted.role}"))
    for granted in (hospital("va"), VIEWER, LOCAL, replace(LOCAL, role="auditor")):
        monkeypatch.setattr(gatekeeper, "judged", lambda granted=granted: granted)
        page("here")
    assert shown == ["not for hospital", "not for viewer", "here", "here"]
