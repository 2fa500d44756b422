"""A study's run in the in-memory federation, and what can be seen of it afterwards in the store and the ledgers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from federation import Federation
from numpy.typing import NDArray

from fedward.server.models import load_model
from fedward.server.running import StudyRun
from fedward.study import messages
from fedward.study.manifest import SealedManifest
from fedward.study.messages import Work
from fedward.study.models import build, to_vector
from fedward.study.terms import training_cohort


def run(federation: Federation, *, store: Any = None, heard: Callable[[str], None] | None = None) -> None:
    """One life of the coordinator's process; `heard` is told what it reports, as it reports it."""

    def report(text: str) -> None:
        federation.said.append(text)
        if heard is not None:
            heard(text)

    federation.launch()
    StudyRun(federation.home, store or federation.store, federation.transport, federation.clock, report).run(
        federation.key
    )


def state(federation: Federation) -> str:
    return federation.store.study(federation.key).state


def outcomes(federation: Federation) -> list[tuple[int, str | None]]:
    return [(row.round, row.outcome) for row in federation.store.attempts(federation.key)]


def statuses(federation: Federation, attempt: int) -> dict[str, tuple[str, str]]:
    rows = federation.store.statuses(federation.key)
    return {row.site: (row.status, row.reason) for row in rows if row.attempt == attempt}


def charges(federation: Federation, site: str) -> list[tuple[int, int]]:
    with federation.sites[site].ledger(witnessed=False) as ledger:
        made = [entry.charge for entry in ledger.charges()]
    return [(charge.round, charge.attempt) for charge in made if charge.purpose == "train"]


def asked(federation: Federation) -> list[tuple[str, Work]]:
    """Every training or evaluation request that was sent."""
    key = federation.home.identity().public
    opened = [(site, messages.open_request(payload, key)[0]) for site, payload in federation.transport.sent]
    return [(site, request) for site, request in opened if isinstance(request, Work)]


class Recorder:
    """Keeps what each site replied to each attempt, and may change or lose it on the way."""

    def __init__(
        self,
        federation: Federation,
        change: Callable[[str, bytes], bytes | None] | None = None,
        *,
        skip: str | None = None,
    ) -> None:
        self._federation, self._change, self._skip = federation, change, skip
        self.updates: dict[tuple[int, str], NDArray[np.float32]] = {}
        federation.transport.tamper = self

    def __call__(self, site: str, data: bytes) -> bytes | None:
        if site == self._skip:
            return data
        reply, body = messages.open_reply(data, self._federation.sites[site].identity().public)
        if isinstance(reply, messages.Result):
            self.updates[reply.attempt, site] = np.frombuffer(body[: 4 * reply.update_values], dtype="<f4")
        return data if self._change is None else self._change(site, data)

    def model_after(self, sealed: SealedManifest, attempt: int, sites: tuple[str, ...]) -> NDArray[np.float64]:
        """The first round's model by hand: w + η Σ wᵢ uᵢ / Σ wᵢ."""
        weights = [training_cohort(sealed, site) for site in sites]
        total = sum(w * self.updates[attempt, s].astype(float) for w, s in zip(weights, sites, strict=True))
        start = to_vector(build(sealed.manifest)).astype(float)
        return np.asarray(start + sealed.manifest.training.server_learning_rate * total / sum(weights))


def committed(federation: Federation, attempt: int) -> NDArray[np.float32]:
    row = federation.store.attempts(federation.key)[attempt - 1]
    assert row.model is not None
    return load_model(federation.home.models_folder, row.model)
