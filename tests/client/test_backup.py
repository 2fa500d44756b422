"""A home in one file and back: what was spent since is never under-counted, and what is merely copied back is a rollback."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from federation import Federation, heart_manifest
from hospital import SITE, Site, code, spend

from fedward.client import datasets
from fedward.client.backup import File, make_backup, read_backup
from fedward.client.decisions import load
from fedward.client.home import SiteHome
from fedward.client.restoring import Restored, restore, restored_at
from fedward.client.unlock import forget
from fedward.privacy.canonical import digest
from fedward.privacy.errors import FedwardError, InputError, IntegrityError, UsageError
from fedward.privacy.events import DpEvent
from fedward.privacy.ledger import Budget
from fedward.privacy.signing import Identity
from fedward.study.heart import heart_folder
from fedward.study.lock import hold
from fedward.study.messages import Result
from fedward.study.passphrases import PASSPHRASE_FILE

PASSPHRASE = "four words are enough"  # noqa: S105
AT = 2_000_000_000


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("backup"), sites=("cleveland", "hungarian", SITE))
    federation.ready(heart_manifest(noised=True, training={"rounds": 3}))
    return federation


@pytest.fixture
def fed(template: Federation, tmp_path: Path) -> Federation:
    return template.copy(tmp_path / "federation")


@pytest.fixture
def alone(tmp_path: Path) -> SiteHome:
    """A site that has joined nobody, with one charge."""
    home = SiteHome.create(tmp_path / "alone", "alone", Budget(10.0, 1e-3))
    with home.ledger() as ledger:
        spend(ledger, DpEvent(20.0, 1.0, 1))
    return home


def back(file: Path, path: Path, **changes: object) -> Restored:
    return restore(file, path, **({"by": "A. Miller", "reason": "the disk died", "at": AT} | changes))  # type: ignore[arg-type]


def contents(home: Path) -> dict[str, bytes]:
    left_out = (
        "ledger.sqlite",
        "audit",
        "restored.json",
        "before-restore",
        "approvals",
        "datasets",
        "keys/home.json",
        "node.lock",
    )
    files = {path.relative_to(home).as_posix(): path for path in home.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(left_out)}


# --- the file -------------------------------------------------------------------------------------------------------


def test_a_backup_holds_all_and_no_key_unless_asked(fed: Federation, tmp_path: Path) -> None:
    home = fed.sites[SITE]
    made = make_backup(home, tmp_path / "out", AT)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o600
    read = read_backup(tmp_path / "out")
    assert read.manifest == made
    assert not [name for name in read.files if name.startswith("keys/") or (name.endswith(".pem") and "/" in name)]
    assert list((home.path / "approvers").glob("*.pem")), "an approver's own key lies in this home, and stays out"
    secrets = [home.key(name).read_bytes() for name in ("identity.pem", "patients.key", "unlock.key")]
    assert not any(secret.strip() in (tmp_path / "out").read_bytes() for secret in secrets)
    assert {
        "policy.toml",
        "site.json",
        "federation.json",
        f"proposals/{fed.sealed().digest}.json",
        "audit/tree",
    } <= set(read.files)
    with_keys = make_backup(home, tmp_path / "more", AT, passphrase=PASSPHRASE)
    assert {name for name in with_keys.files if name.startswith("keys/")} == {
        f"keys/{name}" for name in ("home.json", "identity.pem", "node.pem", "patients.key", "tls.pem")
    }
    assert home.key("unlock.key").read_bytes().strip() not in (tmp_path / "more").read_bytes()
    assert home.audit.entry(home.audit.size - 1).kind == "backup"
    with pytest.raises(UsageError):
        make_backup(home, tmp_path / "out", AT)
    with pytest.raises(InputError, match="too short"):
        make_backup(home, tmp_path / "third", AT, passphrase="short")  # noqa: S106


def _rewritten(file: Path, change: Callable[[dict[str, bytes]], object]) -> None:
    with tarfile.open(file) as tar:
        members = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    change(members)
    with tarfile.open(file, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def _smuggled(members: dict[str, bytes], name: str) -> None:
    """As someone with the site's key could: the manifest names it too; here only the form is left to refuse it."""
    members[f"files/{name}"] = b"x"


def _in_manifest(members: dict[str, bytes], old: bytes, new: bytes) -> None:
    assert old in members["manifest.json"]
    members["manifest.json"] = members["manifest.json"].replace(old, new)


