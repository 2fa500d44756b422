"""The hospital's door to Flower: one warm process that answers the coordinator over mTLS.

The rest of the node sees bytes: a `Handler` takes one request payload and returns one reply payload. All knowledge of
Flower's Fleet API (flwr 1.42) is here.

Rules of the loop:

1. Nothing shipped by the coordinator ever executes: the loop never asks for a FAB, follows no redirect, and refuses a
   message that is not exactly one `bytes` value under `fedward`/`payload`.
2. The loop outlives every failure of the network or the SuperLink, heartbeats included, until `stop` is set. What
   happened is told to `report(code, text)`; the codes are the constants below.
3. A failure that can pass (time-out, reset, 5xx) keeps the node's identity: Flower refuses to activate a node that it
   still counts as online. Only an answer that says "unknown node" (401) makes the loop activate anew, which is what a
   restarted SuperLink with an empty database says.
4. Heartbeats run in their own thread: a handler that trains for an hour never takes the site offline.
5. `stop` deactivates the node, so that a restart is welcome at once. After a crash the SuperLink refuses the node
   until its last heartbeat lapses, `HEARTBEAT_PATIENCE` (2) times `_HEARTBEAT_S` later; the loop waits patiently.
6. An exception that escapes the handler is reported by its type alone, and the coordinator learns "handler-failed".
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.error import Error
from flwr.app.message import remove_content_from_message
from flwr.common.constant import ErrorCode
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
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedward.privacy.errors import InputError

CONNECTED: Final = "connected"
DISCONNECTED: Final = "disconnected"
RETRYING: Final = "retrying"
HANDLED: Final = "handled"
HANDLER_FAILED: Final = "handler-failed"
REQUEST_MALFORMED: Final = "request-malformed"
REQUEST_LOST: Final = "request-lost"
REPLY_LOST: Final = "reply-lost"
CERTIFICATE_REFUSED: Final = "certificate-refused"
SERVER_UNTRUSTED: Final = "server-untrusted"
KEY_REFUSED: Final = "key-refused"
ACTIVATION_REFUSED: Final = "activation-refused"
CREDENTIALS_UNREADABLE: Final = "credentials-unreadable"

RECORD: Final = "fedward"
FIELD: Final = "payload"

# 10 s is the least that the Fleet API accepts (HEARTBEAT_MIN_INTERVAL); it keeps a node online for two of them. One
# beat every 7 s leaves room for two retries, and bounds the wait after a crash to 20 s.
_HEARTBEAT_S: Final = 10.0
_HEARTBEAT_PERIOD_S: Final = 7.0
_HEARTBEAT_RETRY_S: Final = 1.0
_MAX_BACKOFF_S: Final = 5.0
# How long the loop fights for one message: its objects arrive once, and a reply may have cost hours of training.
_MESSAGE_PATIENCE_S: Final = 300.0
# How long polls stay fast after a message: the next stage of a round usually follows within this.
_BUSY_S: Final = 3.0
# A poll that took longer was held open by the coordinator until it had news: polling on at once costs nothing.
_HELD_S: Final = 0.5
# A request is a message, its record dictionary and its one record.
_OBJECTS_PER_REQUEST: Final = 3
# A site that is told to stop does not wait longer than this for a coordinator that does not answer.
_FAREWELL_S: Final = 3.0
# A crashed node asks this often whether its last session has lapsed.
_LAPSE_POLL_S: Final = 1.0
# Longer than the pause between two heartbeats, so that a quiet site does not shake hands for each.
_KEEP_ALIVE_S: Final = 30.0
_REPEAT_REPORT_S: Final = 60.0


class Handler(Protocol):
    """Answers one request payload with one reply payload; it is trusted to catch its own errors."""

    def __call__(self, request: bytes, /) -> bytes: ...


Report = Callable[[str, str], None]
_T = TypeVar("_T")


@dataclass(frozen=True)
class FleetAddress:
    """Where the coordinator listens and how this site proves itself there. All files are PEM; the node key (EC,
    P-384) may also be in OpenSSH format."""

    host: str
    port: int
    ca: Path
    certificate: Path
    key: Path
    node_key: Path


class FleetLoop:
    """Answers the coordinator's messages with `handler` until `stop` is set."""

    def __init__(
        self,
        address: FleetAddress,
        handler: Handler,
        *,
        report: Report,
        stop: threading.Event,
        idle_poll_s: float = 1.0,
        busy_poll_s: float = 0.05,
        max_bytes: int = 256 * 2**20,
    ) -> None:
        """Polls every `busy_poll_s` while a round is on and backs off to `idle_poll_s`; no response of the
        coordinator may be larger than `max_bytes`.

        Raises:
            InputError: a certificate or key cannot be read, or the node key is not EC P-384.
        """
        if not 0 < busy_poll_s <= idle_poll_s:
            raise InputError("The poll intervals are wrong", expected="0 < busy_poll_s <= idle_poll_s")
        self._address = address
        self._handler = handler
        self._report = _Reporter(report)
        self._stop = stop
        self._pace = _Pace(busy_poll_s, idle_poll_s)
        self._max_bytes = max_bytes
        _tls_context(address)
        _node_key(address.node_key)

    def run(self) -> None:
        """Run until `stop` is set, then deactivate the node. Raises nothing but what `report` raises."""
        backoff = _Backoff()
        while not self._stop.is_set():
            try:
                session = _Session.activate(self._address, self._max_bytes)
            except Exception as error:  # noqa: BLE001 - the loop outlives any failure, known to Flower or not
                self._report.failure(error, activating=True)
                wait = backoff.next()
                self._stop.wait(min(wait, _LAPSE_POLL_S) if _says_not_yet(error) else wait)
                continue
            backoff.reset()
            self._report(CONNECTED, f"node {session.node_id} at {self._address.host}:{self._address.port}")
            with session:
                self._serve(session)
        self._report(DISCONNECTED, "stopped")

    def _serve(self, session: _Session) -> None:
        """Answer messages until the node is stopped or the SuperLink no longer knows it."""
        backoff = _Backoff()
        while not self._stop.is_set() and not session.lost.is_set():
            began = time.monotonic()
            try:
                request = session.pull()
            except Exception as error:  # noqa: BLE001 - as in run()
                if _says_unknown_node(error):
                    session.lost.set()
                    break
                self._report.failure(error)
                self._stop.wait(backoff.next())
                continue
            if backoff.reset():
                self._report(CONNECTED, f"node {session.node_id} again")
            if request is None:
                self._stop.wait(self._pace.after_silence(time.monotonic() - began))
            else:
                self._answer(session, request)
                self._pace.after_message()
        if not self._stop.is_set():
            self._report(DISCONNECTED, "the SuperLink no longer knows this node; activating again")

    def _answer(self, session: _Session, request: _Request) -> None:
        """Fetch one message, handle it and push the reply, whatever the network does meanwhile."""
        try:
            message = self._persist(session, lambda: session.fetch(request))
        except Exception as error:  # noqa: BLE001 - a message that cannot be had must not end the loop
            self._report(REQUEST_LOST, _name(error))
            return
        began = time.monotonic()
        reply = self._handle(message)
        seconds = time.monotonic() - began
        try:
            with no_object_id_recompute():  # Flower would hash the payload again at every mention
                self._persist(session, lambda: session.push(reply, seconds))
        except Exception as error:  # noqa: BLE001 - as above
            self._report(REPLY_LOST, _name(error))
            return
        session.confirm(request)  # last: it is not what the coordinator waits for
        self._report(HANDLED, f"answered in {seconds:.3f} s")

    def _handle(self, message: Any) -> Any:
        """The reply to a message: the handler's payload, or an error that carries a code and no other text."""
        payload = _payload(message)
        if payload is None:
            self._report(REQUEST_MALFORMED, "a message without a single payload was refused")
            return _error_reply(REQUEST_MALFORMED, message)
        try:
            reply = self._handler(payload)
            content = RecordDict({RECORD: ConfigRecord({FIELD: bytes(reply)})})
        except Exception as error:  # noqa: BLE001 - rule 6
            self._report(HANDLER_FAILED, type(error).__name__)
            return _error_reply(HANDLER_FAILED, message)
        return Message(content, reply_to=message)

    def _persist(self, session: _Session, attempt: Callable[[], _T]) -> _T:
        """Try until it works, the node is unknown or stopped, the coordinator refuses, or patience ends."""
        backoff = _Backoff(first=0.02)
        deadline = time.monotonic() + _MESSAGE_PATIENCE_S
        while True:
            try:
                return attempt()
            except Exception as error:
                done = session.lost.is_set() or time.monotonic() > deadline
                if done or not _can_pass(error) or self._stop.wait(backoff.next()):
                    raise


