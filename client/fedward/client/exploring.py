"""What a node answers to an exploration: the approved queries, tallied over its registered patients, with its own noise."""

from __future__ import annotations

from fedward.client import datasets
from fedward.client.home import SiteHome
from fedward.privacy.draws import Draws
from fedward.privacy.errors import InputError
from fedward.study.answers import noised, tally
from fedward.study.exploration import SealedExploration
from fedward.study.messages import Task
from fedward.study.metrics import Counts
from fedward.study.sums import counts_shape


def check_request(sealed: SealedExploration, request: Task, body: bytes) -> None:
    """Hold a request against the approved exploration: it has one round, starts from no model and asks for all answers.

    Raises:
        InputError: an honest coordinator does not ask so.
    """
    if request.round != 1:
        raise InputError(f"round {request.round} is not in an exploration, which has one", code="unknown-round")
    if request.train or not request.evaluate:
        raise InputError("an exploration trains nothing and asks for its answers", code="unplanned-work")
    if body or (request.dimension,) != counts_shape(sealed):
        raise InputError("the request does not fit the exploration's queries", code="wrong-shape")
    if request.base != sealed.digest:
        raise InputError("the request names another base than the exploration itself", code="wrong-base")


def answer(home: SiteHome, sealed: SealedExploration, draws: Draws) -> Counts:
    """All answers of one attempt, noised, shape (counts + sums,). The ledger must have been charged before.

    Raises:
        IntegrityError: the registered data was changed.
        InputError: no data is registered, or it does not fit the exploration.
    """
    exploration = sealed.manifest
    frame = datasets.read(home, datasets.find(home, exploration.study.id), exploration)
    exact = tally(frame, exploration, draws)
    return noised(exact, exploration, sealed.entry(home.site).noise_multiplier, draws)
