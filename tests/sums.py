"""Random sums of secure aggregation, each compared with the plain sum of Python's integers."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from cohort import Cohort, Dropouts, batch_of, drawing, scripted, securely_summed, set_up, sites_of
from numpy.typing import NDArray

from fedward.privacy.secagg import Block, RingTerms, RoundContext, least_threshold
from fedward.privacy.secagg.derivations import self_key, subtracts
from fedward.privacy.secagg.keys import derive
from fedward.privacy.secagg.masks import apply
from fedward.privacy.secagg.ring import most_per_member


@dataclass
class Tally:
    """How many cases were compared, and what was in them: what a run that was cut short cannot pretend."""

    cases: int = 0
    seen: Counter[str] = field(default_factory=Counter)

    def add(self, *what: str) -> None:
        self.cases += 1
        self.seen.update(what)

    def __str__(self) -> str:
        return f"{self.cases} cases: " + ", ".join(f"{count} {what}" for what, count in sorted(self.seen.items()))


def random_terms(draw: random.Random, n: int) -> RingTerms:
    bits = draw.choice((32, 64))
    largest = (2 ** (bits - 1) - 1) // n
    limits = (largest, most_per_member(bits, n), draw.randint(1, largest), 1)
    names = draw.choice((("update",), ("update", "histogram")))
    return RingTerms(bits, n, tuple(Block(name, draw.randint(1, 20), draw.choice(limits)) for name in names))


STYLES = ("any", "any", "most", "least", "ends")


def random_values(draw: random.Random, terms: RingTerms, style: str) -> list[int]:
    """One member's vector: anything that it may put in, its limits above all."""
    values = []
    for block in terms.blocks:
        ends = (-block.most, block.most)
        for _ in range(block.length):
            if style == "any":
                values.append(draw.randint(*ends))
            elif style == "ends":
                values.append(draw.choice((*ends, 0)))
            else:
                values.append(ends[style == "most"])
    return values


def random_dropouts(draw: random.Random, n: int, t: int, floor: int) -> Dropouts:
    """As many as the threshold and the quorum bear, at any of the three stages."""
    silent = draw.sample(range(n), n)
    first = draw.randint(0, n - floor)
    second = draw.randint(0, n - floor - first)
    third = draw.randint(0, n - t - first - second)
    ends = (first, first + second, first + second + third)
    return Dropouts(*(frozenset(silent[start:end]) for start, end in zip((0, *ends), ends, strict=False)))


def check_sums(tally: Tally, seed: str, n: int, slots: int) -> None:
    """Set up one batch of n sites and compare the sum of each of its slots with the plain one."""
    draw = drawing(seed)
    t = draw.choice((least_threshold(n), draw.randint(least_threshold(n), n)))
    quorum = draw.choice((1, draw.randint(1, n)))
    batch = batch_of(n, t=t, quorum=quorum, slots=slots)
    parties = sites_of(batch, seed)
    cohort = Cohort(batch, parties, set_up(batch, parties))
    for slot in range(slots):
        terms = random_terms(draw, n)
        style = draw.choice(("", "", "", *STYLES))
        values = [random_values(draw, terms, style or draw.choice(STYLES)) for _ in range(n)]
        dropouts = random_dropouts(draw, n, t, batch.floor)
        context = cohort.context(
            terms, slot, draw.randint(1, 3) + 3 * slot, draw.randint(1, 9) + 9 * slot, draw.randbytes(32)
        )
        vectors = [np.array([value % 2**terms.bits for value in one], dtype=terms.dtype) for one in values]
        opened = securely_summed(cohort, context, terms, vectors, dropouts)
        survivors = [one for index, one in enumerate(values) if index not in dropouts.before_masked]
        plain = [sum(column) for column in zip(*survivors, strict=True)]
        assert [value for block in opened for value in block.tolist()] == plain, f"{seed}, slot {slot}"
        limits = [len(survivors) * block.most for block in terms.blocks for _ in range(block.length)]
        what = {
            f"of {terms.bits} bits": True,
            "with t above the least": t > least_threshold(n),
            "with a quorum above t": quorum > t,
            "dropped before masked": dropouts.before_masked,
            "dropped before confirm": dropouts.before_confirm,
            "dropped before unmask": dropouts.before_unmask,
            "without a dropout": dropouts == Dropouts(),
            "at the largest sum": any(abs(value) == limit for value, limit in zip(plain, limits, strict=True)),
        }
        tally.add(*(name for name, holds in what.items() if holds))


def check_algebra(tally: Tally, seed: str, n: int) -> None:
    """The masks alone, of any subset of n members: what is left in their sum is taken out exactly."""
    draw = drawing(seed)
    bits = draw.choice((32, 64))
    dtype, length = np.dtype(f"<u{bits // 8}"), draw.randint(1, 6)
    context = RoundContext(draw.randbytes(32), draw.randrange(64), 1, 1, draw.randbytes(32), draw.randbytes(32))
    seeds = [draw.randbytes(32) for _ in range(n)]
    survivors = sorted(draw.sample(range(n), draw.randint(1, n)))
    dropped = [index for index in range(n) if index not in survivors]

    def pair(one: int, two: int) -> bytes:
        low, high = min(one, two), max(one, two)
        secret = scripted(f"{seed}/{low}/{high}")(32)
        return derive(secret, b"pairwise mask", context.digest + low.to_bytes(2, "big") + high.to_bytes(2, "big"))

    pairs = {(one, two): pair(one, two) for one in survivors for two in range(n) if one < two or two in dropped}
    total = np.zeros(length, dtype=dtype)
    plain = [0] * length
    for one in survivors:
        values = [draw.randrange(2**bits) for _ in range(length)]
        plain = [(a + b) % 2**bits for a, b in zip(plain, values, strict=True)]
        vector: NDArray[np.uint32] | NDArray[np.uint64] = np.array(values, dtype=dtype)
        masks = [(self_key(seeds[one], context, one), False)]
        for two in range(n):
            if two != one:
                masks.append((pairs.get((one, two)) or pairs[two, one], subtracts(one, two)))
        apply(vector, masks)
        total += vector
    left = [(self_key(seeds[one], context, one), True) for one in survivors]
    left += [(pairs[one, two], not subtracts(one, two)) for one in survivors for two in dropped]
    apply(total, left)
    assert total.tolist() == plain, seed
    tally.add(
        f"of {bits} bits", *(["with dropped members"] if dropped else []), *(["of 100 or more"] if n >= 100 else [])
    )
