"""Patients who opted out: no read sees them, nothing else changes, and they come back by a new approval alone."""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from command import fedward, good
from exploring import NoNoise, allow, heart_exploration, sealed_exploration
from federation import Federation, heart_manifest
from hospital import SITE, Site, code

from fedward.client import datasets, exclusions
from fedward.client.exploring import answer
from fedward.client.log import SiteLog
from fedward.client.node import SiteNode
from fedward.client.own_metrics import OwnMetrics
from fedward.client.sources import DataRefusedError
from fedward.client.split import held_out
from fedward.privacy.errors import InputError, IntegrityError
from fedward.simulations.baselines import UnsafeSeededDraws
from fedward.study import messages
from fedward.study.answers import tally
from fedward.study.encoding import Encoded
from fedward.study.heart import heart_folder
from fedward.study.messages import Declared, Result

MANIFEST = heart_manifest(training={"rounds": 2})
STUDY = MANIFEST.study.id


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("federation"))
    federation.ready(MANIFEST)
    return federation


@pytest.fixture
def site(built: Federation, tmp_path: Path) -> Site:
    return Site(built.copy(tmp_path / "federation"))


def ids() -> list[str]:
    """VA's patients, in the file's order."""
    with (heart_folder() / f"{SITE}.csv").open() as file:
        return [row["PSEUDO_ID"] for row in csv.DictReader(file)]


def training_ids(site: Site) -> list[str]:
    """VA's patients who train."""
    mask = held_out(ids(), MANIFEST.training.holdout, site.home.patient_key())
    return [patient for patient, held in zip(ids(), mask, strict=True) if not held]


def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The patients of every training from now on."""
    found: list[tuple[str, ...]] = []
    from fedward.client import training

    real = training.train

    def train(model: object, patients: Encoded, *rest: object) -> object:
        found.append(patients.patients)
        return real(model, patients, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "train", train)
    return found


def register(site: Site, path: Path) -> datasets.Registration:
    return datasets.register(site.home, MANIFEST, path, heart_folder() / f"{SITE}.mapping.toml", 7)


# ---- every read -----------------------------------------------------------------------------------------------------


def test_an_exclusion_binds_from_the_next_request_without_a_new_approval(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, gone = seen(monkeypatch), training_ids(site)[:3]
    assert isinstance(site.work(), Result)
    assert exclusions.add(site.home, gone) == 3
    assert isinstance(site.work(round=2, attempt=2), Result)
    assert set(trained[0]) - set(trained[1]) == set(gone)
    assert len(trained[0]) - len(trained[1]) == 3


def test_an_update_that_was_not_fetched_before_an_exclusion_stays_here(site: Site) -> None:
    """A request that comes again gets the reply that it got; not so if a patient of it may have opted out since."""
    assert isinstance(site.work(), Result)
    node = site.federation.transport.nodes[SITE]
    assert node(site.sent) == site.raw
    exclusions.add(site.home, training_ids(site)[:1])
    reply, _ = messages.open_reply(node(site.sent), site.key)
    assert code(reply) == "data-changed"
    assert isinstance(site.work(round=2, attempt=2), Result)


def test_who_opts_out_while_an_update_is_made_is_not_in_what_leaves(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedward.client import training

    real = training.train

    def train(*arguments: object) -> object:
        found = real(*arguments)  # type: ignore[arg-type]
        exclusions.add(site.home, training_ids(site)[:1])
        return found

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", train)
        assert code(site.work()) == "data-changed"
    assert site.charges() == [(1, 1)]
    assert isinstance(site.work(round=1, attempt=2), Result)


def reduced(gone: list[str], path: Path) -> Path:
    """VA's export as it would be had these patients never been there."""
    lines = (heart_folder() / f"{SITE}.csv").read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if line.split(",")[0] not in gone))
    return path


def outputs(site: Site) -> list[bytes]:
    """What leaves of two rounds and the last evaluation, with the same draws every time."""
    node = SiteNode(
        site.home, SiteLog(site.home.log_file, None), UnsafeSeededDraws(5), clock=site.federation.clock.unix
    )
    site.federation.transport.nodes[SITE] = node
    found = []
    for number, task in enumerate(({}, {}, {"train": False, "evaluate": True}), start=1):
        reply = site.work(round=number, attempt=number, **task)
        assert isinstance(reply, Result), code(reply)
        found.append(site.body)
    return found


