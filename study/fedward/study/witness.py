"""A site's ledger head, signed by the site, and countersigned by the coordinator that keeps it in a second place. Pure.

A ledger's chain cannot show that its whole file was replaced by an older one. Others who saw a newer head can. A head holds the
newest entry's number and digest, so it tells the coordinator how many entries this hospital's ledger has, and nothing else.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedward.privacy.canonical import canonical_json
from fedward.privacy.countersign import countersign, countersigned
from fedward.privacy.entries import Head
from fedward.privacy.errors import IntegrityError
from fedward.privacy.signing import Identity, from_text, to_text, verify
from fedward.study.fields import NAME, Part
from fedward.study.manifest import HEX_KEY

Signature = Annotated[str, Field(max_length=100)]


class SignedHead(Part):
    """A ledger's head as its site said it."""

    site: Annotated[str, Field(pattern=NAME)]
    sequence: Annotated[int, Field(ge=0, lt=2**53)]
    digest: Annotated[str, Field(pattern=HEX_KEY)]
    signature: Signature = ""

    @property
    def head(self) -> Head:
        return Head(self.sequence, self.digest)

    def signed_bytes(self) -> bytes:
        return canonical_json({"site": self.site, "sequence": self.sequence, "digest": self.digest})

    def check(self, site: str, key: str) -> None:
        """That this site said it.

        Raises:
            IntegrityError: it names another site, or is not signed by that key.
        """
        if self.site != site:
            raise IntegrityError("a ledger head names another site", expected=site, got=self.site, code="bad-signature")
        verify(key, "ledger", self.signed_bytes(), _raw(self.signature), "the ledger head")


class Witnessed(Part):
    """A site's head, and the same countersigned by the coordinator: proof that the ledger had come so far."""

    head: SignedHead
    countersigned: Annotated[str, Field(max_length=1000)]
    """As the site keeps it: `privacy.countersign`."""

    def check(self, site: str, key: str, coordinator: str) -> None:
        """That this site said it and this coordinator saw it.

        Raises:
            IntegrityError: a signature is not theirs, or another site or another head is named.
        """
        self.head.check(site, key)
        if countersigned(self.countersigned.encode(), site, coordinator) != self.head.head:
            raise IntegrityError("another ledger head is countersigned than the site said", code="bad-signature")


def sign_head(site: str, head: Head, identity: Identity) -> SignedHead:
    """A head signed by its site."""
    bare = SignedHead(site=site, sequence=head.sequence, digest=head.digest)
    return bare.model_copy(update={"signature": to_text(identity.sign("ledger", bare.signed_bytes()))})


def witness(head: SignedHead, coordinator: Identity, at: int) -> Witnessed:
    """A head countersigned by the coordinator; `at` is now, in Unix seconds."""
    return Witnessed(head=head, countersigned=countersign(head.head, head.site, at, coordinator).decode())


def _raw(signature: str) -> bytes:
    return from_text(signature, "the head's signature")
