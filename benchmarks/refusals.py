"""Messages far too long are refused before anything is allocated for them.

Every entrance of both machines is given 3 GiB of bytes, and terms that ask for a vector of 3 GiB; counted is the most memory
that Python and numpy allocate until the refusal (tracemalloc). No message of ours can claim a size: each has one length. The
peer's vectors do, in their header: it is given one that claims 3 GiB and holds nothing.
"""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable

from benchmarks.figures import Figure, at_most, report
from benchmarks.flower_secagg import parse
from benchmarks.secure_cohort import Cohort
from fedward.privacy.errors import FedwardError
from fedward.privacy.secagg import BatchSetup, Block, RingTerms, SiteParty

SIZE = 3 * 2**30


def figures() -> list[Figure]:
    cohort = Cohort(3, 1)
    # Zeros that nobody reads take no memory of the machine.
    message = bytes(SIZE)
    entrances = _coordinator(cohort, message) | _site(cohort, message)
    entrances["terms"] = lambda: RingTerms(32, 3, (Block("update", SIZE // 4, 1),))
    most = {name: _allocated(entrance) for name, entrance in entrances.items()}
    worst = max(most, key=lambda name: most[name])
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }" % SIZE
    claim = b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header + b"\n"
    return [
        *(report(f"context.refused_{name}", size / 1e6, "MB") for name, size in most.items() if size > 1e6),
        at_most(f"secagg.refused_worst_of_{len(most)}", most[worst] / 1e6, "MB", 1),
        report("context.flower_refused", _allocated(lambda: parse(claim), ValueError) / 1e6, "MB"),
    ]


def _coordinator(cohort: Cohort, message: bytes) -> dict[str, Callable[[], object]]:
    site, setup, exchange = cohort.parties[0].site, BatchSetup(cohort.batch), cohort.exchange(1, 0)
    total, closed, waiting = exchange.coordinator(), exchange.coordinator(), exchange.up_to_reveals()
    for sender, masked in exchange.masked:
        closed.masked(sender, masked)
    closed.confirm_request()
    return {
        "advertised": lambda: setup.advertised(site, message),
        "shared": lambda: setup.shared(site, message),
        "opened": lambda: setup.opened(site, message),
        "masked": lambda: total.masked(site, message),
        "confirmed": lambda: closed.confirmed(site, message),
        "revealed": lambda: waiting.revealed(site, message),
    }


def _site(cohort: Cohort, message: bytes) -> dict[str, Callable[[], object]]:
    fresh = [
        SiteParty(cohort.batch, party.site, identity, os.urandom)
        for party, identity in zip(cohort.parties, cohort.identities, strict=True)
    ]
    adverts = b"".join(party.advertise() for party in fresh)
    fresh[0].share(adverts)
    return {
        "share": lambda: fresh[1].share(message),
        "open": lambda: fresh[0].open(message),
        "confirm": lambda: cohort.parties[0].confirm(message),
        "unmask": lambda: cohort.parties[0].unmask(message),
    }


def _allocated(refused: Callable[[], object], error: type[Exception] = FedwardError) -> int:
    """The most bytes that were allocated at once until the refusal."""
    tracemalloc.start()
    try:
        refused()
    except error:
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    raise RuntimeError("what is far too long was not refused")
