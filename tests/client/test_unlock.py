"""A home's lock: a passphrase or a key file, from where a person or the service manager gives it, and what it keeps shut."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from command import fedward, good
from hospital import spend

from fedward.client import unlock
from fedward.client.home import SiteHome
from fedward.client.log import SiteLog
from fedward.privacy.errors import FedwardError, InputError, IntegrityError
from fedward.privacy.events import DpEvent
from fedward.privacy.ledger import Budget

ROOT = Path(__file__).parents[2]
WORDS, OTHER = "correct horse battery staple", "four other words instead"


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process, and without what this one's environment says."""
    unlock.forget()
    for name in ("FEDWARD_PASSPHRASE_FILE", "CREDENTIALS_DIRECTORY"):
        monkeypatch.setenv(name, "")  # so that what a test sets by itself is undone, too
        monkeypatch.delenv(name)


def said(folder: Path, text: str, name: str = "said") -> Path:
    path = folder / name
    path.write_text(text + "\n")
    path.chmod(0o600)
    return path


def locked(tmp_path: Path) -> SiteHome:
    home = SiteHome.create(tmp_path / "va", "va", Budget(1.0, 1e-3), passphrase=WORDS)
    unlock.forget()
    return home


def test_nothing_secret_lies_in_a_home_as_it_is(tmp_path: Path) -> None:
    home = locked(tmp_path)
    _give(tmp_path)
    log = SiteLog(home.log_file, home.sealer(home.log_file))
    log.write("told", "the patient of row 7")
    secret = home.patient_key()
    kept = {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()}
    assert len(kept) > 8
    for path, data in kept.items():
        assert secret not in data, path
        assert b"row 7" not in data, path
        assert b"BEGIN PRIVATE" not in data, path
        assert not data.startswith(b"SQLite format"), path


def _give(tmp_path: Path, text: str = WORDS) -> None:
    os.environ["FEDWARD_PASSPHRASE_FILE"] = str(said(tmp_path, text))


def test_without_the_passphrase_no_command_opens_it(tmp_path: Path) -> None:
    home = locked(tmp_path)
    for command in (("status",), ("ledger",), ("request",), ("log",), ("passphrase",)):
        ran = fedward("site", *command, "--home", home.path, "--json")
        assert (ran.code, '"locked"' in ran.out) == (3, True), ran
    with pytest.raises(InputError, match="FEDWARD_PASSPHRASE_FILE"):
        home.ledger()


def test_a_passphrase_comes_from_a_file_or_the_service_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = locked(tmp_path)
    monkeypatch.setenv("FEDWARD_PASSPHRASE_FILE", str(said(tmp_path, WORDS)))
    home.ledger().close()
    monkeypatch.delenv("FEDWARD_PASSPHRASE_FILE")
    unlock.forget()
    said(tmp_path, WORDS, "fedward-passphrase")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    home.ledger().close()
    (tmp_path / "fedward-passphrase").chmod(0o644)
    unlock.forget()
    with pytest.raises(IntegrityError, match="0600"):
        home.ledger()


def test_a_wrong_passphrase_is_named_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = locked(tmp_path)
    monkeypatch.setenv("FEDWARD_PASSPHRASE_FILE", str(said(tmp_path, "not the right one")))
    ran = fedward("site", "status", "--home", home.path)
    assert ran.code == 5
    assert "does not open this home" in ran.err
    assert "right one" not in ran.out + ran.err


