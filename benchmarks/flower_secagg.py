"""Flower's SecAgg+ as the peer of secure aggregation: its own functions, called as its own mod and workflow call them.

Its parameters are the defaults of `SecAggPlusWorkflow`; every site is everyone's neighbour, as in ours. A site's masked stage is
`secaggplus_mod._collect_masked_vectors` itself, with real keys and boxes; only the shares in the boxes are random bytes of
the right length, as dealing them takes minutes. It asks for no signatures and no commitments, and checks none.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from flwr.client.mod.secure_aggregation.secaggplus_mod import SecAggPlusState, _collect_masked_vectors
from flwr.common import bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import encrypt, generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_addition, parameters_subtraction
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen, share_keys_plaintext_concat
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)
from numpy.typing import NDArray

MODULUS = 2**32
CLIPPING, TARGET, MAX_WEIGHT, EXAMPLES = 8.0, 4194304, 1000.0, 500
_SEED_SHARE_BYTES, _KEY_SHARE_BYTES = 52, 324
"""A share is 4 bytes of index and the padded secret: a seed of 32 bytes, a private key of 306 in PEM."""


class FlowerSite:
    """A site with all its peers' keys and boxes, ready for the masked stage, any number of times."""

    def __init__(self, members: int) -> None:
        me = members // 2
        self.key = generate_key_pairs()[0]
        channel = generate_key_pairs()[0]
        self._state = SecAggPlusState()
        self._state.nid, self._state.threshold, self._state.rd_seed = me, 2 * members // 3 + 1, os.urandom(32)
        self._state.clipping_range, self._state.target_range = CLIPPING, TARGET
        self._state.mod_range, self._state.max_weight = MODULUS, MAX_WEIGHT
        self._state.sk1, self._state.public_keys_dict, self._state.ss2_dict = private_key_to_bytes(self.key), {}, {}
        self._state.rd_seed_share_dict, self._state.sk1_share_dict = {}, {}
        peers = [peer for peer in range(members) if peer != me]
        boxes = []
        for peer in peers:
            public1, public2 = generate_key_pairs()[1], generate_key_pairs()[1]
            self._state.public_keys_dict[peer] = (public_key_to_bytes(public1), public_key_to_bytes(public2))
            self._state.ss2_dict[peer] = generate_shared_key(channel, public2)
            shares = os.urandom(_SEED_SHARE_BYTES), os.urandom(_KEY_SHARE_BYTES)
            boxes.append(encrypt(self._state.ss2_dict[peer], share_keys_plaintext_concat(peer, me, *shares)))
        self._configs = {Key.CIPHERTEXT_LIST: boxes, Key.SOURCE_LIST: peers}

    def masked(self, values: NDArray[np.float32]) -> list[bytes]:
        """The whole masked stage: boxes, quantisation, self-mask, pairwise masks; what it sends."""
        parameters = ndarrays_to_parameters([values])
        sent: list[bytes] = _collect_masked_vectors(self._state, self._configs, EXAMPLES, parameters)[
            Key.MASKED_PARAMETERS
        ]
        return sent

    def pair_mask(self, total: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        """One mask that a dropped site left in the sum: its workflow agrees on the key, expands and adds."""
        public = next(iter(self._state.public_keys_dict.values()))[0]
        shared = generate_shared_key(bytes_to_private_key(self._state.sk1), bytes_to_public_key(public))
        return add_mask(shared, total)


def add_mask(seed: bytes, total: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Expand a mask and add it."""
    masked: list[NDArray[np.int64]] = parameters_addition(total, pseudo_rand_gen(seed, MODULUS, [total[0].shape]))
    return masked


def take_mask(seed: bytes, total: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Expand a mask and subtract it."""
    bare: list[NDArray[np.int64]] = parameters_subtraction(total, pseudo_rand_gen(seed, MODULUS, [total[0].shape]))
    return bare


def add_message(total: list[NDArray[np.int64]], message: bytes) -> list[NDArray[np.int64]]:
    """Add a site's masked vector to the sum."""
    more: list[NDArray[np.int64]] = parameters_addition(total, [bytes_to_ndarray(message)])
    return more


def parse(message: bytes) -> Any:
    """A vector of a message, as its server reads it."""
    return bytes_to_ndarray(message)


def seed_shares(threshold: int, members: int) -> list[bytes]:
    """As many shares of a self-mask's seed as open it."""
    return list(create_shares(os.urandom(32), threshold, members)[:threshold])


def key_shares(threshold: int, members: int) -> list[bytes]:
    """As many shares of a site's private key as open it."""
    return list(create_shares(private_key_to_bytes(generate_key_pairs()[0]), threshold, members)[:threshold])


def recover(shares: list[bytes]) -> bytes:
    """The secret of shares."""
    secret: bytes = combine_shares(shares)
    return secret
