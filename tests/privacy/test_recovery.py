"""A ledger's export, and the way back from one: what may have been lost counts as spent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward.privacy.accounting import epsilon
from fedward.privacy.canonical import canonical_json
from fedward.privacy.chain import Chain
from fedward.privacy.countersign import countersign, countersigned
from fedward.privacy.entries import Lost, Recovery
from fedward.privacy.errors import FedwardError, InputError, IntegrityError, RefusalError, UsageError
from fedward.privacy.events import DpEvent
from fedward.privacy.ledger import Budget, Charge, Head, Ledger, Reservation
from fedward.privacy.ledgerexport import parse_head, read_export, write_export
from fedward.privacy.ledgerfile import read_chain
from fedward.privacy.recovery import Loss, assess, recover

BUDGET = Budget(3.0, 1e-5)
A, B = "a" * 64, "b" * 64
STEP, WHOLE = DpEvent(8.0, 1.0, 1), DpEvent(8.0, 1.0, 6)
SITE = "st-elsewhere"


def charge(round_: int, study: str = A) -> Charge:
    return Charge(study, "s", round_, 0, STEP)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with a reservation of six steps and two charges."""
    path = tmp_path / "ledger"
    with Ledger.create(path, budget=BUDGET, lineage="x") as made:
        made.reserve(Reservation(A, "s", (WHOLE,), 10**6, "c" * 64), at=1)
        made.charge(charge(1), at=2)
        made.charge(charge(2), at=3)
    return path


def exported(path: Path, key: object = None) -> bytes:
    from fedward.privacy.signing import Identity

    identity = key if isinstance(key, Identity) else Identity.generate()
    with Ledger.open(path) as book:
        return write_export(book.chain, identity, SITE, 99)


def put_back(path: Path, copy: Chain | None, lost: Lost, *heads: Head) -> Loss:
    loss = assess(path, copy, list(heads))
    recover(path, loss, lost=lost, by="Ada", reason="the disk died", at=50, budget=BUDGET, lineage="y")
    return loss


def lose(path: Path) -> None:
    for file in path.parent.glob("ledger*"):
        if not file.name.endswith(".head"):
            file.unlink()


# --- exports -----------------------------------------------------------------------------------------------------------


def test_an_export_holds_the_whole_chain(path: Path) -> None:
    from fedward.privacy.signing import Identity

    identity = Identity.generate()
    found = read_export(exported(path, identity), identity.public)
    with Ledger.open(path) as book:
        assert found.chain.entries == book.entries()
        assert found.chain.tail == book.head
        assert epsilon(found.chain.shares.charged(), BUDGET.delta) == book.spent()
    assert (found.site, found.key, found.at, found.chain.budget) == (SITE, identity.public, 99, BUDGET)
    with pytest.raises(IntegrityError, match="another key"):
        read_export(exported(path, identity), Identity.generate().public)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_byte_of_an_export_can_be_changed(data: st.DataObject) -> None:
    raw = _EXPORT[0]
    place = data.draw(st.integers(0, len(raw) - 1))
    kind = data.draw(st.sampled_from(["change", "drop", "double", "cut"]))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != raw[place]))
    forged = {
        "change": raw[:place] + bytes([byte]) + raw[place + 1 :],
        "drop": raw[:place] + raw[place + 1 :],
        "double": raw[: place + 1] + raw[place:],
        "cut": raw[:place],
    }[kind]
    if forged == raw:
        return
    with pytest.raises((IntegrityError, InputError)):
        read_export(forged)


_EXPORT: list[bytes] = []


