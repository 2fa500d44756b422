"""A hospital's ledger put back as it was before: older file, older head, older witness. The budget must not come back with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from federation import Federation, heart_manifest
from hospital import SITE, Site, code

from fedward.client.incidents import Incidents
from fedward.privacy.entries import Head
from fedward.privacy.errors import FedwardError
from fedward.privacy.signing import Identity, to_text
from fedward.server.heads import WitnessTransport, note_head, witnessed
from fedward.study.messages import Offer, Reply, Result, Standing
from fedward.study.witness import Witnessed, sign_head, witness

FILES = ("ledger.sqlite", "ledger.sqlite.head", "ledger.sqlite-wal", "ledger.sqlite-shm", "ledger.countersigned")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("rolled"), sites=("cleveland", "hungarian", SITE))
    federation.ready(heart_manifest(training={"rounds": 2}))
    return federation


@pytest.fixture
def federation(template: Federation, tmp_path: Path) -> Federation:
    return template.copy(tmp_path / "copy")


def save(home: Path, backup: Path) -> None:
    backup.mkdir()
    for name in FILES:
        if (home / name).exists():
            shutil.copy2(home / name, backup / name)


def restore(federation: Federation, backup: Path, *but: str) -> None:
    """What a backup tool does, the node being stopped meanwhile."""
    home = federation.sites[SITE].path
    for name in set(FILES) - set(but):
        (home / name).unlink(missing_ok=True)
        if (backup / name).exists():
            shutil.copy2(backup / name, home / name)
    federation.restart(SITE)


def offer(site: Site, brought: Witnessed | None) -> Reply:
    signature = site.coordinator.sign("manifest", site.sealed.canonical)

    ask = Offer(study=site.sealed.digest, nonce="0" * 64, signature=to_text(signature), witnessed=brought)
    return site.ask(ask, site.sealed.canonical)


def test_an_older_file_with_its_head_is_refused_by_the_kept_witness(federation: Federation, tmp_path: Path) -> None:
    save(federation.sites[SITE].path, tmp_path / "backup")
    federation.run()
    spent = federation.sites[SITE].ledger(witnessed=False).spent()
    assert spent > 0
    restore(federation, tmp_path / "backup", "ledger.countersigned")
    assert federation.sites[SITE].ledger(witnessed=False).spent() == 0  # the file itself looks whole
    site = Site(federation)
    assert code(site.work(attempt=90)) == "ledger-rolled-back"
    assert code(site.declare()) == "ledger-rolled-back"
    assert code(site.offer(site.sealed)) == "ledger-rolled-back"
    assert site.charges() == []


def test_an_older_witness_too_is_refused_by_what_the_coordinator_brings(federation: Federation, tmp_path: Path) -> None:
    save(federation.sites[SITE].path, tmp_path / "backup")
    federation.run()
    restore(federation, tmp_path / "backup")
    site = Site(federation)
    brought = witnessed(federation.store, site.coordinator, (SITE,), 1)[SITE]
    assert brought is not None
    assert code(offer(site, brought)) == "ledger-rolled-back"
    federation.restart(SITE)  # and it stays so
    assert code(site.work(attempt=90)) == "ledger-rolled-back"
    assert site.charges() == []


def test_a_head_that_goes_back_raises_an_alarm_and_the_site_is_not_asked(
    federation: Federation, tmp_path: Path
) -> None:
    save(federation.sites[SITE].path, tmp_path / "backup")
    federation.run()
    restore(federation, tmp_path / "backup")
    (federation.sites[SITE].path / "ledger.countersigned").unlink(missing_ok=True)
    # A site that does not hold the countersigned head against its ledger, and tells its old head.
    old = sign_head(SITE, federation.sites[SITE].ledger(witnessed=False).head, federation.sites[SITE].identity())

    assert "went back" in note_head(federation.store, old, 1)
    (alarm,) = federation.store.alarms()
    assert alarm.site == SITE
    transport = WitnessTransport(federation.transport, federation.store, federation.clock)
    assert SITE in federation.transport.online() - transport.online()
    federation.store.clear_alarm(SITE, "a person", "the disk was restored", 2)
    assert federation.store.alarms() == []
    assert note_head(federation.store, old, 3) == ""
    fork = sign_head(SITE, Head(old.sequence, "f" * 64), federation.sites[SITE].identity())
    assert "another" in note_head(federation.store, fork, 4)
    with pytest.raises(FedwardError, match="no alarm"):
        federation.store.clear_alarm("cleveland", "a person", "why", 5)


def test_a_forged_or_foreign_witness_is_a_lie_that_is_kept(federation: Federation) -> None:
    site = Site(federation)
    home, other = federation.sites[SITE], federation.sites["cleveland"]
    with home.ledger(witnessed=False) as ledger:
        head = ledger.head
    true = witness(sign_head(SITE, head, home.identity()), site.coordinator, 1)
    stranger = Identity.generate()
    ahead = Head(head.sequence + 5, "a" * 64)
    for false in (
        witness(sign_head(SITE, head, home.identity()), stranger, 1),  # nobody's countersignature
        witness(sign_head(SITE, ahead, site.coordinator), site.coordinator, 1),  # a head that the site never said
        witness(sign_head("cleveland", head, other.identity()), site.coordinator, 1),  # another site's
        true.model_copy(update={"head": true.head.model_copy(update={"sequence": head.sequence + 1})}),
        true.model_copy(update={"countersigned": ""}),
    ):
        assert code(offer(site, false)) in {"malformed", "bad-input"}
        kept = Incidents(home.incidents_folder).list()[-1]
        assert (kept.blamed, kept.stage) == ("coordinator", "offer")
    assert isinstance(offer(site, true), Standing)
    assert isinstance(site.work(), Result)


def test_an_older_witness_replayed_changes_nothing(federation: Federation) -> None:
    site = Site(federation)
    old = witness(sign_head(SITE, site.home.ledger().head, site.home.identity()), site.coordinator, 1)
    assert isinstance(site.work(), Result)
    new = witness(sign_head(SITE, site.home.ledger().head, site.home.identity()), site.coordinator, 1)
    assert new.head.sequence > old.head.sequence
    for brought in (new, old):
        assert isinstance(offer(site, brought), Standing)
    kept = json.loads(site.home.read(site.home.countersigned_file, "head"))
    assert kept["sequence"] == new.head.sequence


def test_a_changed_witness_file_stops_the_node(federation: Federation) -> None:
    site = Site(federation)
    brought = witness(sign_head(SITE, site.home.ledger().head, site.home.identity()), site.coordinator, 1)
    assert isinstance(offer(site, brought), Standing)
    path = site.home.countersigned_file
    data = json.loads(site.home.read(path, "head"))
    data["sequence"] -= 1
    site.home.write(path, json.dumps(data).encode())
    federation.restart(SITE)
    assert code(site.work()) == "bad-signature"


def test_every_answer_carries_the_head_as_it_stands(federation: Federation) -> None:
    site = Site(federation)
    reply = site.work()
    assert isinstance(reply, Result)
    assert reply.head is not None
    reply.head.check(SITE, site.key)
    assert reply.head.head == site.home.ledger().head
