"""`FleetLoop`: takes the coordinator's messages one by one, and answers each with what the handler returns."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.error import Error
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.supercore.inflatable.inflatable_object import no_object_id_recompute

from fedward.client.door import Released
from fedward.client.flower.credentials import FleetAddress, node_key, tls_context
from fedward.client.flower.diagnosis import (
    CONNECTED,
    DISCONNECTED,
    HANDLED,
    HANDLER_FAILED,
    NODE_FAULT,
    REPLY_LOST,
    REQUEST_LOST,
    REQUEST_MALFORMED,
    Report,
    Reporter,
    can_pass,
    is_pending,
    name_of,
    says_not_yet,
    says_other_certificate,
    says_unknown_node,
)
from fedward.client.flower.pace import Backoff, Pace
from fedward.client.flower.proxy import proxy_for
from fedward.client.flower.remembered import Left, Remembered
from fedward.client.flower.session import Request, Session
from fedward.privacy.errors import InputError

RECORD: Final = "fedward"
FIELD: Final = "payload"
NODE_RESTARTED: Final = "node-restarted"

# How long the loop fights for one message: its objects arrive once, and a reply may have cost hours of training.
_MESSAGE_PATIENCE_S: Final = 300.0
# What passes sooner is nobody's news, as one request that was cut off.
_HICCUP_S: Final = 1.0
# A crashed node asks this often whether its last session has lapsed.
_LAPSE_POLL_S: Final = 1.0
# After a fault of our own: long enough that a fault that stays does not spin.
_FAULT_PAUSE_S: Final = 1.0

_T = TypeVar("_T")


class Handler(Protocol):
    """Answers one request payload with one reply that passed the node's door; it is trusted to catch its own errors."""

    def __call__(self, request: bytes, /) -> Released: ...


class KeySource(Protocol):
    """Where a site's keys lie while they may be replaced under a running node."""

    def current(self) -> FleetAddress:
        """What holds now; asked before each activation. A FedwardError of it is reported, and asked again."""

    def used(self) -> None:
        """The coordinator let the node in with what `current` last gave."""


