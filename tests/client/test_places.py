"""A node's places in batches: one a study, in memory alone, and no second sum of un-noised numbers on a base model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from cohort import batch_of, identity, scripted

from fedward.client.places import Place, Places
from fedward.client.reveals import Reveals
from fedward.privacy.errors import IntegrityError, RefusalError, UnreachableError
from fedward.privacy.secagg import Batch, BatchSetup, OpenBatch, RoundContext, SiteParty, SlotSum
from fedward.privacy.secagg.faults import ProtocolError
from fedward.privacy.secagg.ring import Block, RingTerms
from fedward.privacy.secagg.site import Phase
from fedward.study.messages import Step

N = 4
TERMS = RingTerms(32, N, (Block("update", 3, 1000),))
BASE, OTHER = b"\x01" * 32, b"\x02" * 32


def step(batch: Batch, kind: str) -> Step:
    return Step(kind=kind, study=batch.study, batch=batch.batch)  # type: ignore[arg-type]


class Nodes:
    """The places of four nodes, which set up batches and sum vectors of zeros."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places = {site: Places(folder / site) for site in batch_of(N).members}

    def restart(self, site: str) -> None:
        self.places[site] = Places(self.folder / site)

    def place(self, site: str, batch: Batch) -> Place:
        return self.places[site].find(batch.study, batch.batch)

    def set_up(self, name: str = "b" * 32, study: str = "5" * 64, seen: int = 0) -> OpenBatch:
        batch = batch_of(N, name=name, study=study, slots=4)
        setup = BatchSetup(batch)
        for site in batch.members:
            party = SiteParty(batch, site, identity(site), scripted(f"{name}/{site}"), seen)
            setup.advertised(site, party.advertise())
            self.places[site].enter(party)
        adverts = setup.adverts()
        for site in batch.members:
            setup.shared(site, self.place(site, batch).step(step(batch, "share"), adverts))
        for site in batch.members:
            setup.opened(site, self.place(site, batch).step(step(batch, "open"), setup.delivery(site)))
        return setup.finish()

    def masked(
        self, opened: OpenBatch, sites: Sequence[str], slot: int = 0, *, base: bytes = BASE, unnoised: bool = True
    ) -> SlotSum:
        context = RoundContext(opened.setup, slot, 1, slot + 1, base, TERMS.digest)
        total = SlotSum(opened, context, TERMS)
        for site in sites:
            place = self.place(site, opened.batch)
            place.take(context, unnoised=unnoised)
            total.masked(site, place.party.mask(np.zeros(3, dtype="<u4"), TERMS))
        return total

    def confirm(self, total: SlotSum, opened: OpenBatch) -> bytes:
        request = total.confirm_request()
        for site in total.survivors:
            total.confirmed(site, self.place(site, opened.batch).step(step(opened.batch, "confirm"), request))
        return total.unmask_request()

    def open(self, total: SlotSum, opened: OpenBatch) -> None:
        request = self.confirm(total, opened)
        for site in total.survivors:
            total.revealed(site, self.place(site, opened.batch).step(step(opened.batch, "unmask"), request))
        assert (total.open()[0] == 0).all()


@pytest.fixture
def nodes(tmp_path: Path) -> Nodes:
    return Nodes(tmp_path)


ALL = batch_of(N).members


def test_a_node_without_a_place_says_so(nodes: Nodes) -> None:
    opened = nodes.set_up()
    nodes.restart("s000")
    for study, batch in (("5" * 64, opened.batch.batch), ("6" * 64, opened.batch.batch), ("5" * 64, "c" * 32)):
        with pytest.raises(RefusalError) as caught:
            nodes.places["s000"].find(study, batch)
        assert caught.value.code == "unknown-batch"
    assert nodes.places["s001"].find("5" * 64, "b" * 32).party.phase == Phase.OPEN
    with pytest.raises(RefusalError):
        nodes.places["s001"].find("5" * 64, "c" * 32)


def test_a_new_batch_takes_the_place_of_the_one_before_and_its_secrets_are_dropped(nodes: Nodes) -> None:
    first = nodes.set_up("b" * 32)
    party = nodes.place("s000", first.batch).party
    secrets = [*party._secrets.seeds, *party._secrets.masks, *(s for held in party._secrets.held for s in held.shares)]
    assert len(secrets) == 2 * 4 + N * 2 * 4
    assert all(any(secret) for secret in secrets)
    second = nodes.set_up("c" * 32)
    assert party.phase == Phase.CLOSED
    assert not any(any(secret) for secret in secrets), "a secret of a batch that was left is still in memory"
    with pytest.raises(RefusalError):
        nodes.place("s000", first.batch)
    nodes.open(nodes.masked(second, ALL), second)


def test_each_study_has_a_place_of_its_own(nodes: Nodes) -> None:
    one = nodes.set_up("b" * 32, study="5" * 64)
    other = nodes.set_up("b" * 32, study="6" * 64)
    nodes.open(nodes.masked(one, ALL), one)
    nodes.open(nodes.masked(other, ALL[1:]), other)  # another study's sum on these bytes is another sum


def test_what_was_taken_part_in_is_known_across_batches(nodes: Nodes) -> None:
    places = nodes.places["s000"]
    assert places.seen("5" * 64) == 0
    opened = nodes.set_up(seen=2)
    assert places.seen("5" * 64) == 2
    nodes.masked(opened, ALL, slot=2)
    assert places.seen("5" * 64) == 3
    assert places.seen("6" * 64) == 0


