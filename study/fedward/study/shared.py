"""A study with shared noise: who shares it, how much it is, on which grid. Derived from the sealed manifest alone, by everyone.

Every site asks, at planning, for the noise that the released sum must have for its patients: σ of the pool. The largest of
these is the study's, and every site adds its part of it, σ_own = σ_pool / √m. m is the number of honest sites that are sure to
be in every sum that can be opened: the fewest sites of a sum, less the colluders that the manifest names.
"""

from __future__ import annotations

from fedward.privacy.shared_noise import SharedNoise, share_noise
from fedward.study.manifest import SealedManifest
from fedward.study.terms import most_patients, study_noise


def shared_noise(sealed: SealedManifest, dimension: int) -> SharedNoise | None:
    """The grid and a site's noise for a model of so many parameters; None where each site's noise stands alone.

    They are fixed for the whole study: sized for the whole roster, though a round may sum fewer sites.

    Raises:
        InputError: no grid that is fine enough holds the sum in the study's ring.
    """
    privacy = sealed.manifest.privacy
    if privacy.noise != "shared":
        return None
    return share_noise(
        study_noise(sealed, sealed.roster[0].site),
        clipping_norm=privacy.clipping_norm,
        dimension=dimension,
        sites=sealed.manifest.honest_sites,
        patients=max(most_patients(sealed, entry.site) for entry in sealed.roster),
        members=len(sealed.roster),
        bits=privacy.ring_bits,
    )
