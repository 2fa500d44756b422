"""Which batch a round uses: kept while it serves, set up anew with who can, and nobody is left out but by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from federation import Federation
from secured import SETUP, Fault, Wire, decide, leaving, ready, secure_study, stage_fault, undecide

from fedward.privacy.secagg.contexts import MAX_SLOTS, least_threshold
from fedward.privacy.secagg.coordinator import OpenBatch
from fedward.privacy.secagg.site import SiteParty
from fedward.server.batches import LEFT_OUT_S, SETUP_S, SPARE_SLOTS, Batches
from fedward.server.driving import Driver, HaltWishedError
from fedward.server.round import SiteState, Status
from fedward.study.messages import Request

SIX = tuple(f"s{number}" for number in range(1, 7))


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Federation]:
    made: dict[tuple[int, str], Federation] = {}

    def give(sites: int = 6, **changes: dict[str, object]) -> Federation:
        name = (sites, str(changes))
        if name not in made:
            made[name] = Federation(tmp_path_factory.mktemp("made"), sites=SIX[:sites])
            changes["federation"] = {"deadline": "10min"} | changes.get("federation", {})
            ready(made[name], secure_study(**changes))
        return made[name].copy(tmp_path_factory.mktemp("batches") / "copy")

    return give


class Desk:
    """The batches of a run, and what is seen of them."""

    def __init__(self, federation: Federation, fault: Fault | None = None) -> None:
        self.federation = federation
        self.wire = Wire(federation)
        if fault is not None:
            self.wire.fault = fault
        self.said: list[str] = []
        self.journal: list[OpenBatch] = []
        self.stop = False
        driver = Driver(
            self.wire, federation.clock, self.said.append, lambda: "a person stopped it" if self.stop else ""
        )
        self.batches = Batches(
            federation.sealed(), federation.home.identity(), driver, federation.clock, self.said.append,
            self.journal.append,
        )  # fmt: skip

    @property
    def online(self) -> tuple[str, ...]:
        return tuple(site for site in self.federation.sites if site in self.wire.online())

    def ready(self, slots: int = 5) -> OpenBatch | None:
        return self.batches.ready(self.online, slots)

    def opened(self, slots: int = 5) -> OpenBatch:
        opened = self.ready(slots)
        assert opened is not None, self.batches.left_out
        return opened


Make = Callable[..., Federation]


# --- when a batch is kept -----------------------------------------------------------------------------------------------------


def test_a_batch_is_of_everyone_with_the_least_threshold_and_some_slots_to_spare(make: Make) -> None:
    desk = Desk(make())
    opened = desk.opened(slots=5)
    batch = opened.batch
    assert (batch.members, batch.threshold, batch.slots) == (SIX, 5, 5 + SPARE_SLOTS)
    assert batch.study == desk.federation.sealed().digest
    assert desk.journal == [opened]
    assert [text for text in desk.said if "set up" in text] == [
        "secure sums of 6 sites set up in 0.1 s for 9 rounds: 5 must answer, 1 may drop out; nobody sees one site's "
        "update unless the coordinator and more than 3 sites collude"
    ]


def test_slots_are_bounded(make: Make) -> None:
    assert Desk(make(3)).opened(slots=5000).batch.slots == MAX_SLOTS


@pytest.mark.parametrize("slots", [1, 0, -1, -100])
def test_a_study_that_made_more_attempts_than_it_planned_still_gets_a_batch(make: Make, slots: int) -> None:
    """Attempts that asked nobody cost no budget, and are made without end while sites are away."""
    assert Desk(make(3)).opened(slots=slots).batch.slots >= 1


def test_a_batch_is_kept_while_it_serves(make: Make) -> None:
    desk = Desk(make())
    first = desk.opened()
    assert [desk.batches.take_slot() for _ in range(3)] == [0, 1, 2]
    assert desk.opened() is first
    desk.wire.offline = {"s2"}
    assert desk.opened() is first  # an absent member is a dropout
    desk.wire.offline = set()
    assert desk.opened() is first
    assert desk.batches.take_slot() == 3
    assert len(desk.wire.batches()) == 1


def test_used_up_slots_make_a_new_batch_that_begins_at_its_first(make: Make) -> None:
    desk = Desk(make())
    first = desk.opened(slots=1)
    for slot in range(first.batch.slots):
        assert desk.opened() is first
        assert desk.batches.take_slot() == slot
    second = desk.opened(slots=1)
    assert second.batch.batch != first.batch.batch
    assert second.setup != first.setup
    assert desk.batches.take_slot() == 0


def test_too_few_that_hold_their_place_make_a_new_batch_of_those_who_are_there(make: Make) -> None:
    desk = Desk(make())
    first = desk.opened()
    desk.wire.offline = {"s2", "s5"}  # 4 of at least 5
    second = desk.opened()
    assert second is not first
    assert second.batch.members == ("s1", "s3", "s4", "s6")
    assert second.batch.threshold == 3
    assert desk.batches.left_out == {}


def test_a_lost_member_makes_a_new_batch_as_soon_as_it_can_join(make: Make) -> None:
    desk = Desk(make())
    first = desk.opened()
    desk.batches.lost({"s4"})
    desk.wire.offline = {"s4"}
    assert desk.opened() is first
    desk.wire.offline = set()
    second = desk.opened()
    assert second is not first
    assert second.batch.members == SIX
    assert desk.opened() is second


def test_a_newcomer_makes_a_new_batch(make: Make) -> None:
    desk = Desk(make())
    desk.wire.offline = {"s6"}
    first = desk.opened()
    assert first.batch.members == SIX[:5]
    desk.wire.offline = set()
    assert desk.opened().batch.members == SIX


@pytest.mark.parametrize(("online", "members"), [(2, None), (3, 3)])
def test_too_few_sites_make_no_batch_and_are_not_asked(make: Make, online: int, members: int | None) -> None:
    desk = Desk(make())
    desk.wire.offline = set(SIX[online:])
    opened = desk.ready()
    assert (opened is None) == (members is None)
    assert desk.batches.left_out == {}
    assert {one.site for one in desk.wire.said} == (set() if members is None else set(SIX[:3]))


def test_the_quorum_and_the_colluders_are_floors(make: Make) -> None:
    quorum = Desk(make(federation={"quorum": 5}))
    assert quorum.batches.least == 5
    quorum.wire.offline = {"s1", "s2"}
    assert quorum.ready() is None
    colluders = Desk(make(privacy={"colluders": 3}))
    assert colluders.batches.least == 5
    colluders.wire.offline = {"s1"}
    assert colluders.opened().batch.threshold == least_threshold(5, 3) == 5
    assert colluders.opened().batch.colluders >= 3


# --- who is left out ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", SETUP)
@pytest.mark.parametrize("fault", ["leaves", "mute"])
def test_a_site_that_does_not_answer_is_left_out_by_name_and_the_others_go_on(
    make: Make, stage: str, fault: str
) -> None:
    federation = make()
    desk = Desk(federation)
    desk.wire.fault = leaving(federation, stage, ("s3",)) if fault == "leaves" else stage_fault(stage, ("s3",), fault)
    opened = desk.opened()
    assert opened.batch.members == ("s1", "s2", "s4", "s5", "s6")
    reason = "unreachable: offline" if fault == "leaves" else "no answer: deadline passed"
    assert desk.batches.left_out == {"s3": SiteState(Status.ABSENT, f"left out of the batch: {reason}")}
    assert f"setup without s3 ({reason})" in desk.said
    assert SETUP_S <= federation.clock.elapsed < SETUP_S + 5
    assert desk.journal == [opened]


@pytest.mark.parametrize("site", ["s6", "s1", "s3"])
def test_a_site_that_refuses_is_left_out_and_nobody_else(make: Make, site: str) -> None:
    """Whoever answers first: those who have not answered yet did nothing wrong."""
    federation = make()
    undecide(federation, site)
    desk = Desk(federation)
    opened = desk.opened()
    assert opened.batch.members == tuple(name for name in SIX if name != site)
    assert list(desk.batches.left_out) == [site]
    state = desk.batches.left_out[site]
    assert state.status == Status.REFUSED
    assert state.reason.startswith(f"left out of the batch: {site} refused: not-approved (ask {site} ")


def test_a_site_that_was_left_out_is_asked_again_after_a_minute_and_joins(make: Make) -> None:
    federation = make()
    undecide(federation, "s6")
    desk = Desk(federation)
    first = desk.opened()
    decide(federation, "s6", "approved")
    federation.clock.elapsed += LEFT_OUT_S - 1
    assert desk.opened() is first
    federation.clock.elapsed += 1
    assert desk.opened().batch.members == SIX
    assert desk.batches.left_out == {}


def test_a_site_that_still_refuses_after_a_minute_costs_nobody_the_batch_that_serves(make: Make) -> None:
    federation = make()
    undecide(federation, "s6")
    desk = Desk(federation)
    desk.opened()
    for _ in range(3):
        federation.clock.elapsed += LEFT_OUT_S
        assert desk.opened().batch.members == SIX[:5]
    assert list(desk.batches.left_out) == ["s6"]


def test_a_site_is_tried_without_until_too_few_are_left(make: Make) -> None:
    federation = make(4)
    desk = Desk(federation)
    desk.wire.fault = leaving(federation, "share", ("s3", "s4"))
    assert desk.ready() is None
    assert set(desk.batches.left_out) == {"s3", "s4"}
    assert desk.wire.batches() == [SIX[:4]]
    assert desk.journal == []


def test_a_setup_s_reply_that_is_false_names_its_site(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    advertise = SiteParty.advertise

    def false(party: SiteParty) -> bytes:
        data = advertise(party)
        return data[:-1] + bytes([data[-1] ^ 1]) if party.site == "s6" else data

    monkeypatch.setattr(SiteParty, "advertise", false)
    desk = Desk(make())
    assert desk.opened().batch.members == SIX[:5]
    assert desk.batches.left_out["s6"].reason.startswith("left out of the batch: key-substituted: ")


def test_a_dealer_of_false_shares_is_never_trusted_again(make: Make) -> None:
    federation = make()
    desk = Desk(federation)
    desk.opened()
    desk.batches.distrust("s2", "the shares that s2 dealt are false")
    for _ in range(3):
        assert desk.opened().batch.members == ("s1", "s3", "s4", "s5", "s6")
        assert desk.batches.left_out == {"s2": SiteState(Status.ABSENT, "the shares that s2 dealt are false")}
        federation.clock.elapsed += 10 * LEFT_OUT_S
        desk.batches.lost({"s1"})
    assert all("s2" not in cohort for cohort in desk.wire.batches()[1:])


# --- stopping ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", SETUP)
def test_a_wish_to_stop_ends_a_setup_at_once(make: Make, stage: str) -> None:
    federation = make()
    desk = Desk(federation)

    def stopping(site: str, request: Request) -> str:
        if request.kind == stage:
            desk.stop = True
        return "mute" if request.kind == stage and site == "s5" else ""

    desk.wire.fault = stopping
    with pytest.raises(HaltWishedError):
        desk.ready()
    assert federation.clock.elapsed < 1
    assert desk.journal == []


def test_a_batch_that_cannot_be_written_down_is_not_used(make: Make, tmp_path: Path) -> None:
    desk = Desk(make(3))

    def full(_opened: OpenBatch) -> None:
        raise OSError("the disk is full")

    desk.batches._journal = full
    with pytest.raises(OSError, match="full"):
        desk.ready()
    kept: list[Any] = []
    desk.batches._journal = kept.append
    opened = desk.opened()
    assert kept == [opened]
    assert len(desk.wire.batches()) == 2
