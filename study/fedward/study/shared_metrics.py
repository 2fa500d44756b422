"""A hospital's own metrics as it gives them away, signed: what `site_metrics` lets leave, and how its own model does beside that.

The file that `fedward site metrics --release` writes is for people to read; within it `figures` are the canonical bytes that the
site's identity key signed, and `fedward coordinator share` takes nothing else from it. These numbers carry no noise: no ε covers
them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationError

from fedward.privacy.canonical import canonical_json
from fedward.privacy.errors import InputError, IntegrityError
from fedward.privacy.signing import Identity, verify
from fedward.study.fields import NAME, Part
from fedward.study.manifest import HEX_KEY, SealedManifest, explain
from fedward.study.site_metrics import METRICS, Values, may_leave

MOST_FILE_BYTES = 1_000_000
Steps = Annotated[int, Field(ge=0, le=2**53)]


class SiteFigures(Part):
    """What a site signs.

    `values` are (slices × `METRICS`) in whole steps, None where suppressed. `round` is that of the evaluation, so its model is the
    one after `round - 1` rounds. `alone` is the AUROC, in steps, of the model that the hospital trained by itself, on the same
    held-out patients; None where it trained none.
    """

    format: Annotated[int, Field(ge=1, le=1)] = 1
    kind: Literal["site-metrics"] = "site-metrics"
    site: Annotated[str, Field(pattern=NAME)]
    study: Annotated[str, Field(pattern=HEX_KEY)]
    round: Annotated[int, Field(ge=1, le=10_001)]
    values: Annotated[tuple[tuple[Steps | None, ...], ...], Field(max_length=1000)]
    alone: Steps | None = None

    @property
    def canonical(self) -> bytes:
        return canonical_json(self.model_dump(mode="json"))

    @property
    def version(self) -> int:
        """Rounds committed before the model that was evaluated."""
        return self.round - 1

    @property
    def auroc(self) -> float | None:
        """The study's model on this hospital's held-out patients; None if suppressed."""
        return self._area(self.values[0][list(METRICS).index("auroc")]) if self.values and self.values[0] else None

    @property
    def auroc_alone(self) -> float | None:
        return self._area(self.alone)

    @staticmethod
    def _area(steps: int | None) -> float | None:
        return None if steps is None else METRICS["auroc"].value(steps)


def sign_figures(figures: SiteFigures, identity: Identity) -> str:
    """The site's signature, hex."""
    return identity.sign("site-metrics", figures.canonical).hex()


def may_be_given(values: Values, alone: int | None, sealed: SealedManifest) -> bool:
    """Whether figures are of the study's form; an own model's goes with everybody's, which must not be suppressed."""
    if not may_leave(values, sealed.manifest):
        return False
    return alone is None or (METRICS["auroc"].allows(alone) and values[0][0] is not None)


def check_figures(data: bytes, signature: str, sealed: SealedManifest) -> SiteFigures:
    """Figures of a study that a site of its roster signed.

    Raises:
        InputError: the bytes are none, or not of the study's form.
        IntegrityError: they were changed, or signed by another, or are another study's.
    """
    try:
        made = SiteFigures.model_validate_json(data)
        raw = bytes.fromhex(signature)
    except ValidationError as error:
        raise InputError("these are no figures of a site", got=explain(error)) from None
    except ValueError:
        raise InputError("these are no figures of a site", got="a signature that is no hex") from None
    if made.canonical != data:
        raise IntegrityError(
            "the figures are not in canonical form", remedy="ask the hospital for its file", code="bad-signature"
        )
    if made.study != sealed.digest:
        raise IntegrityError(
            "the figures are of another study", expected=sealed.digest[:12], got=made.study[:12],
            remedy="name the study that the hospital measured", code="bad-signature",
        )  # fmt: skip
    verify(sealed.entry(made.site).identity_key, "site-metrics", data, raw, f"the figures of {made.site}")
    if not may_be_given(made.values, made.alone, sealed):
        raise InputError(
            "the figures are not of the study's form", remedy="ask the hospital for its file as it was written"
        )
    return made
