"""What strangers and members send in secure aggregation: for each parser, and each method of a machine that takes a message,
100 000 changed messages. Half are changed as bytes; half are changed and sealed again with the right keys, where there are any.

The protocol's own errors are all that ever comes out. What is taken encodes to the very bytes that came; a machine that refuses
has not changed, and still takes the honest message. FEDWARD_FUZZ_EXAMPLES says how many examples each target gets.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
from cohort import drawing
from forgeries import Target, changed, drawn_changes, machines, parsers

pytestmark = [pytest.mark.prove, pytest.mark.timeout(14_400)]

EXAMPLES = int(os.environ.get("FEDWARD_FUZZ_EXAMPLES", "100000"))
NAMES = [target.name for target in [*parsers(), *machines()]]
TRIED: dict[str, int] = {}


def made(target: Target, number: int) -> bytes:
    """The example of a number: the same in every run, so that a number names it."""
    draw = drawing(f"{target.name}/{number}")
    changes = drawn_changes(draw)
    if target.seal is None or number % 2:
        return changed(target.honest, changes)
    return target.seal(changed(target.plain, changes), draw.randrange(4))


@pytest.mark.parametrize("name", NAMES)
def test_no_changed_message_does_anything_but_be_refused_or_mean_something_else(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (target,) = (target for target in [*parsers(), *machines()] if target.name == name)
    outcomes: Counter[str] = Counter()
    for number in range(EXAMPLES):
        try:
            outcomes[target.try_(made(target, number))] += 1
        except Exception as error:
            raise AssertionError(f"example {number} of {name}: {type(error).__name__}: {error}") from error
        if number % 1000 == 0:
            assert target.try_(target.honest) == "accepted"
    assert target.try_(target.honest) == "accepted"
    with capsys.disabled():
        print(f"\n{name}: {outcomes.total()} examples, {dict(outcomes.most_common())}", flush=True)  # noqa: T201 - a report
    assert outcomes.total() == EXAMPLES
    assert len(outcomes) > 1, "all examples ended alike"
    TRIED[name] = outcomes.total()


def test_every_target_was_tried_in_full() -> None:
    assert dict.fromkeys(NAMES, EXAMPLES) == TRIED
