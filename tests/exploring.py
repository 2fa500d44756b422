"""Explorations of the heart hospitals in the in-memory federation, and requests to a node as its coordinator would make them."""

from __future__ import annotations

from typing import Any

import numpy as np
from federation import Federation
from numpy.typing import NDArray

from fedward.client import datasets
from fedward.client.home import SiteHome
from fedward.server.readings import view
from fedward.server.views import StudyView
from fedward.study import messages
from fedward.study.answers import tally
from fedward.study.exploration import Exploration, SealedExploration, load_exploration, parse_exploration
from fedward.study.heart import heart_folder
from fedward.study.messages import Reply, Work
from fedward.study.sums import counts_shape

SITE = "va"


def heart_exploration(*, secure: bool = True, **changes: Any) -> Exploration:
    """The example, with some of its tables changed: `privacy={"epsilon": 0.1}`, or its queries replaced."""
    data = load_exploration(heart_folder() / "explore.toml").model_dump(mode="json", exclude_none=True)
    data["privacy"]["secure_aggregation"] = secure
    for table, values in changes.items():
        data[table] = values if isinstance(values, list) else data[table] | values
    return parse_exploration(data)


def set_policy(home: SiteHome, name: str, value: str) -> None:
    """Change one setting of a hospital's policy file."""
    lines = [
        f"{name} = {value}" if line.startswith(name) else line for line in home.policy_file.read_text().split("\n")
    ]
    home.policy_file.write_text("\n".join(lines))


def allow(federation: Federation) -> None:
    for home in federation.sites.values():
        set_policy(home, "allow_explore", "true")


class NoNoise:
    """Draws of a hospital that adds nothing and always rounds up: what is summed can then be compared exactly."""

    def uniform(self, n: int) -> NDArray[np.float64]:
        return np.full(n, 1e-9)

    def discrete_gaussian(self, n: int, deviation: float) -> NDArray[np.int64]:
        assert deviation > 0
        return np.zeros(n, dtype=np.int64)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"an exploration draws no {name}")


def exact(federation: Federation, sites: tuple[str, ...]) -> NDArray[np.int64]:
    """What these sites would have to sum up to without any noise."""
    exploration = federation.sealed().manifest
    assert isinstance(exploration, Exploration)
    total = np.zeros(counts_shape(sealed_exploration(federation)), dtype=np.int64)
    for site in sites:
        home = federation.sites[site]
        frame = datasets.read(home, datasets.find(home, exploration.study.id), exploration)
        total += tally(frame, exploration, NoNoise())
    return total


def sealed_exploration(federation: Federation) -> SealedExploration:
    sealed = federation.sealed()
    assert isinstance(sealed, SealedExploration)
    return sealed


def shown(federation: Federation) -> StudyView:
    return view(federation.store, federation.store.study(federation.key))


def charged(federation: Federation, site: str) -> list[tuple[int, int, str]]:
    with federation.sites[site].ledger(witnessed=False) as ledger:
        made = [entry.charge for entry in ledger.charges()]
    return [(charge.round, charge.attempt, charge.purpose) for charge in made]


class Asking:
    """Requests to one hospital's node, signed by the coordinator's key, whoever holds it."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.sealed = sealed_exploration(federation)
        self.home = federation.sites[SITE]

    def work(self, **changes: Any) -> Reply:
        """A request for all answers, with some of its fields changed."""
        body = changes.pop("body", b"")
        fields: dict[str, Any] = {
            "study": self.sealed.digest,
            "round": 1,
            "attempt": 1,
            "base": self.sealed.digest,
            "dimension": counts_shape(self.sealed)[0],
            "train": False,
            "evaluate": True,
        }
        sent = messages.pack(Work.model_validate(fields | changes), body, self.federation.home.identity())
        raw = self.federation.transport.nodes[SITE](sent)
        reply, self.body = messages.open_reply(raw, self.home.identity().public)
        return reply
