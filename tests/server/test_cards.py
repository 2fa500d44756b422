"""A model's card: its facts are the record's, what is small stays hidden, and nobody's text becomes more than text."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import histories
import numpy as np
import pytest
from federation import Federation, heart_manifest
from markdown_it import MarkdownIt

from fedward.privacy.errors import InputError
from fedward.server.archives import documents
from fedward.server.cards import pages, words
from fedward.server.cards.facts import Card, card, of_study
from fedward.server.cards.performance import Performance, performance
from fedward.server.records import MetricRow, ReleaseRow
from fedward.server.verdicts import Verdict
from fedward.study.heart import SITES
from fedward.study.manifest import SealedManifest
from fedward.study.messages import counts_from_bytes
from fedward.study.metrics import bin_centres, bin_edges, calibration_groups, histogram_shape, slice_names

VOID = {"meta", "line", "circle", "rect", "br", "link"}


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Its counts carry no noise, and VA is gone after the first of three rounds."""
    made = histories.template(tmp_path_factory.mktemp("exact"))
    histories.dropped_out(made)
    return made


@pytest.fixture(scope="module")
def noised(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """The heart study as it comes, but for three rounds."""
    made = Federation(tmp_path_factory.mktemp("noised"))
    made.ready(heart_manifest(secure=True, noised=True, training={"rounds": 3}))
    histories.lived(made)
    return made


@pytest.fixture(scope="module")
def made(exact: Federation) -> Card:
    return card(histories.told(exact))


class Reader(HTMLParser):
    """A page's rows of tables and its tags; an element that is not closed in its order fails."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += " ".join(data.split()) + " "

    def row(self, first: str) -> list[str]:
        """The cells of the only row that begins so."""
        [found] = [row for row in self.rows if row and row[0].strip() == first]
        return [cell.strip() for cell in found]


def rows_of(markdown: str) -> Iterator[list[str]]:
    """Cells of Markdown's tables, as a renderer reads them."""
    page = Reader(MarkdownIt("commonmark").enable("table").render(markdown))
    yield from ([cell.strip() for cell in row] for row in page.rows)


def test_the_facts_are_the_store_s(exact: Federation, made: Card) -> None:
    store, key = exact.store, exact.key
    study = store.study(key)
    sealed = exact.sealed()
    assert isinstance(sealed, SealedManifest)
    assert (made.study_digest, made.model, made.version) == (study.digest, store.newest_model(key)[1], 3)  # type: ignore[index]
    assert {one.site: (one.patients, one.rounds) for one in made.sites} == {
        entry.site: (entry.declared_patients, 1 if entry.site == "va" else 3) for entry in sealed.roster
    }
    rows = {(row.slice, row.name): row for row in store.metrics(key, newest=True)}
    assert made.performance is not None
    assert made.performance.version == 3
    for one in made.performance.measures:
        row = rows[("everybody", one.name)]
        assert (one.value, one.low, one.high) == (row.value, row.low, row.high)
    assert {one.name for one in made.performance.measures} == {name for slice_, name in rows if slice_ == "everybody"}
    shown = [one for one in made.performance.groups if one.shown == "shown"]
    assert shown
    for group in shown:
        assert (group.positives, group.negatives) == (
            rows[(group.name, "auroc")].positives, rows[(group.name, "auroc")].negatives,
        )  # fmt: skip
        for one in group.measures:
            assert one.value == rows[(group.name, one.name)].value


@pytest.mark.parametrize("which", ["exact", "noised"])
def test_calibration_is_of_the_stored_counts(which: str, request: pytest.FixtureRequest) -> None:
    federation: Federation = request.getfixturevalue(which)
    sealed, found = federation.sealed(), federation.store.evaluation(federation.key, 3)
    assert isinstance(sealed, SealedManifest)
    assert found is not None
    plan = sealed.manifest.counting
    counts = counts_from_bytes(found.counts, histogram_shape(sealed.manifest), -(10**9))[0]
    deviation = sealed.count_deviation * np.sqrt(len(found.sites))
    assert (deviation > 0) == (which == "noised")
    expected = calibration_groups(
        counts, deviation, bin_edges(plan.bins, plan.temper), bin_centres(plan.bins, plan.temper)
    )
    made = card(histories.told(federation))
    assert made.calibration == expected != ()
    assert made.performance is not None
    assert made.performance.positives is not None
    assert sum(one.patients for one in made.calibration) == counts.sum()  # no range is left out


@pytest.mark.parametrize("kind", ["html", "markdown"])
@pytest.mark.parametrize("which", ["exact", "noised"])
def test_every_figure_is_on_the_page(which: str, kind: str, request: pytest.FixtureRequest) -> None:
    made = card(histories.told(request.getfixturevalue(which)))
    if kind == "html":
        page = Reader(pages.html(made))
        rows = [[cell.strip() for cell in row] for row in page.rows]
    else:
        rows = list(rows_of(pages.markdown(made)))
    told = {row[0]: row[1:] for row in reversed(rows)}  # the first table that has such a row
    assert made.performance is not None
    for one in made.performance.measures:
        assert told[one.words] == [words.figure(one.value), words.interval(one.low, one.high)]
    for group in made.performance.groups:
        cells = told[words.group(group.name)]
        if group.shown == "shown":
            assert cells[:2] == [str(group.positives), str(group.negatives)]
            assert all(words.figure(one.value) in cell for one, cell in zip(group.measures, cells[2:], strict=True))
            assert all(
                words.interval(one.low, one.high) in cell for one, cell in zip(group.measures, cells[2:], strict=True)
            )
        else:
            assert set(cells) == {"< 11" if group.shown == "small" else "not shown"}
    for point in made.calibration:
        cells = told[f"{words.figure(point.low)} to {words.figure(point.high)}"]
        assert cells[:2] == [words.figure(point.score), str(point.patients)]
        assert cells[2].startswith(words.figure(point.observed))
    for site in made.sites:
        assert told[site.site] == [str(site.patients), f"{site.rounds} of 3", "approved"]
    for name, value in made.settings:
        assert told[name] == [value]
    for item in made.tripod:
        assert told[item.number][0] == item.topic
        assert item.coverage in told[item.number][1]
    assert told["model (its parameters)"] == [made.model]


def test_what_was_spent_is_what_the_ledgers_say(noised: Federation) -> None:
    made = card(histories.told(noised))
    spent = []
    for home in noised.sites.values():
        with home.ledger(witnessed=False) as ledger:
            spent.append(ledger.spent())
    assert made.privacy.spent == max(spent) > 0
    assert made.privacy.promised is not None
    assert max(spent) < made.privacy.promised <= 3.0
    assert (made.privacy.trainings, made.privacy.evaluations) == (3, 1)
    assert f"at most {words.epsilon(max(spent))}" in pages.markdown(made)


def test_failed_attempts_are_spent_too(tmp_path: Path, noised: Federation) -> None:
    federation = Federation(tmp_path)
    federation.ready(heart_manifest(secure=True, noised=True, training={"rounds": 3}, privacy={"spare_attempts": 4}))
    lost = []

    def lose(site: str, reply: bytes) -> bytes | None:
        """Two hospitals charge the second attempt, and what they send is lost."""
        if len(federation.store.attempts(federation.key)) == 2 and site in {"va", "cleveland"}:
            lost.append(site)
            return None
        return reply

    federation.transport.tamper = lose
    histories.lived(federation)
    assert lost
    history = histories.told(federation)
    assert [row.outcome for row in history.view.attempts].count("committed") == 4
    failed = len(history.view.attempts) - 4
    assert failed > 0
    made = card(history)
    assert made.privacy.trainings == 3 + failed
    with federation.sites["va"].ledger(witnessed=False) as ledger:
        assert ledger.spent() <= (made.privacy.spent or 0)


def row(slice_: str, name: str, positives: int, negatives: int, value: float = 0.7) -> MetricRow:
    return MetricRow(3, slice_, name, value, 0.6, 0.8, positives, negatives)


def measured(
    counts: dict[str, tuple[int, int]], everybody: tuple[int, int] = (200, 200), *, noised: bool = True
) -> Performance:
    manifest = heart_manifest(noised=noised)
    told = {"everybody": everybody} | {name: counts.get(name, (50, 50)) for name in slice_names(manifest)[1:]}
    rows = [
        row(name, metric, *pair)
        for name, pair in told.items()
        for metric in ("auroc", "sensitivity", "specificity", "calibration_gap")
    ]
    gaps = ("demographic_parity_gap", "equal_opportunity_gap", "equalized_odds_gap")
    rows += [row(column, gap, *everybody) for column in ("sex", "age") for gap in gaps]
    found = performance(manifest, rows, 3)
    assert found is not None
    return found


def test_of_exact_counts_patients_of_no_group_do_not_follow() -> None:
    counts = {"sex=female": (100, 100), "sex=male": (97, 100)}  # of 200: the sex of three is not known
    ages = {"age in [0, 50)": (50, 50), "age in [50, 65)": (50, 50), "age in [65, 120)": (100, 100)}
    for noised, shown in ((False, "hidden"), (True, "shown")):
        found = measured(counts | ages, noised=noised)
        assert {one.name: one.shown for one in found.groups if one.name.startswith("sex")} == {
            "sex=female": "shown", "sex=male": shown,
        }  # fmt: skip


@pytest.mark.parametrize("small", [(10, 300), (300, 10), (0, 0)])
def test_a_small_group_and_its_complement_are_hidden(made: Card, small: tuple[int, int]) -> None:
    found = measured({"sex=female": small})
    states = {one.name: one.shown for one in found.groups}
    assert states == {
        "sex=female": "small", "sex=male": "hidden",
        "age in [0, 50)": "shown", "age in [50, 65)": "shown", "age in [65, 120)": "shown",
    }  # fmt: skip
    told = dataclasses.replace(made, performance=found)
    for name, said in (("sex: female", "< 11"), ("sex: male", "not shown")):
        assert Reader(pages.html(told)).row(name) == [name, *[said] * 6]
        assert [name, *[said] * 6] in list(rows_of(pages.markdown(told)))
    assert {one.shown for one in found.gaps if one.attribute == "sex"} == {False}
    assert {one.value for one in found.gaps if one.attribute == "sex"} == {None}
    assert {one.shown for one in found.gaps if one.attribute == "age"} == {True}
    assert "0.700" in " ".join(Reader(pages.html(told)).row("age 0 to under 50"))
    assert not any(one.positives is not None or one.measures for one in found.groups if one.shown != "shown")


def test_groups_of_eleven_are_shown() -> None:
    assert {one.shown for one in measured({"sex=female": (11, 11)}).groups} == {"shown"}


def test_of_too_few_patients_nothing_is_shown(made: Card) -> None:
    found = measured({}, everybody=(10, 500))
    told = dataclasses.replace(made, performance=found, calibration=())
    page = Reader(pages.html(told))
    assert "Fewer than 11 held-out patients" in page.text
    assert "0.700" not in page.text
    assert "500" not in page.text
    assert "0.700" not in pages.markdown(told)


def test_the_same_record_gives_the_same_bytes(exact: Federation, tmp_path: Path) -> None:
    twin = exact.copy(tmp_path / "twin")
    exact.store = exact.home.open_store()
    one, other = card(histories.told(exact)), card(histories.told(twin))
    assert pages.html(one).encode() == pages.html(other).encode()
    assert pages.markdown(one).encode() == pages.markdown(other).encode()
    script = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from fedward.server.coordinator import LocalCoordinator\nfrom pathlib import Path\n"
        "from fedward.server.cards import pages; from fedward.server.cards.facts import card\n"
        f"history = LocalCoordinator(Path({str(twin.home.path)!r})).history('heart-4-hospitals')\n"
        "sys.stdout.buffer.write(pages.html(card(history)).encode())"
    )
    for seed in ("0", "1"):
        ran = subprocess.run(
            [os.sys.executable, "-c", script],
            capture_output=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},  # type: ignore[attr-defined]
        )
        assert ran.stdout == pages.html(one).encode()