@pytest.fixture(autouse=True, scope="module")
def one_export(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("export") / "ledger"
    with Ledger.create(path, budget=BUDGET, lineage="x") as made:
        made.reserve(Reservation(A, "s", (WHOLE,), 10**6, "c" * 64), at=1)
        made.charge(charge(1), at=2)
    _EXPORT[:] = [exported(path)]


@pytest.mark.parametrize("what", ["a line left out", "another head", "a charge's noise", "the budget"])
def test_an_export_that_was_signed_again_must_still_hold(path: Path, what: str) -> None:
    """The site itself cannot leave out an entry, nor change one, without making the chain anew."""
    from fedward.privacy.signing import Identity, to_text

    identity = Identity.generate()
    lines = [json.loads(line) for line in exported(path, identity).splitlines()[:-1]]
    if what == "a line left out":
        del lines[2]
    elif what == "another head":
        lines[0]["head"]["sequence"] += 1
    elif what == "the budget":
        lines[0]["genesis"]["epsilon"] = 30.0
    else:
        lines[2]["body"] = lines[2]["body"].replace("8.0", "80.0")
    data = b"".join(canonical_json(line) + b"\n" for line in lines)
    data += canonical_json({"signature": to_text(identity.sign("ledger", data))}) + b"\n"
    with pytest.raises(IntegrityError):
        read_export(data)


@pytest.mark.parametrize("text", ["", "3", "3:", "-1:" + A, "x:" + A, "3:" + "A" * 64, f"3:{A}:{A}"])
def test_heads_that_are_none(text: str) -> None:
    assert parse_head("3:" + A) == Head(3, A)
    with pytest.raises(InputError):
        parse_head(text)


def test_a_countersigned_head_is_the_coordinators_and_of_this_site() -> None:
    from fedward.privacy.signing import Identity

    coordinator = Identity.generate()
    data = countersign(Head(7, A), SITE, 12, coordinator)
    assert countersigned(data, SITE, coordinator.public) == Head(7, A)
    wrong = [(data, "other", coordinator.public), (data, SITE, Identity.generate().public)]
    wrong += [(forged, SITE, coordinator.public) for forged in (data.replace(b"7", b"8"), b"{}", b"", data[:-9])]
    for case in wrong:
        with pytest.raises(IntegrityError):
            countersigned(*case)


# --- recoveries --------------------------------------------------------------------------------------------------------


def test_a_lost_file_comes_back_whole_from_the_newest_export(path: Path) -> None:
    copy = read_export(exported(path)).chain
    lose(path)
    with pytest.raises(IntegrityError, match="ledger-recover"):
        Ledger.open(path)
    assert put_back(path, copy, "nothing").whole
    with Ledger.open(path) as book:
        assert book.spent() == epsilon([STEP] * 2, BUDGET.delta)
        assert book.charge(charge(3), at=60).sequence == 5
        assert book.entries()[3].what == Recovery("Ada", "the disk died", "nothing", None)


def test_what_an_older_export_reserves_counts_as_spent(path: Path) -> None:
    copy = read_export(exported(path)).chain
    with Ledger.open(path) as book:
        book.charge(charge(3), at=4)
        known = book.head
    lose(path)
    loss = assess(path, copy, [])
    assert (loss.known, loss.whole) == (known, False)
    with pytest.raises(UsageError):
        recover(path, loss, lost="nothing", by="Ada", reason="x", at=50, budget=BUDGET, lineage="y")
    put_back(path, copy, "charges")
    with Ledger.open(path, witness=known) as book:
        assert book.spent() == book.committed() == epsilon([WHOLE], BUDGET.delta)
        assert book.reservations() == []
        # No number stands for two entries: the lost one's is not used again.
        assert [entry.sequence for entry in book.entries()] == [1, 2, 3, 5]
        with pytest.raises(RefusalError, match="nothing is reserved"):
            book.charge(charge(4), at=60)
        book.verify(Head(4, known.digest))
        with pytest.raises(IntegrityError):
            book.verify(Head(4, B))
        book.reserve(Reservation(B, "t", (STEP,), 10**6, "c" * 64), at=61)
        assert book.charge(charge(1, B), at=62).sequence == 7


def test_a_budget_that_is_written_off_stays_so(path: Path) -> None:
    lose(path)
    path.with_name("ledger.head").unlink()
    put_back(path, None, "anything", Head(40, B))
    with Ledger.open(path, witness=Head(40, B)) as book:
        assert (book.written_off, book.spent(), book.committed(), book.remaining) == (True, 3.0, 3.0, 0.0)
        assert not book.fits([DpEvent(1e4, 1.0, 1)])
        with pytest.raises(RefusalError, match="does not fit"):
            book.reserve(Reservation(B, "t", (STEP,), 10**6, "c" * 64), at=61)
        assert [entry.sequence for entry in book.entries()] == [41]
        book.verify(Head(0, A))
        with pytest.raises(IntegrityError):
            book.verify(Head(42, A))


def test_a_rolled_back_file_goes_on_from_where_it_is(path: Path, tmp_path: Path) -> None:
    for suffix in ("", ".head"):
        shutil.copy(f"{path}{suffix}", tmp_path / f"old{suffix}")
    with Ledger.open(path) as book:
        book.charge(charge(3), at=4)
        newest = book.head
    for suffix in ("", ".head"):
        shutil.copy(tmp_path / f"old{suffix}", f"{path}{suffix}")
    with pytest.raises(IntegrityError):
        Ledger.open(path, witness=newest)
    put_back(path, read_chain(path), "charges", newest)
    with Ledger.open(path, witness=newest) as book:
        assert book.spent() == epsilon([WHOLE], BUDGET.delta)
    kept = sorted(file.name for file in path.parent.glob("ledger.replaced-*"))
    assert kept == ["ledger.replaced-5", "ledger.replaced-5.head"]


def test_an_old_log_is_not_replayed_into_the_new_file(path: Path) -> None:
    """A process that was killed leaves SQLite's log; the database itself is lost."""
    copy, log = read_export(exported(path)).chain, path.with_name("ledger-wal")
    with Ledger.open(path) as book:
        book.charge(charge(3), at=4)
        left_over = log.read_bytes()
    path.unlink()
    log.write_bytes(left_over)
    put_back(path, copy, "charges")
    with Ledger.open(path) as book:
        assert book.spent() == epsilon([WHOLE], BUDGET.delta)
        assert [entry.sequence for entry in book.entries()] == [1, 2, 3, 5]


def test_a_copy_of_another_history_is_none(path: Path, tmp_path: Path) -> None:
    """Somebody made a new history after rolling back; the countersigned head tells, and that file is no copy."""
    old = shutil.copy(path, tmp_path / "old")
    with Ledger.open(path) as book:
        book.charge(charge(3), at=4)
        true = book.head
    shutil.copy(old, path)
    with _forged(path) as book:
        book.charge(charge(9), at=4)
        book.charge(charge(10), at=4)
    loss = assess(path, read_chain(path), [true])
    assert (loss.copy, loss.whole) == (None, False)
    with pytest.raises(UsageError, match="no copy"):
        recover(path, loss, lost="charges", by="Ada", reason="x", at=50, budget=BUDGET, lineage="y")


def _forged(path: Path) -> Ledger:
    """Who can write both files can write a new head."""
    from fedward.privacy.ledgerfile import write_head

    write_head(path, read_chain(path).tail)
    return Ledger.open(path)


def test_a_head_that_is_gone_shows_nothing(path: Path) -> None:
    path.with_name("ledger.head").unlink()
    assert not assess(path, read_chain(path), []).whole


def test_an_old_process_is_refused_after_a_recovery(path: Path) -> None:
    copy = read_export(exported(path)).chain
    with Ledger.open(path) as old:
        put_back(path, copy, "nothing")
        with pytest.raises(FedwardError):
            old.charge(charge(3), at=70)
    with Ledger.open(path) as book:
        assert [entry.what.KIND for entry in book.entries()] == ["reservation", "charge", "charge", "recovery"]


@pytest.mark.parametrize("wrong", [{"by": ""}, {"reason": "two\nlines"}, {"lost": "much"}, {"known": Head(-1, A)}])
def test_malformed_recoveries_are_refused(wrong: dict[str, object]) -> None:
    fields: dict[str, object] = {"by": "Ada", "reason": "x", "lost": "nothing", "known": None}
    with pytest.raises(InputError):
        Recovery(**(fields | wrong))  # type: ignore[arg-type]
