"""What comes in may be anything: a few hundred changed messages for each target. `make prove` tries 100 000 each."""

from __future__ import annotations

import inspect
import tracemalloc

import pytest
from forgeries import OWN_ERRORS, Change, Target, changed, changes_of_bytes, machines, parsers
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from fedward.privacy.secagg import BatchSetup, SiteParty, SlotSum, wire

PARSERS, MACHINES = parsers(), machines()
TARGETS = PARSERS + MACHINES
SEALED = [target for target in TARGETS if target.seal is not None]
named = {"ids": lambda target: target.name}
quick = settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def test_every_parser_and_every_method_that_takes_a_message_is_tried() -> None:
    read = {name for name in vars(wire) if name.startswith(("open_", "split_", "decode_"))}
    assert {target.name for target in PARSERS} == read | {"RoundContext.decode"}
    taking = {
        f"{machine.__name__}.{name}"
        for machine in (SiteParty, BatchSetup, SlotSum)
        for name, method in inspect.getmembers(machine, inspect.isfunction)
        if "data" in inspect.signature(method).parameters and not name.startswith("_")
    }
    assert {target.name for target in MACHINES} == taking - {"SiteParty.survivors_named"}


@pytest.mark.parametrize("target", TARGETS, **named)
def test_the_honest_message_is_taken(target: Target) -> None:
    assert target.try_(target.honest) == "accepted"


@pytest.mark.parametrize("target", SEALED, **named)
def test_sealing_an_unchanged_message_again_gives_the_honest_one(target: Target) -> None:
    assert target.seal is not None
    for repairs in range(4):
        assert target.seal(target.plain, repairs) == target.honest


@pytest.mark.parametrize("target", TARGETS, **named)
def test_every_message_that_is_cut_or_longer_is_refused(target: Target) -> None:
    whole = target.honest
    step = max(1, len(whole) // 300)
    lengths = {*range(0, len(whole), step), *range(max(0, len(whole) - 70), len(whole)), *range(min(70, len(whole)))}
    for length in sorted(lengths):
        assert target.try_(whole[:length]) != "accepted", length
    for more in (b"\x00", b"\xff", bytes(16), bytes(64), whole, whole[-64:]):
        assert target.try_(whole + more) != "accepted", len(more)
        assert target.try_(more + whole) != "accepted", len(more)


@pytest.mark.parametrize("target", TARGETS, **named)
def test_every_changed_byte_is_refused_or_means_something_else(target: Target) -> None:
    # A signature covers a whole message: nothing that is signed can come to mean something else.
    may_be_taken = target.seal is None or target.name == "open_confirmations"  # checks no signatures itself
    for at in range(len(target.honest)):
        flipped = bytearray(target.honest)
        flipped[at] ^= 1 << at % 8
        assert target.try_(bytes(flipped)) != "accepted" or may_be_taken, at


@pytest.mark.parametrize("target", TARGETS, **named)
def test_changed_bytes_are_refused_or_mean_something_else(target: Target) -> None:
    @quick
    @given(changes_of_bytes)
    def check(changes: list[Change]) -> None:
        event(target.try_(changed(target.honest, changes)))

    check()
    assert target.try_(target.honest) == "accepted"


@pytest.mark.parametrize("target", SEALED, **named)
def test_changed_messages_that_are_sealed_again_are_refused_or_mean_something_else(target: Target) -> None:
    seal = target.seal
    assert seal is not None

    @quick
    @given(changes_of_bytes, st.integers(0, 3))
    def check(changes: list[Change], repairs: int) -> None:
        event(target.try_(seal(changed(target.plain, changes), repairs)))

    check()
    assert target.try_(target.honest) == "accepted"


@pytest.mark.parametrize("target", TARGETS, **named)
def test_strangers_bytes_of_the_right_length_are_refused_or_mean_something(target: Target) -> None:
    @settings(quick, max_examples=30)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        fill = data.draw(st.sampled_from([0x00, 0xFF, 0x5A]))
        head = data.draw(st.binary(max_size=min(150, len(target.honest))))
        target.try_(head + bytes([fill]) * (len(target.honest) - len(head)))

    check()


@pytest.mark.parametrize("target", TARGETS, **named)
def test_a_message_of_a_hundred_megabytes_is_refused_before_anything_is_allocated(target: Target) -> None:
    huge = target.honest + bytes(100 * 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(OWN_ERRORS):
            target.take(huge)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
