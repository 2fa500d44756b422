"""Passphrases that people and service managers give: from a file with checked permissions, named in the environment or by systemd.

FEDWARD_PASSPHRASE_FILE               a file with checked permissions
$CREDENTIALS_DIRECTORY/fedward-passphrase   systemd's LoadCredential=
"""

from __future__ import annotations

import os
from pathlib import Path

from fedward.privacy.errors import InputError
from fedward.study.files import read_secret

PASSPHRASE_FILE = "FEDWARD_PASSPHRASE_FILE"  # noqa: S105 - the name of a variable
CREDENTIAL = "fedward-passphrase"
SHORTEST_PASSPHRASE = 12


def given_passphrase() -> str | None:
    """The passphrase from the first of those places that has one; errors as `read_passphrase`."""
    named = os.environ.get(PASSPHRASE_FILE)
    if named:
        return read_passphrase(Path(named))
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials and (Path(credentials) / CREDENTIAL).is_file():
        return read_passphrase(Path(credentials) / CREDENTIAL)
    return None


def read_passphrase(file: Path) -> str:
    """A passphrase from a file, without its last line break.

    Raises:
        InputError: there is none.
        IntegrityError: others than its owner may read it.
    """
    return read_secret(file, "passphrase file").decode("utf-8", "replace").rstrip("\r\n")


def checked_passphrase(text: str) -> str:
    """
    Raises:
        InputError: `weak-passphrase`.
    """
    if len(text) < SHORTEST_PASSPHRASE:
        raise InputError(
            "the passphrase is too short",
            expected=f"{SHORTEST_PASSPHRASE} characters or more, such as four words",
            got=f"{len(text)}",
            code="weak-passphrase",
        )
    return text