@pytest.mark.parametrize("kind", ["confirm", "unmask", "share", "open"])
def test_a_step_out_of_its_order_is_refused_and_no_lie(nodes: Nodes, kind: str) -> None:
    opened = nodes.set_up()
    total = nodes.masked(opened, ALL)
    request = total.confirm_request()
    place = nodes.place("s000", opened.batch)
    if kind == "confirm":
        place.step(step(opened.batch, "confirm"), request)
    with pytest.raises(ProtocolError) as caught:
        place.step(step(opened.batch, kind), request + bytes(2) if kind == "unmask" else request)
    assert caught.value.code == ("repeated" if kind == "confirm" else "out-of-order")
    assert not caught.value.lie


# --- un-noised numbers ----------------------------------------------------------------------------------------------------


def test_a_second_set_on_a_base_model_is_refused_before_it_is_confirmed(nodes: Nodes) -> None:
    opened = nodes.set_up()
    nodes.open(nodes.masked(opened, ALL, 0), opened)
    fewer = nodes.masked(opened, ALL[:3], 1)
    request = fewer.confirm_request()
    for site in ALL[:3]:
        with pytest.raises(ProtocolError) as caught:
            nodes.place(site, opened.batch).step(step(opened.batch, "confirm"), request)
        assert (caught.value.code, caught.value.lie, caught.value.blamed) == ("differencing", False, "")
        assert ", ".join(ALL) in str(caught.value)
        assert ", ".join(ALL[:3]) in str(caught.value)


@pytest.mark.parametrize("remembered", ["in memory", "after a restart", "in a new batch"])
def test_it_is_refused_whatever_happened_since(nodes: Nodes, remembered: str) -> None:
    opened = nodes.set_up()
    nodes.open(nodes.masked(opened, ALL, 0), opened)
    if remembered != "in memory":
        if remembered == "after a restart":
            for site in ALL:
                nodes.restart(site)
        opened = nodes.set_up("c" * 32, seen=1)
    with pytest.raises(ProtocolError) as caught:
        nodes.confirm(nodes.masked(opened, ALL[1:], 1), opened)
    assert caught.value.code == "differencing"
    nodes.open(nodes.masked(opened, ALL, 2), opened)  # the same set says nothing new
    nodes.open(nodes.masked(opened, ALL[1:], 3, base=OTHER), opened)  # nor does another model's


def test_a_set_that_was_confirmed_but_never_opened_binds_nobody(nodes: Nodes) -> None:
    opened = nodes.set_up()
    nodes.confirm(nodes.masked(opened, ALL, 0), opened)
    nodes.open(nodes.masked(opened, ALL[:3], 1), opened)
    with pytest.raises(ProtocolError, match="un-noised"):
        nodes.confirm(nodes.masked(opened, ALL, 2), opened)


def test_a_sum_with_noise_may_be_of_another_set_and_is_not_recorded(nodes: Nodes) -> None:
    opened = nodes.set_up()
    nodes.open(nodes.masked(opened, ALL, 0, unnoised=False), opened)
    nodes.open(nodes.masked(opened, ALL[1:], 1, unnoised=False), opened)
    assert not any(nodes.folder.rglob("*.jsonl"))
    nodes.open(nodes.masked(opened, ALL, 2), opened)
    nodes.open(nodes.masked(opened, ALL[1:], 3, unnoised=False), opened)


def test_the_slot_in_use_says_whether_its_numbers_are_noised(nodes: Nodes) -> None:
    opened = nodes.set_up()
    context = RoundContext(opened.setup, 0, 1, 1, BASE, TERMS.digest)
    place = nodes.place("s000", opened.batch)
    place.take(context, unnoised=True)
    assert place.base == BASE.hex()
    place.take(RoundContext(opened.setup, 1, 1, 2, BASE, TERMS.digest), unnoised=False)
    assert place.base == ""
    with pytest.raises(ProtocolError):
        place.take(context, unnoised=True)
    assert place.base == "", "a slot that was not taken changed what the slot in use holds"


def test_shares_leave_only_after_they_are_on_record(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = nodes.set_up()
    total = nodes.masked(opened, ALL)
    request = nodes.confirm(total, opened)
    place = nodes.place("s000", opened.batch)

    def full(*_: object) -> None:
        raise UnreachableError("the opened sum cannot be recorded", code="disk")

    with monkeypatch.context() as patch:
        patch.setattr(Reveals, "add", full)
        with pytest.raises(UnreachableError):
            place.step(step(opened.batch, "unmask"), request)
    # They are forgotten all the same: what was not recorded can never leave.
    with pytest.raises(ProtocolError):
        place.step(step(opened.batch, "unmask"), request)
    for site in ALL[1:]:
        total.revealed(site, nodes.place(site, opened.batch).step(step(opened.batch, "unmask"), request))
    assert (total.open()[0] == 0).all()


def test_a_damaged_record_refuses_every_un_noised_sum(nodes: Nodes) -> None:
    opened = nodes.set_up()
    nodes.open(nodes.masked(opened, ALL, 0), opened)
    (nodes.folder / "s000" / f"{'5' * 64}.jsonl").write_text("damaged\n")
    request = nodes.masked(opened, ALL, 1, base=OTHER).confirm_request()
    with pytest.raises(IntegrityError, match="damaged"):
        nodes.place("s000", opened.batch).step(step(opened.batch, "confirm"), request)
    nodes.place("s001", opened.batch).step(step(opened.batch, "confirm"), request)
    noised = nodes.masked(opened, ALL, 2, base=OTHER, unnoised=False)
    nodes.open(noised, opened)