EVIL = (
    "<script>alert(1)</script><img src=x onerror=alert(1)> | *b* [go](https://evil.example) `c`\n"
    "# head $x$ www.evil.example \u202e"
)


def evil(made: Card) -> Card:
    """A card in which everybody whose text it shows tries to write more than text."""
    verdict = Verdict("min_auroc", "least", 0.8, False, 0.5, 0.4, 0.6, of=EVIL, why=EVIL)
    release = ReleaseRow(
        "s", 1, 1, made.model, 3, f'{{"reason": "{EVIL[:20]}"}}'.encode(), "00", 0, EVIL, 5, EVIL, EVIL
    )
    sites = tuple(dataclasses.replace(one, site=EVIL, standing=EVIL) for one in made.sites)
    names = ("study_id", "title", "description", "state", "outcome", "outcome_description")
    told: dict[str, Any] = dict.fromkeys(names, EVIL)
    from fedward.server.cards.facts import _released

    groups = tuple(dataclasses.replace(one, name=EVIL, attribute=EVIL) for one in made.performance.groups)  # type: ignore[union-attr]
    return dataclasses.replace(
        made, **told, sites=sites, inputs=((EVIL, EVIL, EVIL),), verdicts=(verdict,), eligibility=(EVIL,),
        attributes=(EVIL,), release=_released(release), settings=((EVIL, EVIL),),
        performance=dataclasses.replace(made.performance, groups=groups),  # type: ignore[type-var]
    )  # fmt: skip


