"""Coordinator and sites compare their audit logs: honest ones are cosigned, and every other history is found out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from federation import Federation, heart_manifest

from fedward.client.incidents import Incidents
from fedward.client.sightings import load_sightings, sightings_file
from fedward.privacy.checkpoint import cosigners, parse_note
from fedward.privacy.errors import UnreachableError
from fedward.privacy.log import AuditLog
from fedward.server import checkpoints
from fedward.server.checkpoints import exchange_checkpoints, has_news
from fedward.server.coordinator import LocalCoordinator
from fedward.server.heads import WitnessTransport
from fedward.server.home import CoordinatorHome
from fedward.study import messages
from fedward.study.messages import Checkpoint, Checkpointed, Refusal
from fedward.study.sightings import Brought

SITES = ("cleveland", "hungarian", "va")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("federation"), sites=SITES)
    federation.register(heart_manifest())
    federation.propose(heart_manifest())
    return federation


@dataclass
class Logs:
    """A federation of its own for each test."""

    federation: Federation

    def exchange(self, home: CoordinatorHome | None = None) -> None:
        federation = self.federation
        transport = WitnessTransport(federation.transport, federation.store, federation.clock)
        exchange_checkpoints(
            home or federation.home, federation.store, transport, federation.clock, federation.said.append
        )
        federation.clock.sleep(60)

    def kinds(self, site: str | None = None) -> list[str]:
        home = self.federation.home if site is None else self.federation.sites[site]
        return [entry.kind for entry in home.audit.entries()]

    def ask(self, site: str, brought: Brought, known: int = 0) -> messages.Reply:
        request = Checkpoint(nonce="0" * 64, known=known)
        raw = self.federation.transport.nodes[site](
            messages.pack(request, brought.canonical, self.federation.home.identity())
        )
        reply, _ = messages.open_reply(raw, self.federation.sites[site].identity().public)
        return reply

    def fork(self, folder: Path) -> CoordinatorHome:
        """The coordinator's home as it is now, to go on with another history."""
        shutil.copytree(self.federation.home.path, folder)
        other = CoordinatorHome.open(folder)
        other.record("stopped", study_id="never-said")
        return other


@pytest.fixture
def logs(made: Federation, tmp_path: Path) -> Logs:
    return Logs(made.copy(tmp_path / "copy"))


def test_honest_logs_are_cosigned_by_all(logs: Logs) -> None:
    logs.exchange()
    logs.federation.home.record("stopped", study_id="heart")
    logs.exchange()
    logs.exchange()
    mine = checkpoints.load_sightings(logs.federation.home)
    note = parse_note(mine.own[-1])
    assert {name.split("/")[2] for name in cosigners(note, mine.keys)} == set(SITES)
    for site in SITES:
        home = logs.federation.sites[site]
        theirs = load_sightings(home)
        assert theirs.other(logs.federation.home.audit.origin) is not None
        assert cosigners(parse_note(theirs.own[-1]), theirs.keys).keys() == {logs.federation.home.audit.origin}
        shown = parse_note(theirs.shown[logs.federation.home.audit.origin])
        assert len(shown.signatures) == 1 + len(SITES)
        assert logs.kinds(site).count("checkpoint-received") == 3
        assert theirs.trailer(home.audit, home.identity()).known
    assert logs.kinds().count("checkpoint-received") == 3 * len(SITES)
    assert not logs.federation.store.alarms()


def test_an_exchange_alone_is_no_news(logs: Logs) -> None:
    assert has_news(logs.federation.home)
    logs.exchange()
    assert not has_news(logs.federation.home)
    logs.federation.home.record("stopped", study_id="heart")
    assert has_news(logs.federation.home)


def test_a_coordinator_that_shows_a_site_another_history_is_caught(logs: Logs, tmp_path: Path) -> None:
    logs.exchange()
    other = logs.fork(tmp_path / "fork")
    logs.federation.home.record("stopped", study_id="heart")
    logs.exchange()
    logs.exchange(other)
    for site in SITES:
        assert "split-view" in logs.kinds(site)
        incidents = Incidents(logs.federation.sites[site].incidents_folder).list()
        assert [(one.code, one.blamed, one.kept) for one in incidents] == [("split-view", "coordinator", True)]
        assert load_sightings(logs.federation.sites[site]).conflicts
    assert any("split-view" in text for text in logs.federation.said)


def test_a_coordinator_that_went_back_is_told_and_caught(logs: Logs, tmp_path: Path) -> None:
    before = tmp_path / "before"
    shutil.copytree(logs.federation.home.path, before)
    logs.exchange()
    logs.federation.home.record("stopped", study_id="heart")
    logs.exchange()
    old = CoordinatorHome.open(before)
    for _ in range(3):
        logs.exchange(old)
    assert any("an older copy was put back" in text for text in logs.federation.said)
    assert "split-view" in logs.kinds("va")


@pytest.mark.parametrize("lie", ["size", "root", "proof", "origin", "key", "body"])
def test_a_false_checkpoint_is_refused(logs: Logs, lie: str) -> None:
    from fedward.privacy.checkpoint import Checkpoint as Point
    from fedward.privacy.checkpoint import sign_checkpoint
    from fedward.privacy.signing import Identity

    logs.exchange()
    home = logs.federation.home
    home.record("stopped", study_id="heart")
    true, since = home.audit.checkpoint(), checkpoints.load_sightings(home).seen["va"]
    proof = tuple(one.hex() for one in home.audit.consistency(since, true.size))
    root = b"\1" * 32 if lie == "root" else true.root
    origin = "fedward/coordinator/" + "0" * 32 if lie == "origin" else true.origin
    identity = Identity.generate() if lie == "key" else home.identity()
    size = true.size + 1 if lie == "size" else true.size
    note = sign_checkpoint(Point(origin, size, root), identity).text
    brought = Brought(
        checkpoint=note, since=since, proof=() if lie == "proof" else proof, yours="x" if lie == "body" else ""
    )
    reply = logs.ask("va", brought)
    assert isinstance(reply, Refusal)
    assert reply.code == ("malformed" if lie in {"origin", "key", "body"} else "split-view")
    assert reply.blames == "coordinator"
    assert logs.kinds("va").count("incident") == 1


