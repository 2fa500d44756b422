"""The vault: what is sealed opens under its own name and key alone, and every changed byte is noticed."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy.errors import IntegrityError
from fedward.privacy.vault import KEY_BYTES, MAGIC, Vault, Wrapped, wrap

KEY = bytes(range(KEY_BYTES))


@given(st.binary(max_size=300), st.text(min_size=1, max_size=40))
def test_what_is_sealed_opens_again(data: bytes, name: str) -> None:
    sealed = Vault(KEY).seal(name, data)
    assert Vault(KEY).open(name, sealed) == data
    assert len(sealed) == len(data) + 32


def test_it_is_what_its_docstring_says() -> None:
    """By hand: HKDF-SHA256 of the home key and the file's name, AES-256-GCM, the magic authenticated."""
    sealed = Vault(KEY).seal("keys/patients.key", b"secret")
    info = b"fedward/at-rest/file/keys/patients.key"
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(KEY)
    assert AESGCM(key).decrypt(sealed[4:16], sealed[16:], MAGIC) == b"secret"


def test_every_changed_byte_another_name_and_another_home_are_refused() -> None:
    sealed = Vault(KEY).seal("a", b"patients")
    wrong = [sealed[:n] + bytes([sealed[n] ^ 1]) + sealed[n + 1 :] for n in range(len(sealed))]
    wrong += [sealed[:n] for n in range(len(sealed))] + [sealed + b"\0", b"patients", b""]
    for data in wrong:
        with pytest.raises(IntegrityError, match="a is") as caught:
            Vault(KEY).open("a", data)
        assert caught.value.code == "damaged"
        assert caught.value.__cause__ is None
    for vault, name in ((Vault(KEY), "b"), (Vault(os.urandom(KEY_BYTES)), "a")):
        with pytest.raises(IntegrityError):
            vault.open(name, sealed)


def test_the_same_data_is_sealed_differently_each_time_and_shows_nothing() -> None:
    many = {Vault(KEY).seal("a", b"patients" * 20) for _ in range(50)}
    assert len(many) == 50
    assert not any(b"patients" in sealed for sealed in many)


def test_secrets_differ_by_purpose_and_by_home() -> None:
    vault = Vault(KEY)
    assert len({vault.secret("keys"), vault.secret("ledger"), Vault(bytes(KEY_BYTES)).secret("keys")}) == 3
    assert vault.secret("keys") == Vault(KEY).secret("keys")
    assert "00010203" not in repr(vault) + vault.secret("keys")


@pytest.mark.parametrize("under", ["passphrase", "file"])
def test_the_home_key_opens_by_its_secret_alone(under: str) -> None:
    wrapped = wrap(KEY, b"four words of mine", under)  # type: ignore[arg-type]
    again = Wrapped.model_validate_json(wrapped.model_dump_json())
    assert again.unwrap(b"four words of mine") == KEY
    with pytest.raises(IntegrityError) as caught:
        again.unwrap(b"four words of mine!")
    assert caught.value.code == ("wrong-passphrase" if under == "passphrase" else "wrong-key-file")
    assert KEY.hex() not in wrapped.model_dump_json()