def test_what_leaves_is_what_would_if_they_had_never_been_there(site: Site, built: Federation, tmp_path: Path) -> None:
    """Bit by bit, with the same draws: updates, and counts of held-out patients."""
    gone = [*training_ids(site)[:4], *[patient for patient in ids() if patient not in training_ids(site)][:4]]
    without = Site(built.copy(tmp_path / "without"))
    unchanged = outputs(Site(built.copy(tmp_path / "unchanged")))
    exclusions.add(site.home, gone)
    register(without, reduced(gone, tmp_path / "reduced.csv"))
    without.decide("approved")
    excluded = outputs(site)
    assert excluded == outputs(without)
    assert all(one != other for one, other in zip(excluded, unchanged, strict=True))


def test_an_exploration_reads_none_of_them(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "federation")
    allow(federation)
    federation.ready(heart_exploration())
    home, sealed = federation.sites[SITE], sealed_exploration(federation)
    whole = answer(home, sealed, NoNoise())
    gone = ids()[:5]
    exclusions.add(home, gone)
    table = datasets.read(home, datasets.find(home, sealed.manifest.study.id), sealed.manifest)
    assert set(ids()) - set(table.index) == set(gone)
    np.testing.assert_array_equal(answer(home, sealed, NoNoise()), tally(table, sealed.manifest, NoNoise()))
    assert (answer(home, sealed, NoNoise()) != whole).any()


def test_a_registration_leaves_them_out_before_anything_of_them_is_checked(site: Site, tmp_path: Path) -> None:
    path, gone = tmp_path / "bad.csv", ids()[4]
    text = (heart_folder() / f"{SITE}.csv").read_text()
    line = next(line for line in text.splitlines() if line.startswith(gone))
    path.write_text(text.replace(line, f"{gone},999{line.removeprefix(gone)[3:]}") + f"{line}\n")
    with pytest.raises(DataRefusedError):
        register(site, path)
    exclusions.add(site.home, [gone])
    done = register(site, path)
    assert (done.dataset.patients, done.report.rows, done.report.opted_out, done.report.excluded) == (199, 201, 2, 0)
    assert "Left out, for their patients are on the exclusion list: 2 rows." in done.report.lines()


def test_metrics_of_patients_who_have_opted_out_since_are_not_shown(site: Site) -> None:
    site.work(round=3, attempt=1, train=False, evaluate=True)
    own = OwnMetrics(site.home)
    before = own.shown(site.sealed)
    exclusions.add(site.home, ["nobody of these"])
    with pytest.raises(InputError) as caught:
        own.shown(site.sealed)
    assert caught.value.code == "no-metrics"
    exclusions.add(site.home, ids()[:60])
    site.work(round=3, attempt=2, train=False, evaluate=True)
    assert own.shown(site.sealed) != before


# ---- what stays -----------------------------------------------------------------------------------------------------


def test_registration_budget_and_declared_count_stay_as_they_were(site: Site) -> None:
    site.work()
    before = datasets.find(site.home, STUDY)
    with site.home.ledger(witnessed=False) as ledger:
        state = ledger.spent(), ledger.committed(), ledger.head
    exclusions.add(site.home, ids()[:6])
    with site.home.ledger(witnessed=False) as ledger:
        assert (ledger.spent(), ledger.committed(), ledger.head) == state
    assert datasets.find(site.home, STUDY) == before
    assert datasets.remaining(site.home, before) == before.patients - 6
    reply = site.declare()
    assert isinstance(reply, Declared)
    assert reply.patients == before.declared_patients == 200


def test_policy_and_study_count_who_remains(site: Site) -> None:
    """A hospital that had enough patients may have too few of them left; this is known before any of them is read."""
    exclusions.add(site.home, ids()[:190])
    assert code(site.work()) == "policy-patients"
    assert site.charges() == []
    exclusions.add(site.home, ids())
    assert code(site.work()) == "policy-patients"


