"""How a coordinator refuses a connection by name: the header, and the closed list of codes with their words."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

REFUSAL_HEADER: Final = "fedward-refusal"

REVOKED: Final = "revoked"
REPLACED: Final = "certificate-replaced"
EXPIRED: Final = "certificate-expired"
UNKNOWN: Final = "certificate-unknown"
FOREIGN_KEY: Final = "foreign-key"
FOREIGN_NODE: Final = "foreign-node"
CROWDED: Final = "reply-crowded"
UNKNOWN_NODE: Final = "unknown-node"
UNKNOWN_NOW: Final = "try-again"

REFUSALS: Final = MappingProxyType(
    {
        REVOKED: "the coordinator has revoked this site: telephone them; it joins anew only with new keys "
        "(fedward site rotate --identity)",
        REPLACED: "this site's certificate was replaced by a newer one, which has connected: is an old copy of this home "
        "running? Else enroll the newest kit",
        EXPIRED: "this site's certificate has expired: fedward site request, and enroll the kit that comes back",
        UNKNOWN: "the coordinator does not know this certificate: fedward site request, and enroll the kit that comes back",
        FOREIGN_KEY: "the coordinator knows another node key for this certificate: keys and certificate of this home do "
        "not belong together; restore them from one backup, or fedward site rotate",
        FOREIGN_NODE: "the coordinator refused a message in another node's name",
        CROWDED: "the coordinator refused a reply of more than one message, or of more parts than a reply has",
        UNKNOWN_NODE: "the coordinator does not know this node's number: it activates again",
        UNKNOWN_NOW: "the coordinator cannot look up certificates now: it tries again",
    }
)
"""Code → what a node's people read. What else comes in the header is not repeated."""