TAMPERED: dict[str, tuple[str, Callable[[dict[str, bytes]], object]]] = {
    "a file changed": ("bad-backup", lambda m: m.update({"files/policy.toml": b"[policy]\n"})),
    "a file added": ("bad-backup", lambda m: m.update({"files/keys/other": b"x"})),
    "a file left out": ("bad-backup", lambda m: m.pop("files/policy.toml")),
    "a path out of the home": ("bad-backup", lambda m: _smuggled(m, "../policy.toml")),
    "the manifest changed": ("bad-signature", lambda m: _in_manifest(m, b"2000000000", b"2000000001")),
    "no manifest": ("bad-input", lambda m: m.pop("manifest.json")),
    "a newer format": ("bad-input", lambda m: _in_manifest(m, b'"format": 1', b'"format": 2')),
    "a strange member": ("bad-input", lambda m: m.update({"etc/passwd": b"x"})),
}  # fmt: skip


@pytest.mark.parametrize("how", TAMPERED)
def test_a_changed_backup_is_named_and_nothing_is_touched(alone: SiteHome, tmp_path: Path, how: str) -> None:
    expected, change = TAMPERED[how]
    make_backup(alone, tmp_path / "out", AT)
    _rewritten(tmp_path / "out", change)
    before = contents(alone.path)
    with pytest.raises(FedwardError) as refused:
        back(tmp_path / "out", alone.path, statement="none-approved")
    assert refused.value.code == expected
    assert contents(alone.path) == before
    assert not list(tmp_path.glob("alone.*"))


