"""Slow, silent and returning hospitals in whole studies: what the record keeps of their speed, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from federation import Federation, MemoryTransport, TestClock, heart_manifest
from histories import told
from observed import run, state, statuses

from fedward.privacy.errors import RefusalError
from fedward.server.coordinator import LocalCoordinator
from fedward.server.explaining import explain
from fedward.server.readings import view
from fedward.server.seconding import Asker
from fedward.server.transport import Delivery
from fedward.study.heart import SITES

OTHERS = tuple(site for site in SITES if site != "va")


@dataclass
class Delayed(MemoryTransport):
    """Each site's replies come so many seconds after they were asked for; never, for one that is not in `takes`."""

    clock: TestClock = field(default_factory=TestClock)
    takes: dict[str, float] = field(default_factory=dict)
    _coming: list[tuple[float, Delivery]] = field(default_factory=list)

    def poll(self) -> list[Delivery]:
        now = self.clock.monotonic()
        # What is asked for anew replaces what was owed; here each site is asked once an attempt.
        self._coming += [(now + self.takes.get(one.site, 1e9), one) for one in super().poll()]
        here = [one for at, one in self._coming if at <= now]
        self._coming = [(at, one) for at, one in self._coming if at > now]
        return here

    def send(self, requests: Mapping[str, bytes]) -> None:
        self._coming = [(at, one) for at, one in self._coming if one.site not in requests]
        super().send(requests)


Make = Callable[..., Federation]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return Federation(tmp_path_factory.mktemp("template"))


@pytest.fixture
def make(template: Federation, tmp_path: Path) -> Make:
    def make(rounds: int = 4, **federation: object) -> Federation:
        made = template.copy(tmp_path / "copy")
        made.ready(
            heart_manifest(
                training={"rounds": rounds},
                privacy={"spare_attempts": 4},
                federation={"deadline": "10min"} | federation,
            )
        )
        return made

    return make


def slowed(federation: Federation, **takes: float) -> Delayed:
    """Everybody answers after three seconds, but for who is named. Approvals and the like are not waited for."""
    delayed = Delayed(federation.transport.nodes, clock=federation.clock)
    federation.transport = delayed
    delayed.takes = dict.fromkeys(SITES, 3.0) | takes
    return delayed


def seconds(federation: Federation, site: str) -> list[float | None]:
    return [row.seconds for row in federation.store.statuses(federation.key) if row.site == site]


def test_what_answers_took_is_in_the_record(make: Make) -> None:
    federation = make(1)
    slowed(federation, va=30.0)
    run(federation)
    assert state(federation) == "completed"
    assert seconds(federation, "va") == [pytest.approx(30.0, abs=1.0)] * 2
    assert seconds(federation, "cleveland") == [pytest.approx(3.0, abs=1.0)] * 2


def test_a_slow_hospital_is_dropped_once_before_its_time_is_known_and_a_restart_does_not_forget_it(make: Make) -> None:
    federation = make(4)
    slowed(federation, va=200.0)  # the others are done after 3 s, and wait for 60
    with pytest.raises(KeyboardInterrupt):
        run(federation, heard=dying_after(2))
    assert [statuses(federation, n)["va"][0] for n in (1, 2)] == ["dropped", "contributed"]
    run(federation)
    assert state(federation) == "completed"
    assert [statuses(federation, n)["va"][0] for n in (3, 4, 5)] == ["contributed"] * 3
    assert federation.clock.elapsed < 5 * 220


def dying_after(attempt: int) -> Callable[[str], None]:
    """The process ends when this attempt is over."""

    def hear(text: str) -> None:
        if text.startswith(f"attempt {attempt}: "):
            raise KeyboardInterrupt

    return hear


def test_a_dead_hospital_costs_little_once_it_was_waited_for_the_whole_deadline(make: Make) -> None:
    federation = make(6, deadline="200s")
    delayed = slowed(federation)
    del delayed.takes["va"]
    federation.store.set_standing(federation.key, "va", "approved", "", None, 0)
    run(federation)
    assert state(federation) == "completed"
    waited = seconds(federation, "va")
    assert waited == [pytest.approx(s, abs=1.0) for s in (60.0, 200.0, 100.0, 60.0, 60.0, 60.0, 60.0)]