def test_text_of_others_is_only_text_in_html(made: Card) -> None:
    plain, page = Reader(pages.html(made)), Reader(pages.html(evil(made)))
    assert {"script", "img"}.isdisjoint(page.tags)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert not any(value and value.startswith("http") for name, value in page.attributes if name in {"href", "src"})
    assert "<script>alert(1)</script>" in page.text  # as it was written
    assert "\u202e" not in pages.html(evil(made))
    assert set(page.tags) <= set(plain.tags) | {"pre", "h3", "p", "small"}


def test_text_of_others_is_only_text_in_markdown(made: Card) -> None:
    text = pages.markdown(evil(made))
    rendered = MarkdownIt("commonmark").enable("table").render(text)
    page, plain = Reader(rendered), Reader(MarkdownIt("commonmark").enable("table").render(pages.markdown(made)))
    assert {"script", "img", "a", "em"}.isdisjoint(page.tags)
    assert page.tags.count("code") == plain.tags.count("code") + 1  # how a release is checked
    assert page.tags.count("h1") == 1
    assert page.tags.count("h2") == plain.tags.count("h2")
    assert all(len(one) <= 7 for one in page.rows)
    assert "<script>alert(1)</script><img src=x onerror=alert(1)> | *b* [go](https://evil.example)" in page.text
    assert re.search(r"https?://", text.replace("\\:", "")) is None  # nothing that a reader links on sight
    assert "www.e" not in text
    assert "\u202e" not in text