def test_a_checkpoint_that_another_overtook_is_no_incident(logs: Logs) -> None:
    home = logs.federation.home
    from fedward.privacy.checkpoint import sign_checkpoint

    early = sign_checkpoint(home.audit.checkpoint(), home.identity()).text
    logs.exchange()
    home.record("stopped", study_id="heart")
    logs.exchange()
    reply = logs.ask("va", Brought(checkpoint=early, since=0, proof=()))
    assert isinstance(reply, Checkpointed)
    assert (reply.cosignature, reply.seen > 0) == ("", True)
    assert not Incidents(logs.federation.sites["va"].incidents_folder).list()


def test_a_coordinator_that_lost_its_sightings_learns_what_the_sites_saw(logs: Logs) -> None:
    logs.exchange()
    checkpoints.sightings_file(logs.federation.home).unlink()
    logs.federation.home.record("stopped", study_id="heart")
    logs.exchange()
    mine = checkpoints.load_sightings(logs.federation.home)
    assert set(mine.seen.values()) == {parse_note(mine.newest_own()).checkpoint.size}
    assert not logs.federation.store.alarms()
    assert not Incidents(logs.federation.sites["va"].incidents_folder).list()


def test_a_site_that_lost_its_sightings_has_them_from_its_log(logs: Logs, tmp_path: Path) -> None:
    logs.exchange()
    other = logs.fork(tmp_path / "fork")
    logs.federation.home.record("stopped", study_id="heart")
    logs.exchange()
    sightings_file(logs.federation.sites["va"]).unlink()
    logs.exchange(other)
    assert "split-view" in logs.kinds("va")


def _shorten(log: AuditLog) -> Callable[[], None]:
    kept = {path: path.read_bytes() for path in log.folder.rglob("*") if path.is_file()}

    def back() -> None:
        for path in log.folder.rglob("*"):
            if path.is_file():
                path.unlink()
        for path, data in kept.items():
            path.write_bytes(data)

    return back


def test_a_site_whose_older_log_was_put_back_is_found_out(logs: Logs) -> None:
    home = logs.federation.sites["va"]
    back = _shorten(home.audit)
    logs.exchange()
    back()
    logs.federation.restart("va")
    logs.federation.home.record("stopped", study_id="heart")
    logs.exchange()
    assert [alarm.site for alarm in logs.federation.store.alarms()] == ["va"]
    assert "request-refused" in logs.kinds("va")
    coordinator = LocalCoordinator(logs.federation.home.path)
    coordinator.clear_alarm("va", "Dr. Who", "restored from a backup")
    coordinator.close()
    logs.exchange()
    assert not logs.federation.store.alarms()
    assert checkpoints.load_sightings(logs.federation.home).of_site("va") is not None


def test_a_site_whose_log_has_another_history_raises_an_alarm(logs: Logs) -> None:
    federation, home = logs.federation, logs.federation.sites["va"]
    back = _shorten(home.audit)
    logs.exchange()
    back()
    federation.restart("va")
    # A node that keeps quiet about it, with the site's own key, so that the coordinator must find out by itself.
    known = checkpoints.load_sightings(federation.home).of_site("va")
    assert known is not None
    while home.audit.size < known.checkpoint.size + 2:
        home.record("paused")
    honest = federation.transport.nodes["va"]

    def lying(data: bytes) -> bytes:
        request, _ = messages.open_request(data, federation.home.identity().public)
        if not isinstance(request, Checkpoint):
            return honest(data)
        from fedward.privacy.canonical import digest
        from fedward.privacy.checkpoint import sign_checkpoint

        note = sign_checkpoint(home.audit.checkpoint(), home.identity()).text
        proof = tuple(one.hex() for one in home.audit.consistency(request.known, home.audit.size))
        return messages.pack(
            Checkpointed(site="va", request=digest(data), checkpoint=note, proof=proof, seen=0), b"", home.identity()
        )

    federation.transport.nodes["va"] = lying
    logs.exchange()
    assert [alarm.site for alarm in federation.store.alarms()] == ["va"]
    assert "alarm-raised" in logs.kinds()
    coordinator = LocalCoordinator(federation.home.path)
    coordinator.clear_alarm("va", "Dr. Who", "looked into it")
    coordinator.close()
    assert checkpoints.load_sightings(federation.home).of_site("va") is None


def test_a_log_that_cannot_be_written_is_no_quiet_matter(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    real = AuditLog.append
    full = {logs.federation.sites["va"].path}

    def append(log: AuditLog, *args: object) -> object:
        if log.folder.parent in full:
            raise UnreachableError("full", code="audit-unwritable")
        return real(log, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(AuditLog, "append", append)
    logs.exchange()
    assert any("va's audit log was not compared: refused: audit-unwritable" in text for text in logs.federation.said)
    assert not sightings_file(logs.federation.sites["va"]).exists()
    full.add(logs.federation.home.path)
    with pytest.raises(UnreachableError):
        logs.exchange()
