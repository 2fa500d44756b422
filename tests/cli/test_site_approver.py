"""`fedward site approver …`, two signatures, pause, withdraw and the policy, as people type them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import fedward, good
from federation import Federation, decide, heart_manifest

from fedward.cli.site_signer import PASSPHRASE_FILE
from fedward.client.approvers import default_key_file
from fedward.client.home import SiteHome
from fedward.study.withdrawal import certificate_lines, load_certificate


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "passphrase"
    path.write_text("correct horse battery\n")
    path.chmod(0o600)
    monkeypatch.setenv(PASSPHRASE_FILE, str(path))
    return path


def test_from_init_to_an_approver_with_a_passphrase(tmp_path: Path, secret: Path) -> None:
    home = tmp_path / "home"
    assert good("site", "init", "small", "--approver", "Ada Meier", "--home", home)["approver"] == "Ada Meier"
    key = default_key_file(SiteHome.open(home), "Ada Meier")
    assert key.stat().st_mode & 0o077 == 0
    assert b"PRIVATE KEY" not in key.read_bytes()  # sealed like every file of the home
    pem = SiteHome.open(home).read(key, "key")
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in pem
    listed = good("site", "approver", "list", "--home", home)
    assert [(one["name"], one["signed_by"]) for one in listed["approvers"]] == [("Ada Meier", ["Ada Meier"])]
    assert "Ada Meier" in fedward("site", "approver", "list", "--home", home).out
    secret.write_text("another passphrase")
    ran = fedward("site", "approver", "add", "Bo", "--unencrypted", "--home", home)
    assert ran.code == 5
    assert "does not open" in ran.err


def test_a_short_passphrase_is_refused(tmp_path: Path, secret: Path) -> None:
    good("site", "init", "small", "--home", tmp_path / "home")
    secret.write_text("short")
    ran = fedward("site", "approver", "add", "Ada", "--home", tmp_path / "home")
    assert ran.code == 3
    assert good("site", "approver", "list", "--home", tmp_path / "home")["approvers"] == []


def test_a_key_on_a_stick_of_its_own(tmp_path: Path, secret: Path) -> None:
    home, stick = tmp_path / "home", tmp_path / "stick" / "ada.pem"
    good("site", "init", "small", "--home", home)
    good("site", "approver", "add", "Ada", "--key", stick, "--home", home)
    text = stick.read_text()
    assert text.startswith("Fedward approver: Ada\nscrypt salt: ")
    assert "BEGIN ENCRYPTED PRIVATE KEY" in text
    assert not (home / "approvers").exists()
    added = good("site", "approver", "add", "Bo", "--unencrypted", "--as", "Ada", "--as-key", stick, "--home", home)
    assert added["in_force"]
    stick.chmod(0o644)
    assert fedward("site", "approver", "remove", "Bo", "--as", "Ada", "--key", stick, "--home", home).code == 5


def test_two_must_sign(fed: Federation) -> None:
    site = fed.sites["va"]
    where, digest = ("--home", site.path), fed.sealed().digest
    good("site", "approver", "add", "Bo", "--unencrypted", *where)
    policy = site.policy_file.read_text()
    site.policy_file.write_text(policy.replace("approvals_required = 1", "approvals_required = 2"))
    third = good("site", "approver", "add", "Cy", "--unencrypted", "--as", "Bo", *where)
    assert (third["in_force"], third["missing"]) == (False, 1)
    assert good("site", "approver", "add", "Cy", "--as", "tester", *where)["in_force"]
    assert "2 of them" in fedward("site", "approver", "list", *where).out
    ran = fedward("site", "approve", digest, "--yes", *where)
    assert ran.code == 2
    assert "--as NAME" in ran.err
    first = good("site", "approve", digest, "--as", "Bo", *where)
    assert (first["state"], first["missing"], first["signed_by"]) == ("pending", 1, ["Bo"])
    review = fedward("site", "review", digest, *where).out
    assert "signed       Bo (" in review
    assert "1 more of 2 needed" in review
    said = fedward("site", "approve", digest, "--yes", "--as", "Bo", *where).out
    assert "1 more approver must sign" in said
    done = good("site", "approve", digest, "--as", "Cy", "--expires", "90d", *where)
    assert (done["state"], done["missing"], done["signed_by"]) == ("approved", 0, ["Bo", "Cy"])
    assert fedward("site", "approve", digest, "--as", "Cy", "--expires", "soon", *where).code == 3
    assert good("site", "revoke", digest, "--as", "tester", "--reason", "a doubt", *where)["state"] == "revoked"
    assert good("site", "approver", "remove", "Cy", "--as", "Cy", *where)["removed"]


def test_who_edits_the_policy_alone_does_not_approve_alone(fed: Federation) -> None:
    site = fed.sites["va"]
    where, digest = ("--home", site.path), fed.sealed().digest
    good("site", "approver", "add", "Bo", "--unencrypted", *where)
    policy = site.policy_file.read_text()
    site.policy_file.write_text(policy.replace("approvals_required = 1", "approvals_required = 2"))
    assert "fedward site approver require 2" in fedward("site", "approver", "list", *where).out
    assert "2 approvers must sign from now on." in fedward("site", "approver", "require", 2, "--as", "Bo", *where).out
    site.policy_file.write_text(policy)
    ran = fedward("site", "approve", digest, "--yes", "--as", "Bo", *where)
    assert (ran.code, "fedward explain approvals-lowered" in ran.err) == (4, True)
    for command in ("policy check", "approver list"):
        assert "approvals-lowered" in fedward("site", *command.split(), *where).out
    assert fedward("site", "approver", "remove", "Bo", "--as", "tester", *where).code == 4
    assert "1 more approver must" in fedward("site", "approver", "require", 1, "--as", "Bo", *where).out
    assert "To require 1 approver: signed by Bo, 2 needed" in fedward("site", "approver", "list", *where).out
    done = good("site", "approver", "require", 1, "--as", "tester", *where)
    assert done == {"asked": 1, "signed_for": 1, "required": 1, "missing": 0}
    assert good("site", "approve", digest, "--as", "Bo", *where)["state"] == "approved"


def test_review_tells_what_changed_since_the_last_approved_version(fed: Federation) -> None:
    site, clock = fed.sites["va"], fed.clock
    decide(site, fed.sealed(), "approved", clock.unix())
    clock.elapsed += 60
    fed.register(heart_manifest(training={"rounds": 7}, privacy={"epsilon": 1.5}))
    sealed = fed.propose(heart_manifest(training={"rounds": 7}, privacy={"epsilon": 1.5}))
    shown = good("site", "review", sealed.digest, "--home", site.path)
    assert any(line.startswith("rounds: ") and line.endswith("before, 7 now") for line in shown["changes"])
    assert "ε of a patient: 3 before, 1.5 now" in shown["changes"]
    text = fedward("site", "review", sealed.digest, "--home", site.path).out
    assert "changes      since " in text
    assert "stays here" in text


def test_pause_and_resume(fed: Federation) -> None:
    where = ("--home", fed.sites["va"].path)
    assert good("site", "pause", "--reason", "maintenance", *where)["paused"]
    status = fedward("site", "status", *where).out
    assert "PAUSED by" in status
    assert "maintenance" in status
    assert good("site", "status", *where)["paused"]["reason"] == "maintenance"
    assert fedward("site", "pause", *where).code == 2
    assert "Resumed" in fedward("site", "resume", *where).out
    assert good("site", "status", *where)["paused"] is None
    policy = fed.sites["va"].policy_file
    policy.write_text(policy.read_text().replace("resume_needs_approver = false", "resume_needs_approver = true"))
    good("site", "pause", *where)
    assert good("site", "resume", *where)["by"] == "tester"


def test_withdraw_gives_a_certificate_that_anyone_can_check(fed: Federation, tmp_path: Path) -> None:
    site, out = fed.sites["va"], tmp_path / "certificates"
    where = ("--home", site.path)
    good("site", "approve", fed.sealed().digest, *where)
    assert fedward("site", "withdraw", "--yes", *where).code == 2
    done = good("site", "withdraw", "heart-4-hospitals", "--reason", "an order", "--out", out, *where)
    (file,) = (Path(name) for name in done["certificates"])
    fingerprint = good("site", "request", *where)["fingerprint"]
    checked = good("audit", "certificate", file, "--fingerprint", fingerprint)
    assert (checked["holds"], checked["site"], checked["reason"]) == (True, "va", "an order")
    said = fedward("audit", "certificate", file).out
    assert "Both signatures hold." in said
    assert file.with_suffix(".txt").read_text().splitlines() == certificate_lines(load_certificate(file))
    assert fedward("audit", "certificate", file, "--fingerprint", "0000-" * 7 + "0000").code == 5
    data = json.loads(file.read_text())
    for name, value in {"reason": "x", "by": "Eve", "at": 1, "affected": [], "studies": [], "cannot": []}.items():
        if data[name] != value:
            file.write_text(json.dumps(data | {name: value}))
            assert fedward("audit", "certificate", file).code == 5, name
    assert good("site", "status", *where)["datasets"] == []
    assert "withdrawn here" in fedward("site", "status", *where).out
    assert good("site", "withdraw", "--all", "--out", out, *where)["withdrawn"] == ["heart-4-hospitals"]


def test_policy_check_says_what_it_would_do(fed: Federation) -> None:
    site = fed.sites["va"]
    told = good("site", "policy", "check", "--home", site.path)
    (study,) = told["studies"]
    assert (study["state"], study["objections"], told["policy"]["approvals_required"]) == ("pending", [], 1)
    site.policy_file.write_text(site.policy_file.read_text().replace("max_epsilon = 5.0", "max_epsilon = 0.5"))
    ran = fedward("site", "policy", "check", "--home", site.path)
    assert ran.code == 0
    assert "policy-epsilon" in ran.out
    assert "WARNING" not in ran.out
    site.policy_file.write_text(
        site.policy_file.read_text().replace("approvals_required = 1", "approvals_required = 2")
    )
    assert "1 of the 2 approvers" in fedward("site", "policy", "check", "--home", site.path).out
    site.policy_file.write_text("[policy]\nmax_epsilom = 1")
    assert fedward("site", "policy", "check", "--home", site.path).code == 3


def test_a_key_in_a_shared_folder_leaves_the_folder_as_it_is(tmp_path: Path, secret: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    home = tmp_path / "home"
    good("site", "init", "small", "--home", home)
    good("site", "approver", "add", "Ada Meier", "--key", shared / "ada.key", "--home", home)
    assert shared.stat().st_mode & 0o7777 == 0o1777
    assert (shared / "ada.key").stat().st_mode & 0o777 == 0o600