# ---- the way back ---------------------------------------------------------------------------------------------------


def test_who_is_taken_off_the_list_trains_only_after_a_new_registration_and_its_approval(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, back = seen(monkeypatch), training_ids(site)[0]
    before = datasets.find(site.home, STUDY)
    exclusions.add(site.home, [back])
    assert exclusions.remove(site.home, [back, "nobody"]) == 1
    assert len(exclusions.listed(site.home)) == 0
    assert isinstance(site.work(), Result)
    assert back not in trained[0]
    assert datasets.remaining(site.home, before) == before.patients - 1
    after = register(site, heart_folder() / f"{SITE}.csv").dataset
    assert (after.source_sha256, after.cohort) == (before.source_sha256, before.cohort)
    assert code(site.work(round=2, attempt=2)) == "data-changed"  # the old approval was not for their return
    site.decide("approved")
    assert isinstance(site.work(round=2, attempt=2), Result)
    assert back in trained[1]


def test_who_was_excluded_at_registration_stays_out_when_taken_off(site: Site) -> None:
    gone = ids()[:2]
    exclusions.add(site.home, gone)
    dataset = register(site, heart_folder() / f"{SITE}.csv").dataset
    assert dataset.patients == 198
    exclusions.remove(site.home, gone)
    assert not set(gone) & set(datasets.read(site.home, dataset, MANIFEST).index)
    exclusions.add(site.home, gone[:1])
    exclusions.remove(site.home, gone[:1])
    assert not set(gone) & set(datasets.read(site.home, dataset, MANIFEST).index)
    assert datasets.remaining(site.home, dataset) == 198


# ---- the list -------------------------------------------------------------------------------------------------------


def test_the_list_holds_no_identifier_and_is_encrypted(site: Site) -> None:
    exclusions.add(site.home, [" 751396BF1E "])
    assert exclusions.add(site.home, ["751396BF1E"]) == 0
    kept = site.home.read(site.home.exclusions_file, "list")
    assert b"751396BF1E" not in kept
    raw = site.home.exclusions_file.read_bytes()
    assert kept not in raw
    assert exclusions.listed(site.home).entries[0].patient.encode() not in raw
    assert "exclusions-changed" in [entry.kind for entry in site.home.audit.entries()]


def test_exclusion_list_put_back(site: Site) -> None:
    """An older list, or none, would bring back who opted out: every read refuses it, and so does a node that starts anew."""
    dataset = register(site, heart_folder() / f"{SITE}.csv").dataset
    site.decide("approved")
    exclusions.add(site.home, ids()[:1])
    older = site.home.exclusions_file.read_bytes()
    exclusions.add(site.home, ids()[1:2])
    for put_back in (older, None):
        exclusions.forget(site.home.path)  # what another process knows: the audit log alone
        site.home.exclusions_file.unlink()
        if put_back is not None:
            site.home.exclusions_file.write_bytes(put_back)
            site.home.exclusions_file.chmod(0o600)
        with pytest.raises(IntegrityError, match="older exclusion list was put back"):
            datasets.read(site.home, dataset, MANIFEST)
        assert code(site.work()) == "exclusions-rolled-back"
    assert site.charges() == []


def test_a_crash_between_the_list_and_the_log_leaves_a_list_that_binds(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = register(site, heart_folder() / f"{SITE}.csv").dataset
    with monkeypatch.context() as patch:
        patch.setattr(type(site.home), "record", die)
        with pytest.raises(KeyboardInterrupt):
            exclusions.add(site.home, ids()[:1])
    exclusions.forget(site.home.path)
    assert ids()[0] not in datasets.read(site.home, dataset, MANIFEST).index
    assert exclusions.add(site.home, ids()[1:2]) == 1
    assert len(exclusions.listed(site.home)) == 2


def die(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_list_of_identifiers_is_read_as_people_write_it(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes("\ufeffa1\r\n\r\n  b 2 \nc3".encode())
    assert exclusions.read_ids(path) == ["a1", "b 2", "c3"]
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="UTF-8"):
        exclusions.read_ids(path)
    with pytest.raises(InputError, match="no list"):
        exclusions.read_ids(tmp_path / "none")


def test_two_commands_at_once_lose_no_entry(site: Site) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda n: exclusions.add(site.home, [f"p{n}"]), range(12))) == 12
    assert len(exclusions.listed(site.home)) == 12


def test_the_commands(site: Site, tmp_path: Path) -> None:
    home, path = site.home.path, tmp_path / "ids.txt"
    path.write_text("\n".join(ids()[:3]))
    assert good("site", "exclude", "add", path, "--id", ids()[3], "--home", home) == {
        "added": 4, "listed": 4, "registered": {STUDY: [200, 196]}}  # fmt: skip
    assert good("site", "exclude", "list", "--home", home) == {"listed": 4, "registered": {STUDY: [200, 196]}}
    assert good("site", "exclude", "remove", "--id", ids()[3], "--home", home) == {"removed": 1, "listed": 3}
    told = fedward("site", "exclude", "list", "--home", home)
    assert "3 patients are on the exclusion list" in told.out
    assert f"{STUDY}: 196 of 200" in told.out
    assert not any(patient in told.out for patient in ids())
    assert "until its data is registered again" in fedward("site", "exclude", "remove", path, "--home", home).out
    assert "What was spent stays spent" in fedward("site", "exclude", "add", path, "--home", home).out
    assert fedward("site", "exclude", "add", "--home", home).code == 2
    assert good("site", "data", "--home", home)["datasets"][0]["remaining"] == 196


# ---- one name in two forms ------------------------------------------------------------------------------------------

ZOE, ZOE_APART = "Zo\u00eb-7", "Zoe\u0308-7"


def renamed(folder: Path, names: dict[int, str]) -> Path:
    """VA's file with other identifiers in some rows."""
    header, *rows = list(csv.reader((heart_folder() / f"{SITE}.csv").open()))
    for place, name in names.items():
        rows[place][header.index("PSEUDO_ID")] = name
    path = folder / "named.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.mark.parametrize(("in_data", "typed"), [(ZOE, ZOE_APART), (ZOE_APART, ZOE), (ZOE_APART, ZOE_APART)])
def test_who_is_typed_in_another_unicode_form_is_left_out_all_the_same(
    site: Site, tmp_path: Path, in_data: str, typed: str
) -> None:
    dataset = register(site, renamed(tmp_path, {0: in_data})).dataset
    assert "named.csv" in dataset.path
    listed = tmp_path / "out.txt"
    listed.write_text(f"{typed}\n {ZOE}\n")
    assert exclusions.add(site.home, exclusions.read_ids(listed)) == 1
    assert datasets.remaining(site.home, dataset) == dataset.patients - 1
    assert ZOE not in datasets.read(site.home, dataset, MANIFEST).index
    assert register(site, Path(dataset.path)).dataset.patients == dataset.patients - 1
    assert exclusions.remove(site.home, [typed]) == 1


def test_an_entry_of_before_as_it_was_typed_still_holds(site: Site, tmp_path: Path) -> None:
    dataset = register(site, renamed(tmp_path, {0: ZOE})).dataset
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exclusions, "identifier", str.strip)
        exclusions.add(site.home, [ZOE_APART])
    assert ZOE not in datasets.read(site.home, dataset, MANIFEST).index


def test_two_forms_of_a_name_are_one_patient(site: Site, tmp_path: Path) -> None:
    """Where rows are patients, the second row is refused; where they are encounters, both count as one patient's."""
    both = renamed(tmp_path, {0: ZOE, 1: ZOE_APART})
    with pytest.raises(DataRefusedError, match="has an earlier row"):
        register(site, both)
    mapping = tmp_path / "encounters.toml"
    text = (heart_folder() / f"{SITE}.mapping.toml").read_text()
    mapping.write_text(text.replace("[source]\n", '[source]\nrows = "encounters"\n'))
    dataset = datasets.register(site.home, MANIFEST, both, mapping, 7).dataset
    assert dataset.patients == len(ids()) - 1
    frame = datasets.read(site.home, dataset, MANIFEST)
    assert list(frame.index[:2]) == [ZOE, ZOE]
