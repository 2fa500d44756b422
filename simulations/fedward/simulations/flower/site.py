"""What a worker does for one message: a site's local training, by the code that a node runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedward.client.training import train
from fedward.privacy.errors import FedwardError
from fedward.simulations.draws import UnsafeKeyedDraws
from fedward.simulations.flower.parcels import Arrays, pack, unpack
from fedward.study.encoding import Encoded
from fedward.study.manifest import SealedManifest
from fedward.study.models import build, load_vector
from fedward.study.terms import site_terms


def packed_study(sealed: SealedManifest, training: Sequence[Encoded]) -> tuple[bytes, list[bytes]]:
    """The study, and each site's patients in the roster's order; of identifiers only which rows are one patient's."""
    tables = [pack({}, inputs=one.inputs, outcomes=one.outcomes, owners=one.owners) for one in training]
    return sealed.model_dump_json().encode(), tables


def read_study(text: bytes) -> SealedManifest:
    """The study of `packed_study`."""
    return SealedManifest.model_validate_json(text)


def answer(sealed: SealedManifest, header: dict[str, Any], arrays: Arrays, table: bytes) -> bytes:
    """Train one site.

    Args:
        sealed: the study.
        header: "place" in the roster, "seed", some numbers, and "call": which of the study's calls for updates this is.
        arrays: "base", shape (d,), and where there is one "correction", shape (d,).
        table: the site's patients.

    Returns:
        the update, shape (d,), as "update"; or an error's words: the same training would fail again.
    """
    model = build(sealed.manifest)
    load_vector(model, arrays["base"])
    draws = UnsafeKeyedDraws(*header["seed"], header["place"], header["call"])
    terms = site_terms(sealed, sealed.roster[header["place"]].site)
    try:
        update = train(model, _patients(table), terms, draws, arrays.get("correction"))
    except FedwardError as error:
        return pack({"error": error.code, "what": error.what, "got": error.got, "remedy": error.remedy})
    return pack({"error": None}, update=update)


def _patients(table: bytes) -> Encoded:
    _, arrays = unpack(table)
    names = tuple(str(owner) for owner in arrays["owners"])
    return Encoded(names, arrays["inputs"], arrays["outcomes"], np.zeros((len(names), 0), dtype=np.bool_))
