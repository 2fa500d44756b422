"""`fedward site ledger`, `ledger-recover` and `fedward audit ledger`, as a person at the hospital or an auditor meets them."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
from command import fedward, good

from fedward.cli.output import shown, shown_left
from fedward.client.home import SiteHome
from fedward.client.policy import load_policy
from fedward.privacy.accounting import epsilon
from fedward.privacy.errors import InputError
from fedward.privacy.events import CountEvent, DpEvent, SharedEvent
from fedward.privacy.ledger import Budget, Charge, Head, Reservation
from fedward.study.terms import PRIVACY_WORDS

STEP = DpEvent(10.0, 1.0, 1)
A = "ab" * 32
NOW, LATER = 1_700_000_000, 4_000_000_000


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    """A site whose patients were in one study: three steps reserved, one charged."""
    made = SiteHome.create(tmp_path / "va", "va", Budget(3.0, 1e-5))
    with made.ledger() as book:
        book.reserve(Reservation(A, "heart", (STEP,) * 3, LATER, "cd" * 32), at=NOW)
        book.charge(Charge(A, "heart", 1, 1, STEP), at=NOW)
    return made


def charge(home: SiteHome, round_: int) -> Head:
    with home.ledger() as book:
        book.charge(Charge(A, "heart", round_, 1, STEP), at=NOW + round_)
        return book.head


def refused(code: int, error: str, *arguments: object) -> str:
    ran = fedward(*arguments, "--json")
    assert (ran.code, ran.json["error"]) == (code, error), ran
    return str(ran.json["remedy"])


def ledger(home: SiteHome, *options: object) -> tuple[object, ...]:
    return ("site", "ledger", "--home", home.path, *options)


def recovery(home: SiteHome, *options: object) -> tuple[object, ...]:
    return ("site", "ledger-recover", "--by", "Ada", "--reason", "the disk died", "--home", home.path, *options)


def lose(home: SiteHome) -> None:
    for file in home.path.glob("ledger.sqlite*"):
        if not file.name.endswith(".head"):
            file.unlink()


def test_spent_reserved_and_left_are_shown(home: SiteHome) -> None:
    data = good(*ledger(home))
    assert data["spent"] == data["spent_against_everyone"] == epsilon([STEP], 1e-5)
    assert data["committed"] == epsilon([STEP] * 3, 1e-5)
    assert data["remaining"] == pytest.approx(3.0 - data["committed"], abs=1e-4)
    assert [entry["kind"] for entry in data["entries"]] == ["reservation", "charge"]
    assert data["studies"][0]["reserved"] == epsilon([STEP] * 2, 1e-5)
    said = fedward(*ledger(home)).out
    assert f"{shown(data['spent'])} of 3" in said
    assert f"all that is reserved {shown(data['committed'])}" in said
    assert PRIVACY_WORDS in said


def test_equal_charges_in_a_row_are_one_row_unless_all_are_asked_for(home: SiteHome) -> None:
    charge(home, 2)
    with home.ledger() as book:
        book.charge(Charge(A, "heart", 2, 1, None, purpose="evaluate-without-dp"), at=NOW)
    charge(home, 3)

    def rows(*options: object) -> list[str]:
        lines = [line.split("│") for line in fedward(*ledger(home, *options)).out.splitlines()]
        return [cells[1].strip() for cells in lines if len(cells) > 5 and cells[1].strip()]

    assert rows() == ["1", "2-3", "4", "5"]
    assert rows("--all") == ["1", "2", "3", "4", "5"]
    said = good(*ledger(home))
    assert [entry["sequence"] for entry in said["entries"]] == [1, 2, 3, 4, 5]


def test_shared_noise_is_shown_against_both(tmp_path: Path) -> None:
    home = SiteHome.create(tmp_path / "va", "va", Budget(3.0, 1e-5))
    event = SharedEvent(6.0, 3, 1)
    with home.ledger() as book:
        book.reserve(Reservation(A, "heart", (event,), LATER, "cd" * 32), at=NOW)
        book.charge(Charge(A, "heart", 1, 1, event), at=NOW)
        both = book.spent(), book.spent("everyone")
        assert book.committed(view="everyone") == both[1] == epsilon([event], 1e-5, "everyone")
    data = good(*ledger(home))
    assert (data["spent"], data["spent_against_everyone"]) == both
    assert both[0] < both[1]
    out = tmp_path / "va.ledger"
    good(*ledger(home, "--export", out))
    for command in (ledger(home), ("site", "status", "--home", home.path), ("audit", "ledger", out)):
        said = fedward(*command).out
        assert f"{shown(both[1])}" in said
        assert "where noise is shared, the coordinator and outsiders" in said
        assert "composition: every study" in said


def test_what_was_spent_is_never_shown_smaller_nor_what_is_left_larger() -> None:
    assert (shown(2.7773), shown_left(7.2227)) == ("2.778", "7.222")
    assert (shown(0.0001), shown(0.5), shown(0.0), shown(math.inf)) == ("0.001", "0.500", "0.000", "inf")


def test_each_part_of_a_reservation_has_its_line(tmp_path: Path) -> None:
    home = SiteHome.create(tmp_path / "va", "va", Budget(3.0, 1e-5))
    with home.ledger() as book:
        book.reserve(Reservation(A, "heart", (STEP, CountEvent(40.0, 1, 3, 1)), LATER, "cd" * 32), at=NOW)
    lines = fedward(*ledger(home)).out.splitlines()
    cells = [[cell.strip() for cell in line.split("│")[-3:-1]] for line in lines if "│" in line]
    assert ["10", "1 x 1"] in cells
    assert ["40 a count", "3 x 1"] in cells


def test_metrics_given_away_without_noise_are_not_said_to_be_covered(home: SiteHome) -> None:
    with home.ledger() as book:
        book.charge(Charge(A, "heart", 2, 0, None, purpose="metrics-without-dp"), at=NOW)
    said = fedward(*ledger(home)).out
    assert "covers training patients only" in said
    assert "covers every patient" not in said


def test_a_period_of_the_policy_is_shown(home: SiteHome) -> None:
    assert load_policy(home.policy_file).period is None
    limit = "period_days = 36500\nmax_epsilon_per_period = 2.5\n"
    home.policy_file.write_text("[policy]\n" + limit)
    assert good(*ledger(home))["period"] == {"days": 36500, "epsilon": 2.5, "spent": epsilon([STEP] * 3, 1e-5)}
    assert "In 36500 days" in fedward(*ledger(home)).out
    home.policy_file.write_text("[policy]\nperiod_days = 3\n")
    with pytest.raises(InputError, match="belong together"):
        load_policy(home.policy_file)


def test_verify_tells_the_head_and_what_it_was_compared_with(home: SiteHome) -> None:
    data = good(*ledger(home, "--verify"))
    assert (data["holds"], data["entries"], data["countersigned"]) == (True, 2, None)
    assert "No head was countersigned yet" in fedward(*ledger(home, "--verify")).out
    assert good(*ledger(home, "--head", data["head"]))["holds"]
    refused(5, "ledger-rolled-back", *ledger(home, "--head", "9:" + A))
    refused(5, "ledger-rolled-back", *ledger(home, "--head", "1:" + A))
    refused(3, "bad-input", *ledger(home, "--head", "first"))


def test_an_export_is_audited_without_the_site(home: SiteHome, tmp_path: Path) -> None:
    out = tmp_path / "va.ledger"
    made = good(*ledger(home, "--export", out))
    shown = good(*ledger(home))
    shutil.rmtree(home.path)
    data = good("audit", "ledger", out, "--key", made["key"], "--head", made["head"])
    assert (data["holds"], data["site"], data["key_compared"], data["head"]) == (True, "va", True, made["head"])
    assert {name: data[name] for name in ("spent", "budget", "charges", "privacy")} == {
        name: shown[name] for name in ("spent", "budget", "charges", "privacy")
    }
    said = fedward("audit", "ledger", out).out
    assert "compare it, or give --key" in said
    assert PRIVACY_WORDS in said
    refused(5, "foreign-key", "audit", "ledger", out, "--key", "00" * 32)
    refused(5, "ledger-rolled-back", "audit", "ledger", out, "--head", "2:" + A)
    out.write_bytes(out.read_bytes().replace(b"10.0", b"90.0"))
    refused(5, "bad-signature", "audit", "ledger", out)
    refused(3, "bad-input", "audit", "ledger", tmp_path / "none")


def test_a_ledger_that_holds_is_not_recovered(home: SiteHome) -> None:
    assert refused(2, "usage", *recovery(home)) == "fedward site ledger --verify shows it"


def test_a_whole_export_gives_everything_back(home: SiteHome, tmp_path: Path) -> None:
    out = tmp_path / "va.ledger"
    good(*ledger(home, "--export", out))
    lose(home)
    assert "ledger-recover" in refused(5, "ledger-rolled-back", *ledger(home))
    assert good(*recovery(home, "--from", out))["lost"] == "nothing"
    data = good(*ledger(home))
    assert (data["spent"], data["committed"]) == (epsilon([STEP], 1e-5), epsilon([STEP] * 3, 1e-5))
    assert data["entries"][-1] | {"digest": "", "at": 0} == {
        "sequence": 3, "at": 0, "digest": "", "kind": "recovery", "by": "Ada", "reason": "the disk died", "lost": "nothing",
        "known": None,
    }  # fmt: skip
    assert "Entry 3: recovered by Ada, lost: nothing (the disk died)" in fedward(*ledger(home)).out


def test_an_older_copy_needs_a_persons_word(home: SiteHome, tmp_path: Path) -> None:
    out = tmp_path / "va.ledger"
    good(*ledger(home, "--export", out))
    newest = charge(home, 2)
    lose(home)
    assert "--none-approved" in refused(2, "usage", *recovery(home, "--from", out))
    done = good(*recovery(home, "--from", out, "--none-approved"))
    assert (done["lost"], done["entries"]) == ("charges", 2)
    data = good(*ledger(home))
    assert data["spent"] == data["committed"] == epsilon([STEP] * 3, 1e-5)
    assert good(*ledger(home, "--head", f"{newest.sequence}:{newest.digest}"))["holds"]


def test_a_rollback_of_both_files_is_recovered_by_the_head_that_somebody_kept(home: SiteHome, tmp_path: Path) -> None:
    for name in ("ledger.sqlite", "ledger.sqlite.head"):
        shutil.copy(home.path / name, tmp_path / name)
    newest = charge(home, 2)
    for name in ("ledger.sqlite", "ledger.sqlite.head"):
        shutil.copy(tmp_path / name, home.path / name)
    assert good(*ledger(home, "--verify"))["holds"]  # nothing here can tell
    head = ("--head", f"{newest.sequence}:{newest.digest}")
    refused(5, "ledger-rolled-back", *ledger(home, *head))
    refused(2, "usage", *recovery(home, *head))
    assert good(*recovery(home, *head, "--none-approved"))["lost"] == "charges"
    assert good(*ledger(home))["spent"] == epsilon([STEP] * 3, 1e-5)
    assert good(*ledger(home, *head))["holds"]


def test_with_nothing_left_the_budget_is_written_off(home: SiteHome) -> None:
    lose(home)
    (home.path / "ledger.sqlite.head").unlink()
    assert "ledger-recover" in refused(5, "ledger-broken", *ledger(home))
    refused(3, "bad-input", *recovery(home, "--none-approved"))
    refused(2, "usage", *recovery(home, "--none-approved", "--write-off"))
    assert good(*recovery(home, "--write-off"))["lost"] == "anything"
    data = good(*ledger(home))
    assert (data["written_off"], data["remaining"]) == (True, 0.0)
    assert "written off" in fedward(*ledger(home)).out
    with home.ledger() as book:
        assert not book.fits([DpEvent(1e4, 1.0, 1)])


def test_another_sites_export_is_no_copy(home: SiteHome, tmp_path: Path) -> None:
    other = SiteHome.create(tmp_path / "other", "other", Budget(50.0, 1e-5))
    out = tmp_path / "other.ledger"
    good(*ledger(other, "--export", out))
    lose(home)
    refused(5, "foreign-key", *recovery(home, "--from", out, "--none-approved"))


def test_the_node_refuses_until_then(home: SiteHome) -> None:
    lose(home)
    assert not (home.path / "ledger.sqlite").exists()
    ran = fedward("site", "status", "--home", home.path)
    assert (ran.code, "ledger-recover" in ran.err.replace("\n", "")) == (5, True)
    with pytest.raises(Exception, match="gone"):
        home.ledger(witnessed=False)
