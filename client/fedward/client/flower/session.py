"""One activation of the node: what it says to the SuperLink over its own bounded connection, heartbeats included."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedward.client.flower.credentials import FleetAddress, node_key, tls_context
from fedward.client.flower.diagnosis import (
    MalformedError,
    PendingError,
    says_not_yet,
    says_other_certificate,
    says_unknown_node,
)
from fedward.client.flower.proxy import Proxy, proxy_for
from fedward.client.flower.remembered import Left

# 10 s is the least that the Fleet API accepts (HEARTBEAT_MIN_INTERVAL); it keeps a node online for two of them. One
# beat every 7 s leaves room for two retries, and bounds the wait after a crash to 20 s.
HEARTBEAT_S: Final = 10.0
_HEARTBEAT_PERIOD_S: Final = 7.0
_HEARTBEAT_RETRY_S: Final = 1.0
# A request is a message, its record dictionary and its one record.
_OBJECTS_PER_REQUEST: Final = 3
# A site that is told to stop does not wait longer than this for a coordinator that does not answer.
_FAREWELL_S: Final = 3.0
# A busy SuperLink answers hundreds of sites one by one. Who hangs up early makes it shake hands again, which costs it more than
# the answer would: 32 sites that gave up after httpx's 5 s kept a slow one from ever answering.
_ANSWER_S: Final = 30.0
_CONNECT_S: Final = 15.0
# Less than the life of a session, so that a beat lost on a dead line is sent again in time.
_BEAT_ANSWER_S: Final = 8.0
# Longer than the pause between two heartbeats, so that a quiet site does not shake hands for each.
_KEEP_ALIVE_S: Final = 30.0


@dataclass(frozen=True)
class Request:
    """A message announced by the SuperLink: its header and the identifiers of its parts."""

    run_id: int
    message_id: str
    object_ids: tuple[str, ...]
    header: bytes


class Session:
    """One activation of the node: its identity at the SuperLink, its connection and its heartbeats."""

    def __init__(self, send: _BoundedSend, client: Any, node_id: int) -> None:
        self.node_id = node_id
        self.lost = threading.Event()
        self.ended = False
        """Whether the SuperLink counts the node as online no more."""
        self._send = send
        self._client = client
        self._node = Node(node_id=node_id)
        self._closed = threading.Event()
        self._certificate: Path | None = None
        self._stamp: tuple[int, ...] = ()
        self.contact: Callable[[], None] = lambda: None
        """Called whenever the coordinator has answered a heartbeat."""
        self._beats = threading.Thread(target=self._beat, name="fedward-heartbeat", daemon=True)

    @classmethod
    def activate(cls, address: FleetAddress, max_bytes: int, left: Left | None = None) -> Session:
        """Connect and activate. The files are read every time, so that a renewed certificate is picked up.

        The session that the last node of this home `left` is ended if the SuperLink still counts it as online.
        """
        stamp = _stamp(address.certificate)
        key = node_key(address.node_key, address.password)
        send = _BoundedSend(tls_context(address), proxy_for(address.host, address.port, address.proxy), max_bytes)
        host = f"[{address.host}]" if ":" in address.host else address.host
        client = FleetHttpClient(
            f"https://{host}:{address.port}",
            interceptors=[NodeAuthHttpInterceptor(key, key.public_key()), send],
            # The client's own connection is never used: _BoundedSend sends, with the site's certificate.
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        )
        request = ActivateNodeRequest(public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=HEARTBEAT_S)
        try:
            session = cls(send, client, _let_in(client, request, left))
            session._certificate, session._stamp = address.certificate, stamp
            return session
        except BaseException:
            send.close()
            raise

    def outdated(self) -> bool:
        """Whether the site's certificate is another now than the one of this session."""
        return self._certificate is not None and _stamp(self._certificate) != self._stamp

    def __enter__(self) -> Session:
        self._beats.start()
        return self

    def leave(self) -> None:
        """Deactivate the node, once; from any thread. Heartbeats end first, or one would bring it back."""
        if self._closed.is_set():
            return
        self._closed.set()
        self.ended = self.lost.is_set()
        if not self.ended:
            self._send.hurried = True
            with contextlib.suppress(Exception):  # a courtesy; without it the last heartbeat lapses
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self.node_id))
                self.ended = True

    def __exit__(self, *_: object) -> None:
        self.leave()
        self._beats.join(timeout=_HEARTBEAT_RETRY_S)
        self._send.close()

    def pull(self) -> Request | None:
        """The next message for this node, if any. The SuperLink delivers each message once."""
        response = self._client.PullMessages(PullMessagesRequest(node=self._node))
        if not response.messages_list:
            return None
        metadata = response.messages_list[0].metadata
        tree = response.message_object_trees[0]
        object_ids = tuple(part.object_id for part in iterate_object_tree(tree))
        header = response.messages_list[0].SerializeToString()
        return Request(metadata.run_id, metadata.message_id, object_ids, header)

    def fetch(self, request: Request) -> Any:
        """The whole message.

        Raises:
            PendingError: a part is still on its way to the SuperLink.
            MalformedError: the message has more parts than a request of ours.
        """
        if len(request.object_ids) > _OBJECTS_PER_REQUEST:
            raise MalformedError
        contents = {object_id: self._object(request.run_id, object_id) for object_id in request.object_ids}
        message = inflate_object_from_contents(request.message_id, contents)
        message.metadata.__dict__["_message_id"] = request.message_id
        return message

    def push(self, reply: Any) -> None:
        """Push a reply and its parts; safe to repeat. How long the site computed is not told: that depends on its data."""
        run_id = reply.metadata.run_id
        reply.metadata.__dict__["_message_id"] = reply.object_id
        parts = get_all_nested_objects(reply)
        response = self._client.PushMessages(
            PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[get_object_tree(reply)],
            )
        )
        for object_id in response.objects_to_push:
            stored = self._client.PushObject(
                PushObjectRequest(
                    node=self._node,
                    run_id=run_id,
                    object_id=object_id,
                    object_content=parts[object_id].deflate(),
                    session_id=response.session_id,
                )
            ).stored
            if not stored:
                raise PendingError

    def _object(self, run_id: int, object_id: str) -> bytes:
        request = PullObjectRequest(node=self._node, run_id=run_id, object_id=object_id)
        response = self._client.PullObject(request)
        if not response.object_found:
            raise MalformedError
        if not response.object_available:
            raise PendingError
        return bytes(response.object_content)

    def confirm(self, request: Request) -> None:
        """Let the SuperLink free the message. Losing this costs it memory until the run ends, nothing else."""
        confirmation = ConfirmMessageReceivedRequest(
            node=self._node, run_id=request.run_id, message_object_id=request.message_id
        )
        with contextlib.suppress(Exception):
            self._client.ConfirmMessageReceived(confirmation)

    def _beat(self) -> None:
        """Send heartbeats until closed. Flower's own sender dies silently of a 500; this one only ever waits."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_S)
        wait = _HEARTBEAT_PERIOD_S
        while not self._closed.wait(wait):
            wait = _HEARTBEAT_PERIOD_S
            try:
                if not self._client.SendNodeHeartbeat(request).success:
                    self.lost.set()
                self.contact()
            except Exception as error:  # noqa: BLE001 - rule 2
                if says_unknown_node(error) or says_other_certificate(error):
                    self.lost.set()
                wait = _HEARTBEAT_RETRY_S


def _let_in(client: Any, request: ActivateNodeRequest, left: Left | None) -> int:
    """The node's number."""
    try:
        return int(client.ActivateNode(request).node_id)
    except Exception as error:
        if left is None or not says_not_yet(error):
            raise
    with contextlib.suppress(httpx.HTTPStatusError):  # it may have lapsed this instant; the next answer tells
        client.DeactivateNode(DeactivateNodeRequest(node_id=left.node_id))
    return int(client.ActivateNode(request).node_id)


