"""Checkpoints against an independent reading of C2SP's signed notes, checkpoints and cosignatures."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedward.privacy.checkpoint import (
    Checkpoint,
    Note,
    check_signed,
    cosign,
    cosigned_at,
    cosigners,
    key_id,
    parse_note,
    sign_checkpoint,
    verifier_key,
)
from fedward.privacy.errors import FedwardError, InputError, IntegrityError, UsageError
from fedward.privacy.signing import Identity, verify, verify_note

ORIGIN = "fedward/site/cleveland/0123456789abcdef"
WITNESS = "fedward/coordinator/" + "ab" * 16
NOTE_OF_GO = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
KEY_OF_GO = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"


def open_note(note: str, *vkeys: str) -> tuple[str, dict[str, int]]:
    """A reader of signed notes of its own, for 0x01 and 0x04: the text, and per verified name the time (0 without one)."""
    text, lines = note[: note.rindex("\n\n") + 1], note[note.rindex("\n\n") + 2 :].splitlines()
    verified = {}
    for vkey in vkeys:
        name, number, encoded = vkey.split("+", 2)
        kind, key = base64.b64decode(encoded)[0], base64.b64decode(encoded)[1:]
        assert hashlib.sha256(f"{name}\n".encode() + bytes([kind]) + key).hexdigest()[:8] == number
        for line in lines:
            dash, who, signature = line.split(" ")
            raw = base64.b64decode(signature)
            if (dash, who, raw[:4].hex()) != ("—", name, number):
                continue
            at = int.from_bytes(raw[4:12], "big") if kind == 4 else 0
            signed = f"cosignature/v1\ntime {at}\n{text}" if kind == 4 else text
            Ed25519PublicKey.from_public_bytes(key).verify(raw[12 if kind == 4 else 4 :], signed.encode())
            verified[f"{name} {kind}"] = at
    return text, verified


def made() -> tuple[Identity, Identity, Note]:
    log, witness = Identity.generate(), Identity.generate()
    note = sign_checkpoint(Checkpoint(ORIGIN, 7, hashlib.sha256(b"").digest()), log)
    return log, witness, note.with_signatures([cosign(note.checkpoint, WITNESS, witness, 1_679_315_147)])


def test_the_reader_of_this_test_reads_gos_own_example() -> None:
    text, verified = open_note(NOTE_OF_GO, KEY_OF_GO)
    assert verified == {"PeterNeumann 1": 0}
    public = base64.b64decode(KEY_OF_GO.split("+", 2)[2])[1:].hex()
    assert verifier_key("PeterNeumann", public) == KEY_OF_GO
    verify_note(public, text, base64.b64decode(NOTE_OF_GO.rsplit(maxsplit=1)[-1])[4:], "Go's note")


def test_another_reader_verifies_our_notes() -> None:
    log, witness, note = made()
    keys = (verifier_key(ORIGIN, log.public), verifier_key(WITNESS, witness.public, cosignature=True))
    text, verified = open_note(note.text, *keys)
    assert text.splitlines() == [ORIGIN, "7", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="]
    assert verified == {f"{ORIGIN} 1": 0, f"{WITNESS} 4": 1_679_315_147}


def test_our_reader_takes_what_it_wrote() -> None:
    log, witness, note = made()
    again = parse_note(note.text)
    assert again == note
    assert check_signed(again, log.public) == note.checkpoint
    assert cosigned_at(again, WITNESS, witness.public) == 1_679_315_147
    assert cosigned_at(again, WITNESS, log.public) is None
    assert cosigners(again, {WITNESS: witness.public, ORIGIN: log.public}) == {WITNESS: 1_679_315_147}


def test_every_changed_byte_of_a_note_is_refused() -> None:
    log, witness, note = made()
    data = note.text.encode()
    for at in range(len(data)):
        for flip in (1, 0x20, 0x80):
            changed = data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
            try:
                found = parse_note(changed.decode())
                check_signed(found, log.public)
                held = cosigned_at(found, WITNESS, witness.public) is not None
            except (FedwardError, UnicodeDecodeError):
                held = False
            assert not held, f"byte {at}"


def test_a_signature_by_another_key_or_of_another_log_is_refused() -> None:
    log, _, note = made()
    other = Identity.generate()
    with pytest.raises(IntegrityError):
        check_signed(note, other.public)
    moved = Note(Checkpoint(ORIGIN[:-1] + "0", 7, note.checkpoint.root), note.signatures)
    with pytest.raises(IntegrityError):
        check_signed(moved, log.public)
    forged = Note(note.checkpoint, (note.signatures[0].__class__(ORIGIN, key_id(ORIGIN, log.public), b"\x00" * 64),))
    with pytest.raises(IntegrityError):
        check_signed(forged, log.public)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        f"{ORIGIN}\n7\n",
        f"{ORIGIN}\n07\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n— a AAAAAAA=\n",
        f"{ORIGIN}\n7\nAAAA\n\n— a AAAAAAA=\n",
        f"{ORIGIN}\n7\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\nmore\n\n— a AAAAAAA=\n",
        f"{ORIGIN}\n7\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV=\n\n— a AAAAAAA=\n",
        f"{ORIGIN}\n7\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n",
        "elsewhere\n7\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n— a AAAAAAA=\n",
        "x" * 50_000,
    ],
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises((InputError, IntegrityError)):
        parse_note(text)


def test_no_note_passes_for_a_framed_message_nor_one_for_a_note() -> None:
    identity = Identity.generate()
    for text in ("fedward/message\x00{}\n", "fedward/kit\x00\n", "no line end"):
        with pytest.raises(UsageError):
            identity.sign_note(text)
    note = identity.sign_note("fedward/message\n")
    with pytest.raises(IntegrityError):
        verify(identity.public, "message", b"\n", note, "a note")
    with pytest.raises(UsageError):
        sign_checkpoint(Checkpoint("cosignature/v1", 1, b"\x00" * 32), identity)
