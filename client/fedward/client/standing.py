"""What follows from a chain of decisions: who may approve, where each study stands, whether the node is paused. Pure.

The rules, in the order of the chain:

1. What an approver signs says how many the policy asks for, and so many are needed from then on, whatever the policy says later.
   Only as many signatures make it fewer: who edits the policy alone loosens nothing.
2. The first approver signs for himself. Every later one needs as many signatures: as then and as the policy asks now, whichever is
   more; of all there are, while there never were so many. So one approver makes no second self.
3. An approval counts once for each approver, while that approver is registered with that key and was before they signed.
4. A study is approved when enough approvers have said so, and none has refused or revoked it since. Whoever refuses or revokes
   takes every approval given before away. After that it needs them anew.
5. Once a newer version of a study id was approved, older versions are superseded, for good, whatever becomes of the newer one.
6. A withdrawal is for good. What limits, counts by whoever signed it; what allows, only by those who are approvers now.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fedward.client.statements import (
    AddApprover,
    Approve,
    Link,
    Pause,
    Refuse,
    RemoveApprover,
    RequireApprovals,
    Restore,
    Resume,
    Revoke,
    StartOver,
    Withdraw,
)
from fedward.study.messages import StandingState

State = Literal["pending", "approved", "refused", "revoked", "expired", "superseded", "withdrawn"]
DAY_S = 86_400


@dataclass(frozen=True)
class Approver:
    """A registered person: their public key, the link that made them one, and who signed for it."""

    name: str
    key: str
    since: int
    at: int
    signed_by: tuple[str, ...]


@dataclass(frozen=True)
class Waiting:
    """A change of the registry that needs more signatures. `name` is an approver, or the number that is to be required."""

    what: Literal["add", "remove", "require"]
    name: str
    key: str
    signed_by: tuple[str, ...]
    needed: int


@dataclass(frozen=True)
class Asked:
    """What the policy asks of approvals now."""

    approvals: int
    days: int


@dataclass
class _Study:
    given: dict[str, Link] = field(default_factory=dict)
    """The newest approval of each approver since the study was last refused or revoked."""
    reached: bool = False
    """Whether enough approvers had once said yes."""
    line: tuple[str, str] | None = None
    """Its study id and kind, of which it is one version; known from its first approval on."""
    ended: Link | None = None
    """The refusal or revocation that nothing overruled since."""
    withdrawn: Link | None = None
    last: Link | None = None


@dataclass(frozen=True)
class Standing:
    """Where a study stands here.

    Attributes:
        state: in one word.
        signed: the approvals that count, oldest first.
        needed: how many must count.
        last: the newest link about it; None while nobody said anything.
        expires_at: when the approvals that count first fall below what is needed, in Unix seconds; None unless approved.
    """

    state: State
    signed: tuple[Link, ...]
    needed: int
    last: Link | None
    expires_at: int | None = None

    @property
    def said(self) -> StandingState:
        """The word that leaves for the coordinator. What is superseded has run out, as far as it is concerned."""
        return "expired" if self.state == "superseded" else self.state

    @property
    def missing(self) -> int:
        """How many more approvers must sign."""
        return max(0, self.needed - len(self.signed))


class Decisions:
    """The state after a whole chain. `check_chain` comes first: this believes every signature."""

    def __init__(self, links: Sequence[Link], asked: Asked) -> None:
        self.links = tuple(links)
        self.approvers: dict[str, Approver] = {}
        self.paused: Link | None = None
        self.started_over: list[Link] = []
        self.signed_for = 1
        """How many approvers are needed by what they signed; a policy that names fewer does not count."""
        self._most = 0
        """The most approvers there were since so many are needed: for what is needed of all there are."""
        self._asked = asked
        self._wishes: dict[tuple[Literal["add", "remove", "require"], str, str], dict[str, Link]] = {}
        self._studies: dict[str, _Study] = {}
        self._newest: dict[tuple[str, str], tuple[int, int, str]] = {}
        """(study id, kind) → (sealed at, link, digest) of the newest version that was approved."""
        self._reached: dict[tuple[str, str], list[str]] = {}
        """(study id, kind) → every version that was approved, in the order of their first approval."""
        self._withdrawn: dict[str, Link] = {}
        for link in self.links:
            self._take(link)

    def is_approver(self, name: str, key: str) -> bool:
        known = self.approvers.get(name)
        return known is not None and known.key == key

    @property
    def required(self) -> int:
        """How many approvers must sign now."""
        return max(self._asked.approvals, self.signed_for)

    @property
    def lowered(self) -> bool:
        """Whether the policy names fewer than the approvers signed for."""
        return self._asked.approvals < self.signed_for

    def waiting(self) -> list[Waiting]:
        """Changes of the registry that are not in force yet."""
        found = []
        for (what, name, key), signed in self._wishes.items():
            names = tuple(self._counting(signed))
            if names:
                needed = self._enough(what, max(_change(link).needed for link in signed.values()))
                found.append(Waiting(what, name, key, names, needed))
        return found

    def withdrawn_at(self, study_id: str) -> int | None:
        """When the data of that study id were last withdrawn; None if never."""
        link = self._withdrawn.get(study_id)
        return None if link is None else link.at

    def newest(self, study_id: str, study_kind: str) -> tuple[int, str] | None:
        """(sealed at, digest) of the newest version of a study id that was ever approved here."""
        known = self._newest.get((study_id, study_kind))
        return None if known is None else (known[0], known[2])

    def approved_before(self, study: str, study_id: str, study_kind: str) -> str | None:
        """The version of a study id that was approved here last, before this one was; None if none was."""
        digests = self._reached.get((study_id, study_kind), [])
        older = digests[: digests.index(study)] if study in digests else digests
        return older[-1] if older else None

    def standing(self, study: str, at: int, data: str | None = None) -> Standing:
        """Where a study stands at a time; with `data`, approvals on other data do not count."""
        known = self._studies.get(study)
        if known is None:
            return Standing("pending", (), self.required, None)
        given = [link for link in known.given.values() if self._holds(link)]
        given = [link for link in given if data is None or _approval(link).data == data]
        fresh = sorted((link for link in given if at < self._until(link)), key=lambda link: link.sequence)
        needed = self._needed(fresh)
        if known.withdrawn is not None:
            return Standing("withdrawn", (), needed, known.withdrawn)
        if known.reached and known.line is not None and self._newest[known.line][2] != study:
            return Standing("superseded", (), needed, known.last)
        if len(fresh) >= needed:
            ends = sorted(self._until(link) for link in fresh)
            return Standing("approved", tuple(fresh), needed, known.last, ends[len(fresh) - needed])
        if known.ended is not None:
            state: State = "refused" if isinstance(known.ended.what, Refuse) else "revoked"
            return Standing(state, tuple(fresh), needed, known.last)
        ran_out = len(given) >= self._needed(given) and len(given) > len(fresh)
        return Standing("expired" if ran_out else "pending", tuple(fresh), needed, known.last)

    def ever_approved(self) -> list[str]:
        """Every study that was approved here at some time."""
        return [study for study, known in self._studies.items() if known.reached]

    # The chain, link by link.

    def _take(self, link: Link) -> None:
        what = link.what
        if isinstance(what, (AddApprover, RemoveApprover, RequireApprovals)):
            self._take_registry(link, what)
        elif isinstance(what, Approve):
            self._take_approval(link, what)
        elif isinstance(what, (Refuse, Revoke)):
            known = self._studies.setdefault(what.study, _Study())
            known.given.clear()
            known.ended = known.last = link
        elif isinstance(what, Withdraw):
            self._withdrawn[what.study_id] = link
            for study in what.studies:
                known = self._studies.setdefault(study, _Study())
                known.withdrawn = known.last = link
        elif isinstance(what, Pause):
            self.paused = link
        elif isinstance(what, Resume):
            self.paused = None
        elif isinstance(what, Restore):
            for known in self._studies.values():
                known.given.clear()
        elif isinstance(what, StartOver):
            self.started_over.append(link)
            self.approvers.clear()
            self._wishes.clear()
            self.signed_for, self._most = 1, 0

    def _take_registry(self, link: Link, what: AddApprover | RemoveApprover | RequireApprovals) -> None:
        if not self.approvers:
            if isinstance(what, AddApprover) and (link.by, link.key) == (what.name, what.key):
                self._enter(Approver(what.name, what.key, link.sequence, link.at, (link.by,)))
                self._ask_for(what.needed)
            return
        if not self.is_approver(link.by, link.key):
            return
        if isinstance(what, RequireApprovals) and what.needed >= self.signed_for:  # also ends an attempt to lower it
            self._wishes = {wish: signed for wish, signed in self._wishes.items() if wish[0] != "require"}
            self._ask_for(what.needed)
            return
        self._ask_for(what.needed)
        wish = _wish(what)
        signed = self._wishes.setdefault(wish, {})
        signed[link.by] = link
        names = self._counting(signed)
        leaves = isinstance(what, RemoveApprover) and link.by == what.name
        if not leaves and len(names) < self._enough(wish[0], what.needed):
            return
        del self._wishes[wish]
        if isinstance(what, AddApprover):
            if what.key not in {known.key for known in self.approvers.values()} and what.name not in self.approvers:
                self._enter(Approver(what.name, what.key, link.sequence, link.at, tuple(names)))
        elif isinstance(what, RequireApprovals):
            self.signed_for = what.needed
        elif len(self.approvers) > 1:
            self.approvers.pop(what.name, None)

    def _enter(self, approver: Approver) -> None:
        self.approvers[approver.name] = approver
        self._most = max(self._most, len(self.approvers))

    def _ask_for(self, needed: int) -> None:
        """An approver signed under a policy that asks for so many."""
        if needed > self.signed_for:
            self._most, self.signed_for = self._all_there_are(), needed

    def _take_approval(self, link: Link, what: Approve) -> None:
        if not self.is_approver(link.by, link.key):
            return
        known = self._studies.setdefault(what.study, _Study())
        if known.withdrawn is not None:
            return
        self._ask_for(what.needed)
        known.given[link.by] = link
        known.last = link
        if len([one for one in known.given.values() if self._holds(one)]) < self.signed_for:
            return
        known.reached, known.ended, known.line = True, None, (what.study_id, what.study_kind)
        if what.study not in self._reached.setdefault(known.line, []):
            self._reached[known.line].append(what.study)
        before = self._newest.get(known.line)
        if before is None or what.sealed_at >= before[0]:
            self._newest[known.line] = (what.sealed_at, link.sequence, what.study)

    # Who counts, and how many are enough.

    def _holds(self, link: Link) -> bool:
        known = self.approvers.get(link.by)
        return known is not None and known.key == link.key and known.since < link.sequence

    def _counting(self, signed: dict[str, Link]) -> list[str]:
        return [name for name, link in signed.items() if self._holds(link)]

    def _enough(self, what: str, needed_then: int) -> int:
        """For a change of the registry. Only an addition needs what the policy asks now: a later one gives nobody back."""
        needed = max(self.signed_for, needed_then, self._asked.approvals if what == "add" else 1)
        return min(needed, self._all_there_are())

    def _all_there_are(self) -> int:
        """How many can sign; one who left still counts where so many are needed, or the others would be fewer than enough."""
        return max(len(self.approvers), min(self.signed_for, self._most))

    def _needed(self, given: Iterable[Link]) -> int:
        newest = max(given, key=lambda link: link.sequence, default=None)
        return max(self.required, 1 if newest is None else _approval(newest).needed)

    def _until(self, link: Link) -> int:
        return min(_approval(link).expires_at, link.at + self._asked.days * DAY_S)


def _wish(
    what: AddApprover | RemoveApprover | RequireApprovals,
) -> tuple[Literal["add", "remove", "require"], str, str]:
    """What signatures for the same change have in common."""
    if isinstance(what, AddApprover):
        return "add", what.name, what.key
    return ("remove", what.name, "") if isinstance(what, RemoveApprover) else ("require", str(what.needed), "")


def _change(link: Link) -> AddApprover | RemoveApprover | RequireApprovals:
    if not isinstance(link.what, (AddApprover, RemoveApprover, RequireApprovals)):
        raise TypeError(link.what.kind)
    return link.what


def _approval(link: Link) -> Approve:
    if not isinstance(link.what, Approve):
        raise TypeError(link.what.kind)
    return link.what
