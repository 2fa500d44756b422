"""The driver: what arrives, is lost, is late or is wished reaches the machine once, and nobody is asked too often."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from federation import TestClock

from fedward.privacy.errors import InputError, IntegrityError, RefusalError, UnreachableError
from fedward.server.driving import ASK_AGAIN_S, POLL_S, Driver
from fedward.server.round import End, Outcome, Plan, Round, Stage, Status
from fedward.server.transport import Delivery

SITES = ("n", "o", "s")
Answer = Callable[["Network", str, bytes], None]


@dataclass
class Network:
    """A transport whose deliveries arrive when a test says so; `answer` is called with each request."""

    clock: TestClock
    answer: Answer
    sent: list[tuple[float, str, bytes]] = field(default_factory=list)
    _coming: list[tuple[float, Delivery]] = field(default_factory=list)

    def online(self) -> frozenset[str]:
        return frozenset(SITES)

    def send(self, requests: Mapping[str, bytes]) -> None:
        for site, payload in requests.items():
            self.sent.append((self.clock.monotonic(), site, payload))
            self.answer(self, site, payload)

    def come(self, site: str, payload: bytes | None, after: float = 0.0, failure: str = "") -> None:
        self._coming.append((self.clock.monotonic() + after, Delivery(site, payload, failure)))

    def poll(self) -> list[Delivery]:
        now = self.clock.monotonic()
        here = [delivery for at, delivery in self._coming if at <= now]
        self._coming = [(at, delivery) for at, delivery in self._coming if at > now]
        return here

    def asked(self, site: str) -> list[bytes]:
        return [payload for _, to, payload in self.sent if to == site]


@dataclass
class Talk:
    """An exchange whose requests say their stage, and which admits what begins with "ok"."""

    admitted: list[tuple[str, str, bytes]] = field(default_factory=list)

    def requests(self, stage: str, sites: Sequence[str]) -> Mapping[str, bytes]:
        return {site: f"{stage} of {site}".encode() for site in sites}

    def admit(self, site: str, stage: str, data: bytes) -> None:
        if data == b"late":
            raise InputError("a reply answers another request", code="stale")
        if data == b"no":
            raise RefusalError(f"{site} refused: policy-epsilon", remedy="ask it about 12", code="policy-epsilon")
        if data == b"forged":
            raise IntegrityError("the message is not signed by that key", code="bad-signature")
        if data == b"bug":
            raise ValueError("a bug of ours")
        assert data.startswith(b"ok")
        self.admitted.append((site, stage, data))


STAGES = (Stage("first", 2, 5.0), Stage("second", 2, 2.0))


def machine(*stages: Stage, deadline: float = 30.0, counted: int = 0) -> Round:
    return Round(Plan(1, 1, SITES, stages or STAGES, deadline, counted))


@dataclass
class Drive:
    """One drive and all that can be seen of it."""

    answer: Answer
    stop: Callable[[float], bool] = lambda _at: False
    round: Round = field(default_factory=machine)
    talk: Talk = field(default_factory=Talk)
    said: list[str] = field(default_factory=list)
    before: list[tuple[str, int]] = field(default_factory=list)

    def run(self) -> End:
        self.clock = TestClock()
        self.network = Network(self.clock, self.answer)

        def cut_off() -> str:
            return "a person stopped the study" if self.stop(self.clock.monotonic()) else ""

        driver = Driver(self.network, self.clock, self.said.append, cut_off)
        return driver.drive(self.round, self.talk, lambda stage: self.before.append((stage, len(self.network.sent))))

    def status(self, site: str) -> tuple[Status, str]:
        return self.round.sites[site].status, self.round.sites[site].reason


def ok(network: Network, site: str, payload: bytes) -> None:
    network.come(site, b"ok")


def test_every_stage_asks_and_admits_every_site_once() -> None:
    drive = Drive(ok)
    assert drive.run() == End(Outcome.COMMITTED, "3 of 3 sites contributed")
    assert [(site, payload) for _, site, payload in drive.network.sent] == [
        (site, f"{stage} of {site}".encode()) for stage in ("first", "second") for site in SITES
    ]
    assert drive.talk.admitted == [(site, stage, b"ok") for stage in ("first", "second") for site in SITES]
    assert drive.clock.elapsed < 3 * POLL_S


def test_the_caller_is_told_of_a_stage_before_anything_of_it_is_sent() -> None:
    drive = Drive(ok)
    drive.run()
    assert drive.before == [("first", 0), ("second", 3)]


def test_what_the_caller_cannot_write_down_is_not_sent() -> None:
    def full(stage: str) -> None:
        if stage == "second":
            raise UnreachableError("the disk is full")

    drive = Drive(ok)
    clock = TestClock()
    network = Network(clock, ok)
    with pytest.raises(UnreachableError):
        Driver(network, clock, drive.said.append, lambda: "").drive(drive.round, drive.talk, full)
    assert all(payload.startswith(b"first") for _, _, payload in network.sent)


def test_a_site_that_refuses_is_out_with_its_reason() -> None:
    drive = Drive(lambda network, site, _: network.come(site, b"no" if site == "o" else b"ok"))
    assert drive.run().outcome == Outcome.COMMITTED
    assert drive.status("o") == (Status.REFUSED, "o refused: policy-epsilon (ask it about 12)")
    assert drive.network.asked("o") == [b"first of o"]


def test_a_forged_reply_is_refused_by_its_code() -> None:
    drive = Drive(lambda network, site, _: network.come(site, b"forged" if site == "n" else b"ok"))
    assert drive.run().outcome == Outcome.COMMITTED
    assert drive.status("n") == (Status.REFUSED, "bad-signature: the message is not signed by that key")


def test_a_late_reply_is_ignored_and_the_true_one_still_counts() -> None:
    def late(network: Network, site: str, payload: bytes) -> None:
        if site == "o":
            network.come(site, b"late")
            network.come(site, b"ok", 1.0)
        else:
            network.come(site, b"ok")

    drive = Drive(late)
    assert drive.run().reason == "3 of 3 sites contributed"
    assert drive.said == ["ignored a late reply of o"] * 2
    assert drive.network.asked("o") == [b"first of o", b"second of o"]


def test_a_site_that_cannot_be_reached_is_asked_again_with_the_same_bytes_once_a_second() -> None:
    def lost(network: Network, site: str, payload: bytes) -> None:
        if site != "o" or len(network.asked("o")) == 4:
            network.come(site, b"ok")
        else:
            network.come(site, None, failure="node-offline")

    drive = Drive(lost)
    assert drive.run().reason == "3 of 3 sites contributed"
    times = [at for at, site, payload in drive.network.sent if (site, payload) == ("o", b"first of o")]
    assert len(times) == 4
    assert all(ASK_AGAIN_S <= later - at < ASK_AGAIN_S + 3 * POLL_S for at, later in pairwise(times))


def test_a_site_that_stays_away_is_dropped_with_the_transport_s_reason() -> None:
    drive = Drive(lambda n, site, _: n.come(site, None, failure="node-offline") if site == "o" else n.come(site, b"ok"))
    assert drive.run().reason == "2 of 3 sites contributed"
    assert drive.status("o") == (Status.DROPPED, "unreachable: node-offline")
    assert 4 <= len(drive.network.asked("o")) <= 6  # once a second, for the grace of 5 s, and never in the next stage
    assert set(drive.network.asked("o")) == {b"first of o"}


def test_a_site_whose_answer_came_after_all_is_not_asked_for_what_it_gave() -> None:
    """The transport lost it, then found it: before it would be asked again."""

    def found(network: Network, site: str, payload: bytes) -> None:
        if site == "o":
            network.come(site, None, failure="reply-lost")
            network.come(site, b"ok", 0.5)
        elif site == "s":
            network.come(site, b"ok", 3.0)
        else:
            network.come(site, b"ok")

    drive = Drive(found)
    drive.run()
    assert drive.network.asked("o") == [b"first of o", b"second of o"]


def test_who_is_to_be_asked_again_is_forgotten_with_its_stage() -> None:
    def lost(network: Network, site: str, payload: bytes) -> None:
        if site == "o" and payload.startswith(b"first"):
            network.come(site, None, failure="node-offline")
            network.come(site, b"ok", 0.2)
        else:
            network.come(site, b"ok", 2.0 if payload.startswith(b"second") else 0.0)

    drive = Drive(lost)
    drive.run()
    assert drive.network.asked("o") == [b"first of o", b"second of o"]


def test_nothing_of_a_site_that_is_not_waited_for_is_even_looked_at() -> None:
    def twice(network: Network, site: str, payload: bytes) -> None:
        network.come(site, b"ok")
        network.come(site, b"bug")  # would raise
        network.come("stranger", b"bug")
        network.come(site, None, failure="node-offline")

    drive = Drive(twice, round=machine(Stage("first", 3, 5.0)))
    assert drive.run().outcome == Outcome.COMMITTED
    assert [site for site, _, _ in drive.talk.admitted] == list(SITES)


def test_a_fault_of_our_own_is_not_blamed_on_a_site() -> None:
    with pytest.raises(ValueError, match="a bug of ours"):
        Drive(lambda network, site, _: network.come(site, b"bug")).run()


def test_a_stage_ends_at_its_deadline_though_nobody_says_anything() -> None:
    drive = Drive(lambda *_: None)
    end = drive.run()
    assert end.outcome == Outcome.QUORUM_MISSED
    assert 30.0 <= drive.clock.elapsed < 30.0 + 3 * POLL_S
    assert all(f"{site} dropped: no answer: deadline passed" in end.reason for site in SITES)
    assert len(drive.network.sent) == 3


def test_a_helper_that_is_lost_stays_in_the_sum_by_name() -> None:
    def lost(network: Network, site: str, payload: bytes) -> None:
        if not (site == "o" and payload.startswith(b"second")):
            network.come(site, b"ok")

    drive = Drive(lost)
    assert drive.run().outcome == Outcome.COMMITTED
    assert drive.round.survivors == SITES
    assert drive.status("o") == (Status.CONTRIBUTED, "in the sum; then no answer at second: others were waiting")


@pytest.mark.parametrize("stage", ["first", "second"])
def test_a_wish_to_stop_ends_any_stage_at_once(stage: str) -> None:
    def quiet(network: Network, site: str, payload: bytes) -> None:
        if not (site == "o" and payload.startswith(stage.encode())):
            network.come(site, b"ok")

    drive = Drive(quiet, stop=lambda at: at >= 1.0)
    assert drive.run().outcome == Outcome.STOPPED
    assert 1.0 <= drive.clock.elapsed < 1.0 + 3 * POLL_S
    assert drive.status("o")[0] == (Status.DROPPED if stage == "first" else Status.CONTRIBUTED)


def test_a_transport_that_is_gone_is_the_caller_s_to_know() -> None:
    def gone(network: Network, site: str, payload: bytes) -> None:
        raise UnreachableError("the SuperLink is gone")

    with pytest.raises(UnreachableError):
        Drive(gone).run()
