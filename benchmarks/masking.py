"""What masking costs: one mask, a hospital's whole masked stage among 100, and the bytes that it sends a parameter.

Ours is all that a site does: the update clipped and rounded into the ring, 99 key agreements and derivations, 100 masks, the
hash, the signature. The peer is all that Flower's site does.
"""

from __future__ import annotations

import os
import time

import numpy as np

from benchmarks.figures import Figure, at_most, report
from benchmarks.flower_secagg import FlowerSite, add_mask
from benchmarks.secure_cohort import encoded, hundred, update
from benchmarks.timing import fastest, timed
from fedward.privacy.secagg.masks import apply, keystream

PARAMETERS = 1_000_000
MASK_TURNS, SITE_TURNS = 300, 20
_CHUNK_BYTES = 1 << 16


def figures() -> list[Figure]:
    return _one_mask() + _one_site()


def _one_mask() -> list[Figure]:
    ours, theirs = np.zeros(PARAMETERS, np.uint32), [np.zeros(PARAMETERS, np.int64)]
    key = os.urandom(32)
    times = fastest(
        MASK_TURNS,
        timed(lambda: apply(ours, [(key, False)])),
        timed(lambda: _keystream(key, 4 * PARAMETERS)),
        timed(lambda: add_mask(key, theirs)),
    )
    mask, floor, peer = (seconds / PARAMETERS * 1e9 for seconds in times)
    return [
        at_most("secagg.mask", mask, "ns_per_parameter", 1.2),
        report("context.keystream_alone", floor, "ns_per_parameter"),
        report("context.flower_mask", peer, "ns_per_parameter"),
        report("context.mask_ratio", mask / peer, "of_flower"),
    ]


def _keystream(key: bytes, size: int) -> None:
    """AES-256-CTR and nothing else: what no mask can be faster than."""
    stream, zeros, buffer = keystream(key), bytes(_CHUNK_BYTES), bytearray(_CHUNK_BYTES + 15)
    for start in range(0, size, _CHUNK_BYTES):
        stream.update_into(memoryview(zeros)[: size - start], buffer)


def _one_site() -> list[Figure]:
    cohort, values = hundred(), update(PARAMETERS)
    terms, party = cohort.terms(PARAMETERS), cohort.parties[cohort.batch.size // 2]
    peer, sent, theirs = FlowerSite(cohort.batch.size), [b""], [[b""]]

    def masked() -> float:
        party.take(cohort.context(terms))
        began = time.perf_counter()
        sent[0] = party.mask(encoded(values, terms), terms)
        return time.perf_counter() - began

    def peer_masked() -> None:
        theirs[0] = peer.masked(values)

    site, encoding, flower = fastest(SITE_TURNS, masked, timed(lambda: encoded(values, terms)), timed(peer_masked))
    return [
        report("context.setup_100_sites_64_slots", cohort.set_up_s / cohort.batch.size, "seconds_per_site"),
        at_most("secagg.site", site * 1e3, "ms", 170),
        report("context.site_encoding", encoding * 1e3, "ms"),
        report("context.flower_site", flower * 1e3, "ms"),
        report("context.site_ratio", site / flower, "of_flower"),
        at_most("secagg.message", len(sent[0]) / PARAMETERS, "bytes_per_parameter", 4.001),
        report("context.flower_message", sum(map(len, theirs[0])) / PARAMETERS, "bytes_per_parameter"),
    ]
