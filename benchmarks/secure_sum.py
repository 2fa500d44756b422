"""A whole secure sum on one machine: 20 sites, 10 million parameters, one core, messages passed in memory.

It runs in a process of its own, whose peak memory is read: the coordinator *and* all 20 sites' machines, but one site's vector
at a time, as each message is added when it comes. Timed is everything that sites and coordinator do, one after the other, from
encoding to the open sum; not timed are the batch's setup (beside it) and making up the updates. A last sum holds all 20
messages at once, as a transport may.

The peer's sum is scaled: one site, one added message, one secret, one self-mask, times 20.

    python -m benchmarks.secure_sum      the measured process; it prints one line of JSON
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure, at_most, report
from benchmarks.flower_secagg import FlowerSite, add_message, recover, seed_shares, take_mask
from benchmarks.secure_cohort import BOUND, Cohort, encoded, update
from benchmarks.timing import fastest, timed
from fedward.privacy.secagg import SlotSum

PARAMETERS = 10_000_000
SITES = 20
TURNS, PEER_TURNS = 2, 2
_CHECKED = 100_000


def figures() -> list[Figure]:
    command = [sys.executable, "-m", "benchmarks.secure_sum"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, check=True)
    measured = json.loads(done.stdout)
    seconds, flower = measured["seconds"], _peer()
    return [
        at_most("secagg.whole_sum", seconds, "seconds", 15),
        at_most("secagg.whole_sum_memory", measured["peak"] / 1e6, "MB", 2500),
        report("context.whole_sum_memory_all_messages_held", measured["peak_held"] / 1e6, "MB"),
        report("context.whole_sum_all_messages_held", measured["seconds_held"], "seconds"),
        report("context.whole_sum_setup_20_sites_3_slots", measured["set_up"], "seconds"),
        report("context.flower_whole_sum_scaled", flower, "seconds"),
        report("context.whole_sum_ratio", seconds / flower, "of_flower"),
    ]


def _peer() -> float:
    values, site = update(PARAMETERS), FlowerSite(SITES)
    messages: list[bytes] = []

    def masked() -> None:
        messages[:] = site.masked(values)

    total, own = [np.zeros(PARAMETERS, np.int64)], os.urandom(32)
    shares = seed_shares(2 * SITES // 3 + 1, SITES)
    one = fastest(
        PEER_TURNS,
        timed(masked),
        timed(lambda: add_message(total, messages[-1])),
        timed(lambda: recover(shares)),
        timed(lambda: take_mask(own, total)),
    )
    return SITES * sum(one)


def _secure_sum(cohort: Cohort, *, hold: bool) -> float:
    """Seconds of one slot's sum without making up the updates; `hold` keeps every masked message until all have come."""
    terms = cohort.terms(PARAMETERS)
    context = cohort.context(terms)
    total, expected, seconds = SlotSum(cohort.opened, context, terms), np.zeros(_CHECKED, np.float64), 0.0
    held: list[tuple[str, bytes]] = []
    for place, party in enumerate(cohort.parties):
        values = update(PARAMETERS, place)
        expected += values[:_CHECKED]
        began = time.perf_counter()
        party.take(context)
        message = party.mask(encoded(values, terms), terms)
        if hold:
            held.append((party.site, message))
        else:
            total.masked(party.site, message)
        seconds += time.perf_counter() - began
    began = time.perf_counter()
    for site, message in held:
        total.masked(site, message)
    opened = _opened(cohort, total)
    seconds += time.perf_counter() - began
    grid = BOUND / terms.blocks[0].most
    # Each site rounds to one of two neighbours on the grid.
    if not (np.abs(opened[:_CHECKED] * grid - expected) <= SITES * grid).all():
        raise RuntimeError("the sum is not the sum of its vectors")
    return seconds


def _opened(cohort: Cohort, total: SlotSum) -> NDArray[np.int64]:
    """Confirm, unmask, open."""
    request = total.confirm_request()
    for party in cohort.parties:
        total.confirmed(party.site, party.confirm(request))
    request = total.unmask_request()
    for party in cohort.parties:
        total.revealed(party.site, party.unmask(request))
    (opened,) = total.open()
    return opened


def _peak_bytes() -> int:
    """Peak resident memory of this process (proc(5), VmHWM): getrusage's would count the parent's, too, from before exec."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell a process's peak memory")


def main() -> None:
    """Be the measured process."""
    cohort = Cohort(SITES, TURNS + 1)
    (seconds,) = fastest(TURNS, lambda: _secure_sum(cohort, hold=False))
    peak = _peak_bytes()
    (held,) = fastest(1, lambda: _secure_sum(cohort, hold=True))
    measured = {
        "set_up": cohort.set_up_s,
        "seconds": seconds,
        "peak": peak,
        "seconds_held": held,
        "peak_held": _peak_bytes(),
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
