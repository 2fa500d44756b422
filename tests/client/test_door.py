"""The one door: each field keeps its rule or nothing leaves, and nothing leaves by another way."""

from __future__ import annotations

import ast
import dataclasses
import math
import re
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
from cohort import batch_of, identity, sites_of
from federation import heart_manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward.client import door
from fedward.client.door import ANSWERS, BODIES, RULES, Asked, release
from fedward.privacy.checkpoint import Checkpoint as LogCheckpoint
from fedward.privacy.checkpoint import Note, cosign, sign_checkpoint
from fedward.privacy.entries import Head
from fedward.privacy.errors import InputError, IntegrityError
from fedward.privacy.secagg import wire
from fedward.study import messages
from fedward.study.messages import (
    Advertise,
    Checkpoint,
    Checkpointed,
    Declare,
    Declared,
    Masked,
    Offer,
    Refusal,
    Reply,
    Result,
    Secured,
    Standing,
    Step,
    Work,
)
from fedward.study.metrics import histogram_shape
from fedward.study.witness import sign_head

ROOT = Path(__file__).parents[2]
STUDY, NAME, BASE, SIZE = "5" * 64, "7" * 64, "8" * 64, 6
BATCH = batch_of(4)
SITE = BATCH.members[1]
MANIFEST = {secure: heart_manifest(secure=secure) for secure in (False, True)}
CELLS = math.prod(histogram_shape(MANIFEST[False]))
CANARY = "Jane Doe 4711"

TASK = {"study": STUDY, "round": 2, "attempt": 3, "base": BASE, "dimension": SIZE, "train": True, "evaluate": True}
REQUESTS: dict[str, messages.Request] = {
    "declare": Declare(study_id="heart", nonce="0" * 64),
    "offer": Offer(study=STUDY, nonce="0" * 64, signature=""),
    "checkpoint": Checkpoint(nonce="0" * 64, known=3),
    "work": Work(**TASK),
    "masked": Masked(**TASK, batch=BATCH.batch, setup="0" * 64, slot=0),
    "advertise": Advertise(study=STUDY, batch=BATCH.batch, cohort=BATCH.members, threshold=3, slots=4),
    **{kind: Step(kind=kind, study=STUDY, batch=BATCH.batch) for kind in ("share", "open", "confirm", "unmask")},
}


def asked(request: messages.Request | None) -> Asked:
    secure = not isinstance(request, Work)

    def study(digest: str) -> Any:
        if digest != STUDY:
            raise InputError("no such study")
        return SimpleNamespace(manifest=MANIFEST[secure], roster=[SimpleNamespace(site=s) for s in BATCH.members])

    def batch(digest: str, name: str) -> Any:
        if (digest, name) != (STUDY, BATCH.batch):
            raise InputError("no such batch")
        return BATCH

    return Asked(SITE, NAME, request, study, batch)


def reply_to(kind: str) -> Reply:
    head = sign_head(SITE, Head(3, "a" * 64), identity(SITE))
    common: dict[str, Any] = {"site": SITE, "request": NAME, "head": head}
    if kind == "declare":
        return Declared(**common, study_id="heart", patients=210, noise_multiplier=4.018)
    if kind == "offer":
        return Standing(**common, study=STUDY, state="approved", at=1_900_000_000)
    if kind == "checkpoint":
        point = LogCheckpoint(f"fedward/site/{SITE}/{'a' * 16}", 9, b"\1" * 32)
        line = cosign(point, point.origin, identity(SITE), 1_900_000_000).line
        note = sign_checkpoint(point, identity(SITE)).text
        return Checkpointed(**common, checkpoint=note, proof=("b" * 64, "c" * 64), seen=4, cosignature=line)
    if kind == "work":
        kept = {name: TASK[name] for name in ("study", "round", "attempt", "base")}
        return Result(**common, **kept, update_values=SIZE, histogram_values=CELLS)
    return Secured(**common, study=STUDY, batch=BATCH.batch)


def body_of(kind: str) -> bytes:
    sizes = {
        "share": wire.share_size(BATCH),
        "open": wire.opened_size(BATCH),
        "masked": wire.masked_size(4 * (SIZE + CELLS)),
        "confirm": wire.confirm_size(BATCH),
        "unmask": wire.reveal_size(BATCH),
    }
    if kind == "work":
        return np.linspace(-1, 1, SIZE).astype("<f4").tobytes() + np.arange(CELLS).astype("<i8").tobytes()
    if kind == "advertise":
        return sites_of(BATCH)[1].advertise()
    if kind in sizes:
        head = wire.MAGIC + bytes([door._STEPS[kind]]) + struct.pack(">H", 1)
        return head + bytes(sizes[kind] - len(head))
    return b""


