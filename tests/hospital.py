"""One hospital's node, and requests to it as its coordinator, or somebody who has the coordinator's key, would make them."""

from __future__ import annotations

import json

from federation import Federation, decide

from fedward.privacy.canonical import digest
from fedward.privacy.events import Event
from fedward.privacy.ledger import Charge, Ledger, Reservation
from fedward.privacy.signing import Identity, to_text
from fedward.study import messages, models
from fedward.study.manifest import Manifest, SealedManifest
from fedward.study.messages import Declare, Offer, Refusal, Reply, Work
from fedward.study.vectors import vector_digest

SITE = "va"


class Site:
    """One hospital of a federation that has approved a study, and requests as its coordinator would make them."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.home = federation.sites[SITE]
        self.key = self.home.identity().public
        self.coordinator = federation.home.identity()
        self.sealed: SealedManifest = federation.sealed()
        self.base = models.to_vector(models.build(self.sealed.manifest))

    def ask(self, request: messages.Request, body: bytes = b"", signer: Identity | None = None) -> Reply:
        self.sent = messages.pack(request, body, signer or self.coordinator)
        self.raw = self.federation.transport.nodes[SITE](self.sent)
        reply, self.body = messages.open_reply(self.raw, self.key)
        assert reply.site == SITE
        assert reply.request == digest(self.sent)
        return reply

    def work(self, **changes: object) -> Reply:
        body = changes.pop("body", messages.floats_to_bytes(self.base))
        signer = changes.pop("signer", None)
        fields: dict[str, object] = {
            "study": self.sealed.digest,
            "round": 1,
            "attempt": 1,
            "base": vector_digest(self.base),
            "dimension": len(self.base),
            "train": True,
            "evaluate": False,
        }
        return self.ask(Work.model_validate(fields | changes), body, signer)  # type: ignore[arg-type]

    def offer(self, sealed: SealedManifest, signer: Identity | None = None) -> Reply:
        signature = to_text((signer or self.coordinator).sign("manifest", sealed.canonical))
        return self.ask(Offer(study=sealed.digest, nonce="0" * 64, signature=signature), sealed.canonical)

    def declare(self, study: str = "heart-4-hospitals", manifest: Manifest | None = None) -> Reply:
        """Asks for what the site would declare for a study of that name: the approved one, or any other."""
        draft = manifest or self.sealed.manifest
        named = draft.model_copy(update={"study": draft.study.model_copy(update={"id": study})})
        return self.ask(Declare(study_id=study, nonce="0" * 64), named.canonical)

    def policy(self, text: str) -> None:
        self.home.policy_file.write_text(text)

    def decide(self, state: str) -> None:
        decide(self.home, self.sealed, state, self.federation.clock.unix())

    def charges(self, purpose: str = "train") -> list[tuple[int, int]]:
        with self.home.ledger(witnessed=False) as ledger:
            made = [entry.charge for entry in ledger.charges()]
        return [(charge.round, charge.attempt) for charge in made if charge.purpose == purpose]

    def logged(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.home.log_file.read_text().splitlines()]


def spend(ledger: Ledger, event: Event, study: str = "e" * 64) -> None:
    """Another study comes, reserves one event and charges it."""
    ledger.reserve(Reservation(study, "another", (event,), 2**40, "c" * 64), at=0)
    ledger.charge(Charge(study, "another", 1, 1, event), at=0)


def code(reply: Reply) -> str:
    assert isinstance(reply, Refusal), reply
    return reply.code
