"""The file in which a site keeps its chain of decisions, and what shows that an older one was put back.

A chain cannot tell its own age. So every decision is also entered in the audit log, whose checkpoints others countersign, and a
head beside the chain says up to where the log was compared with it. A process compares once, and whenever it is asked to; from
then on it remembers the newest decision that it saw. In this order: chain, log, head. What a crash left out is made up when the
chain is read next, before anything is done on the word of it: nothing runs on a decision that is not logged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, get_args

from pydantic import Field, ValidationError

from fedward.client.home import SiteHome
from fedward.client.policy import load_policy
from fedward.client.rotation import own_keys
from fedward.client.standing import Asked, Decisions
from fedward.client.statements import Chain, Link, What, check_chain, next_link
from fedward.privacy.auditentries import LogEntry
from fedward.privacy.errors import IntegrityError, UnreachableError
from fedward.privacy.signing import Identity
from fedward.study.fields import Part
from fedward.study.lock import hold
from fedward.study.manifest import HEX_KEY

_LOCK_S = 10.0
_FAR: Final = 2000
"""So many entries of the log are compared again and again; beyond them the head is moved on."""
_ANEW: Final = "restored"
_KINDS: Final = frozenset(kind.model_fields["kind"].default for kind in get_args(What))
_BEHIND = (
    "put back the newest copy of the folder `approvals`; the node runs nothing until then. If there is none, decide anew: "
    "move the folder away, add the approvers again, and let them review every study"
)


class Head(Part):
    """The newest link, and how many entries of the audit log were compared with the chain."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    sequence: Annotated[int, Field(ge=0, lt=2**31)]
    digest: Annotated[str, Field(pattern=HEX_KEY)]
    entries: Annotated[int, Field(ge=0, lt=2**53)]


_NO_HEAD: Final = Head(sequence=0, digest="0" * 64, entries=0)
"""Before the first decision."""

_seen: dict[Path, tuple[int, str]] = {}
"""Home → number and digest of the newest decision that this process saw there, once it was compared with the log."""


def load(home: SiteHome, *, anew: bool = False) -> Decisions:
    """All that was decided here, every signature checked, under the policy as it is now.

    Args:
        home: the site.
        anew: compare the chain with the audit log, also if this process did so before.

    Raises:
        IntegrityError: the chain was changed (`bad-approval`, `bad-signature`), or an older one was put back
            (`decisions-rolled-back`).
        InputError: the policy cannot be read.
    """
    policy = load_policy(home.policy_file)
    links = _links(home)
    _settle(home, links, anew=anew)
    return Decisions(links, Asked(policy.approvals_required, policy.expiry_days))


def append(home: SiteHome, what: What, *, by: str, at: int, signer: Identity | None) -> Link:
    """Sign and seal a statement, and add it to the chain; durable on return. The caller has checked that it may be made.

    Raises:
        IntegrityError: the chain does not hold.
        UnreachableError: it cannot be written; nothing was decided.
    """
    links = _links(home)
    _settle(home, links, anew=True)
    link = next_link(links, what, by=by, at=at, site=home.site, identity=home.identity(), signer=signer)
    chain = Chain(links=(*links, link))
    home.write(home.decisions_file, chain.model_dump_json().encode())
    _settle(home, chain.links, anew=False)
    return link


def take_over(home: SiteHome, sealed: bytes) -> None:
    """Go on with a longer chain, as it lay encrypted in another copy of this home, if it continues the one here.

    Raises:
        IntegrityError: it is not this home's, or does not hold.
    """
    data, links = home.unseal(home.decisions_file, sealed), _links(home)
    newer = _checked(data, home.site, own_keys(home))
    if len(newer) <= len(links) or newer[: len(links)] != links:
        return
    if not home.decisions_head_file.is_file():
        home.write(home.decisions_head_file, _NO_HEAD.model_dump_json().encode())
    home.write(home.decisions_file, data)  # what the log does not know of it, `load` enters there


def forget(home: Path) -> None:
    """Another home lies at that path now: what this process saw there before says nothing of it."""
    _seen.pop(home.resolve(), None)


