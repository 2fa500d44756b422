"""Which patients a registration is about, as one number that tells nothing about any of them.

HMAC-SHA256 with the hospital's own patient key over every patient's keyed hash, sorted: equal for the same patients in any
order and any number of encounters, and without the key nobody can try out whether a patient is among them.
"""

from __future__ import annotations

import hmac
import unicodedata
from collections.abc import Iterable

from fedward.client.split import KEY_BYTES
from fedward.privacy.errors import InputError

_PATIENT, _COHORT = b"fedward/patient\x00", b"fedward/cohort\x00"


def fingerprint(patients: Iterable[str], key: bytes) -> str:
    """The cohort's fingerprint, 64 lower-case hex digits.

    Args:
        patients: the hospital's patient ids, in any order; one that comes again counts once.
        key: the hospital's patient key, 32 bytes.

    Raises:
        InputError: the key has not 32 bytes.
    """
    if len(key) != KEY_BYTES:
        raise InputError("the patient key is damaged", expected=f"{KEY_BYTES} bytes", got=f"{len(key)}")
    hashes = sorted({patient_hash(patient, key) for patient in patients})
    return hmac.digest(key, _COHORT + b"".join(hashes), "sha256").hex()


def identifier(text: str) -> str:
    """A patient's identifier in Unicode's form NFC (UAX 15): "é" is one name, as one character or as "e" and an accent."""
    return unicodedata.normalize("NFC", text.strip())


def patient_hash(patient: str, key: bytes) -> bytes:
    """A patient's keyed hash, 32 bytes: one patient has one at a hospital, whatever the study."""
    return hmac.digest(key, _PATIENT + patient.encode(errors="surrogatepass"), "sha256")
