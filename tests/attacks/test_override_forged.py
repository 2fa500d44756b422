"""Attacks on an override: a model that missed a gate, and somebody who would have it released without two persons' word."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from federation import Federation, heart_manifest
from serving import Served, code_of, served

from fedward.privacy.canonical import canonical_json
from fedward.privacy.signing import Identity
from fedward.server.control import coordinator_pb2 as pb
from fedward.server.control.remote import RemoteCoordinator
from fedward.server.operators import Operators
from fedward.server.records import ReleaseRow
from fedward.study.releases import Signed, Statement, check_release, sign_statement

STUDY = "heart-4-hospitals"
WHY = "Used for research alone, in a trial that looks for this very gap."


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    made = Federation(tmp_path_factory.mktemp("missed"))
    gates = {"min_auroc": 0.999, "max_site_drop": None, "max_equalized_odds_gap": None}
    made.ready(heart_manifest(training={"rounds": 1}, gates=gates))
    made.run()
    return made


@pytest.fixture
def there(trained: Federation, tmp_path: Path) -> Iterator[Served]:
    copy = trained.copy(tmp_path / "home")
    (tmp_path / "people").mkdir()
    with served(copy.home, tmp_path / "people") as made:
        yield made
    copy.store.close()


def asks(who: RemoteCoordinator, reason: str = WHY) -> str:
    """Somebody signs and asks; the code of what came."""
    return code_of(lambda: who.release(STUDY, reason, who.sign(who.override(STUDY, reason))))


def released(there: Served) -> ReleaseRow:
    """An override as it should be."""
    anna, ben = there.as_("anna", "coordinator"), there.as_("ben", "coordinator")
    assert asks(anna) == "second-person-needed"
    return ben.release(STUDY, "", ben.sign(ben.override(STUDY, "")))


def test_one_person_signs_twice(there: Served) -> None:
    anna = there.as_("anna", "coordinator")
    assert [asks(anna) for _ in range(3)] == ["second-person-needed"] * 3
    assert asks(there.again("anna", "coordinator")) == "second-person-needed"
    assert there.as_("anna", "coordinator").releases() == []


def test_another_person_s_signature_is_handed_in(there: Served) -> None:
    anna, ben = there.as_("anna", "coordinator"), there.as_("ben", "coordinator")
    stolen = anna.sign(anna.override(STUDY, WHY))
    assert code_of(lambda: ben.release(STUDY, WHY, stolen)) == "bad-signature"
    renamed = stolen.model_copy(update={"by": "ben"})
    assert code_of(lambda: ben.release(STUDY, WHY, renamed)) == "bad-signature"
    dressed = stolen.model_copy(update={"by": "ben", "certificate": ben.access.certificate})
    assert code_of(lambda: ben.release(STUDY, WHY, dressed)) == "bad-signature"
    assert ben.waiting() == []


def test_a_signature_of_another_reason(there: Served) -> None:
    anna = there.as_("anna", "coordinator")
    mild = anna.override(STUDY, "Only to look at it, on this machine.")
    assert code_of(lambda: anna.release(STUDY, WHY, anna.sign(mild))) == "bad-signature"
    worse = anna.override(STUDY, WHY).model_copy(update={"model": "e" * 64})
    assert code_of(lambda: anna.release(STUDY, WHY, anna.sign(worse))) == "bad-signature"


def test_the_second_signs_other_words_than_the_first(there: Served) -> None:
    anna, ben = there.as_("anna", "coordinator"), there.as_("ben", "coordinator")
    assert asks(anna) == "second-person-needed"
    assert asks(ben, "Only to look at it, on this machine.") == "usage"
    assert ben.releases() == []


def test_a_certificate_made_on_the_spot_is_no_second_person(there: Served) -> None:
    anna = there.as_("anna", "coordinator")
    assert asks(anna) == "second-person-needed"
    later = datetime.fromtimestamp(time.time() + 5, UTC)
    there.give("mallory", "coordinator", later)
    assert asks(there.as_("mallory", "coordinator")) == "second-too-new"


def test_somebody_whose_access_was_removed_has_signed(there: Served) -> None:
    """The first loses access before the second signs: the request is void, and the second is the first."""
    anna, ben = there.as_("anna", "coordinator"), there.as_("ben", "coordinator")
    assert asks(anna) == "second-person-needed"
    Operators(there.home).remove("anna", 1)
    assert ben.waiting() == []
    assert asks(ben) == "second-person-needed"


def test_the_request_s_file_is_changed_between_the_signatures(there: Served) -> None:
    anna, ben = there.as_("anna", "coordinator"), there.as_("ben", "coordinator")
    assert asks(anna) == "second-person-needed"
    path = there.home.requests_file
    found = json.loads(path.read_text())
    found["requests"][0]["signed"]["signature"] = found["requests"][0]["signed"]["signature"][::-1]
    path.write_text(json.dumps(found))
    assert code_of(lambda: ben.release(STUDY, "", ben.sign(ben.override(STUDY, "")))) == "bad-signature"
    assert ben.releases() == []


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "another model": lambda said: said.update(model="e" * 64),
    "a gate that holds now": lambda said: said["gates"][0].update(holds=True, why=""),
    "a gate left out": lambda said: said.update(gates=said["gates"][1:]),
    "no override": lambda said: said.update(override=None),
    "one signature": lambda said: said.update(signatures=said["signatures"][:1]),
    "one signature twice": lambda said: said.update(signatures=said["signatures"][:1] * 2),
    "other words": lambda said: said["override"].update(reason="It held every gate of the study."),
    "another ca": lambda said: said.update(operators_ca=said["signatures"][0]["certificate"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_coordinator_that_signs_a_statement_of_its_own(there: Served, change: str) -> None:
    """Its key signs whatever it likes; the two persons' signatures are what it cannot make."""
    row = released(there)
    check_release(row.statement, row.signature)
    said = json.loads(row.statement)
    CHANGES[change](said)
    forged = Statement.model_validate_json(canonical_json(said))
    signature = sign_statement(forged, there.home.identity())
    assert code_of(lambda: check_release(forged.canonical, signature)) in {"bad-release", "bad-signature"}


def test_a_statement_that_somebody_else_signed(there: Served) -> None:
    row = released(there)
    other = Identity.generate()
    said = Statement.model_validate_json(row.statement)
    assert code_of(lambda: check_release(row.statement, sign_statement(said, other))) == "bad-signature"
    theirs = said.model_copy(update={"coordinator_key": other.public})
    signed = sign_statement(theirs, other)
    assert code_of(lambda: check_release(theirs.canonical, signed, [said.coordinator_key])) == "foreign-key"


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b'{"signature": 1}', b"\xff" * 9])
def test_a_signature_that_is_none(there: Served, data: bytes) -> None:
    anna = there.as_("anna", "coordinator")
    request = pb.ReleaseRequest(reference=STUDY, reason=WHY, signed=data)
    assert code_of(lambda: anna._ask(anna._stub.Release, request)) == "bad-input"
    empty = Signed(by="anna", certificate=anna.access.certificate, signature="")
    assert code_of(lambda: anna.release(STUDY, WHY, empty)) == "bad-signature"