@contextlib.contextmanager
def deciding(home: SiteHome) -> Iterator[None]:
    """One decision at a time: what is checked inside stays true until what follows from it is written.

    Raises:
        UnreachableError: another person is deciding.
    """
    busy = UnreachableError("somebody else is deciding at this site now", remedy="try again in a moment")
    with hold(home.path / "approvals.lock", _LOCK_S, lambda: busy):
        yield


def _links(home: SiteHome) -> tuple[Link, ...]:
    if not home.decisions_file.is_file():
        return ()
    return _checked(home.read(home.decisions_file, "the site's decisions"), home.site, own_keys(home))


@lru_cache(maxsize=16)
def _checked(data: bytes, site: str, site_keys: tuple[str, ...]) -> tuple[Link, ...]:
    """The same bytes hold or do not hold, however often they are read: a node reads them for every request."""
    try:
        links = Chain.model_validate_json(data).links
    except ValidationError:
        raise IntegrityError(
            "the file of decisions is damaged", remedy="restore it from a backup", code="bad-approval"
        ) from None
    check_chain(links, site, site_keys)
    return links


def _settle(home: SiteHome, links: tuple[Link, ...], *, anew: bool) -> None:
    """Hold the chain against all that shows its age, and make up what a crash left out."""
    head, place = _head(home, links), home.path.resolve()
    tail = (len(links), links[-1].digest if links else _NO_HEAD.digest)
    _held_against(links, head.sequence, head.digest)
    seen = _seen.get(place)
    if seen is not None:
        _held_against(links, *seen)
    entries = head.entries
    if anew or seen is None:
        entries = _compare(home, links, head.entries)
    for link in links[head.sequence :]:
        entries = _record(home, link) + 1
    if len(links) > head.sequence or entries > head.entries + _FAR:
        kept = Head(sequence=tail[0], digest=tail[1], entries=entries)
        home.write(home.decisions_head_file, kept.model_dump_json().encode())
    _seen[place] = tail


def _head(home: SiteHome, links: tuple[Link, ...]) -> Head:
    if home.decisions_head_file.is_file():
        return home.read_part(home.decisions_head_file, Head, "head of the decisions")
    if len(links) > 1:  # the head of a first decision may not have been written before a crash
        raise _behind("the head of the chain of decisions is gone")
    return _NO_HEAD


def _held_against(links: tuple[Link, ...], sequence: int, digest: str) -> None:
    """That the chain holds a decision which was made: it may be ahead, never behind, and never another."""
    if len(links) < sequence:
        raise _behind(f"the decisions end at number {len(links)}, but number {sequence} was made")
    if sequence and links[sequence - 1].digest != digest:
        raise _behind(f"decision {sequence} is another than was made")


def _compare(home: SiteHome, links: tuple[Link, ...], first: int) -> int:
    """That the chain holds every decision of the audit log from that entry on; how many entries the log has."""
    newest: LogEntry | None = None
    number = first
    for entry in home.audit.entries(first):
        number = entry.number + 1
        if entry.kind == _ANEW and "count" not in entry.fields:
            newest = None  # a restore put the decisions aside; they begin anew
        elif entry.kind in _KINDS and "count" in entry.fields:
            newest = entry
    if newest is not None:
        _held_against(links, int(newest.fields["count"]), str(newest.fields.get("digest", "")))
    return number


def _record(home: SiteHome, link: Link) -> int:
    """Enter a decision in the audit log; the entry's number. The digest ties the log to this very chain."""
    what = link.what
    made = home.record(
        what.kind, at=link.at, by=link.by, key=link.key or None, digest=link.digest, count=link.sequence,
        study=getattr(what, "study", None), study_id=getattr(what, "study_id", None), other=getattr(what, "name", None),
        until=getattr(what, "expires_at", None),
    )  # fmt: skip
    return made.number


def _behind(what: str) -> IntegrityError:
    return IntegrityError(what, remedy=_BEHIND, code="decisions-rolled-back")
