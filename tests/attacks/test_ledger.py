"""Attacks on a hospital's privacy ledger: a fresh budget, a forgotten charge, a schedule that grows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from federation import heart_folder, heart_manifest

from fedward.client import datasets
from fedward.client.home import SiteHome
from fedward.privacy.countersign import countersign
from fedward.privacy.errors import IntegrityError, RefusalError, UsageError
from fedward.privacy.events import DpEvent
from fedward.privacy.ledger import Budget, Charge, Head, Reservation

BUDGET = Budget(3.0, 1e-5)
STEP = DpEvent(8.0, 1.0, 1)
A, B = "a" * 64, "b" * 64


def reservation(study: str, count: int, study_id: str = "s", cohort: str = "c" * 64) -> Reservation:
    return Reservation(study, study_id, (DpEvent(8.0, 1.0, count),), 10**10, cohort)


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return SiteHome.create(tmp_path / "va", "va", BUDGET)


def spend(home: SiteHome, count: int) -> Head:
    """Charges steps of the first study, which reserves 20."""
    with home.ledger() as book:
        if not book.entries():
            book.reserve(reservation(A, 20), at=1)
        made = len(book.charges())
        for number in range(made, made + count):
            book.charge(Charge(A, "s", number, 0, STEP), at=2)
        return book.head


def test_budget_reset_by_reregistration(home: SiteHome, tmp_path: Path) -> None:
    """Data registered again, changed, renamed, or for another study: the patients are the same, and so is their budget."""
    spend(home, 20)
    folder = heart_folder()
    with home.ledger() as book:
        spent, lineage = book.spent(), book.lineage
    mapping = folder / "va.mapping.toml"
    lines = (folder / "va.csv").read_text().splitlines(keepends=True)
    changed = tmp_path / "changed.csv"
    changed.write_text("".join(lines[:-5]))
    renamed = shutil.copy(folder / "va.csv", tmp_path / "other-hospital.csv")
    manifest = heart_manifest()
    another = heart_manifest(study={"id": "heart-again"})
    for number, (study, csv) in enumerate([(manifest, changed), (manifest, renamed), (another, folder / "va.csv")]):
        done = datasets.register(home, study, Path(csv), mapping, 10 + number)
        with home.ledger() as book:
            assert (book.spent(), book.lineage) == (spent, lineage)
            fresh = reservation(f"{number}" * 64, 20, study.study.id, done.dataset.source_sha256)
            with pytest.raises(RefusalError, match="does not fit"):
                book.reserve(fresh, at=20)
    with pytest.raises(UsageError):
        SiteHome.create(home.path, "va", BUDGET)  # nor does another init, with or without its site file
    home.site_file.unlink()
    again = SiteHome.create(home.path, "va-2", Budget(99.0, 1e-5))
    with again.ledger() as book:
        assert (book.spent(), book.budget) == (spent, BUDGET)


def test_schedule_chosen_after_seeing_results(home: SiteHome) -> None:
    """PLD alone would admit a second study whose schedule depends on the first one's results; the filter does not."""
    spend(home, 20)
    with home.ledger() as book:
        assert book.would_cost([DpEvent(8.0, 1.0, 13)]) <= BUDGET.epsilon
        with pytest.raises(RefusalError, match="Rényi filter"):
            book.reserve(reservation(B, 13), at=3)
        book.reserve(reservation(B, 8), at=3)


def test_charge_without_an_approval(home: SiteHome) -> None:
    spend(home, 1)
    with home.ledger() as book, pytest.raises(RefusalError, match="nothing is reserved"):
        book.charge(Charge(B, "s", 1, 0, STEP), at=3)


def test_charge_with_other_noise_than_approved(home: SiteHome) -> None:
    spend(home, 1)
    for event in (
        DpEvent(7.9, 1.0, 1),
        DpEvent(8.0, 0.99, 1),
        DpEvent(8.0, 1.0, 20),
        DpEvent(8.0, 1.0, 1, share=(0.0, 0.5)),
    ):
        with home.ledger() as book, pytest.raises(RefusalError, match="does not hold this charge"):
            book.charge(Charge(A, "s", 50, 0, event), at=3)


def test_expired_study_that_sets_the_clock_back(home: SiteHome) -> None:
    with home.ledger() as book:
        book.reserve(Reservation(A, "s", (DpEvent(8.0, 1.0, 20),), 100, "c" * 64), at=1)
        book.charge(Charge(A, "s", 1, 0, STEP), at=2)
        book.reserve(reservation(B, 20), at=100)
        with pytest.raises(RefusalError, match="nothing is reserved"):
            book.charge(Charge(A, "s", 2, 0, STEP), at=50)