class _PendingError(Exception):
    """An object of the message has not arrived at the SuperLink yet, or its upload has to start over."""


class _MalformedError(Exception):
    """The coordinator sent something that cannot be a request of ours."""


@dataclass(frozen=True)
class _Request:
    """A message announced by the SuperLink: its header and the identifiers of its parts."""

    run_id: int
    message_id: str
    object_ids: tuple[str, ...]


class _Session:
    """One activation of the node: its identity at the SuperLink, its connection and its heartbeats."""

    def __init__(self, send: _BoundedSend, client: Any, node_id: int) -> None:
        self.node_id = node_id
        self.lost = threading.Event()
        self._send = send
        self._client = client
        self._node = Node(node_id=node_id)
        self._closed = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="fedward-heartbeat", daemon=True)

    @classmethod
    def activate(cls, address: FleetAddress, max_bytes: int) -> _Session:
        """Connect and activate. The files are read every time, so that a renewed certificate is picked up."""
        key = _node_key(address.node_key)
        send = _BoundedSend(_tls_context(address), max_bytes)
        host = f"[{address.host}]" if ":" in address.host else address.host
        client = FleetHttpClient(
            f"https://{host}:{address.port}",
            interceptors=[NodeAuthHttpInterceptor(key, key.public_key()), send],
            # The client's own connection is never used: _BoundedSend sends, with the site's certificate.
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        )
        request = ActivateNodeRequest(public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=_HEARTBEAT_S)
        try:
            return cls(send, client, client.ActivateNode(request).node_id)
        except BaseException:
            send.close()
            raise

    def __enter__(self) -> _Session:
        self._beats.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if not self.lost.is_set():
            self._send.hurried = True
            with contextlib.suppress(Exception):  # a courtesy; without it the last heartbeat lapses
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self.node_id))
        self._beats.join(timeout=_HEARTBEAT_RETRY_S)
        self._send.close()

    def pull(self) -> _Request | None:
        """The next message for this node, if any. The SuperLink delivers each message once."""
        response = self._client.PullMessages(PullMessagesRequest(node=self._node))
        if not response.messages_list:
            return None
        metadata = response.messages_list[0].metadata
        tree = response.message_object_trees[0]
        object_ids = tuple(part.object_id for part in iterate_object_tree(tree))
        return _Request(metadata.run_id, metadata.message_id, object_ids)

    def fetch(self, request: _Request) -> Any:
        """The whole message.

        Raises:
            _PendingError: a part is still on its way to the SuperLink.
            _MalformedError: the message has more parts than a request of ours.
        """
        if len(request.object_ids) > _OBJECTS_PER_REQUEST:
            raise _MalformedError
        contents = {object_id: self._object(request.run_id, object_id) for object_id in request.object_ids}
        message = inflate_object_from_contents(request.message_id, contents)
        message.metadata.__dict__["_message_id"] = request.message_id
        return message

    def push(self, reply: Any, seconds: float) -> None:
        """Push a reply and its parts; safe to repeat."""
        run_id = reply.metadata.run_id
        reply.metadata.__dict__["_message_id"] = reply.object_id
        parts = get_all_nested_objects(reply)
        response = self._client.PushMessages(
            PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[get_object_tree(reply)],
                clientapp_runtime_list=[seconds],
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
                raise _PendingError

    def _object(self, run_id: int, object_id: str) -> bytes:
        request = PullObjectRequest(node=self._node, run_id=run_id, object_id=object_id)
        response = self._client.PullObject(request)
        if not response.object_found:
            raise _MalformedError
        if not response.object_available:
            raise _PendingError
        return bytes(response.object_content)

    def confirm(self, request: _Request) -> None:
        """Let the SuperLink free the message. Losing this costs it memory until the run ends, nothing else."""
        confirmation = ConfirmMessageReceivedRequest(
            node=self._node, run_id=request.run_id, message_object_id=request.message_id
        )
        with contextlib.suppress(Exception):
            self._client.ConfirmMessageReceived(confirmation)

    def _beat(self) -> None:
        """Send heartbeats until closed. Flower's own sender dies silently of a 500; this one only ever waits."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=_HEARTBEAT_S)
        wait = _HEARTBEAT_PERIOD_S
        while not self._closed.wait(wait):
            wait = _HEARTBEAT_PERIOD_S
            try:
                if not self._client.SendNodeHeartbeat(request).success:
                    self.lost.set()
            except Exception as error:  # noqa: BLE001 - rule 2
                if _says_unknown_node(error):
                    self.lost.set()
                wait = _HEARTBEAT_RETRY_S


class _BoundedSend:
    """Sends Flower's requests over the site's own connection and reads no response beyond a bound.

    The last interceptor of the chain: it does not call the next one, which would be Flower's own transport.
    """

    def __init__(self, tls: ssl.SSLContext, max_bytes: int) -> None:
        # Redirects are refused: the coordinator has no business sending a hospital's request anywhere else.
        self._wire = httpx.Client(
            verify=tls, follow_redirects=False, limits=httpx.Limits(keepalive_expiry=_KEEP_ALIVE_S)
        )
        self._max_bytes = max_bytes
        self.hurried = False

    def intercept(self, context: Any, call_next: object) -> httpx.Response:
        """Send one request. Raises: httpx.HTTPError, or _MalformedError for a response over the bound."""
        del call_next
        if self.hurried:
            context.request.extensions["timeout"] = httpx.Timeout(_FAREWELL_S).as_dict()
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
                raise _MalformedError
            yield chunk

    def close(self) -> None:
        """Close the connection."""
        self._wire.close()


class _Pace:
    """How long to wait between two polls: short while a round is on, long when nothing happens."""

    def __init__(self, busy_s: float, idle_s: float) -> None:
        self._busy_s = busy_s
        self._idle_s = idle_s
        self._next_s = busy_s
        self._busy_until = 0.0

    def after_message(self) -> None:
        """The round goes on: poll fast again."""
        self._next_s = self._busy_s
        self._busy_until = time.monotonic() + _BUSY_S

    def after_silence(self, took_s: float) -> float:
        """The seconds to wait after a poll that took `took_s` seconds and brought nothing."""
        if took_s >= _HELD_S:
            return self._busy_s
        if time.monotonic() >= self._busy_until:
            self._next_s = min(self._next_s * 1.5, self._idle_s)
        return self._next_s


class _Backoff:
    """Growing waits with jitter, so that the hospitals of a restarted coordinator do not return in step."""

    def __init__(self, first: float = 0.2) -> None:
        self._first = first
        self._next = first

    def next(self) -> float:
        """The next wait in seconds."""
        wait = self._next
        self._next = min(self._next * 2, _MAX_BACKOFF_S)
        return wait * random.uniform(0.8, 1.0)  # noqa: S311 - jitter, no secret

    def reset(self) -> bool:
        """Start over; true if there was a failure since the last reset."""
        failed = self._next != self._first
        self._next = self._first
        return failed


class _Reporter:
    """The site's log hook; a failure that goes on is told once a minute, not at every attempt."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._last: tuple[str, str] | None = None
        self._told = 0.0

    def __call__(self, code: str, text: str) -> None:
        self._last = None
        self._report(code, text)

    def failure(self, error: Exception, *, activating: bool = False) -> None:
        """Tell a failure of the connection by its code."""
        told = _diagnose(error, activating)
        if told != self._last or time.monotonic() - self._told > _REPEAT_REPORT_S:
            self._report(*told)
            self._last, self._told = told, time.monotonic()


def _tls_context(address: FleetAddress) -> ssl.SSLContext:
    """TLS 1.3 with the site's certificate, trusting the federation's CA and no other.

    Raises:
        InputError: a file is missing or is not what it must be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cafile=address.ca)
        context.load_cert_chain(address.certificate, address.key)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise InputError(
            "The site's TLS files cannot be used",
            expected=f"PEM files {address.ca}, {address.certificate} and its key {address.key}",
            got=type(error).__name__,
            remedy="issue the site's certificate again, or correct the paths",
            code=CREDENTIALS_UNREADABLE,
        ) from error
    return context


def _node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The node's key for Flower's own authentication.

    Raises:
        InputError: it cannot be read or is not an EC P-384 key.
    """
    got = "another kind of key"
    try:
        text = path.read_bytes()
        load = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in text else load_pem_private_key
        key = load(text, password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        got = type(error).__name__
    else:
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1):
            return key
    raise InputError(
        f"The node key {path} cannot be used",
        expected="an EC P-384 private key without a passphrase, in PEM or OpenSSH format",
        got=got,
        remedy="create the site's keys again and send the new public key to the coordinator",
        code=CREDENTIALS_UNREADABLE,
    )


def _payload(message: Any) -> bytes | None:
    """The one payload of a message, or None if it is anything but that."""
    if not message.has_content() or set(message.content) != {RECORD}:
        return None
    record = message.content[RECORD]
    if not isinstance(record, Mapping) or set(record) != {FIELD}:
        return None
    value = record[FIELD]
    return value if isinstance(value, bytes) else None


def _error_reply(code: str, message: Any) -> Any:
    return Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=code), reply_to=message)


