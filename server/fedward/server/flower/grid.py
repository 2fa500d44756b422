"""`GridTransport`: payloads to the sites and their replies, from within the ServerApp's process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import httpx
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import GetNodesRequest, PullAppMessagesRequest, PushAppMessagesRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient

from fedward.privacy.errors import UnreachableError
from fedward.server.flower.gate import OBJECTS_PER_REPLY
from fedward.server.flower.replies import (
    FIELD,
    MESSAGE_TYPE,
    NODE_UNKNOWN,
    RECORD,
    REPLY_INCOMPLETE,
    REPLY_MALFORMED,
    REPLY_TOO_LARGE,
    ReplyError,
    Upload,
    failure_of,
    payload_of,
)
from fedward.server.flower.wire import NEWS, DirectSend, TooLargeError, flower_client

# A reply holds at most a vector of 64 bits for each 32 of its request, and besides histograms or shares.
_REPLY_SPARE_BYTES: Final = 16 * 2**20
_REPLY_UPLOAD_S: Final = 120.0
# The HTTP response around an object is a little larger than the object.
_ENVELOPE_BYTES: Final = 64 * 1024
# A reply of this size is freed at the SuperLink before the next one is fetched; smaller ones are when there is time.
_LARGE_BYTES: Final = 1024 * 1024

_T = TypeVar("_T")


@dataclass(frozen=True)
class Arrival:
    """The end of one message: the site's reply, or the name of what went wrong. Exactly one of the two is None."""

    message_id: str
    node_id: int
    payload: bytes | None
    failure: str | None


