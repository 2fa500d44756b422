"""The attack: let the hospital's Flower loop say what the node did not. Every byte that it gives to Flower's client is recorded,
while everything inside the loop raises with a patient's data in the error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from canaries import Nest, Scanner
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedward.client import flower
from fedward.client.flower import loop as loop_module
from fedward.client.flower.loop import FleetLoop
from fedward.client.flower.session import Request, Session


@pytest.fixture(autouse=True)
def _a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower makes a message only in a task of its own; here one is the coordinator's."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


REPLY = b"FWD1 a reply that passed the door"


class Client:
    """Flower's Fleet client, which keeps what it was given and sends nothing. `failing` calls raise."""

    def __init__(self) -> None:
        self.given: list[tuple[str, bytes]] = []
        self.failing: dict[str, Exception] = {}

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        def call(request: Any) -> Any:
            self.given.append((name, request.SerializeToString()))
            if name in self.failing:
                raise self.failing.pop(name)
            if name == "PushMessages":
                tree = request.message_object_trees[0]
                return SimpleNamespace(objects_to_push=list(_ids(tree)), session_id="s")
            return SimpleNamespace(stored=True, success=True)

        return call


def _ids(tree: Any) -> Iterator[str]:
    yield tree.object_id
    for child in tree.children:
        yield from _ids(child)


def a_request(payload: Any = b"ask") -> Any:
    content = RecordDict({loop_module.RECORD: ConfigRecord({loop_module.FIELD: payload})})
    message = Message(content, dst_node_id=7, message_type="query.fedward")
    message.metadata.__dict__["_message_id"] = "m"
    return message


class Hearing:
    """One loop with one session, and all that it gave and told."""

    def __init__(self, handler: Callable[[bytes], Any], requests: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        self.client, self.told, self.stop = Client(), [], threading.Event()
        monkeypatch.setattr(loop_module, "tls_context", lambda _: None)
        monkeypatch.setattr(loop_module, "node_key", lambda *_: None)
        self.session = Session(SimpleNamespace(close=lambda: None), self.client, 7)  # type: ignore[arg-type]
        waiting = list(requests)

        def pull() -> Request | None:
            if not waiting:
                self.stop.set()
                return None
            return Request(1, "m", ("m",), b"")

        monkeypatch.setattr(self.session, "pull", pull)
        monkeypatch.setattr(self.session, "fetch", lambda _: waiting.pop(0))
        monkeypatch.setattr(Session, "activate", lambda *_: self.session)
        address = SimpleNamespace(host="localhost", port=1, node_key=Path("key"), password=None)
        self.loop = FleetLoop(
            address,  # type: ignore[arg-type]
            handler,
            report=lambda code, text: self.told.append(f"{code}: {text}"),
            stop=self.stop,
            idle_poll_s=0.01,
            busy_poll_s=0.01,
        )

    def run(self) -> bytes:
        self.loop.run()
        return b"".join(data for _, data in self.client.given)


FAILURES: dict[str, Callable[[str], Exception]] = {
    "value": ValueError,
    "disk full": lambda mark: OSError(28, mark, f"/data/{mark}.csv"),
    "class name": lambda mark: type(f"Patient{mark}", (Exception,), {})(mark),
    "group": lambda mark: ExceptionGroup(mark, [ValueError(mark)]),
    "unicode": lambda mark: UnicodeDecodeError("utf-8", mark.encode(), 0, 1, mark),
}


@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("where", ["handler", "fetch", "push", "object", "confirm"])
def test_no_error_in_the_loop_leaves_with_its_text(
    kind: str, where: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    nest = Nest(f"{kind} {where}")
    error = FAILURES[kind](nest.text("an error"))

    def fail(*_: Any) -> bytes:
        raise error

    hearing = Hearing(fail if where == "handler" else lambda _: REPLY, [a_request(), a_request()], monkeypatch)
    if where == "fetch":
        monkeypatch.setattr(hearing.session, "fetch", fail)
        threading.Timer(0.3, hearing.stop.set).start()
    names = {"push": "PushMessages", "object": "PushObject", "confirm": "ConfirmMessageReceived"}
    if where in names:
        hearing.client.failing[names[where]] = error
    sent = hearing.run()
    scanner = Scanner(nest.all)
    assert scanner.find(sent) == set()
    out, err = capfd.readouterr()
    assert scanner.find((out + err).encode()) == set()
    if where == "handler":
        assert sent.count(flower.HANDLER_FAILED.encode()) > 0
        assert REPLY not in sent
    if where == "confirm":
        assert sent.count(REPLY) == 2


@pytest.mark.parametrize("false", [None, "text", 1_000, bytearray(REPLY), [1], memoryview(REPLY)])
def test_what_is_not_bytes_of_the_door_is_not_sent(false: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`bytes(1_000)` would be a thousand zeros, and `bytes([1])` one byte: neither passed the door."""
    hearing = Hearing(lambda _: false, [a_request()], monkeypatch)
    sent = hearing.run()
    assert flower.HANDLER_FAILED.encode() in sent
    assert bytes(100) not in sent


def test_the_recording_sees_what_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a handler that answers with a canary is heard, in the very bytes."""
    nest = Nest("control")
    mark = nest.text("a reply").encode()
    sent = Hearing(lambda _: mark, [a_request()], monkeypatch).run()
    assert {hit.canary for hit in Scanner(nest.all).find(sent)} == set(nest.all)


def test_a_request_that_is_none_is_refused_without_repeating_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hearing = Hearing(lambda _: REPLY, [a_request("text"), a_request(5)], monkeypatch)
    sent = hearing.run()
    assert flower.REQUEST_MALFORMED.encode() in sent
    assert REPLY not in sent


def test_nothing_is_told_of_how_long_the_site_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower keeps the seconds of every ClientApp; a site's depend on its patients, and it does not tell them."""
    from flwr.proto.fleet_pb2 import PushMessagesRequest

    hearing = Hearing(lambda _: REPLY, [a_request()], monkeypatch)
    hearing.run()
    (pushed,) = [PushMessagesRequest.FromString(data) for name, data in hearing.client.given if name == "PushMessages"]
    assert list(pushed.clientapp_runtime_list) == []