REFUSAL = Refusal(site=SITE, request=NAME, code="no-data", blames=BATCH.members[2], reference="0123456789ab")


def let_out(reply: Reply, body: bytes, request: messages.Request | None) -> tuple[Reply, bytes]:
    packed = release(reply, body, asked(request), identity(SITE))
    return messages.open_reply(packed, identity(SITE).public)


# --- what may leave leaves ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", REQUESTS)
def test_an_honest_reply_leaves_whole(kind: str) -> None:
    reply, body = reply_to(kind), body_of(kind)
    got, got_body = let_out(reply, body, REQUESTS[kind])
    assert got.model_dump(exclude={"body_sha256"}) == reply.model_dump(exclude={"body_sha256"})
    assert got_body == body


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_refusal_leaves_whatever_was_asked(kind: str) -> None:
    blames = REFUSAL.blames if kind not in {"declare", "checkpoint"} else ""
    got, _ = let_out(REFUSAL.model_copy(update={"blames": blames}), b"", REQUESTS[kind])
    assert isinstance(got, Refusal)
    assert got.code == "no-data"


def test_a_refusal_of_bytes_that_are_no_request_names_nobody() -> None:
    let_out(REFUSAL.model_copy(update={"blames": ""}), b"", None)
    with pytest.raises(IntegrityError, match="blames"):
        let_out(REFUSAL, b"", None)


# --- the tables are whole -------------------------------------------------------------------------------------------------------


def test_every_field_of_every_reply_has_a_rule_and_every_kind_its_body() -> None:
    """A new field or kind fails here until somebody decides what of it may leave, and writes the rule."""
    assert set(messages.REPLIES.values()) == set(get_args(Reply))
    assert set(RULES) == set(BODIES) == set(ANSWERS) == set(messages.REPLIES)
    for kind, model in messages.REPLIES.items():
        assert model.model_fields["kind"].default == kind
        assert set(RULES[kind]) | {"body_sha256"} == set(model.model_fields), kind


def test_the_page_for_hospitals_has_the_program_s_own_table() -> None:
    page = (ROOT / "docs" / "what-leaves.md").read_text(encoding="utf-8")
    rows = [f"| {kind} | `{name}` | {rule.form} | {rule.why} |" for kind in RULES for name, rule in RULES[kind].items()]
    rows += [f"| {kind} | *body* | {body.form} | {body.why} |" for kind, body in BODIES.items()]
    assert {line for line in page.splitlines() if line.startswith(tuple(f"| {kind} |" for kind in RULES))} == set(rows)


def test_every_kind_of_reply_is_tried_below() -> None:
    tried = {reply_to(kind).kind for kind in REQUESTS} | {REFUSAL.kind}
    assert tried == set(messages.REPLIES)


# --- what may not leave does not ------------------------------------------------------------------------------------------------

WRONG: tuple[Any, ...] = (
    CANARY, "doe", "4711", b"4711", 4711, 4711.0, -1, True, None, 2**60, "", ["doe"], {"doe": 1}, 211, 0, 215.0, 210.5,
    "0" * 64, "f" * 11, "F" * 12, "0123456789a ", "site", "0" * 12 + "\n",
)  # fmt: skip
ALLOWED = {
    ("standing", "at"): {4711, 211, 0},
    ("declared", "noise_multiplier"): {4711.0, 215.0, 210.5},
    ("refusal", "reference"): set(),
    ("refusal", "blames"): {""},
    ("checkpointed", "seen"): {4711, 211, 0},
    ("checkpointed", "cosignature"): {""},
}


@pytest.mark.parametrize("kind", [*REQUESTS, "refusal"])
def test_no_field_takes_a_value_of_another_form(kind: str) -> None:
    reply = REFUSAL if kind == "refusal" else reply_to(kind)
    request, body = REQUESTS["masked" if kind == "refusal" else kind], b"" if kind == "refusal" else body_of(kind)
    let_out(reply, body, request)
    for name in RULES[reply.kind]:
        for value in WRONG:
            allowed = ALLOWED.get((reply.kind, name), set())
            if type(value) in (str, int, float) and value in allowed:
                continue
            false = reply.model_copy(update={name: value})  # not validated: what a bug could make
            with pytest.raises(IntegrityError, match=r"not|other") as caught:
                release(false, body, asked(request), identity(SITE))
            assert caught.value.code == door.LEAK
            assert str(value) not in str(caught.value) or len(str(value)) < 5