def _status(error: Exception) -> int | None:
    return error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None


def _says_unknown_node(error: Exception) -> bool:
    """Whether the SuperLink does not know the node under this identifier, as after its restart."""
    return _status(error) == httpx.codes.UNAUTHORIZED


def _says_not_yet(error: Exception) -> bool:
    """Whether the SuperLink refuses to activate the node: it is unknown, or still counts as online."""
    return _status(error) == httpx.codes.PRECONDITION_FAILED


def _can_pass(error: Exception) -> bool:
    """Whether trying again may work."""
    status = _status(error)
    if status is not None:
        return status >= httpx.codes.INTERNAL_SERVER_ERROR
    return isinstance(error, (httpx.TransportError, _PendingError, OSError))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and everything that it came from."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _diagnose(error: Exception, activating: bool) -> tuple[str, str]:
    """The code and a text for the site's log. Texts are ours: nothing that the other side wrote is repeated.

    A coordinator that refuses a certificate hangs up in the middle of TLS 1.3's handshake, and asyncio hangs up
    without the alert that would say why. So a fresh connection that ends before its first answer reads as a refusal.
    """
    if isinstance(error, InputError):
        return error.code, str(error)
    causes = list(_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return SERVER_UNTRUSTED, "the coordinator's certificate is not of this federation's CA or not for this host"
    hung_up = activating and isinstance(error, (httpx.RemoteProtocolError, httpx.ReadError))
    if hung_up or any(isinstance(cause, ssl.SSLError) for cause in causes):
        text = "the coordinator hung up on this site's certificate: is it of the federation's CA and still valid?"
        return CERTIFICATE_REFUSED, text
    status = _status(error)
    if status == httpx.codes.UNAUTHORIZED:
        return KEY_REFUSED, "the coordinator refused the node key's signature" + _clock_hint(error)
    if _says_not_yet(error):
        text = (
            "the coordinator does not know this node key, or its last session has not lapsed yet (20 s after a crash)"
        )
        return ACTIVATION_REFUSED, text
    return RETRYING, _name(error)


def _clock_hint(error: Exception) -> str:
    """Flower refuses a signature from more than 5 s ahead: say so if the clocks differ."""
    if not isinstance(error, httpx.HTTPStatusError):
        return ""
    try:
        there = email.utils.parsedate_to_datetime(error.response.headers.get("date", ""))
    except ValueError:
        return ""
    ahead = (datetime.datetime.now(datetime.UTC) - there).total_seconds()
    return f"; this machine's clock is {ahead:+.0f} s off the coordinator's" if abs(ahead) > 2 else ""


def _name(error: Exception) -> str:
    """An error by its type (and HTTP status): texts of foreign errors stay out of logs."""
    status = _status(error)
    return type(error).__name__ if status is None else f"HTTP {status}"
