"""Which sites a round asks of those that are there, where the manifest says how many (`federation.cohort`). Pure.

Rules
    1. Whoever was asked least goes first: each site gets its turn, and one that hangs cannot hold a place for ever.
    2. Between sites that were asked as often, a lot decides: SHA-256 of a random seed and the site's name. The seed is drawn for
        the attempt and journalled with who was there, so anyone who has the record can draw again.
    3. A cohort is never smaller than the manifest allows: `cohort` is checked there against the quorum and what a secure sum asks
        for, and where fewer sites are there than `cohort`, all are asked.
    4. It buys no privacy: every site charges what it is asked as if it were asked always, and no amplification is claimed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from fedward.privacy.errors import InputError

NOT_DRAWN = "not drawn: this round asked others of those that were there"
"""The recorded reason of a site that was there and had no turn."""


def draw(there: Sequence[str], asked: Mapping[str, int], size: int, seed: str) -> tuple[str, ...]:
    """At most `size` of the sites that are there, in their order.

    Args:
        there: sites that can be asked, in roster order.
        asked: how often each was asked so far; 0 where it is not named.
        size: how many.
        seed: of the lots.

    Raises:
        InputError: no size.
    """
    if not size >= 1:
        raise InputError("a cohort has a size", expected="at least 1", got=repr(size))
    turns = sorted(there, key=lambda site: (asked.get(site, 0), hashlib.sha256(f"{seed}/{site}".encode()).digest()))
    drawn = frozenset(turns[:size])
    return tuple(site for site in there if site in drawn)