@pytest.mark.parametrize("kind", [*REQUESTS, "refusal"])
def test_no_reply_takes_one_more_field_or_another_class(kind: str) -> None:
    reply = REFUSAL if kind == "refusal" else reply_to(kind)
    request, body = REQUESTS["masked" if kind == "refusal" else kind], b"" if kind == "refusal" else body_of(kind)

    class Chatty(type(reply)):  # type: ignore[misc]
        note: str = CANARY

    chatty = Chatty(**reply.model_dump())
    for false in (chatty, reply.model_copy(update={"note": CANARY})):
        with pytest.raises(IntegrityError, match="other fields"):
            release(false, body, asked(request), identity(SITE))


@pytest.mark.parametrize("kind", [*REQUESTS, "refusal"])
def test_no_body_is_longer_shorter_or_of_another_kind(kind: str) -> None:
    reply = REFUSAL if kind == "refusal" else reply_to(kind)
    request, body = REQUESTS["masked" if kind == "refusal" else kind], b"" if kind == "refusal" else body_of(kind)
    for false in (
        body + b"\x00",
        body + CANARY.encode(),
        body[:-1] if body else b"x",
        bytearray(body),
        CANARY.encode(),
    ):
        with pytest.raises(IntegrityError, match="the body of a"):
            release(reply, false, asked(request), identity(SITE))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["advertise", "share", "open", "masked", "confirm", "unmask"])
def test_a_step_s_message_is_of_that_step_and_of_this_site(kind: str) -> None:
    body = body_of(kind)
    for place in (0, 4, 6):  # magic, kind, sender
        false = bytearray(body)
        false[place] ^= 1
        with pytest.raises(IntegrityError, match="the body of a secured"):
            let_out(reply_to(kind), bytes(false), REQUESTS[kind])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_update_leaves_that_is_not_finite(value: float) -> None:
    body = np.array([value], dtype="<f4").tobytes() + body_of("work")[4:]
    with pytest.raises(IntegrityError, match="the body of a result"):
        let_out(reply_to("work"), body, REQUESTS["work"])


def test_an_update_that_is_not_masked_never_leaves_a_study_under_secure_aggregation() -> None:
    context = dataclasses.replace(asked(REQUESTS["work"]), study=asked(None).study)
    with pytest.raises(IntegrityError, match="the body of a result"):
        release(reply_to("work"), body_of("work"), context, identity(SITE))


@pytest.mark.parametrize("kind", REQUESTS)
def test_no_reply_to_another_request_or_study_leaves(kind: str) -> None:
    reply, body, context = reply_to(kind), body_of(kind), asked(REQUESTS[kind])
    others = [None, *(other for name, other in REQUESTS.items() if name != kind)]
    for request in others:
        same = isinstance(reply, Secured) and request is not None and isinstance(request, (Advertise, Step, Masked))
        with pytest.raises(IntegrityError, match="the body" if same else "does not answer"):
            release(reply, body, dataclasses.replace(context, request=request), identity(SITE))


def test_a_checkpoint_is_this_sites_own_and_carries_nothing_else() -> None:
    reply, request = reply_to("checkpoint"), REQUESTS["checkpoint"]
    assert isinstance(reply, Checkpointed)
    point = LogCheckpoint(f"fedward/site/{SITE}/{'a' * 16}", 9, b"\1" * 32)
    other = LogCheckpoint(f"fedward/site/{BATCH.members[0]}/{'a' * 16}", 9, b"\1" * 32)
    own, line = sign_checkpoint(point, identity(SITE)), cosign(point, point.origin, identity(SITE), 4711)
    foreign = cosign(other, other.origin, identity(SITE), 4711)
    longer = Note(point, (dataclasses.replace(own.signatures[0], data=CANARY.encode() * 8),))
    for name, value in [
        ("checkpoint", sign_checkpoint(other, identity(SITE)).text),
        ("checkpoint", own.with_signatures([line]).text),
        ("checkpoint", longer.text),
        ("checkpoint", own.text + CANARY),
        ("cosignature", foreign.line),
        ("cosignature", line.line * 2),
        ("cosignature", line.line[:-1]),
        ("proof", ("b" * 64, CANARY)),
        ("proof", ("b" * 64,) * 65),
        ("proof", ["b" * 64]),
    ]:
        with pytest.raises(IntegrityError, match=name):
            release(reply.model_copy(update={name: value}), b"", asked(request), identity(SITE))