class GridTransport:
    """Sends payloads to sites and collects their replies, from within the ServerApp's process.

    Built on Flower's Runtime API rather than on `Grid.pull_messages`, which blocks for up to two hours on a site that
    announces a reply and never uploads it, retries without end, and answers "unauthorised" with a SIGINT to itself.

    A reply is known by the message that it answers: Flower's own error replies do not carry the site's identifier.
    Flower hands every reply out once: one that is lost on the last yard, as one that expired, ends as `MESSAGE_LOST`.
    """

    def __init__(
        self,
        grid: Any,
        *,
        max_bytes: int = 256 * 2**20,
        patience_s: float = 30.0,
        ttl_s: float = 86_400.0,
    ) -> None:
        """A reply may have `max_bytes`, and no more than its request explains; a message lives for `ttl_s` seconds; a SuperLink
        that does not answer for `patience_s` seconds is gone."""
        self._run_id = int(grid.run.run_id)
        self._max_bytes = max_bytes
        self._patience_s = patience_s
        self._ttl_s = ttl_s
        self._node = Node(node_id=SUPERLINK_NODE_ID)
        token = RuntimeTokenHttpInterceptor(token=grid._token)
        self._wire = DirectSend(max_bytes + _ENVELOPE_BYTES)
        self._client = flower_client(RuntimeHttpClient, grid._addr, [token, self._wire])
        self._news = f"http://{grid._addr}{NEWS}"
        self._spent: list[str] = []
        self._waiting: dict[str, int] = {}
        self._most: dict[str, int] = {}
        self._uploads: dict[str, Upload] = {}
        self._refused: set[str] = set()
        self._trouble_since: float | None = None

    def send(self, node_id: int, payload: bytes) -> str:
        """Send one payload; the message's identifier. Raises: as `send_all`."""
        return next(iter(self.send_all({node_id: payload})))

    def send_all(self, payloads: Mapping[int, bytes]) -> dict[str, int]:
        """Send one payload to each node; the node of each message, by the message's identifier.

        A node that the SuperLink does not know, or that never connected, is no error here: its message ends as an
        arrival with the failure `NODE_UNKNOWN`. Blocks while the SuperLink does not answer, for `patience_s` at most.

        Raises:
            UnreachableError: the SuperLink is gone, or the run is over.
        """
        if not payloads:
            return {}
        with no_object_id_recompute():  # Flower would hash each payload again at every mention
            messages = [self._message(node_id, payload) for node_id, payload in payloads.items()]
            self._persist(lambda: self._push(messages))
        self._wire.ring(self._news)
        sent = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
        self._waiting.update(sent)
        for message_id, node_id in sent.items():
            self._most[message_id] = min(self._max_bytes, 2 * len(payloads[node_id]) + _REPLY_SPARE_BYTES)
        return sent

    def poll(self, ids: Iterable[str]) -> list[Arrival]:
        """What became of the messages `ids` since the last poll; each message arrives once. Does not block.

        Raises:
            UnreachableError: the SuperLink has not answered for `patience_s`, or the run is over.
        """
        wanted = [message_id for message_id in ids if message_id in self._waiting]
        arrivals = [
            self._done(message_id, failure=NODE_UNKNOWN) for message_id in wanted if message_id in self._refused
        ]
        open_ids = [i for i in wanted if i in self._waiting and i not in self._uploads]
        if open_ids:
            arrivals += self._pull(open_ids)
        uploads = [i for i in wanted if i in self._uploads]
        for i in uploads:
            arrival = self._collect(i)
            if arrival is not None:
                arrivals.append(arrival)
                if len(arrival.payload or b"") > _LARGE_BYTES:
                    break  # the next poll brings the next: large ones are checked one at a time, and need not wait here
        if not arrivals:
            self._tidy()
        return arrivals

    def online(self) -> set[int]:
        """The nodes that Flower counts as online. Raises: UnreachableError, as `send_all`."""
        return {int(node.node_id) for node in self._persist(lambda: self._client.GetNodes(GetNodesRequest())).nodes}

    def _message(self, node_id: int, payload: bytes) -> Any:
        content = RecordDict({RECORD: ConfigRecord({FIELD: payload})})
        message = Message(content, node_id, MESSAGE_TYPE, ttl=self._ttl_s)
        message.metadata.__dict__["_message_id"] = message.object_id
        return message

    def _push(self, messages: list[Any]) -> None:
        """Push messages and what the SuperLink lacks of their parts; safe to repeat."""
        parts: dict[str, Any] = {}
        for message in messages:
            parts.update(get_all_nested_objects(message))
        response = self._client.PushMessages(
            PushAppMessagesRequest(
                messages_list=[message_to_proto(remove_content_from_message(message)) for message in messages],
                message_object_trees=[get_object_tree(message) for message in messages],
            )
        )
        self._refused.update(
            message.metadata.message_id
            for message, accepted in zip(messages, response.message_ids, strict=True)
            if not accepted
        )
        for object_id in response.objects_to_push:
            self._client.PushObject(
                PushObjectRequest(
                    node=self._node,
                    run_id=self._run_id,
                    object_id=object_id,
                    object_content=parts[object_id].deflate(),
                    session_id=response.session_id,
                )
            )

    def _pull(self, ids: list[str]) -> list[Arrival]:
        """Ask for replies. Errors arrive at once; replies become uploads, to be collected."""
        try:
            response = self._client.PullMessages(PullAppMessagesRequest(message_ids=ids))
        except (httpx.HTTPError, ValueError) as error:
            self._trouble(error)
            return []
        self._trouble_since = None
        arrivals = []
        for reply, tree in zip(response.messages_list, response.message_object_trees, strict=True):
            message_id = reply.metadata.reply_to_message_id
            if message_id not in self._waiting:
                continue
            if reply.HasField("error"):
                arrivals.append(self._done(message_id, failure=failure_of(reply.error)))
                continue
            object_ids = [part.object_id for part in iterate_object_tree(tree)]
            deadline = time.monotonic() + _REPLY_UPLOAD_S
            self._uploads[message_id] = Upload(reply.metadata.message_id, object_ids, deadline)
        return arrivals

    def _collect(self, message_id: str) -> Arrival | None:
        """A reply whose parts have all arrived, or None if one is still on its way."""
        upload = self._uploads[message_id]
        try:
            with self._wire.at_most(self._most[message_id] + _ENVELOPE_BYTES):
                if not self._download(upload):
                    return None
            payload = payload_of(upload, self._most[message_id])
        except ReplyError as error:
            return self._done(message_id, failure=error.code)
        except (httpx.HTTPError, ValueError) as error:
            self._trouble(error)
            return None
        self._trouble_since = None
        return self._done(message_id, payload=payload)

    def _download(self, upload: Upload) -> bool:
        """Fetch what is there of a reply; whether it is complete. Raises: ReplyError if it never will be."""
        if len(upload.object_ids) > OBJECTS_PER_REPLY:
            raise ReplyError(REPLY_MALFORMED)
        for object_id in upload.object_ids:
            if object_id in upload.contents:
                continue
            content = self._object(object_id)
            if content is None:
                if time.monotonic() > upload.deadline:
                    raise ReplyError(REPLY_INCOMPLETE)
                return False
            upload.contents[object_id] = content
        return True

    def _object(self, object_id: str) -> bytes | None:
        """One part of a reply, or None if it is on its way. Raises: ReplyError if it can never be had."""
        request = PullObjectRequest(node=self._node, run_id=self._run_id, object_id=object_id)
        try:
            response = self._client.PullObject(request)
        except TooLargeError as error:
            raise ReplyError(REPLY_TOO_LARGE) from error
        if not response.object_found:
            raise ReplyError(REPLY_INCOMPLETE)
        return bytes(response.object_content) if response.object_available else None

    def _done(self, message_id: str, *, payload: bytes | None = None, failure: str | None = None) -> Arrival:
        """The end of a message."""
        upload = self._uploads.pop(message_id, None)
        self._most.pop(message_id, None)
        self._refused.discard(message_id)
        if upload is not None:
            self._spent.append(upload.reply_id)
            if payload is not None and len(payload) > _LARGE_BYTES:
                self._tidy()
        return Arrival(message_id, self._waiting.pop(message_id), payload, failure)

    def _tidy(self) -> None:
        """Let the SuperLink free one reply that was read, while there is nothing better to do."""
        if self._spent:
            confirmation = ConfirmMessageReceivedRequest(
                node=self._node, run_id=self._run_id, message_object_id=self._spent.pop()
            )
            with contextlib.suppress(httpx.HTTPError, ValueError):  # the end of the run frees it all the same
                self._client.ConfirmMessageReceived(confirmation)

    def _persist(self, attempt: Callable[[], _T]) -> _T:
        """Try until it works or patience ends."""
        wait = 0.05
        while True:
            try:
                result = attempt()
            except (httpx.HTTPError, ValueError) as error:
                self._trouble(error)
                time.sleep(wait)
                wait = min(wait * 2, 2.0)
            else:
                self._trouble_since = None
                return result

    def _trouble(self, error: Exception) -> None:
        """Bear a failure that may pass, for as long as patience lasts."""
        status = _status(error)
        if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            raise UnreachableError("The run is over", got=f"HTTP {status}", code="run-over") from error
        if isinstance(error, TooLargeError):
            raise UnreachableError("The SuperLink sent more than the bound", code="response-too-large") from error
        began = self._trouble_since = self._trouble_since or time.monotonic()
        if time.monotonic() - began > self._patience_s:
            raise UnreachableError(
                "The SuperLink does not answer",
                expected=f"an answer within {self._patience_s:.0f} s",
                got=type(error).__name__ if status is None else f"HTTP {status}",
                remedy="start the coordinator again; it goes on from its journal",
            ) from error


def _status(error: Exception) -> int | None:
    return error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None