def test_gates_are_told_with_what_was_found(made: Card) -> None:
    verdicts = (
        Verdict("min_auroc", "least", 0.8, True, 0.9, 0.85, 0.94),
        Verdict("max_epsilon", "most", 2.0, False, 2.5, why="more than 2 was spent"),
        Verdict("max_site_drop", "most", 0.05, False, why="no hospital shares it"),
    )
    told = dataclasses.replace(made, verdicts=verdicts)
    page = Reader(pages.html(told))
    assert page.row("min_auroc") == ["min_auroc", "at least 0.8", "0.900 0.850 to 0.940", "✓ holds"]
    assert page.row("max_epsilon") == ["max_epsilon", "at most 2", "2.500", "✗ does not hold : more than 2 was spent"]
    assert page.row("max_site_drop") == ["max_site_drop", "at most 0.05", "", "✗ does not hold : no hospital shares it"]
    assert ["max_epsilon", "at most 2", "2.500", "", "", "✗ does not hold: more than 2 was spent"] in list(
        rows_of(pages.markdown(told))
    )
    assert "The gates were not evaluated." in Reader(pages.html(made)).text


def release(number: int, study: int, withdrawn: int | None = None, version: int = 2) -> ReleaseRow:
    return ReleaseRow(
        "s", number, study, "ab" * 32, version, b'{"a":1}', "cd" * 64, 86_400, "anna", withdrawn,
        "bert" if withdrawn else None, "found wanting" if withdrawn else None,
    )  # fmt: skip


def test_the_release_that_is_to_be_used_is_the_card_s() -> None:
    rows = [release(1, 7), release(2, 7), release(3, 7, withdrawn=9), release(4, 8)]
    assert of_study(rows, 7) == rows[1]
    assert of_study(rows[2:], 7) == rows[2]
    assert of_study(rows, 9) is None


