"""The engine: asks every site, asks again whose worker died, and ends with an error before a round would be smaller."""

from __future__ import annotations

import importlib.util
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.errors import FedwardError, InputError, UnreachableError, UsageError
from fedward.simulations.flower.parcels import Header, pack, unpack
from fedward.simulations.flower.process import Driver
from fedward.simulations.flower.site import packed_study
from fedward.study.encoding import Encoded
from fedward.study.manifest import SealedManifest
from fedward.study.vectors import Vector

ATTEMPTS = 5
"""How often a site is asked in a round."""
PAUSE_S = 1.0
"""Before a site whose worker died is asked again; doubled each time, since Ray needs seconds on a busy machine to start another."""
START_S = 180.0
STARTS = 3
"""How often Ray is started: it gives its own processes 30 s, which a busy machine may not grant them."""
PATIENCE_S = 600.0
WORKERS_LOST = "workers-lost"

Report = Callable[[str], None]


class FlowerEngines:
    """Flower's simulation, started with the first study and once for all of a run; leaving the `with` block ends it.

    It is an `engines.EngineFactory`. One study at a time.
    """

    def __init__(
        self,
        sites: int,
        *,
        workers: int | None = None,
        address: str | None = None,
        tell: Report = lambda _line: None,
        patience: float = PATIENCE_S,
    ) -> None:
        """
        Args:
            sites: how many sites the largest study has.
            workers: processes that train, each on one core; by default as many as there are cores.
            address: of a Ray cluster that runs already, HOST:PORT or "auto"; its cores are the workers. None starts Ray here.
            tell: hears of sites that are asked again.
            patience: seconds without any site's reply after which those that are missing are asked again.

        Raises:
            UsageError: both `workers` and `address` are given.
            InputError: Ray is not installed.
        """
        if workers is not None and address is not None:
            raise UsageError("a cluster's own cores are its workers", remedy="leave out --workers or --ray-address")
        if importlib.util.find_spec("ray") is None:
            raise InputError("Ray is not installed", remedy='pip install "fedward[simulation]"', code="ray-missing")
        self._setup = {"nodes": sites, "workers": workers or os.cpu_count() or 1, "address": address}
        self._tell, self._patience = tell, patience
        self._driver: Driver | None = None
        self._studies = self._works = 0
        self.workers: set[str] = set()
        """HOST:PID of every process that has replied."""

    def __enter__(self) -> FlowerEngines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def __call__(self, sealed: SealedManifest, training: Mapping[str, Encoded], seed: Sequence[int]) -> FlowerSites:
        """The sites of one study.

        Raises:
            InputError: the patients do not fit the roster, or the study's noise is shared.
            UnreachableError: Ray or Flower does not start.
        """
        sites = [entry.site for entry in sealed.roster]
        if set(training) != set(sites):
            raise InputError("the patients do not fit the roster", expected=", ".join(sites), got=", ".join(training))
        if sealed.manifest.privacy.noise == "shared":
            raise InputError("with shared noise no site has an update of its own", remedy="choose --engine loop")
        self._start()
        self._studies += 1
        text, tables = packed_study(sealed, [training[site] for site in sites])
        self._send({"do": "study", "study": self._studies, "sites": len(sites)}, text)
        for table in tables:
            self._send({"do": "patients"}, table)
        return FlowerSites(self, sites, self._studies, seed)

    def ask(self, names: list[str], parcels: list[bytes]) -> list[bytes]:
        """Send each site its parcel, and have all their replies, in order.

        Raises:
            UnreachableError: a site's reply did not come, however often it was asked.
        """
        replies: dict[int, bytes] = {}
        attempts = dict.fromkeys(range(len(names)), 0)
        asked: dict[int, int] = {}

        def again(places: list[int], why: str) -> None:
            spent = [names[place] for place in places if attempts[place] >= ATTEMPTS]
            if spent:
                raise _lost(f"no update of {_listed(spent)} in {ATTEMPTS} attempts", why)
            if why:
                self._tell(f"{_listed([names[place] for place in places])} asked again: {why}")
            for place in places:
                attempts[place] += 1
                self._works += 1
                asked[self._works] = place
                self._send({"do": "work", "work": self._works, "place": place}, parcels[place])

        again(list(attempts), "")
        while len(replies) < len(names):
            found = self._receive(self._patience)
            if found is None:
                missing = [place for place in attempts if place not in replies]
                again(missing, f"no site replied for {self._patience:g} s")
                continue
            header, parcel = found
            place = asked.pop(header["work"], -1)
            if place < 0 or place in replies:
                continue  # of an earlier round, or asked twice: both are the same bits
            if header["event"] == "reply":
                replies[place] = parcel
                self.workers.add(header["worker"])
            elif place not in asked.values():
                time.sleep(PAUSE_S * 2 ** (attempts[place] - 1) if attempts[place] < ATTEMPTS else 0)
                again([place], _brief(header["reason"]))
        return [replies[place] for place in range(len(names))]

    def _start(self) -> None:
        if self._driver is not None:
            return
        starts = STARTS if self._setup["address"] is None else 1  # another's cluster is there or not
        for left in reversed(range(starts)):
            try:
                workers = self._begin()
            except UnreachableError as error:
                self._close()
                if not left:
                    raise
                self._tell(f"started again: {error.what} ({error.got})")
            else:
                self._tell(f"Flower's simulation has started with {workers} workers")
                return

    def _begin(self) -> int:
        """Start the driver; how many workers Ray has."""
        self._driver = Driver(self._setup, self._patience)
        found = self._receive(START_S)
        if found is None:
            raise _lost(f"Ray did not start within {START_S:g} s", self._last_words())
        workers: int = found[0]["workers"]
        if workers < 1:
            raise _lost("the Ray cluster has no core for a worker", "0 CPUs")
        return workers

    def _close(self) -> None:
        if self._driver is not None:
            self._driver.close()
            self._driver = None

    def _running(self) -> Driver:
        if self._driver is None:
            raise InputError("Flower's simulation is not running", expected="a study inside the `with` block")
        return self._driver

    def _send(self, header: dict[str, Any], parcel: bytes) -> None:
        try:
            self._running().send(header, parcel)
        except OSError:
            raise _lost("Flower's simulation has ended", self._last_words()) from None

    def _receive(self, seconds: float) -> tuple[dict[str, Any], bytes] | None:
        """What the driver says next, or None if it says nothing for so long."""
        try:
            found = self._running().receive(seconds)
        except (EOFError, OSError):
            raise _lost("Flower's simulation has ended", self._last_words()) from None
        if found is not None and found[0]["event"] == "failed":
            raise _lost("Flower's simulation has failed", found[0]["reason"])
        return found

    def _last_words(self) -> str:
        return self._running().last_words()


