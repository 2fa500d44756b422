"""A home that the first version made, brought up to date: nothing lost, nothing plain, and no instant at which it is neither.

golden/home-format-1.tar.xz is site "va" as that version left it: joined, registered, approved, one round charged, one incident.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from command import fedward, good

from fedward.client import migrations
from fedward.client.home import FORMAT, SiteHome, format_of
from fedward.client.incidents import Incidents
from fedward.client.log import read_log
from fedward.client.migrations import Step, Unlock, migrate
from fedward.privacy.errors import FedwardError, InputError, UsageError
from fedward.study.lock import hold

GOLDEN = Path(__file__).parents[1] / "golden" / "home-format-1.tar.xz"
IDENTITY = "52268f8ac0f360f455dbba39d542ab528c3bc73b57a477ddf1b0d26fa042d678"
SPENT, ENTRIES = 1.1324, 2


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with tarfile.open(GOLDEN) as tar:
        tar.extractall(tmp_path)  # noqa: S202 - our own file; a filter is there from Python 3.11.4 on
    return tmp_path / "va"


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_older_home_asks_for_its_migration_and_is_not_touched(old: Path) -> None:
    before = snapshot(old)
    with pytest.raises(InputError) as refused:
        SiteHome.open(old)
    assert (refused.value.code, refused.value.remedy) == ("older-home", "fedward site migrate")
    assert fedward("site", "status", "--home", old).code == 3
    assert snapshot(old) == before


def test_all_that_counts_is_there_afterwards_and_encrypted(old: Path) -> None:
    before = snapshot(old)
    assert [step.to for step in migrate(old)] == [2]
    home = SiteHome.open(old)
    assert home.identity().public == IDENTITY
    assert home.patient_key() == before["keys/patients.key"]
    with home.ledger() as ledger:
        ledger.verify(home.countersigned_head())
        assert (ledger.spent(), len(ledger.entries())) == (SPENT, ENTRIES)
    assert [incident.code for incident in Incidents(home.incidents_folder).list()] == ["wrong-shape"]
    assert [line["event"] for line in read_log(home.log_file, home.unsealer(home.log_file))] == [
        "declared", "offered", "charged", "worked", "error", "incident",
    ]  # fmt: skip
    assert home.kit().site == "va"
    after = snapshot(old)
    plain = {"policy.toml", "federation.json", "ca.pem", "site.pem", "site.json", "ledger.sqlite.head", "audit.origin"}
    same = {name for name in after if before.get(name) == after[name]}
    assert {name for name in same if not name.startswith("incidents/")} <= plain
    private = [
        before[name]
        for name in before
        if name.startswith(("keys/", "datasets/", "approvals/", "log/", "ledger.counter"))
    ]
    everything = b"".join(data for name, data in after.items() if name != "keys/unlock.key")
    for data in private:
        for piece in (data[:24], data[len(data) // 2 : len(data) // 2 + 24]):
            assert piece not in everything.replace(after["incidents/000001-f2cc851579bc.json"], b"")
    assert b"SQLite format 3" not in everything
    assert snapshot(old.with_name("va.format-1")) == before
    assert {path.name for path in (old / "before-format-2").iterdir()} == {"approvals", "datasets"}
    assert migrate(old) == []


def test_it_can_be_locked_by_a_passphrase(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("four words are enough\n")
    (tmp_path / "secret").chmod(0o600)
    monkeypatch.setenv("FEDWARD_PASSPHRASE_FILE", str(tmp_path / "secret"))
    told = good("site", "migrate", "--passphrase", "--home", old)
    assert (told["from"], told["to"], told["steps"]) == (1, 2, ["the home is encrypted at rest"])
    assert not (old / "keys" / "unlock.key").exists()
    assert good("site", "status", "--home", old)["ledger"]["spent"] == SPENT
    assert good("site", "migrate", "--home", old)["steps"] == []
    said = fedward("site", "doctor", "--home", old)
    assert "encrypted at rest under a passphrase" in said.out


def test_a_newer_home_is_refused_by_name_and_not_touched(old: Path) -> None:
    (old / "site.json").write_text(json.dumps({"format": FORMAT + 1, "site": "va", "more": True}))
    before = snapshot(old)
    for act in (lambda: SiteHome.open(old), lambda: migrate(old)):
        with pytest.raises(InputError) as refused:
            act()
        assert refused.value.code == "newer-home"
    assert fedward("site", "migrate", "--home", old, "--json").json["error"] == "newer-home"
    assert snapshot(old) == before


class Died(BaseException):
    """As if the process were gone."""


DURABLE = (
    "_encrypt_key",
    "_seal",
    "_seal_lines",
    "_encrypt_ledger",
    "_say_format",
    "_check",
    "write_atomic",
    "_put_in_place",
)


@pytest.mark.parametrize("name", DURABLE)
def test_cut_off_anywhere_it_is_the_old_home_or_the_new_and_goes_on(
    old: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The process dies in the middle: the copy is not even removed."""
    before = snapshot(old)

    def dies(*_: object, **__: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(migrations, name, dies)
        patch.setattr(shutil, "rmtree", lambda *_a, **_k: None)
        with pytest.raises(Died):
            migrate(old)
    if name == "_put_in_place":
        assert not old.exists()
    else:
        assert snapshot(old) == before
    migrate(old)
    with SiteHome.open(old).ledger() as ledger:
        assert ledger.spent() == SPENT
    assert snapshot(old.with_name("va.format-1")) == before


def test_a_home_that_does_not_hold_is_left_as_it_is(old: Path) -> None:
    (old / "ledger.sqlite").write_bytes(b"SQLite format 3\0" + bytes(5000))
    before = snapshot(old)
    with pytest.raises(FedwardError):
        migrate(old)
    assert snapshot(old) == before
    assert not list(old.parent.glob("va.*"))


def test_an_older_ledger_in_an_older_home_is_found(old: Path) -> None:
    head = json.loads((old / "ledger.sqlite.head").read_text())
    (old / "ledger.sqlite.head").write_text(json.dumps(head | {"sequence": head["sequence"] + 3}))
    with pytest.raises(FedwardError) as refused:
        migrate(old)
    assert refused.value.code == "ledger-rolled-back"


def test_steps_follow_one_another_and_not_while_the_node_runs(old: Path) -> None:
    taken: list[int] = []
    steps = (
        *migrations.STEPS,
        *(Step(to, f"step {to}", lambda _home, _unlock, to=to: taken.append(to)) for to in (3, 4)),
    )  # type: ignore[misc]
    with hold(old / "node.lock", 1.0, lambda: UsageError("x")), pytest.raises(UsageError):
        migrate(old, Unlock(), steps)
    assert [step.to for step in migrate(old, Unlock(), steps)] == [2, 3, 4]
    assert (taken, format_of(old)) == ([3, 4], 4)
    assert migrate(old, Unlock(), steps) == []