class FleetLoop:
    """Answers the coordinator's messages with `handler` until `stop` is set."""

    def __init__(
        self,
        address: FleetAddress,
        handler: Handler,
        *,
        report: Report,
        stop: threading.Event,
        keys: KeySource | None = None,
        contact: Callable[[], None] = lambda: None,
        session_file: Path | None = None,
        idle_poll_s: float = 1.0,
        busy_poll_s: float = 0.05,
        max_bytes: int = 256 * 2**20,
    ) -> None:
        """Polls every `busy_poll_s` while a round is on and backs off to `idle_poll_s`; no response of the
        coordinator may be larger than `max_bytes`. `keys` gives the address anew before each activation. `contact` is
        called whenever the coordinator has answered, from any thread. `session_file` is for a caller that holds the lock of
        the folder that it lies in (`Remembered`): with it, a node that is killed is welcome again at once.

        Raises:
            InputError: a certificate or key cannot be read, or the node key is not EC P-384.
        """
        if not 0 < busy_poll_s <= idle_poll_s:
            raise InputError("The poll intervals are wrong", expected="0 < busy_poll_s <= idle_poll_s")
        self._address = address
        self._handler = handler
        self._report = Reporter(report)
        self._stop = stop
        self._keys = keys
        self._contact = contact
        self._session: Session | None = None
        self._remembered = Remembered(session_file)
        self._pace = Pace(busy_poll_s, idle_poll_s)
        self._max_bytes = max_bytes
        tls_context(address)
        node_key(address.node_key, address.password)

    def run(self) -> None:
        """Run until `stop` is set, then deactivate the node. Raises nothing but what `report` raises."""
        backoff = Backoff()
        while not self._stop.is_set():
            try:
                if self._keys is not None:
                    self._address = self._keys.current()
                left = self._remembered.left()
                session = Session.activate(self._address, self._max_bytes, left)
            except Exception as error:  # noqa: BLE001 - the loop outlives any failure, known to Flower or not
                self._report.failure(error, activating=True, proxy=self._proxy())
                wait = backoff.next()
                if says_not_yet(error):
                    self._remembered.gone()  # it was of no help
                    wait = min(wait, _LAPSE_POLL_S)
                self._stop.wait(wait)
                continue
            backoff.reset()
            try:
                self._attend(session, left)
            except Exception as error:  # noqa: BLE001 - as above: a node that ended without a word would look like a slow one
                self._report(NODE_FAULT, f"{name_of(error)}; activating again")
                self._stop.wait(_FAULT_PAUSE_S)
        self._report(DISCONNECTED, "stopped")

    def _attend(self, session: Session, left: Left | None) -> None:
        """Serve over a session until it ends, and deactivate the node."""
        session.contact, self._session = self._contact, session
        try:
            with session:
                self._remembered.entered(session.node_id)
                if self._keys is not None:
                    self._keys.used()
                self._report(CONNECTED, f"node {session.node_id} at {self._address.host}:{self._address.port}")
                if left is not None and left.message:
                    self._excuse(session, left.message)
                self._serve(session)
        finally:
            if session.ended:
                self._remembered.gone()

    def _excuse(self, session: Session, header: bytes) -> None:
        """Tell the coordinator that nobody answers the message that the killed node had taken: its round need not wait for it."""
        with contextlib.suppress(Exception):  # the run may be over, or the answer was on its way all the same
            message = message_from_proto(ProtoMessage.FromString(header))
            session.push(Message(Error(code=ErrorCode.NODE_UNAVAILABLE, reason=NODE_RESTARTED), reply_to=message))

    def abandon(self) -> None:
        """Deactivate the node now, from another thread than `run`'s: a request under way is not answered any more."""
        session = self._session
        if session is not None:
            session.leave()

    def _serve(self, session: Session) -> None:
        """Answer messages until the node is stopped or the SuperLink no longer knows it."""
        backoff = Backoff()
        while not self._stop.is_set() and not session.lost.is_set():
            if session.outdated():
                self._report(DISCONNECTED, "this site has a fresh certificate; connecting with it")
                return
            began = time.monotonic()
            try:
                request = session.pull()
            except Exception as error:  # noqa: BLE001 - as in run()
                if says_unknown_node(error):
                    session.lost.set()
                    break
                self._report.failure(error, proxy=self._proxy())
                if says_other_certificate(error):
                    session.lost.set()
                    return
                self._stop.wait(backoff.next())
                continue
            self._contact()
            if backoff.reset():
                self._report(CONNECTED, f"node {session.node_id} again")
            if request is None:
                self._stop.wait(self._pace.after_silence(time.monotonic() - began))
            else:
                self._remembered.took(request.header)
                self._answer(session, request)
                self._remembered.answered()
                self._pace.after_message()
        if not self._stop.is_set():
            self._report(DISCONNECTED, "the SuperLink no longer knows this node; activating again")

    def _proxy(self) -> str | None:
        """The proxy on the way, as it may be shown."""
        with contextlib.suppress(InputError):
            found = proxy_for(self._address.host, self._address.port, self._address.proxy)
            return found.shown if found else None
        return None

    def _answer(self, session: Session, request: Request) -> None:
        """Fetch one message, handle it and push the reply, whatever the network does meanwhile."""
        try:
            message = self._persist(session, lambda: session.fetch(request))
        except Exception as error:  # noqa: BLE001 - a message that cannot be had must not end the loop
            self._report(REQUEST_LOST, name_of(error))
            return
        began = time.monotonic()
        reply = self._handle(message)
        seconds = time.monotonic() - began
        try:
            with no_object_id_recompute():  # Flower would hash the payload again at every mention
                self._persist(session, lambda: session.push(reply))
        except Exception as error:  # noqa: BLE001 - as above
            self._report(REPLY_LOST, name_of(error))
            return
        session.confirm(request)  # last: it is not what the coordinator waits for
        self._report(HANDLED, f"last request answered in {seconds:.3f} s")

    def _handle(self, message: Any) -> Any:
        """The reply to a message: the handler's payload, or an error that carries a code and no other text."""
        payload = _payload(message)
        if payload is None:
            self._report(REQUEST_MALFORMED, "a message without a single payload was refused")
            return _error_reply(REQUEST_MALFORMED, message)
        try:
            reply = self._handler(payload)
            if type(reply) is not bytes:  # `bytes()` of anything else would make something up
                raise TypeError("the handler returned no bytes")
            content = RecordDict({RECORD: ConfigRecord({FIELD: reply})})
        except Exception as error:  # noqa: BLE001 - rule 6
            self._report(HANDLER_FAILED, type(error).__name__)
            return _error_reply(HANDLER_FAILED, message)
        return Message(content, reply_to=message)

    def _persist(self, session: Session, attempt: Callable[[], _T]) -> _T:
        """Try until it works, the node is unknown or stopped, it is refused, or patience ends; lasting trouble is told."""
        backoff = Backoff(first=0.02)
        began, told = time.monotonic(), False
        while True:
            try:
                result = attempt()
            except Exception as error:
                lasted = time.monotonic() - began
                if lasted > _HICCUP_S and not is_pending(error):
                    self._report.failure(error, proxy=self._proxy())
                    told = True
                done = session.lost.is_set() or lasted > _MESSAGE_PATIENCE_S
                if done or not can_pass(error) or self._stop.wait(backoff.next()):
                    raise
            else:
                if told:
                    self._report(CONNECTED, f"node {session.node_id} again")
                return result


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