def _stamp(file: Path) -> tuple[int, ...]:
    """What tells that a file was replaced; empty while there is none."""
    try:
        seen = file.stat()
    except OSError:
        return ()
    return seen.st_ino, seen.st_mtime_ns, seen.st_size


class _BoundedSend:
    """Sends Flower's requests over the site's own connection and reads no response beyond a bound.

    The last interceptor of the chain: it does not call the next one, which would be Flower's own transport.
    """

    def __init__(self, tls: ssl.SSLContext, proxy: Proxy | None, max_bytes: int) -> None:
        # Redirects are refused: the coordinator has no business sending a hospital's request anywhere else.
        self._wire = httpx.Client(
            verify=tls,
            proxy=proxy.for_httpx() if proxy else None,
            trust_env=False,  # `proxy_for` has read what is to be read of the environment
            follow_redirects=False,
            limits=httpx.Limits(keepalive_expiry=_KEEP_ALIVE_S),
            timeout=httpx.Timeout(_ANSWER_S, connect=_CONNECT_S),
        )
        self._max_bytes = max_bytes
        self.hurried = False

    def intercept(self, context: Any, call_next: object) -> httpx.Response:
        """Send one request. Raises: httpx.HTTPError, or MalformedError for a response over the bound."""
        del call_next
        if self.hurried:
            context.request.extensions["timeout"] = httpx.Timeout(_FAREWELL_S).as_dict()
        elif context.request.url.path.endswith("/send-node-heartbeat"):
            context.request.extensions["timeout"] = httpx.Timeout(_BEAT_ANSWER_S).as_dict()
        response = self._wire.send(context.request, stream=True)
        with contextlib.closing(response):
            body = b"".join(self._chunks(response))
        # The body is decoded already; these two headers would make httpx decode it again.
        headers = [(k, v) for k, v in response.headers.items() if k not in {"content-encoding", "content-length"}]
        return httpx.Response(response.status_code, headers=headers, content=body, request=response.request)

    def _chunks(self, response: httpx.Response) -> Iterator[bytes]:
        size = 0
        for chunk in response.iter_bytes():
            size += len(chunk)
            if size > self._max_bytes:
                raise MalformedError
            yield chunk

    def close(self) -> None:
        """Close the connection."""
        self._wire.close()
