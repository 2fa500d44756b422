"""Whether a hospital meets what a study demands of its patients, in words and as data: for its own people alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fedward.client import eligibility
from fedward.client.datasets import Dataset
from fedward.client.home import SiteHome
from fedward.privacy.errors import FedwardError
from fedward.study.demand import Eligibility
from fedward.study.eligibility import Unmet, unmet
from fedward.study.kinds import AnySealed
from fedward.study.manifest import SealedManifest


@dataclass(frozen=True, repr=False)
class Held:
    """A study's demand held against the data that a hospital registered.

    Attributes:
        demand: what is demanded.
        unmet: what of it is not met; None where that cannot be told.
        why: why it cannot be told, else "".
    """

    demand: Eligibility
    unmet: tuple[Unmet, ...] | None
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        short = [{"what": one.what, "needed": one.needed, "found": one.found} for one in self.unmet or ()]
        met = None if self.unmet is None else not self.unmet
        return {"demands": list(self.demand.words), "met": met, "unmet": short, "unknown": self.why}

    def review_lines(self) -> Iterator[str]:
        """For `fedward site review`."""
        yield f"  demands      {'; '.join(self.demand.words)}"
        if self.unmet is None:
            yield f"               whether this hospital meets it cannot be told: {self.why}"
        elif self.unmet:
            yield from (f"  NOT MET      {one.words}" for one in self.unmet)
            yield "               it cannot be approved here; the coordinator is told nothing of this, also if somebody refuses it"
        else:
            yield "               this hospital meets it; approving tells the coordinator so: a yes, and no number"


def held(home: SiteHome, sealed: AnySealed, dataset: Dataset | None) -> Held | None:
    """A study's demand, held against the registered data; None where it demands nothing."""
    if not isinstance(sealed, SealedManifest) or sealed.manifest.eligibility is None:
        return None
    demand = sealed.manifest.eligibility
    if dataset is None:
        return Held(demand, None, "no data is registered")
    try:
        return Held(demand, unmet(demand, eligibility.counting(home, dataset)(sealed)))
    except FedwardError as error:
        return Held(demand, None, error.what)


def registered_lines(demand: Eligibility | None, short: Sequence[Unmet] | None) -> Iterator[str]:
    """For `fedward site register`: nothing where nothing is demanded."""
    if demand is None:
        return
    yield f"The study demands of a hospital: {'; '.join(demand.words)}."
    if not short:
        yield "This hospital meets it. The coordinator is told so only if the study is approved here."
        return
    yield "This hospital does NOT meet it, and cannot approve the study; the coordinator is not told:"
    yield from (f"  {one.words}" for one in short)
