"""What one round asks of one site, derived from the sealed manifest alone: both sides compute it, neither sends it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeGuard

from fedward.privacy.events import EVERYBODY, DpEvent, Share, SharedEvent
from fedward.study.evaluation import training_share
from fedward.study.exploration import Exploration
from fedward.study.manifest import BaseSealed, Manifest, SealedManifest

UNIT_WORDS = (
    "unit: patient; neighbouring: add or remove one patient at one hospital; adversary: everyone outside that hospital"
)
PRIVACY_WORDS = f"{UNIT_WORDS}; composition: every study in that hospital's ledger"
"""What any ε of a study or a ledger means here (NIST SP 800-226's elements)."""


def covered(manifest: Manifest) -> str:
    """Whose privacy a study's ε speaks of."""
    if manifest.counting.noised:
        return "training and held-out patients"
    return "training patients only (counts of held-out patients leave without noise)"


def privacy_words(manifest: Manifest | Exploration) -> str:
    """What a study's ε means and whom it covers, with the adversary of shared noise where noise is shared. It stands wherever
    that ε is shown."""
    if isinstance(manifest, Exploration):
        return f"{PRIVACY_WORDS}; covers all registered patients"
    words = f"{PRIVACY_WORDS}; covers {covered(manifest)}"
    if manifest.model.start is not None:
        words += "; it starts from an earlier version's model, whose own ε comes beside this one and is counted in every ledger"
    if manifest.privacy.noise != "shared":
        return words
    return words.replace(f"adversary: {EVERYONE}", f"adversary: {coordinator_words(manifest)}")


EVERYONE = "everyone outside that hospital"
"""The adversary of local noise."""


def coordinator_words(manifest: Manifest) -> str:
    """The adversary that shared noise is sized for."""
    colluders = manifest.privacy.colluders
    others = "1 other hospital" if colluders == 1 else f"{colluders} other hospitals"
    return f"the coordinator and outsiders, with at most {others} colluding"


def all_others_words() -> str:
    """The adversary that one site's part of shared noise is left for."""
    return f"{EVERYONE} together, all other hospitals colluding"


DEFAULT_BOUND = 100.0
"""The bound without differential privacy and without `update_bound`: far above an honest update of normalised data."""


@dataclass(frozen=True)
class SiteTerms:
    """A site's training of one attempt. `expected_batch` = q·N₀, from the declared cohort: a public constant.

    `noise_multiplier` is σ over C where the site's noise stands alone. With shared noise it is σ_own over the sensitivity, a
    part of what `honest_sites` make up together; these are 0 else.
    """

    steps: int
    learning_rate: float
    sampling_rate: float
    expected_batch: float
    clipping_norm: float
    noise_multiplier: float
    proximal: float
    share: Share = EVERYBODY
    """The hash positions of the patients who train."""
    honest_sites: int = 0

    @property
    def private(self) -> bool:
        return self.noise_multiplier > 0

    @property
    def event(self) -> DpEvent | SharedEvent | None:
        """What the ledger is charged for one attempt; None when nothing is promised."""
        if not self.private:
            return None
        if self.honest_sites:
            return SharedEvent(self.noise_multiplier, self.honest_sites, self.steps, share=self.share)
        return DpEvent(self.noise_multiplier, self.sampling_rate, self.steps, share=self.share)


def site_terms(sealed: SealedManifest, site: str) -> SiteTerms:
    """The terms of a site.

    Raises:
        InputError: the site is not in the roster.
    """
    training, honest = sealed.manifest.training, 0
    noise_multiplier = study_noise(sealed, site)
    if sealed.manifest.privacy.noise == "shared":
        honest = sealed.manifest.honest_sites
        noise_multiplier /= math.sqrt(honest)
    return SiteTerms(
        steps=training.local_steps,
        # FedSGD's single step at rate 1 makes the update the negative gradient itself; the server scales it.
        learning_rate=1.0 if training.algorithm == "fedsgd" else training.local_learning_rate,
        sampling_rate=training.sampling_rate,
        expected_batch=training.sampling_rate * training_cohort(sealed, site),
        clipping_norm=sealed.manifest.privacy.clipping_norm,
        noise_multiplier=noise_multiplier,
        proximal=training.proximal,
        share=training_share(sealed.manifest),
        honest_sites=honest,
    )


def shares_noise(sealed: BaseSealed) -> TypeGuard[SealedManifest]:
    """Whether a study trains with shared noise."""
    return isinstance(sealed, SealedManifest) and sealed.manifest.privacy.noise == "shared"


def study_noise(sealed: BaseSealed, site: str) -> float:
    """σ that a site's patients get: its own; or, with shared noise, the pool's, which is what the site that needs most asked for.

    Raises:
        InputError: the site is not in the roster.
    """
    own = sealed.entry(site).noise_multiplier
    return max(entry.noise_multiplier for entry in sealed.roster) if shares_noise(sealed) else own


def evaluates(manifest: Manifest, round_: int) -> bool:
    """Whether a round's base model is evaluated: every so many rounds, and the last model in the round after it."""
    rounds, every = manifest.training.rounds, manifest.counting.every
    return round_ == rounds + 1 or (1 < round_ <= rounds and (round_ - 1) % every == 0)


def most_patients(sealed: BaseSealed, site: str) -> int:
    """More patients than a site may show for what it declared: twice as many, as data may be registered again."""
    return 2 * sealed.entry(site).declared_patients + 10


def most_update(sealed: SealedManifest, site: str, dimension: int) -> float:
    """The largest L2 norm that an honest site's private update has, but with probability below 1e-30; inf without one.

    Each step moves by at most lr (C n + ‖noise‖) / (q N₀), and ‖noise‖ ≤ σC (√d + 12) by Laurent & Massart 2000.
    """
    terms = site_terms(sealed, site)
    if not terms.private or terms.learning_rate * terms.proximal > 2:
        return math.inf  # FedProx's pull grows what it should shrink
    noise = terms.noise_multiplier * (math.sqrt(dimension) + 12)
    step = terms.clipping_norm * (most_patients(sealed, site) + noise) / terms.expected_batch
    return 1.01 * terms.steps * terms.learning_rate * step


def plain_bound(sealed: SealedManifest, site: str, dimension: int) -> float:
    """The largest L2 norm of a site's update where sums are not hidden: what clipping and noise can make it; where they bound
    nothing, the manifest's `update_bound`, or 100, to which the site clips. The coordinator admits no longer one."""
    reachable = most_update(sealed, site, dimension)
    return reachable if math.isfinite(reachable) else sealed.manifest.privacy.update_bound or DEFAULT_BOUND


def training_cohort(sealed: SealedManifest, site: str) -> float:
    """N₀: the declared patients less the held-out share; also the site's weight in the sum."""
    return sealed.entry(site).declared_patients * (1 - sealed.manifest.training.holdout)
