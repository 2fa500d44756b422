"""The coordinator's half of joining and of rotating keys: what a request may change, and the kit that answers it.

joins            a new name                              anyone's request; a person compares fingerprints
renews           a site with the keys that it has        a fresh certificate, nothing else
rotates          an enrolled site, other keys            only if its present identity signed for them
joins anew       a revoked site                          other keys throughout, and the fingerprint by telephone
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from fedward.privacy.errors import InputError, IntegrityError, RefusalError
from fedward.privacy.signing import fingerprint
from fedward.server.authority import certificate_digest, node_key
from fedward.server.home import CoordinatorHome
from fedward.server.lifecycle import Dissolved, has_ended
from fedward.server.records import CredentialRow, SiteRow, StudyRow
from fedward.server.store import Store
from fedward.study.enrolment import JoinKit, JoinRequest, RotationRequest, check_request, check_rotation, sign
from fedward.study.kinds import parse_sealed


@dataclass(frozen=True)
class Enrolled:
    """A kit, and what it does: "joined", "renewed", "rotated", "identity-rotated" or "rejoined"."""

    kit: JoinKit
    what: str
    superseded: tuple[str, ...] = ()
    """Sealed studies that name the site's old identity, and have to be proposed again."""


def enrol(
    home: CoordinatorHome,
    store: Store,
    asked: JoinRequest | RotationRequest,
    now: datetime,
    *,
    confirmed: bool = False,
    end_studies: bool = False,
) -> Enrolled:
    """Answer a request with a kit. `confirmed`: a person compared the fingerprint of its identity by telephone.

    Raises:
        IntegrityError: the request was changed, or a rotation is not by the site's present identity.
        UsageError: the site's name is enrolled with other keys.
        RefusalError: a key was replaced or revoked, is another site's, or a running study needs the old identity.
        InputError: keys of a site that is not enrolled cannot be rotated.
    """
    rotation = asked if isinstance(asked, RotationRequest) else None
    request = asked.request if isinstance(asked, RotationRequest) else asked
    if rotation is not None:
        check_rotation(rotation)
    check_request(request)
    known = next((row for row in store.sites() if row.site == request.site), None)
    if known is not None and known.revoked:
        rotation = None  # what a revoked identity signed carries no weight
        _check_rejoining(known, request, confirmed=confirmed)
    ending: list[StudyRow] = []
    if rotation is not None:
        _check_present(known, rotation)
        if rotation.changes_identity:
            ending = _studies_of(store, rotation.site, rotation.identity_key, end_studies=end_studies)
    certificate = home.authority().issue_site(request, now)
    credential = _credential(request, certificate, now)
    store.enrol(credential, by_rotation=rotation is not None)
    _record(home, credential, rotation)
    for study in ending:
        reason = f'site "{request.site}" gets a new identity; propose it again'
        store.happened(study.key, Dissolved(reason), int(now.timestamp()))
    return Enrolled(_kit(home, request, certificate), _what(known, rotation), tuple(row.study_id for row in ending))


def _record(home: CoordinatorHome, made: CredentialRow, rotation: RotationRequest | None) -> None:
    if rotation is None:
        home.record("enrolled", site=made.site, key=made.identity_key, until=made.expires_at)
    else:
        home.record("key-rotated", site=made.site, key=made.identity_key, previous=rotation.identity_key)


def _what(known: SiteRow | None, rotation: RotationRequest | None) -> str:
    if known is None:
        return "joined"
    if known.revoked:
        return "rejoined"
    if rotation is None:
        return "renewed"
    return "identity-rotated" if rotation.changes_identity else "rotated"


def _check_present(known: SiteRow | None, rotation: RotationRequest) -> None:
    if known is None:
        raise InputError(
            f'site "{rotation.site}" is not enrolled, so it has no keys to rotate',
            remedy="ask the hospital for a request to join: fedward site request",
            code="not-enrolled",
        )
    if known.identity_key != rotation.identity_key:
        raise IntegrityError(
            "the rotation is not signed by the site's present identity",
            expected=fingerprint(known.identity_key),
            got=fingerprint(rotation.identity_key),
            remedy="ask the hospital whether it is theirs, by telephone; do not use this request",
            code="foreign-rotation",
        )


def _check_rejoining(known: SiteRow, request: JoinRequest, *, confirmed: bool) -> None:
    if not confirmed:
        raise RefusalError(
            f'site "{known.site}" was revoked: it joins anew only by a fingerprint that was compared by telephone',
            expected="--fingerprint, as the hospital reads it to you",
            got=fingerprint(request.identity_key),
            remedy="telephone the hospital at a number that you know, then pass what they read as --fingerprint",
            code="revoked",
        )


def _studies_of(store: Store, site: str, identity: str, *, end_studies: bool) -> list[StudyRow]:
    """The sealed studies, not ended, whose roster names this identity.

    Raises:
        RefusalError: one of them is running, or nobody said that they may end.
    """
    named = []
    for study in store.studies():
        if study.sealed is None or has_ended(study.life):
            continue
        if any((entry.site, entry.identity_key) == (site, identity) for entry in parse_sealed(study.sealed).roster):
            named.append(study)
    running = [study.study_id for study in named if study.state == "running"]
    if running or (named and not end_studies):
        names = ", ".join(sorted({study.study_id for study in named}))
        raise RefusalError(
            f'a new identity of "{site}" would end its part in studies that name the old one',
            expected="no study under way with it" if running else "--end-studies, since they need a new proposal",
            got=names,
            remedy="wait for them or stop them (`fedward coordinator stop STUDY`), then propose them again afterwards; "
            "node and TLS keys rotate at any time: fedward site rotate without --identity",
            code="identity-in-use",
        )
    return named


def outdated(store: Store, study: StudyRow) -> list[str]:
    """The sites of a sealed study whose identity is another now, or that were revoked: nothing of theirs would count."""
    if study.sealed is None:
        return []
    present = {row.site: row.identity_key for row in store.sites() if not row.revoked}
    roster = parse_sealed(study.sealed).roster
    return [entry.site for entry in roster if present.get(entry.site) != entry.identity_key]


def _credential(request: JoinRequest, pem: bytes, now: datetime) -> CredentialRow:
    certificate = x509.load_pem_x509_certificate(pem)
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return CredentialRow(
        fingerprint=certificate_digest(certificate),
        site=request.site,
        identity_key=request.identity_key,
        node_key=node_key(request),
        tls_key=hashlib.sha256(spki).hexdigest(),
        issued_at=int(now.timestamp()),
        expires_at=int(certificate.not_valid_after_utc.timestamp()),
        changed_at=int(now.timestamp()),
    )


def _kit(home: CoordinatorHome, request: JoinRequest, certificate: bytes) -> JoinKit:
    settings, identity = home.settings, home.identity()
    kit = JoinKit(
        federation_id=settings.federation_id,
        federation_name=settings.name,
        site=request.site,
        identity_key=request.identity_key,
        coordinator_key=identity.public,
        host=settings.host,
        port=settings.port,
        ca=home.authority().pem().decode(),
        certificate=certificate.decode(),
    )
    return sign(kit, identity)
