"""The certificate of a withdrawal: what a hospital stopped, which models its patients had been in, and what cannot be undone.

It is signed by the approver who withdrew and by the site (Ed25519, RFC 8032), over canonical JSON, and says nothing of a patient:
digests, names, counts and ε. `check_certificate` needs no site, no coordinator and no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from fedward.privacy.canonical import canonical_json
from fedward.privacy.errors import IntegrityError
from fedward.privacy.signing import Identity, fingerprint, from_text, to_text, verify
from fedward.study.fields import NAME, Part
from fedward.study.files import read_model
from fedward.study.manifest import HEX_KEY

Key = Annotated[str, Field(pattern=HEX_KEY)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Text = Annotated[str, Field(max_length=500)]

CANNOT = (
    "A model that was trained before contains what these patients contributed to it; it cannot be taken out of the model again.",
    "Where a study was differentially private, its ε bounds what the model can tell of any one patient, and stays true.",
    "Who has received such a model may still have it; this certificate tells its coordinator that no new round may use the data.",
)
"""What a withdrawal does not do, in the words of every certificate."""


class AffectedModel(Part):
    """A study whose model contains a contribution of these patients.

    Attributes:
        rounds: in which rounds this site's patients were charged for training, lowest and highest; (0, 0) for none.
        charges: how many attempts were charged, evaluations included.
        answers: in how many attempts an answer left.
        last_base: the digest of the newest base model that this site worked on; "" if not known.
        epsilon: what the study cost a patient, at `delta`; None where a run had no differential privacy.
    """

    study: Key
    title: Text
    rounds: tuple[Count, Count]
    charges: Count
    answers: Count
    last_base: Annotated[str, Field(pattern=rf"{HEX_KEY}|^$")]
    epsilon: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    delta: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class Certificate(Part):
    """What was withdrawn, by whom, and what it means. `decision` is the digest of the link in the site's chain of decisions."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    kind: Literal["withdrawal"] = "withdrawal"
    site: Annotated[str, Field(pattern=NAME)]
    site_key: Key
    federation: Annotated[str, Field(max_length=200)]
    coordinator_key: Key
    study_id: Annotated[str, Field(pattern=NAME)]
    studies: Annotated[tuple[Key, ...], Field(max_length=10_000)]
    at: Count
    by: Annotated[str, Field(min_length=1, max_length=64)]
    approver_key: Key
    reason: Text
    decision: Key
    affected: Annotated[tuple[AffectedModel, ...], Field(max_length=10_000)]
    cannot: Annotated[tuple[Text, ...], Field(max_length=10)] = CANNOT
    approver_signature: Annotated[str, Field(max_length=100)] = ""
    site_signature: Annotated[str, Field(max_length=100)] = ""

    def signed_bytes(self) -> bytes:
        return canonical_json(self.model_dump(mode="json", exclude={"approver_signature", "site_signature"}))


def sign_certificate(bare: Certificate, approver: Identity, site: Identity) -> Certificate:
    """The certificate with both signatures."""
    data = bare.signed_bytes()
    return bare.model_copy(
        update={
            "approver_signature": to_text(approver.sign("certificate", data)),
            "site_signature": to_text(site.sign("certificate", data)),
        }
    )


def check_certificate(certificate: Certificate, site_keys: Sequence[str] = ()) -> None:
    """That both signatures hold, and, with keys or fingerprints given, that the site is one of those.

    Raises:
        IntegrityError: it was changed, or another site signed it.
    """
    data = certificate.signed_bytes()
    for key, signature, whose in (
        (certificate.approver_key, certificate.approver_signature, f"the approver {certificate.by}"),
        (certificate.site_key, certificate.site_signature, f'the site "{certificate.site}"'),
    ):
        what = f"the certificate's signature of {whose}"
        verify(key, "certificate", data, from_text(signature, what), what)
    known = {certificate.site_key, fingerprint(certificate.site_key)}
    if site_keys and not known & {key.lower() for key in site_keys}:
        raise IntegrityError(
            "the certificate is signed by another site than was expected",
            expected=", ".join(site_keys),
            got=fingerprint(certificate.site_key),
            remedy="compare the site's fingerprint by telephone, or with the roster of the study",
            code="foreign-key",
        )
    if certificate.cannot != CANNOT:
        raise IntegrityError("the certificate says other things than this program's", code="bad-certificate")


def load_certificate(path: Path) -> Certificate:
    """
    Raises:
        InputError: it is no certificate.
    """
    return read_model(path, Certificate, "certificate of a withdrawal")


def certificate_lines(certificate: Certificate) -> list[str]:
    """The certificate as a person reads it."""
    when = f"{datetime.fromtimestamp(certificate.at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    lines = [
        f'Certificate: site "{certificate.site}" of the federation "{certificate.federation}" has withdrawn its data '
        f'from the study "{certificate.study_id}".',
        f"When: {when}. By: {certificate.by}, approver at the site.",
        f"Reason: {certificate.reason or 'none given'}",
        "From then on no round of it uses data of this site. Budget that it had reserved and not spent was given free.",
        f"Versions of the study that ended: {', '.join(study[:12] for study in certificate.studies) or 'none was proposed'}",
    ]
    for one in certificate.affected:
        cost = "no ε covers it" if one.epsilon is None else f"ε = {one.epsilon:g} at δ = {one.delta:g}"
        lines.append(
            f'Affected model: "{one.title}" ({one.study[:12]}), rounds {one.rounds[0]} to {one.rounds[1]}, {one.charges} charged '
            f"attempts, {one.answers} answered; newest base model {one.last_base[:12] or 'not known'}; {cost}"
        )
    if not certificate.affected:
        lines.append("No model is affected: no attempt was ever charged here.")
    lines += [f"What it cannot do: {text}" for text in certificate.cannot]
    lines.append(
        f"Site's key: {fingerprint(certificate.site_key)}. Approver's key: {fingerprint(certificate.approver_key)}."
    )
    return lines