# --- files ------------------------------------------------------------------------------------------------------------

FILES = ("ledger.sqlite", "ledger.sqlite.head")


def saved(home: SiteHome, folder: Path) -> Path:
    folder.mkdir()
    for name in FILES:
        shutil.copy(home.path / name, folder / name)
    return folder


def restored(home: SiteHome, folder: Path, *names: str) -> None:
    for name in names:
        shutil.copy(folder / name, home.path / name)


def test_older_file_restored(home: SiteHome, tmp_path: Path) -> None:
    spend(home, 3)
    older = saved(home, tmp_path / "older")
    spend(home, 3)
    restored(home, older, "ledger.sqlite")
    with pytest.raises(IntegrityError, match="ledger-recover"):
        home.ledger()


def test_older_head_restored(home: SiteHome, tmp_path: Path) -> None:
    spend(home, 3)
    older = saved(home, tmp_path / "older")
    spend(home, 3)
    restored(home, older, "ledger.sqlite.head")
    with pytest.raises(IntegrityError, match="ledger-recover"):
        home.ledger()


def test_older_file_and_head_restored(enrolled: tuple[SiteHome, bytes], tmp_path: Path) -> None:
    """Both files rolled back tell nothing; the head that the coordinator countersigned does."""
    home, _ = enrolled
    older = saved(home, tmp_path / "older")
    restored(home, older, *FILES)
    home.ledger().close()  # what was countersigned is in it
    older_head = home.read(home.countersigned_file, "head")
    with home.ledger() as book:
        book.charge(Charge(A, "s", 70, 0, STEP), at=3)
        newer = book.head
    home.keep_countersigned(signed(home, newer))
    restored(home, older, *FILES)
    with pytest.raises(IntegrityError, match="countersigned"):
        home.ledger()
    # An older countersigned head does not displace the newer one.
    home.keep_countersigned(older_head)
    with pytest.raises(IntegrityError, match="countersigned"):
        home.ledger()


def test_countersigned_head_forged(enrolled: tuple[SiteHome, bytes]) -> None:
    home, _ = enrolled
    kept = home.read(home.countersigned_file, "head")
    for forged in (kept.replace(b'"sequence":', b'"sequence":1'), b""):
        home.write(home.countersigned_file, forged)
        with pytest.raises(IntegrityError, match="countersigned"):
            home.ledger()
    home.countersigned_file.write_bytes(kept)  # by a program that does not have the home's key
    with pytest.raises(IntegrityError, match="countersigned"):
        home.ledger()
    with pytest.raises(IntegrityError):
        home.keep_countersigned(kept)


_COORDINATORS: dict[Path, Callable[[Head], bytes]] = {}


def signed(home: SiteHome, head: Head) -> bytes:
    return _COORDINATORS[home.path](head)


@pytest.fixture
def enrolled(tmp_path: Path) -> tuple[SiteHome, bytes]:
    """A site of a federation, with three charges that its coordinator has countersigned."""
    from federation import Federation

    federation = Federation(tmp_path / "federation", budget=BUDGET, sites=("va", "cleveland", "hungarian"))
    for node in federation.transport.nodes.values():
        node._ledger.close()  # type: ignore[attr-defined]  # or SQLite's log would undo what an attack restores
    home, identity = federation.sites["va"], federation.home.identity()
    _COORDINATORS[home.path] = lambda head: countersign(head, "va", 5, identity)
    data = signed(home, spend(home, 3))
    home.keep_countersigned(data)
    return home, data


@pytest.mark.parametrize("part", [0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_file_cut_short(home: SiteHome, part: float) -> None:
    spend(home, 5)
    whole = home.ledger_file.read_bytes()
    home.ledger_file.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(IntegrityError, match="ledger-recover"):
        home.ledger()


def test_any_byte_of_an_entry_changed(home: SiteHome) -> None:
    """Every page is authenticated whole (SQLCipher's HMAC): bytes all over the file."""
    spend(home, 2)
    whole = home.ledger_file.read_bytes()
    assert b"reservation" not in whole  # nothing of an entry can be read
    places = range(0, len(whole), 131)
    assert len(places) > 100
    for place in places:
        home.ledger_file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(IntegrityError):
            home.ledger()
    home.ledger_file.write_bytes(whole)
    home.ledger().close()


def test_every_byte_of_the_head_changed(home: SiteHome) -> None:
    spend(home, 12)  # two digits: a changed one is another number
    path = home.path / "ledger.sqlite.head"
    whole = path.read_bytes()
    for place in range(len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(IntegrityError):
            home.ledger()