class FlowerSites:
    """The sites of one study, an `engines.Engine`."""

    def __init__(self, engines: FlowerEngines, sites: list[str], study: int, seed: Sequence[int]) -> None:
        self._engines, self._sites = engines, sites
        self._study, self._seed, self._calls = study, seed, 0

    def updates(self, base: Vector, corrections: Vector | None = None) -> NDArray[np.float32]:
        """As `Engine.updates`; the call's number, from 0, is part of the draws' key.

        Raises:
            FedwardError: training did not stay finite at a site.
            UnreachableError: a site's worker died or was silent again and again; the code is `WORKERS_LOST`.
        """
        bases = np.broadcast_to(base, (len(self._sites), base.shape[-1]))
        parcels = []
        for place in range(len(self._sites)):
            header: Header = {"study": self._study, "place": place, "seed": list(self._seed), "call": self._calls}
            arrays = {"base": bases[place]} | ({} if corrections is None else {"correction": corrections[place]})
            parcels.append(pack(header, **arrays))
        self._calls += 1
        return np.stack([_update(reply) for reply in self._engines.ask(self._sites, parcels)])


def _update(reply: bytes) -> NDArray[np.float32]:
    header, arrays = unpack(reply)
    if header["error"] is not None:
        raise FedwardError(header["what"], got=header["got"], remedy=header["remedy"], code=header["error"])
    update: NDArray[np.float32] = arrays["update"]
    return update


def _lost(what: str, why: str) -> UnreachableError:
    remedy = "look at the machine's memory, and at the cluster; the same command goes on where --out was given"
    return UnreachableError(what, got=_brief(why), remedy=remedy, code=WORKERS_LOST)


def _brief(reason: str) -> str:
    """A reason in a short line: Ray's are pages, and Flower writes <class 'module.Name'>:<'words'>."""
    return " ".join(re.sub(r"^<class '(?:\w+\.)*(\w+)'>:<'(.*)'>$", r"\1: \2", reason, flags=re.DOTALL).split())[:200]


def _listed(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