def test_every_byte_that_flips_in_the_manifest_or_a_file_is_refused(alone: SiteHome, tmp_path: Path) -> None:
    make_backup(alone, tmp_path / "out", AT)
    data = (tmp_path / "out").read_bytes()
    with tarfile.open(tmp_path / "out") as tar:
        places = [(info.offset_data, info.size) for info in tar]
    for start, size in places:
        for place in {start, start + size // 3, start + size // 2, start + size - 1}:
            (tmp_path / "bad").write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            with pytest.raises(FedwardError):
                read_backup(tmp_path / "bad")
    for cut in (0, 100, 512, len(data) // 2):
        (tmp_path / "bad").write_bytes(data[:cut])
        with pytest.raises(FedwardError):
            read_backup(tmp_path / "bad")


def test_a_backup_signed_by_another_key_opens_with_no_keys_but_its_own(alone: SiteHome, tmp_path: Path) -> None:
    make_backup(alone, tmp_path / "out", AT)

    def forged(members: dict[str, bytes]) -> None:
        read = read_backup(tmp_path / "out").manifest
        other = Identity.generate()
        files = read.files | {"policy.toml": File(sha256=digest(b"x"), size=1)}
        made = read.model_copy(update={"identity_key": other.public, "files": files}).sign(other)
        members |= {"manifest.json": made.model_dump_json().encode(), "files/policy.toml": b"x"}

    _rewritten(tmp_path / "out", forged)
    read_backup(tmp_path / "out")
    with pytest.raises(IntegrityError) as refused:
        back(tmp_path / "out", alone.path, statement="none-approved")
    assert refused.value.code == "bad-backup"


def test_a_backup_is_whole_while_others_charge_and_record(alone: SiteHome, tmp_path: Path) -> None:
    """The node goes on meanwhile; each backup's ledger and audit log hold, and never show less than before."""
    stop, failed = threading.Event(), []

    def busy() -> None:
        number = 0
        try:
            other = SiteHome.open(alone.path)
            with other.ledger() as ledger:
                while not stop.is_set():
                    number += 1
                    spend(ledger, DpEvent(1000.0, 0.01, 1), f"{number:064x}")
                    other.record("node-stopped")
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failed.append(error)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        made = [make_backup(alone, tmp_path / f"out{number}", AT) for number in range(5)]
    finally:
        stop.set()
        thread.join(30)
    assert failed == []
    heads = [int(one.ledger_head.split(":")[0]) for one in made]
    assert heads == sorted(heads)
    assert heads[-1] > heads[0]
    for number in range(5):
        done = back(
            tmp_path / f"out{number}", tmp_path / f"home{number}", keys=alone.path / "keys", statement="none-approved"
        )
        home = SiteHome.open(tmp_path / f"home{number}")
        home.ledger().close()
        assert home.audit.verify() >= done.manifest.audit_size


# --- put back -------------------------------------------------------------------------------------------------------


def test_into_an_empty_place_with_the_backups_own_passphrase(
    alone: SiteHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_backup(alone, tmp_path / "out", AT, passphrase=PASSPHRASE)
    before, spent = contents(alone.path), alone.ledger().spent()
    shutil.rmtree(alone.path)
    (tmp_path / "secret").write_text(PASSPHRASE + "\n")
    (tmp_path / "secret").chmod(0o600)
    forget()
    with pytest.raises(InputError) as locked:
        back(tmp_path / "out", alone.path, statement="none-approved")
    assert locked.value.code == "locked"
    assert not alone.path.exists()
    monkeypatch.setenv(PASSPHRASE_FILE, str(tmp_path / "secret"))
    done = back(tmp_path / "out", alone.path, statement="none-approved")
    assert (done.moved, done.recovered.lost) == (None, "charges")
    home = SiteHome.open(alone.path)
    assert contents(home.path) == {k: v for k, v in before.items() if k != "keys/unlock.key"}
    assert home.ledger().spent() >= spent
    assert restored_at(home) == AT
    kinds = [entry.kind for entry in home.audit.entries()]
    assert kinds[-2:] == ["ledger-recovered", "restored"]
    assert {path.name for path in home.path.iterdir() if path.stat().st_mode & 0o022} == set()


def test_a_person_must_say_what_may_be_missing(alone: SiteHome, tmp_path: Path) -> None:
    make_backup(alone, tmp_path / "out", AT)
    shutil.copytree(alone.path / "keys", tmp_path / "keys")
    shutil.rmtree(alone.path)
    with pytest.raises(UsageError, match="entries after the copy may be lost"):
        back(tmp_path / "out", alone.path, keys=tmp_path / "keys")
    assert not alone.path.exists()
    done = back(tmp_path / "out", alone.path, keys=tmp_path / "keys", statement="write-off")
    with SiteHome.open(alone.path).ledger() as ledger:
        assert (done.recovered.lost, ledger.remaining, ledger.written_off) == ("anything", 0.0, True)


def test_the_head_that_a_damaged_home_still_shows_says_that_nothing_is_missing(alone: SiteHome, tmp_path: Path) -> None:
    make_backup(alone, tmp_path / "out", AT)
    alone.ledger_file.write_bytes(b"\0" * 4096)
    done = back(tmp_path / "out", alone.path)
    assert done.recovered.lost == "nothing"
    assert done.moved is not None
    assert (done.moved / "ledger.sqlite").read_bytes() == b"\0" * 4096
    assert SiteHome.open(alone.path).ledger().remaining > 0


def test_what_the_damaged_home_shows_to_be_newer_counts_as_lost(alone: SiteHome, tmp_path: Path) -> None:
    make_backup(alone, tmp_path / "out", AT)
    with alone.ledger() as ledger:
        spend(ledger, DpEvent(15.0, 1.0, 1), "d" * 64)
        newest = ledger.head
    with pytest.raises(UsageError, match=f"entry {newest.sequence} was there"):
        back(tmp_path / "out", alone.path)
    done = back(tmp_path / "out", alone.path, statement="none-approved")
    entry = done.recovered.entry
    assert (done.recovered.lost, entry.sequence) == ("charges", newest.sequence + 1)
    SiteHome.open(alone.path).ledger().verify(newest)


def test_not_while_the_node_runs_and_not_with_another_sites_keys(alone: SiteHome, tmp_path: Path) -> None:
    make_backup(alone, tmp_path / "out", AT)
    with (
        hold(alone.path / "node.lock", 1.0, lambda: UsageError("x")),
        pytest.raises(UsageError, match="node of this home runs"),
    ):
        back(tmp_path / "out", alone.path, statement="none-approved")
    other = SiteHome.create(tmp_path / "other", "other", Budget(1.0, 1e-3))
    with pytest.raises(FedwardError):
        back(tmp_path / "out", tmp_path / "new", keys=other.path / "keys", statement="none-approved")
    assert not (tmp_path / "new").exists()


# --- beside a coordinator -------------------------------------------------------------------------------------------


def _copied_back(file: Path, home: SiteHome) -> None:
    """What somebody does who has the backup and does not tell: its files in the place of the newer ones."""
    for name, data in read_backup(file).files.items():
        (home.path / name).write_bytes(data)
    for side in ("-wal", "-shm"):
        home.ledger_file.with_name(home.ledger_file.name + side).unlink(missing_ok=True)


def test_copied_back_it_is_a_rollback_and_refused(fed: Federation, tmp_path: Path) -> None:
    site = Site(fed)
    make_backup(site.home, tmp_path / "out", AT)
    site.work()
    site.offer(site.sealed)
    fed.transport.nodes[SITE]._ledger.close()  # type: ignore[attr-defined]
    newest = site.home.ledger().head
    _copied_back(tmp_path / "out", site.home)
    from fedward.privacy.countersign import countersign

    site.home.keep_countersigned(countersign(newest, SITE, AT, fed.home.identity()))  # as the next request brings it
    with pytest.raises(IntegrityError) as refused:
        site.home.ledger()
    assert refused.value.code == "ledger-rolled-back"
    fed.restart(SITE)
    assert code(site.work(attempt=2)) == "ledger-rolled-back"


def test_restored_it_is_none_everything_reserved_is_spent_and_nothing_runs_before_a_new_approval(
    fed: Federation, tmp_path: Path
) -> None:
    site = Site(fed)
    make_backup(site.home, tmp_path / "out", AT)
    site.work()
    fed.transport.nodes[SITE]._ledger.close()  # type: ignore[attr-defined]
    with site.home.ledger() as ledger:
        newest, true = ledger.head, ledger.spent()
    shutil.copytree(site.home.path / "keys", tmp_path / "keys")
    shutil.rmtree(site.home.path)
    at = fed.clock.unix()
    done = back(tmp_path / "out", site.home.path, keys=tmp_path / "keys", head=newest, statement="none-approved", at=at)
    assert done.recovered.entry.sequence == newest.sequence + 1
    site.home = SiteHome.open(site.home.path)
    fed.sites[SITE] = site.home
    with site.home.ledger() as ledger:
        ledger.verify(newest)
        assert ledger.spent() >= true
        assert ledger.reservations(at=at) == []
    fed.restart(SITE)
    assert code(site.work(attempt=2)) == "not-approved"
    assert list(load(site.home).approvers) == ["tester"]  # who may approve is known still; what they approved is not


def test_where_nothing_was_missing_people_approve_again_and_the_study_goes_on(fed: Federation, tmp_path: Path) -> None:
    site = Site(fed)
    site.work()
    fed.transport.nodes[SITE]._ledger.close()  # type: ignore[attr-defined]
    make_backup(site.home, tmp_path / "out", AT)
    shutil.copytree(site.home.path / "approvers", tmp_path / "approvers")  # a person keeps their own key
    with site.home.ledger() as ledger:
        newest, before = ledger.head, ledger.committed()
    shutil.copytree(site.home.path / "keys", tmp_path / "keys")
    shutil.rmtree(site.home.path)
    done = back(tmp_path / "out", site.home.path, keys=tmp_path / "keys", head=newest, at=fed.clock.unix())
    assert done.recovered.lost == "nothing"
    fed.sites[SITE] = site.home = SiteHome.open(site.home.path)
    fed.restart(SITE)
    assert code(site.work(attempt=2)) == "not-approved"
    data = heart_folder() / f"{SITE}.csv", heart_folder() / f"{SITE}.mapping.toml"
    datasets.register(site.home, site.sealed.manifest, *data, fed.clock.unix())
    shutil.copytree(tmp_path / "approvers", site.home.path / "approvers")
    fed.approve(site.sealed, (SITE,))  # type: ignore[arg-type]
    assert isinstance(site.work(attempt=2), Result)
    assert site.home.ledger().committed() == before


def test_what_carries_no_noise_is_not_opened_again_after_a_restore(fed: Federation, tmp_path: Path) -> None:
    """Which sums were opened since the backup is forgotten: a second one over other sites would show a hospital's own numbers."""
    site = Site(fed)
    path = site.home.path / "restored.json"
    path.write_text(json.dumps({"format": 1, "at": site.sealed.sealed_at, "made_at": 1}))
    noised = site.work()
    assert getattr(noised, "code", "") != "restored-since"
    exact = Federation(tmp_path / "exact", sites=("cleveland", "hungarian", SITE))
    exact.ready(heart_manifest(training={"rounds": 3}, evaluation={"every": 1}))
    other = Site(exact)
    (other.home.path / "restored.json").write_text(path.read_text())
    assert code(other.work(round=2, evaluate=True)) == "restored-since"
    assert other.charges() == []