def test_a_release_is_told_with_its_signature_and_one_that_was_rolled_back_too(exact: Federation) -> None:
    history = histories.told(exact)
    told = card(history, (), release(2, exact.key))
    page = Reader(pages.html(told))
    assert (told.version, told.model) == (2, "ab" * 32)
    assert "release 2, the model of 2 of 3 rounds" in page.text
    assert "measured was the model of 3 rounds" in page.text
    assert told.calibration != ()  # of what was measured, as the page says
    assert "cd" * 64 in page.text
    assert "Not released" not in page.text
    gone = pages.html(card(history, (), release(2, exact.key, withdrawn=172_800)))
    assert "rolled back on 1970-01-03 by bert: found wanting. Do not use it." in Reader(gone).text
    assert "Not released" in Reader(pages.html(card(history))).text


def test_the_commands_that_verify_it_do(noised: Federation, tmp_path: Path) -> None:
    history = histories.told(noised)
    for path, data in documents(noised_record(noised), None).items():
        (tmp_path / path).write_bytes(data)
    text = pages.markdown(card(history))
    lines = [line[4:] for line in text.splitlines() if line.startswith("    ")][2:]
    assert lines[0].startswith("sha256sum manifest.json")
    ran = subprocess.run(
        ["bash", "-e", "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran
    assert noised.sealed().digest in ran.stdout
    assert "Verified Successfully" in ran.stdout
    (tmp_path / "manifest.json").write_bytes(
        (tmp_path / "manifest.json").read_bytes().replace(b'"rounds":3', b'"rounds":4')
    )
    ran = subprocess.run(
        ["bash", "-e", "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode != 0


def noised_record(federation: Federation) -> Any:
    from fedward.server.readings import history

    return history(federation.store, federation.store.study(federation.key))


def test_all_items_of_tripod_are_there_and_lead_to_a_section(made: Card) -> None:
    numbers = [one.number for one in made.tripod]
    assert len(numbers) == len(set(numbers)) == 52
    assert [one.main for one in made.tripod] == sorted(one.main for one in made.tripod)
    assert {one.main for one in made.tripod} == set(range(1, 28))
    sections = {name for _, name in pages.SECTIONS} | {"Title"}
    for one in made.tripod:
        if one.coverage != "not covered":
            named = re.split(r"[:;]", one.where)[0].split(", ")
            assert named[0] in sections, one


def test_an_unmeasured_model_s_card_claims_no_performance(exact: Federation, made: Card) -> None:
    history = histories.told(exact)
    bare = dataclasses.replace(history, view=dataclasses.replace(history.view, metrics=()), calibration=())
    told = card(bare)
    assert told.performance is None
    assert {one.coverage for one in told.tripod if one.number in {"20a", "23a"}} == {"not covered"}
    assert "nothing on this card says whether it works" in told.limits[1]
    assert "The model was not evaluated." in Reader(pages.html(told)).text
    assert {one.coverage for one in made.tripod if one.number == "23a"} == {"covered"}


def test_what_has_no_model_has_no_card(exact: Federation) -> None:
    history = histories.told(exact)
    draft = dataclasses.replace(history, study=dataclasses.replace(history.study, sealed=None))
    none = dataclasses.replace(history, view=dataclasses.replace(history.view, version=0))
    for one in (draft, none):
        with pytest.raises(InputError) as raised:
            card(one)
        assert raised.value.code == "no-model"


def test_without_differential_privacy_the_card_says_so(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    data = heart_manifest(training={"rounds": 1}).model_dump(mode="json")
    data["privacy"] |= {"mechanism": "none", "epsilon": None, "delta": None}
    from fedward.study.manifest import parse

    federation.ready(parse(data))
    histories.lived(federation)
    made = card(histories.told(federation))
    page = Reader(pages.html(made))
    assert (made.privacy.promised, made.privacy.spent) == (None, None)
    assert "Trained without differential privacy." in page.text
    assert "ε ≤" not in page.text
    assert "Trained without differential privacy." in pages.markdown(made)


def test_sites_of_the_card_are_those_of_the_roster(made: Card) -> None:
    assert tuple(one.site for one in made.sites) == SITES
