"""The held-out split: which patients never train, decided by a keyed hash of the patient id.

The key is made at the hospital and stays there, so that the split is stable across rounds, restarts and studies, and
nobody outside can tell on which side a patient lies.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.errors import InputError

KEY_BYTES = 32


def held_out(patients: Sequence[str], share: float, key: bytes) -> NDArray[np.bool_]:
    """True where a patient is held out, shape (n,). Each is, independently, with probability `share`.

    Raises:
        InputError: the key has not 32 bytes.
    """
    if len(key) != KEY_BYTES:
        raise InputError("the patient key is damaged", expected=f"{KEY_BYTES} bytes", got=f"{len(key)}")
    bound = int(share * 2**64)
    positions = [
        int.from_bytes(hmac.digest(key, b"fedward/holdout\x00" + patient.encode(), "sha256")[:8], "big")
        for patient in patients
    ]
    return np.array([position < bound for position in positions], dtype=np.bool_)
