"""Attacks on metrics that hospitals give of their own: numbers that no hospital signed, or that it signed of something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from federation import Federation, heart_manifest
from serving import code_of

from fedward.privacy.canonical import canonical_json
from fedward.server.coordinator import LocalCoordinator
from fedward.study.manifest import SealedManifest
from fedward.study.metrics import slice_names
from fedward.study.shared_metrics import SiteFigures, sign_figures
from fedward.study.site_metrics import METRICS

STUDY = "heart-4-hospitals"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    made = Federation(tmp_path_factory.mktemp("shared"))
    made.ready(heart_manifest(training={"rounds": 1}))
    made.run()
    return made


def figures(federation: Federation, **changes: object) -> SiteFigures:
    sealed = federation.sealed()
    assert isinstance(sealed, SealedManifest)
    hidden: tuple[int | None, ...] = (None,) * len(METRICS)
    values = ((30, 40, 80, 15), *(hidden for _ in slice_names(sealed.manifest)[1:]))
    made: dict[str, object] = {"site": "va", "study": sealed.digest, "round": 2, "values": values, "alone": 75}
    return SiteFigures.model_validate(made | changes)


def file_of(federation: Federation, made: SiteFigures, signer: str = "va", **changes: object) -> bytes:
    signature = sign_figures(made, federation.sites[signer].identity())
    return json.dumps({"figures": made.canonical.decode(), "signature": signature, "site": "va"} | changes).encode()


@pytest.fixture
def coordinator(federation: Federation) -> LocalCoordinator:
    return LocalCoordinator(federation.home.path)


def test_what_a_hospital_signed_is_taken_in(federation: Federation, coordinator: LocalCoordinator) -> None:
    """No attack; what people read beside the figures may say anything."""
    made = coordinator.share(STUDY, file_of(federation, figures(federation), slices={"everybody": {"auroc": 0.99}}))
    assert (made.site, made.version, made.auroc, made.alone, made.drop) == ("va", 1, 0.8, 0.75, -0.05)
    assert coordinator.history(STUDY).shared == (made,)
    entries = [entry.fields for entry in federation.home.audit.entries() if entry.kind == "metrics-shared"]
    assert [(one["site"], one["round"]) for one in entries] == [("va", 2)]


def test_a_number_is_changed_after_it_was_signed(federation: Federation, coordinator: LocalCoordinator) -> None:
    honest = json.loads(file_of(federation, figures(federation)))
    for old, new in (('"alone":75', '"alone":10'), ("[30,40,80,15]", "[30,40,99,15]"), ('"round":2', '"round":3')):
        assert old in honest["figures"]
        forged = honest | {"figures": honest["figures"].replace(old, new)}
        assert code_of(lambda forged=forged: coordinator.share(STUDY, json.dumps(forged).encode())) == "bad-signature"  # type: ignore[misc]


def test_a_hospital_signs_another_s_numbers(federation: Federation, coordinator: LocalCoordinator) -> None:
    theirs = file_of(federation, figures(federation), signer="cleveland")
    assert code_of(lambda: coordinator.share(STUDY, theirs)) == "bad-signature"


def test_numbers_of_another_study(federation: Federation, coordinator: LocalCoordinator) -> None:
    other = file_of(federation, figures(federation, study="e" * 64))
    assert code_of(lambda: coordinator.share(STUDY, other)) == "bad-signature"


def test_a_site_that_is_not_in_the_roster(federation: Federation, coordinator: LocalCoordinator) -> None:
    nobody = file_of(federation, figures(federation, site="nobody"))
    assert code_of(lambda: coordinator.share(STUDY, nobody)) == "bad-input"


def _rows(federation: Federation, first: tuple[int | None, ...]) -> tuple[tuple[int | None, ...], ...]:
    return (first, *figures(federation).values[1:])


CHANGES: dict[str, Callable[[Federation], dict[str, Any]]] = {
    "a small cell": lambda made: {"values": _rows(made, (3, 40, 80, 15))},
    "half a slice": lambda made: {"values": _rows(made, (30, None, 80, 15))},
    "an auroc above one": lambda made: {"values": _rows(made, (30, 40, 101, 15))},
    "a slice too few": lambda made: {"values": figures(made).values[:-1]},
    "no slice": lambda _: {"values": ()},
    "an own model above one": lambda _: {"alone": 101},
    "an own model of suppressed patients": lambda made: {"values": _rows(made, (None, None, None, None))},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_hospital_signs_what_no_node_writes(
    federation: Federation, coordinator: LocalCoordinator, change: str
) -> None:
    """Whatever the key signs: nothing but the study's form is taken in, so no suppressed count can come in by this door."""
    forged = file_of(federation, figures(federation, **CHANGES[change](federation)))
    assert code_of(lambda: coordinator.share(STUDY, forged)) == "bad-input"


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"\xff", b'{"figures": 1, "signature": "00"}', b'{"figures": "{}", "signature": "00"}',
             b'{"figures": "NaN", "signature": "zz"}', b"[" * 5000, b" " * 2_000_000]
)  # fmt: skip
def test_a_file_that_is_none(coordinator: LocalCoordinator, data: bytes) -> None:
    assert code_of(lambda: coordinator.share(STUDY, data)) == "bad-input"


def test_numbers_in_another_form_of_the_same(federation: Federation, coordinator: LocalCoordinator) -> None:
    """Two forms of one text would have two digests in the audit log."""
    honest = json.loads(file_of(federation, figures(federation)))
    loose = json.dumps(json.loads(honest["figures"]), indent=1)
    assert canonical_json(json.loads(loose)).decode() == honest["figures"]
    assert (
        code_of(lambda: coordinator.share(STUDY, json.dumps(honest | {"figures": loose}).encode())) == "bad-signature"
    )


def test_a_hospital_that_withdrew_gives_nothing_any_more(federation: Federation, tmp_path: Path) -> None:
    copy = federation.copy(tmp_path)
    copy.store.set_standing(copy.key, "va", "withdrawn", "", None, 9)
    there = LocalCoordinator(copy.home.path)
    assert code_of(lambda: there.share(STUDY, file_of(copy, figures(copy)))) == "withdrawn"
    there.close()
