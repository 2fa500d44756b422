"""The guard's question about every request of a hospital: whose certificate is this, and may it carry this node's words?

The answer is read afresh for each request, so a revocation binds connections that are open already. Codes are a closed
list, with the words that a node shows to its people (`fedward.study.connection`).
"""

from __future__ import annotations

import binascii
import logging
import time
from base64 import b64decode
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, Protocol

from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER

from fedward.server.records import CredentialRow
from fedward.study.connection import (
    CROWDED,
    EXPIRED,
    FOREIGN_KEY,
    FOREIGN_NODE,
    REPLACED,
    REVOKED,
    UNKNOWN,
    UNKNOWN_NODE,
    UNKNOWN_NOW,
)

# Where the peer protocol puts the certificate's fingerprint, within the ASGI extension.
FINGERPRINT: Final = "fedward.fingerprint"

OBJECTS_PER_REPLY: Final = 3
"""A reply is a message, its record dictionary and its one record."""
_KEY_HEADER: Final = FLEET_HTTP_PUBLIC_KEY_HEADER.encode()
_BODIES: Final[Mapping[str, Any]] = {
    "/v1/fleet/activate-node": ActivateNodeRequest,
    "/v1/fleet/deactivate-node": DeactivateNodeRequest,
    "/v1/fleet/send-node-heartbeat": SendNodeHeartbeatRequest,
    "/v1/fleet/confirm-message-received": ConfirmMessageReceivedRequest,
    "/v1/fleet/pull-object": PullObjectRequest,
    "/v1/fleet/pull-messages": PullMessagesRequest,
    "/v1/fleet/push-messages": PushMessagesRequest,
}

_Scope = MutableMapping[str, Any]


class Credentials(Protocol):
    """What the coordinator knows of certificates."""

    def find(self, fingerprint: str) -> CredentialRow | None:
        """The credential of a certificate, by the SHA-256 of its DER, as it stands now."""

    def connected(self, fingerprint: str) -> None:
        """A node was let in over this certificate. Must not block."""

    def refused(self, fingerprint: str, code: str) -> None:
        """A request over this certificate was refused. Must not block."""


class Gate:
    """Decides for each request. `node_of` gives Flower's number of a node key, or None before it is registered."""

    def __init__(self, credentials: Credentials, node_of: Callable[[bytes], int | None]) -> None:
        self._credentials = credentials
        self._node_of = node_of

    def refuses(self, scope: _Scope) -> str:
        """Why this certificate may not carry this request; empty if it may."""
        try:
            credential = self._credentials.find(peer_fingerprint(scope))
        except Exception:  # a store that cannot be read lets nobody in
            logging.getLogger(__name__).exception("the credentials cannot be read")
            return UNKNOWN_NOW
        if credential is None:
            return UNKNOWN
        if credential.state == "revoked":
            return REVOKED
        if not credential.lives:
            return REPLACED
        if not time.time() < credential.expires_at:  # a connection may outlive the certificate that opened it
            return EXPIRED
        return "" if _public_key(scope) == credential.node_key.encode() else FOREIGN_KEY

    def misspeaks(self, scope: _Scope, path: str, body: bytes) -> str:
        """Why a request may not say what it says: it names another key, node or sender than its own. Empty if it does not.

        Flower compares the node number with the key as well, but not a message's sender with either.
        """
        request = _BODIES[path]()
        try:
            request.ParseFromString(body)
        except Exception:  # noqa: BLE001 - protobuf's DecodeError, whatever its implementation calls it
            return FOREIGN_NODE
        key = _public_key(scope)
        if isinstance(request, ActivateNodeRequest):
            return "" if request.public_key == key else FOREIGN_KEY
        named = request.node_id if isinstance(request, DeactivateNodeRequest) else request.node.node_id
        if isinstance(request, PushMessagesRequest):
            if not {message.metadata.src_node_id for message in request.messages_list} <= {named}:
                return FOREIGN_NODE
            if _crowded(request):
                return CROWDED
        # A site that outlived a restart of the SuperLink names its old number in good faith.
        return "" if named == self._node_of(key) else UNKNOWN_NODE

    def connected(self, scope: _Scope) -> None:
        """Flower let the node of this request in."""
        self._credentials.connected(peer_fingerprint(scope))

    def refused(self, scope: _Scope, code: str) -> None:
        """A request was refused by this code."""
        self._credentials.refused(peer_fingerprint(scope), code)


def _crowded(request: PushMessagesRequest) -> bool:
    """Whether a site asks for room for more than a reply: Flower keeps every part that was announced until the run ends."""
    trees = request.message_object_trees
    parts = 0
    waiting = list(trees)
    while waiting and parts <= OBJECTS_PER_REPLY:
        parts += 1
        waiting += waiting.pop().children
    return len(request.messages_list) > 1 or len(trees) > 1 or parts > OBJECTS_PER_REPLY


def peer_fingerprint(scope: _Scope) -> str:
    """The SHA-256 of the client's certificate (DER, hex) that the connection proved; empty if there is none."""
    tls = (scope.get("extensions") or {}).get("tls") or {}
    return str(tls.get(FINGERPRINT, ""))


def _public_key(scope: _Scope) -> bytes:
    """The node key that a request claims; empty if it claims none, or more than one."""
    claimed = [value for name, value in scope.get("headers", ()) if name == _KEY_HEADER]
    if len(claimed) != 1:
        return b""
    try:
        return b64decode(claimed[0], validate=True)
    except binascii.Error:
        return b""
