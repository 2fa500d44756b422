"""What the coordinator pays to open a sum of 100 sites, 33 of which dropped out.

Recovery is all that lies between the survivors' reveals and every site's secret: reveals parsed, signatures and Merkle paths
checked, 100 secrets rebuilt from 67 shares each, and each compared with what its site committed to. The batch has 64 slots,
so that paths are as long as they get. A coordinator is a pure machine, so it is timed over the same messages again.

Flower's recovery is `combine_shares` alone: one secret is measured and scaled to 100. The figure is kind to it, as if all were
seeds; a dropped site's secret is its private key in PEM, six times as long, which the second line counts. Its masks to be
taken out are scaled from one as well.
"""

from __future__ import annotations

import os
import time

import numpy as np

from benchmarks.figures import Figure, at_most, report
from benchmarks.flower_secagg import FlowerSite, key_shares, recover, seed_shares, take_mask
from benchmarks.secure_cohort import hundred
from benchmarks.timing import fastest, timed

PARAMETERS = 1_000_000
DROPPED = 33
RECOVERY_TURNS, SLOT_TURNS, PEER_TURNS = 60, 4, 3
_SHORT = 1000
"""Parameters where the length of the vector does not matter."""


def figures() -> list[Figure]:
    cohort = hundred()
    seed, key, mask, pair = _peer(cohort.batch.size, cohort.batch.threshold)
    return _recovery(seed, key) + _dropouts(seed, key, mask, pair)


def _recovery(seed: float, key: float) -> list[Figure]:
    cohort = hundred()
    exchange = cohort.exchange(_SHORT, DROPPED)
    unchecked: list[float] = []

    def recovered() -> float:
        total = exchange.up_to_reveals()
        began = time.perf_counter()
        for site, message in exchange.revealed:
            total.revealed(site, message)
        checked = time.perf_counter()
        total._secrets()
        ended = time.perf_counter()
        unchecked.append(ended - checked)
        return ended - began

    (whole,) = fastest(RECOVERY_TURNS, recovered)
    members, survivors = cohort.batch.size, cohort.batch.size - DROPPED
    flower = members * seed
    return [
        at_most("secagg.recovery", whole * 1e3, "ms", 50),
        at_most("secagg.recovery_without_paths", min(unchecked) * 1e3, "ms", 20),
        report("context.flower_recovery_scaled", flower * 1e3, "ms"),
        report("context.flower_recovery_with_keys_scaled", (survivors * seed + DROPPED * key) * 1e3, "ms"),
        report("context.recovery_ratio", whole / flower, "of_flower"),
    ]


def _dropouts(seed: float, key: float, mask: float, pair: float) -> list[Figure]:
    cohort = hundred()
    complete, partial = cohort.exchange(PARAMETERS, 0), cohort.exchange(PARAMETERS, DROPPED)
    none, some = fastest(SLOT_TURNS, timed(complete.whole), timed(partial.whole))
    survivors = cohort.batch.size - DROPPED
    # A dropped site's secret is a key and no seed; its masks with every survivor come instead of its self-mask.
    flower = DROPPED * (key - seed) + DROPPED * survivors * pair - DROPPED * mask
    return [
        at_most("secagg.dropouts_33_of_100", some - none, "seconds_more", 3),
        report("context.slot_without_dropouts", none, "seconds"),
        report("context.flower_dropouts_scaled", flower, "seconds_more"),
        report("context.dropouts_ratio", (some - none) / flower, "of_flower"),
    ]


def _peer(members: int, threshold: int) -> tuple[float, float, float, float]:
    """Flower's seconds for one seed, one private key, one self-mask and one pairwise mask."""
    seeds, keys = seed_shares(threshold, members), key_shares(threshold, members)
    site, total, own = FlowerSite(3), [np.zeros(PARAMETERS, np.int64)], os.urandom(32)
    seed, mask, pair = fastest(
        PEER_TURNS,
        timed(lambda: recover(seeds)),
        timed(lambda: take_mask(own, total)),
        timed(lambda: site.pair_mask(total)),
    )
    (key,) = fastest(1, timed(lambda: recover(keys)))
    return seed, key, mask, pair