# --- a person decides -----------------------------------------------------------------------------------------------------


def asking(federation: Federation, act: Callable[[], object], *, times: int = 99) -> Callable[[str], None]:
    """Does something whenever a round asks, that often at most."""
    done: list[str] = []

    def hear(text: str) -> None:
        if "has its quorum and waits for va" in text and len(done) < times:
            done.append(text)
            act()

    return hear


def decided(federation: Federation, choice: str) -> None:
    LocalCoordinator.asked(federation.home, federation.store, Asker("ada", 0)).decide(
        "heart-4-hospitals", wait=choice == "wait"
    )


def test_a_round_asks_and_goes_on_without_whom_the_coordinator_does_not_wait_for(make: Make) -> None:
    federation = make(1, stragglers="ask")
    delayed = slowed(federation)
    del delayed.takes["va"]
    federation.store.set_standing(federation.key, "va", "approved", "", None, 0)
    seen = []

    def decide() -> None:
        seen.append(view(federation.store, federation.store.study(federation.key)).questions)
        decided(federation, "carry-on")

    run(federation, heard=asking(federation, decide))
    assert state(federation) == "completed"
    assert [(q.round, q.attempt, q.sites, q.choice) for (q,) in seen] == [
        (1, 1, ("va",), None),
        (2, 2, ("va",), None),
    ]
    assert all(q.until - q.at > 500 for (q,) in seen)
    assert statuses(federation, 1)["va"] == ("dropped", "no answer: the coordinator carried on")
    assert federation.clock.elapsed < 200
    assert view(federation.store, federation.store.study(federation.key)).questions == ()
    with pytest.raises(RefusalError) as caught:
        decided(federation, "wait")
    assert caught.value.code == "nothing-asked"
    entries = [entry for entry in federation.home.audit.entries() if entry.kind == "stragglers-decided"]
    assert [(e.fields["round"], e.fields["outcome"], e.fields["by"]) for e in entries] == [
        (1, "carry-on", "ada"),
        (2, "carry-on", "ada"),
    ]
    words = [event.words for event in explain(told(federation)).events]
    assert "round 1 had its quorum and asked the coordinator whether to wait for va" in words
    assert "ada decided that round 1 should go on without them" in words


def test_a_round_waits_for_whom_the_coordinator_waits_for(make: Make) -> None:
    federation = make(1, stragglers="ask")
    slowed(federation, va=400.0)
    run(federation, heard=asking(federation, lambda: decided(federation, "wait")))
    assert [statuses(federation, n)["va"][0] for n in (1, 2)] == ["contributed"] * 2


def test_without_a_decision_the_deadline_ends_the_question(make: Make) -> None:
    federation = make(1, stragglers="ask", deadline="100s")
    delayed = slowed(federation)
    del delayed.takes["va"]
    federation.store.set_standing(federation.key, "va", "approved", "", None, 0)
    run(federation)
    assert seconds(federation, "va") == [pytest.approx(100.0, abs=1.0)] * 2


def test_a_question_and_its_answer_outlive_the_coordinator_s_process(make: Make) -> None:
    """Killed while it asks, after the answer and before it acts: the next attempt of the round keeps to it and does not ask."""
    federation = make(1, stragglers="ask")
    delayed = slowed(federation)
    del delayed.takes["va"]
    federation.store.set_standing(federation.key, "va", "approved", "", None, 0)

    def die() -> None:
        decided(federation, "carry-on")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(federation, heard=asking(federation, die, times=1))
    assert federation.store.attempts(federation.key)[-1].outcome is None
    (left,) = view(federation.store, federation.store.study(federation.key)).questions
    assert (left.attempt, left.choice) == (1, "carry-on")
    run(federation, heard=asking(federation, lambda: decided(federation, "carry-on")))
    assert state(federation) == "completed"
    asked = [entry.data["attempt"] for entry in federation.store.journal(federation.key, "straggling")]
    assert asked == [1, 3]  # attempt 2 of the same round did not ask again
    assert statuses(federation, 2)["va"] == ("dropped", "no answer: others were waiting")
