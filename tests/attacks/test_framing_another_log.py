"""A party of a federation forges a checkpoint of another's audit log, with a key of its own making, to accuse its owner."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from fedward.privacy.auditcompare import compare
from fedward.privacy.auditexport import AuditExport, Trailer, read_audit_export, write_audit_export
from fedward.privacy.checkpoint import Note, sign_checkpoint
from fedward.privacy.errors import IntegrityError
from fedward.privacy.log import AuditLog
from fedward.privacy.signing import Identity

AT = 1_900_000_000
SITES = ("fedward/site/va/0123456789abcdef", "fedward/site/cleveland/0123456789abcdef")
COORDINATOR = "fedward/coordinator/" + "ab" * 16


def made(folder: Path, origin: str, key: Identity, known: tuple[Note, ...] = (), named: str = "") -> AuditExport:
    log = AuditLog.create(folder / "audit", origin, AT)
    trailer = Trailer(sign_checkpoint(log.checkpoint(), key), (), known, {COORDINATOR: named} if named else {})
    out = io.BytesIO()
    write_audit_export(out, log.leaves(log.size), log.entries(), trailer, key, AT)
    return read_audit_export(io.BytesIO(out.getvalue()), key.public)


def test_a_forged_checkpoint_is_no_proof_of_a_split_view(tmp_path: Path) -> None:
    honest, forger = Identity.generate(), Identity.generate()
    coordinator = made(tmp_path / "coordinator", COORDINATOR, honest)
    own = coordinator.trailer.checkpoint
    forged = sign_checkpoint(replace(own.checkpoint, root=bytes(32)), forger)
    longer = sign_checkpoint(replace(own.checkpoint, size=9), forger)
    liar = made(tmp_path / "liar", SITES[0], Identity.generate(), (forged,), forger.public)
    older = made(tmp_path / "older", SITES[0], Identity.generate(), (longer,), forger.public)
    other = made(tmp_path / "other", SITES[1], Identity.generate(), (own,), honest.public)
    for exports in ([coordinator, liar], [coordinator, older], [liar, other], [other, liar]):
        with pytest.raises(IntegrityError) as refused:
            compare(exports)
        assert refused.value.code == "foreign-key"
        assert SITES[0] in refused.value.what
    real = sign_checkpoint(replace(own.checkpoint, root=bytes(32)), honest)  # what its owner did sign is proof
    shown = made(tmp_path / "shown", SITES[0], Identity.generate(), (real,), honest.public)
    for exports in ([coordinator, shown], [shown, other]):
        with pytest.raises(IntegrityError) as refused:
            compare(exports)
        assert refused.value.code == "split-view"


def test_a_kept_checkpoint_by_an_unknown_key_accuses_nobody(tmp_path: Path) -> None:
    honest = Identity.generate()
    own = made(tmp_path / "coordinator", COORDINATOR, honest).trailer.checkpoint
    other = made(tmp_path / "other", SITES[1], Identity.generate(), (own,), honest.public)
    with pytest.raises(IntegrityError) as refused:
        compare([other], [sign_checkpoint(replace(own.checkpoint, root=bytes(32)), Identity.generate())])
    assert refused.value.code == "bad-signature"
    with pytest.raises(IntegrityError) as refused:
        compare([other], [sign_checkpoint(replace(own.checkpoint, root=bytes(32)), honest)])
    assert refused.value.code == "split-view"
