"""`fedward site backup` and `restore` as a person types them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command import fedward, good

WORDS = "four words are enough"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(WORDS + "\n")
    path.chmod(0o600)
    return path


def test_a_lost_home_comes_back_under_the_backups_passphrase(
    tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDWARD_PASSPHRASE_FILE", "")
    home, out = tmp_path / "site", tmp_path / "va.backup"
    made = good("site", "init", "va", "--home", home)
    kept = good("site", "backup", out, "--with-keys", "--passphrase-file", secret, "--home", home)
    assert (kept["site"], kept["with_keys"], kept["file"]) == ("va", True, str(out))
    shutil.rmtree(home)
    told = fedward("site", "restore", out, "--by", "A. Miller", "--reason", "the disk died", "--none-approved",
                   "--passphrase-file", secret, "--home", home)  # fmt: skip
    assert told.code == 0, told
    assert "everything that was reserved counts as spent" in told.out
    assert "in the name of A. Miller" in told.out
    assert "patients who opted out" in told.out
    assert good("site", "request", "--home", home)["fingerprint"] == made["fingerprint"]
    entries = good("site", "ledger", "--all", "--home", home)
    assert "A. Miller" in str(entries)


def test_what_is_missing_is_asked_for(tmp_path: Path, secret: Path) -> None:
    home, out = tmp_path / "site", tmp_path / "va.backup"
    good("site", "init", "va", "--home", home)
    said = fedward("site", "backup", out, "--home", home)
    assert (said.code, "keep a copy of the folder `keys` elsewhere" in said.out) == (0, True)
    assert fedward("site", "backup", out, "--home", home).code == 2
    assert fedward("site", "backup", tmp_path / "x", "--passphrase-file", secret, "--home", home).code == 2
    restore = ("site", "restore", out, "--by", "A. Miller", "--reason", "a test", "--home")
    assert fedward(*restore, tmp_path / "new", "--none-approved", "--write-off").code == 2
    ran = fedward(*restore, tmp_path / "new", "--none-approved", "--json")
    assert (ran.code, ran.json["what"]) == (2, "this backup holds no keys")
    assert fedward(*restore, home).code == 0, "the home itself still shows its newest head: nothing is missing"
    assert (tmp_path / "site.replaced-1" / "site.json").is_file()
    assert good("site", "doctor", "--home", home)["verdict"] in {"ok", "warning"}
    (tmp_path / "junk").write_bytes(b"junk" * 1000)
    assert fedward("site", "restore", tmp_path / "junk", "--by", "A", "--reason", "b", "--home", home).code == 3
