"""Long answers of the control plane: whole, in parts that every gRPC client takes, and refused before they are collected."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import numpy as np
import pytest
from federation import heart_manifest
from joining import free_ports
from serving import Served, served

from fedward.privacy.errors import FedwardError, RefusalError, UnreachableError
from fedward.server.control import coordinator_pb2 as pb
from fedward.server.control import server as control_server
from fedward.server.control.wire import PART_BYTES, joined, parts
from fedward.server.home import CoordinatorHome
from fedward.server.models import save_model
from fedward.server.round import SiteState

GRPC_S_OWN = 4 << 20
"""The longest message that a gRPC client takes by default."""
ROUNDS, SITES = 400, 40


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A coordinator whose one study has more rows than fit into one of gRPC's messages."""
    folder, (port, control) = tmp_path_factory.mktemp("answers"), free_ports(2)
    home = CoordinatorHome.create(
        folder / "home", name="Answers", host="localhost", bind="127.0.0.1", port=port, control_port=control,
        now=datetime.now(UTC),
    )  # fmt: skip
    store, manifest = home.open_store(), heart_manifest(training={"rounds": ROUNDS})
    key = store.create_study(manifest.study.id, manifest.model_dump_json(), [], 0)
    said = {f"hospital-{number}": SiteState("refused", "why " * 75) for number in range(SITES)}
    for number in range(1, ROUNDS + 1):
        store.open_attempt(key, number, number, "a" * 64, [], number)
        store.close_attempt(key, number, "quorum-missed", "", said, 1.0, number)
    store.note(key, "batch", {"adverts": ["ab" * PART_BYTES]}, ROUNDS)
    store.close()
    with served(home, folder) as made:
        yield made


def code_of(error: pytest.ExceptionInfo[FedwardError]) -> str:
    return error.value.code


def test_no_message_of_a_long_answer_is_longer_than_grpc_takes(there: Served) -> None:
    who, (study,) = there.as_("counter", "auditor"), there.as_("counter", "auditor").studies()
    for ask, kind in ((who._stub.Status, pb.Study), (who._stub.Record, pb.History)):
        sent = list(ask(pb.StudyRequest(reference=study.study_id), timeout=60))
        assert max(part.ByteSize() for part in sent) <= GRPC_S_OWN / 2
        assert sum(len(part.data) for part in sent) == sent[0].size > GRPC_S_OWN
        assert kind.FromString(b"".join(part.data for part in sent)).ByteSize() == sent[0].size
    view = who.status(study.study_id)
    assert (len(view.attempts), len(view.statuses)) == (ROUNDS, ROUNDS * SITES)


def test_a_viewer_s_history_is_without_what_hospitals_signed(there: Served) -> None:
    viewer, auditor = there.as_("vera", "viewer"), there.as_("aron", "auditor")
    (study,) = viewer.studies()
    assert "batch" not in {entry.kind for entry in viewer.history(study.study_id).journal}
    assert "batch" in {entry.kind for entry in auditor.record(study.study_id).journal}


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES])
def test_parts_make_the_whole(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    sent = list(parts(data))
    assert joined(iter(sent), size) == data
    assert all(len(part.data) <= PART_BYTES for part in sent)


def test_an_answer_that_says_it_is_too_long_is_not_waited_for() -> None:
    taken: list[int] = []

    def endless() -> Iterator[pb.Part]:
        for number in range(1000):
            taken.append(number)
            yield pb.Part(size=1 << 40, data=b"x")

    with pytest.raises(RefusalError) as caught:
        joined(endless(), 1000)
    assert (code_of(caught), taken) == ("answer-too-large", [0])  # type: ignore[arg-type]


def test_an_answer_that_is_longer_than_it_says_is_refused() -> None:
    with pytest.raises(RefusalError) as caught:
        joined(iter([pb.Part(size=4, data=b"abcd"), pb.Part(data=b"e")]), 1000)
    assert code_of(caught) == "answer-too-large"  # type: ignore[arg-type]


@pytest.mark.parametrize("sent", [[], [pb.Part(size=4, data=b"abc")]], ids=["nothing", "one-byte-less"])
def test_an_answer_that_is_cut_off_is_told(sent: list[pb.Part]) -> None:
    with pytest.raises(UnreachableError) as caught:
        joined(iter(sent), 1000)
    assert code_of(caught) == "answer-cut-off"  # type: ignore[arg-type]


def test_a_record_that_is_too_long_is_refused_before_it_is_read(there: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedward.server.store import Store

    who = there.as_("aron", "auditor")
    (study,) = who.studies()
    monkeypatch.setattr(control_server, "MOST_BYTES", PART_BYTES)
    monkeypatch.setattr(Store, "journal", lambda *_, **__: pytest.fail("it was read"))
    for ask in (who.record, who.transcript):
        with pytest.raises(RefusalError) as caught:
            ask(study.study_id)
        assert code_of(caught) == "answer-too-large"  # type: ignore[arg-type]


def test_a_model_that_is_too_long_is_refused_before_it_is_read(there: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    who, digest = (
        there.as_("aron", "auditor"),
        save_model(there.home.models_folder, np.zeros(10, np.float32), "a" * 64, 0),
    )
    assert len(who.model(digest)) > 40
    monkeypatch.setattr(control_server, "MOST_MODEL_BYTES", 40)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(RefusalError) as caught:
        who.model(digest)
    assert code_of(caught) == "answer-too-large"  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["../keys/ca", "../../etc/passwd", "a" * 63, "A" * 64, "", "a" * 64 + "/.."])
def test_a_model_s_name_that_is_a_path_reads_no_file(there: Served, name: str) -> None:
    with pytest.raises(FedwardError) as caught:
        there.as_("aron", "auditor").model(name)
    assert caught.value.code == "bad-input"


def test_a_model_that_was_changed_on_its_way_is_refused(there: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedward.server.coordinator import LocalCoordinator

    digests = [save_model(there.home.models_folder, np.full(4, n, np.float32), "a" * 64, n) for n in (1, 2)]
    other = LocalCoordinator(there.home.path).model(digests[1])
    monkeypatch.setattr(LocalCoordinator, "model", lambda *_: other)
    with pytest.raises(FedwardError) as caught:
        there.as_("aron", "auditor").model(digests[0])
    assert caught.value.code == "integrity"


def test_who_reads_large_answers_slowly_leaves_room_for_others(there: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that nobody takes is held in memory until the call's deadline: two with one certificate, four in all."""
    (study,) = there.as_("vera", "viewer").studies()
    asked = pb.StudyRequest(reference=study.study_id)
    with monkeypatch.context() as patch:
        open_, small = grpc.secure_channel, [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536)]
        # Else a fast line widens its window until the whole answer is on this side, and nothing is held any more.
        patch.setattr(grpc, "secure_channel", lambda *arguments: open_(*arguments, options=small))
        slow = there.as_("slow", "auditor")
    held = [slow._stub.Record(asked, timeout=30) for _ in range(2)]
    try:
        for call in held:
            next(call)  # it has begun, and no more of it is taken
        with pytest.raises(grpc.RpcError) as caught:
            next(slow._stub.Record(asked, timeout=30))
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert there.as_("aron", "auditor").record(study.study_id).study.study_id == study.study_id
        assert slow.whoami().name == "slow"
    finally:
        for call in held:
            call.cancel()