def test_a_short_passphrase_makes_no_home(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too short") as caught:
        SiteHome.create(tmp_path / "va", "va", Budget(1.0, 1e-3), passphrase="short")  # noqa: S106 - no password
    assert caught.value.code == "weak-passphrase"
    assert not (tmp_path / "va" / "site.json").exists()


def test_a_passphrase_is_changed_and_every_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = locked(tmp_path)
    monkeypatch.setenv("FEDWARD_PASSPHRASE_FILE", str(said(tmp_path, WORDS)))
    before, identity = home.patient_key(), home.identity().public
    sealed = home.key("patients.key").read_bytes()
    new = said(tmp_path, OTHER, "new")
    assert good("site", "passphrase", "--new-file", new, "--home", home.path)["under"] == "passphrase"
    unlock.forget()
    with pytest.raises(IntegrityError, match="does not open"):
        home.patient_key()
    monkeypatch.setenv("FEDWARD_PASSPHRASE_FILE", str(new))
    assert (home.patient_key(), home.identity().public) == (before, identity)
    assert home.key("patients.key").read_bytes() == sealed


def test_a_key_file_inside_the_home_makes_way_for_a_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = SiteHome.create(tmp_path / "va", "va", Budget(1.0, 1e-3))
    before = home.patient_key()
    assert home.key("unlock.key").exists()
    good("site", "passphrase", "--new-file", said(tmp_path, OTHER), "--home", home.path)
    assert not home.key("unlock.key").exists()
    unlock.forget()
    monkeypatch.setenv("FEDWARD_PASSPHRASE_FILE", str(tmp_path / "said"))
    assert home.patient_key() == before


def test_a_key_file_lies_where_the_hospital_wants_it(tmp_path: Path) -> None:
    outside = tmp_path / "safe" / "va.key"
    done = good("site", "init", "va", "--key-file", outside, "--home", tmp_path / "va")
    home = SiteHome.open(Path(done["home"]))
    unlock.forget()
    home.ledger().close()
    assert outside.stat().st_mode & 0o077 == 0
    assert not home.key("unlock.key").exists()
    for change in (lambda: outside.chmod(0o644), lambda: outside.write_text("00" * 32), outside.unlink):
        change()
        unlock.forget()
        with pytest.raises(FedwardError):
            home.ledger()
        outside.exists() and outside.chmod(0o600)


def test_init_asks_for_a_passphrase_where_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDWARD_PASSPHRASE_FILE", str(said(tmp_path, WORDS)))
    good("site", "init", "va", "--passphrase", "--home", tmp_path / "va")
    assert unlock.kept_under(tmp_path / "va").under == "passphrase"
    assert not (tmp_path / "va" / "keys" / "unlock.key").exists()


def test_the_log_is_read_through_the_lock_and_a_damaged_line_costs_no_other(tmp_path: Path) -> None:
    home = SiteHome.create(tmp_path / "va", "va", Budget(1.0, 1e-3))
    log = SiteLog(home.log_file, home.sealer(home.log_file))
    for number in range(3):
        log.write("told", f"line {number}", reference=f"{number:012x}")
    lines = home.log_file.read_bytes().splitlines()
    home.log_file.write_bytes(b"\n".join([lines[0], lines[1][:-9], lines[2], lines[0][:20]]))
    shown = good("site", "log", "--home", home.path)["lines"]
    assert [line["event"] for line in shown] == ["told", "unreadable", "told", "unreadable"]
    (one,) = good("site", "log", "--reference", f"{2:012x}", "--home", home.path)["lines"]
    assert one["text"] == "line 2"
    assert "line 2" in fedward("site", "log", "--event", "told", "--last", 1, "--home", home.path).out


def test_nobody_is_sent_to_an_empty_ledger() -> None:
    """A leaked passphrase, a lost key: whoever is told of a new home is told what becomes of the ε that was spent."""
    pages = [*ROOT.glob("docs/*.md"), *ROOT.glob("cli/fedward/cli/explanations/*.toml")]
    told = [part for page in pages for part in re.split(r"\n(?:\n|\||- )", page.read_text()) if "new home" in part]
    assert len(told) >= 2
    for part in told:
        assert "ledger" in part, part


def test_a_leaked_passphrase_is_changed_and_the_ledger_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = locked(tmp_path)
    monkeypatch.setenv("FEDWARD_PASSPHRASE_FILE", str(said(tmp_path, WORDS)))
    with home.ledger() as ledger:
        spend(ledger, DpEvent(10.0, 1.0, 1))
        spent, head = ledger.spent(), ledger.head
    good("site", "passphrase", "--new-file", said(tmp_path, OTHER, "new"), "--home", home.path)
    unlock.forget()
    with pytest.raises(IntegrityError):
        SiteHome.open(home.path).identity()
    monkeypatch.setenv("FEDWARD_PASSPHRASE_FILE", str(tmp_path / "new"))
    with SiteHome.open(home.path).ledger() as ledger:
        assert (ledger.spent(), ledger.head) == (spent, head)
        assert spent > 0


def test_a_key_file_is_whole_or_not_there_and_never_takes_anothers_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "home.key", os.link

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", cut_off)
        with pytest.raises(KeyboardInterrupt):
            unlock.write_key_file(path)
    assert not path.exists()

    def overtaken(source: Path, target: Path) -> None:
        target.write_bytes(b"another's")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", overtaken)
        unlock.write_key_file(path)
    assert path.read_bytes() == b"another's"
    path.unlink()
    unlock.write_key_file(path)
    assert len(bytes.fromhex(path.read_text())) == unlock.KEY_BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["home.key"]
