"""A study in which one hospital's node meets a fault at one place of its disk, and what must hold after it, whatever the place.

The node at `SITE` runs in a process of its own. First a run that only counts gives the places; then each place, or some of them,
gets a fresh copy of the federation, in which the fault falls there. Every study must end as if nothing had happened.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from childnode import ChildNode, ChildTransport
from federation import Federation, heart_manifest
from hospital import SITE
from invariants import Released, check_study
from mortal import Blow, kill
from smalldisk import SmallDisk

from fedward.client import approvals
from fedward.client.home import SiteHome
from fedward.client.node import SiteNode
from fedward.privacy.accounting import epsilon
from fedward.privacy.checkpoint import Checkpoint
from fedward.privacy.errors import RefusalError
from fedward.privacy.merkle import check_consistency
from fedward.study.manifest import Manifest

ROUNDS = 1
LAUNCHES = 4
"""How often a person launches the study again before they give up."""


def manifest(*, secure: bool) -> Manifest:
    """One round, its evaluation, and attempts to spare."""
    return heart_manifest(
        secure=secure, noised=True, training={"rounds": ROUNDS}, evaluation={"every": 1}, privacy={"spare_attempts": 4}
    )


@dataclass
class Fault:
    """What befalls the node."""

    blow: Blow = kill
    only_before: bool = False
    small: bool = False
    """The node's home lies on a file system of its own, which is really full from the place on, until a person frees it."""


@dataclass
class Case:
    """A copy of a federation in which the node at `SITE` meets a fault at one place, or none."""

    federation: Federation
    at: int | None
    fault: Fault
    node: ChildNode = field(init=False)
    released: Released = field(default_factory=Released)
    before: Checkpoint = field(init=False)
    disk: SmallDisk | None = field(init=False)
    held: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        home = self.federation.sites[SITE]
        self.disk = SmallDisk(home.path) if self.fault.small else None
        self.before = home.audit.checkpoint()
        # SQLite's state of an open file must not cross a fork, not even for a new connection of the child.
        present = self.federation.transport.nodes[SITE]
        assert isinstance(present, SiteNode)
        present._ledger.close()
        if self.disk is not None:
            self.held.enter_context(self.disk)
        blow = self.fault.blow if self.disk is None else self.disk.fill
        self.node = ChildNode(self.federation, SITE, self.at, blow, only_before=self.fault.only_before)
        self.federation.transport = ChildTransport(self.federation, SITE, self.node, self.released)

    def propose(self) -> None:
        """Propose the study again until every site is in its roster and has it; then approve it everywhere, and run it."""
        for _ in range(LAUNCHES):
            sealed = self.federation.propose(manifest(secure=True))
            self._mend()
            self.federation.clock.sleep(60)
            homes = self.federation.sites.values()
            if all((home.path / "proposals" / f"{sealed.digest}.json").exists() for home in homes):
                break
        self.federation.approve(sealed)
        self.run()

    def run(self) -> None:
        """Launch the study until it ends; each time a person mends what they were told of."""
        for _ in range(LAUNCHES):
            try:
                self.federation.run()
            except RefusalError as error:
                if error.code not in {"quorum-missed", "not-approved"}:
                    raise
                self._mend()
                self.federation.clock.sleep(60)
                continue
            return
        raise AssertionError(self.federation.said[-5:])

    def _mend(self) -> None:
        """What a person does about the fault before they go on."""
        if self.disk is not None:
            self.disk.free()

    def end(self) -> None:
        self.node.end()
        self.federation.store.close()
        self.held.close()

    def check(self) -> None:
        """The study's record, every ledger and everything that left; and of this site its ε, its decision and its audit log."""
        self._mend()  # the study may have gone on without the site: it is looked at when there is room again
        check_study(self.federation, self.released, ROUNDS)
        home = self.federation.sites[SITE]
        check_home(home, self.before)
        standing = approvals.standing_of(home, self.federation.sealed().digest, self.federation.clock.unix())
        assert standing.state == "approved"
        check_epsilon(home, self.released)


def check_home(home: SiteHome, before: Checkpoint | None) -> None:
    """It opens, its ledger holds, and its audit log holds and continues the one that it was before, if there was one."""
    fresh = SiteHome.open(home.path)
    with fresh.ledger() as ledger:
        ledger.verify()
    fresh.audit.verify()
    if before is None:
        return
    now = fresh.audit.checkpoint()
    check_consistency(before.size, now.size, before.root, now.root, fresh.audit.consistency(before.size, now.size))


def check_epsilon(home: SiteHome, released: Released) -> None:
    """The ledger's ε is at least that of everything that left the site."""
    updates, counts = released.of(released.updates, SITE), released.of(released.counts, SITE)
    with home.ledger() as ledger:
        made = [entry.charge for entry in ledger.charges()]
        left = [
            charge.event
            for charge in made
            if charge.event is not None
            and (charge.round, charge.attempt) in (updates if charge.purpose.startswith("train") else counts)
        ]
        assert left or not updates | counts, "something left that was not charged"
        assert ledger.spent() >= epsilon(left, ledger.budget.delta)


def places(ready: Federation, folder: Path, phase: Callable[[Case], None], fault: Fault) -> list[str]:
    """The places of a run in which nothing happens; it is checked, too."""
    case = Case(ready.copy(folder / "dry"), None, fault)
    try:
        phase(case)
        case.check()
    finally:
        case.end()
    shutil.rmtree(folder / "dry")
    return case.node.places


def befall(
    ready: Federation,
    folder: Path,
    phase: Callable[[Case], None],
    names: list[str],
    chosen: Iterable[int],
    fault: Fault,
    seen: Callable[[Case], None] = lambda _: None,
) -> None:
    """Let the fault fall at each of the chosen places, on a fresh copy; `seen` looks at the case as well."""
    for at in chosen:
        case = Case(ready.copy(folder / str(at)), at, fault)
        try:
            phase(case)
            case.check()
            seen(case)
        except BaseException as error:
            error.add_note(
                f"at place {at} of {len(names)}: {names[at]}; passed last: {case.node.places[at - 1 : at + 2]}"
            )
            raise
        finally:
            case.end()
        shutil.rmtree(folder / str(at))
