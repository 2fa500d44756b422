"""What is decided at a hospital, as signed statements in one chain: who may approve, what they approved, and when it ended. Pure.

Each link is the statement of one person, signed with that approver's own key (Ed25519, RFC 8032) and sealed with the site's. It
names the site, its own number and the digest of the link before it; so a statement of another hospital, of another place in the
chain, or one that was changed does not fit. What follows from a chain stands in `standing`.

Pausing needs no approver, since it is the safe direction: such a link carries the site's seal alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from fedward.privacy.canonical import canonical_json, digest, digest_of
from fedward.privacy.errors import IntegrityError
from fedward.privacy.signing import Identity, from_text, to_text, verify
from fedward.study.fields import NAME, Part
from fedward.study.manifest import HEX_KEY

APPROVER = r"^\w[\w .@'-]{0,63}$"
"""A person as the registry names them; also the name of a file, so nothing that a path could be made of."""

Key = Annotated[str, Field(pattern=HEX_KEY)]
Digest = Annotated[str, Field(pattern=HEX_KEY)]
StudyId = Annotated[str, Field(pattern=NAME)]
Person = Annotated[str, Field(pattern=APPROVER)]
Time = Annotated[int, Field(ge=0, lt=2**53)]
Reason = Annotated[str, Field(max_length=500)]
Needed = Annotated[int, Field(ge=1, le=3)]
"""How many approvers the policy asked for when it was signed."""
Signature = Annotated[str, Field(max_length=100)]


class AddApprover(Part):
    kind: Literal["approver-added"] = "approver-added"
    name: Person
    key: Key
    needed: Needed


class RemoveApprover(Part):
    kind: Literal["approver-removed"] = "approver-removed"
    name: Person
    needed: Needed


class RequireApprovals(Part):
    """So many approvers must sign, whatever the policy says. One signature makes it more, as many as were needed make it fewer."""

    kind: Literal["approvals-required"] = "approvals-required"
    needed: Needed


class Approve(Part):
    """One approver's yes to one study, on the data registered and under the policy as they were."""

    kind: Literal["approved"] = "approved"
    study: Digest
    study_id: StudyId
    study_kind: Literal["train", "explore"]
    sealed_at: Time
    data: Digest
    policy: Digest
    expires_at: Time
    needed: Needed


class Refuse(Part):
    kind: Literal["refused"] = "refused"
    study: Digest
    reason: Reason = ""


class Revoke(Part):
    kind: Literal["revoked"] = "revoked"
    study: Digest
    reason: Reason = ""


class Withdraw(Part):
    """The data of a study id are used no more: every study of that id that was proposed here is over for good."""

    kind: Literal["withdrawn"] = "withdrawn"
    study_id: StudyId
    studies: Annotated[tuple[Digest, ...], Field(max_length=10_000)]
    reason: Reason = ""


class Pause(Part):
    kind: Literal["paused"] = "paused"
    reason: Reason = ""


class Resume(Part):
    kind: Literal["resumed"] = "resumed"


class Restore(Part):
    """The home was restored from a backup: every approval ends, as one may have been revoked since; who may approve stays."""

    kind: Literal["decisions-restored"] = "decisions-restored"
    reason: Reason = ""


class StartOver(Part):
    """Keys of approvers are lost: nobody is an approver any more, and no approval holds."""

    kind: Literal["started-over"] = "started-over"
    reason: Annotated[str, Field(min_length=1, max_length=500)]


What: TypeAlias = (
    AddApprover
    | RemoveApprover
    | RequireApprovals
    | Approve
    | Refuse
    | Revoke
    | Withdraw
    | Pause
    | Resume
    | Restore
    | StartOver
)
_UNSIGNED = (Pause, Resume, Restore, StartOver)
"""What the site's seal alone may say; the policy decides whether it is enough for `Resume` and `StartOver`."""


class Link(Part):
    """One statement in its place. `key` is the approver's; empty where the site's seal alone stands for it."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    site: StudyId
    site_key: Key
    sequence: Annotated[int, Field(ge=1, lt=2**31)]
    previous: Digest
    at: Time
    by: Person
    key: Annotated[str, Field(pattern=rf"{HEX_KEY}|^$")]
    what: Annotated[What, Field(discriminator="kind")]
    signature: Signature = ""
    """The approver's, of all above; empty like `key`."""
    seal: Signature = ""
    """The site's, of all above."""

    @property
    def digest(self) -> str:
        """What the next link follows."""
        return digest(canonical_json(self.model_dump(mode="json")))

    def signed_bytes(self) -> bytes:
        return canonical_json(self.model_dump(mode="json", exclude={"signature", "seal"}))

    def sealed_bytes(self) -> bytes:
        return canonical_json(self.model_dump(mode="json", exclude={"seal"}))


class Chain(Part):
    """Every link, oldest first, as one file."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    links: Annotated[tuple[Link, ...], Field(max_length=100_000)] = ()


def first_digest(site: str, site_key: str) -> str:
    """What the first link follows: no chain of another site, or of another key, begins so."""
    return digest_of({"chain": "decisions", "format": 1, "site": site, "site_key": site_key})


def next_link(
    links: Sequence[Link], what: What, *, by: str, at: int, site: str, identity: Identity, signer: Identity | None
) -> Link:
    """The statement signed and sealed, next in the chain.

    Args:
        links: the chain so far.
        what: what is stated.
        by: who states it.
        at: now, in Unix seconds.
        site: this site.
        identity: the site's own key, which seals.
        signer: the approver's key; None where the site's seal alone stands for it.
    """
    bare = Link(
        site=site,
        site_key=identity.public,
        sequence=len(links) + 1,
        previous=links[-1].digest if links else first_digest(site, identity.public),
        at=at,
        by=by,
        key="" if signer is None else signer.public,
        what=what,
    )
    signature = "" if signer is None else to_text(signer.sign("approval", bare.signed_bytes()))
    signed = bare.model_copy(update={"signature": signature})
    return signed.model_copy(update={"seal": to_text(identity.sign("approval", signed.sealed_bytes()))})


def check_chain(links: Sequence[Link], site: str, site_keys: Sequence[str]) -> None:
    """That every link is this site's, in its place, signed and sealed.

    Args:
        links: oldest first.
        site: this site.
        site_keys: the public key of its identity, and those of its former ones: what they sealed stays sealed.

    Raises:
        IntegrityError: code `bad-approval`, or `bad-signature`: a link was changed, moved, left out, or is another site's.
    """
    before = first_digest(site, links[0].site_key) if links else ""
    for number, link in enumerate(links, start=1):
        if link.site != site or link.site_key not in site_keys:
            raise _bad(f"decision {number} is of another site or of another key of this one", f'site "{link.site}"')
        if link.sequence != number or link.previous != before:
            raise _bad(f"decision {number} does not follow the one before it")
        if not link.key and not isinstance(link.what, _UNSIGNED):
            raise _bad(f"decision {number} ({link.what.kind}) carries no approver's signature")
        if link.key in site_keys:
            raise _bad(f"decision {number} is signed with the site's own key, which is no approver's")
        name = f"decision {number} of this site, by {link.by}"
        if link.key:
            verify(link.key, "approval", link.signed_bytes(), from_text(link.signature, name), name)
        verify(link.site_key, "approval", link.sealed_bytes(), from_text(link.seal, name), name)
        before = link.digest


def _bad(what: str, got: str | None = None) -> IntegrityError:
    return IntegrityError(
        what,
        got=got,
        remedy="the file of decisions was changed: restore it from a backup that is no older than the last decision",
        code="bad-approval",
    )