def test_a_rule_that_cannot_be_checked_is_not_kept() -> None:
    def broken(_digest: str) -> Any:
        raise OSError(CANARY)

    with pytest.raises(IntegrityError, match="histogram_values") as caught:
        release(
            reply_to("work"),
            body_of("work"),
            dataclasses.replace(asked(REQUESTS["work"]), study=broken),
            identity(SITE),
        )
    assert CANARY not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(sorted(REQUESTS)), data=st.data())
def test_whatever_leaves_is_what_the_request_and_the_study_made_it(kind: str, data: st.DataObject) -> None:
    """Any value in any field: it is refused, or the field has one of the few values that the door allows."""
    reply = reply_to(kind)
    name = data.draw(st.sampled_from(sorted(set(RULES[reply.kind]) - {"kind"})))
    value = data.draw(st.one_of(st.text(max_size=70), st.integers(), st.floats(), st.booleans(), st.none()))
    try:
        release(reply.model_copy(update={name: value}), body_of(kind), asked(REQUESTS[kind]), identity(SITE))
    except IntegrityError:
        return
    few = {"patients": lambda v: v % 10 == 0, "at": lambda v: v >= 0, "state": lambda v: v in ("pending", "refused")}
    few |= {"seen": lambda v: v >= 0, "cosignature": lambda v: v == ""}
    few["noise_multiplier"] = lambda v: v >= 0 and round(v * 1000) / 1000 == v
    assert value == getattr(reply, name) or few[name](value)


# --- there is no other way out --------------------------------------------------------------------------------------------------


def sources(folder: str) -> dict[str, ast.Module]:
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    return {str(path.relative_to(ROOT / folder / "fedward" / folder)): ast.parse(path.read_text()) for path in paths}


def calls(tree: ast.Module) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def test_only_the_door_packs_a_message_at_a_site() -> None:
    packing = {name for name, tree in sources("client").items() for call in calls(tree) if name_of(call) == "pack"}
    assert packing == {"door.py"}
    imported = {
        name
        for name, tree in sources("client").items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and any(alias.name == "pack" for alias in node.names)
    }
    assert imported == set()


def test_only_messages_signs_a_message() -> None:
    def signs(call: ast.Call) -> bool:
        return name_of(call) == "sign" and any(isinstance(a, ast.Constant) and a.value == "message" for a in call.args)

    found = {
        (folder, name)
        for folder in ("study", "privacy", "client")
        for name, tree in sources(folder).items()
        if any(signs(call) for call in calls(tree))
    }
    assert found == {("study", "messages.py")}


def test_only_the_door_makes_something_released_and_the_loop_takes_nothing_else() -> None:
    """mypy refuses any other bytes: `Released` is a type of its own, cast to nowhere else."""
    made = {name for name, tree in sources("client").items() for call in calls(tree) if name_of(call) == "Released"}
    assert made == {"door.py"}
    for name, tree in sources("client").items():
        assert not any(name_of(call) == "cast" for call in calls(tree)), name
    loop = (ROOT / "client/fedward/client/flower/loop.py").read_text()
    assert re.search(r"def __call__\(self, request: bytes, /\) -> Released", loop)


def test_only_flower_s_loop_and_session_send() -> None:
    sending = {"PushMessagesRequest", "PushObjectRequest", "Message", "Client", "Error"}
    found = {name for name, tree in sources("client").items() if any(name_of(call) in sending for call in calls(tree))}
    assert found == {"flower/loop.py", "flower/session.py", "flower/probe.py"}
    verbs = {"stream", "post", "put", "send", "request"}
    probing = [call for call in calls(sources("client")["flower/probe.py"]) if name_of(call) in verbs]
    assert [[ast.unparse(part) for part in call.args] for call in probing] == [
        ["'GET'", "f'https://{host}:{address.port}/'"]
    ]
    assert [call.keywords for call in probing] == [[]], "a look at the coordinator carries nothing"
