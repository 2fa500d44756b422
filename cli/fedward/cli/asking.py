"""What a command asks a person: whether they are sure, and a new passphrase. Where nobody can answer, it says how else."""

from __future__ import annotations

import getpass
import sys
import warnings

import click

from fedward.cli.output import note
from fedward.privacy.errors import InputError, UsageError

ATTEMPTS = 3


def confirm(question: str) -> None:
    """Ask, and go on only after a yes; an answer may also come through a pipe.

    Raises:
        UsageError: nobody could answer, or the answer was no: nothing was done.
        click.Abort: Ctrl-C.
    """
    try:
        sure = click.confirm(question)
    except click.Abort as abort:
        if not isinstance(abort.__context__, EOFError):
            raise
        sys.stdout.write("\n")
        raise UsageError(
            "this command asks before it acts, and nobody could answer; nothing was done",
            expected="an answer at a terminal, or --yes",
            got=f"no answer to: {question}",
            remedy="run it in a terminal, or add --yes if it is decided",
        ) from None
    if not sure:
        raise UsageError("the answer was no; nothing was done", remedy="run it again once it is decided")


def secret(question: str, what: str, variable: str) -> str:
    """A passphrase that is typed, unseen.

    Args:
        question: the prompt.
        what: whose it is, for the error.
        variable: the variable that may name a file instead.

    Raises:
        InputError: nobody can type it here.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", getpass.GetPassWarning
            )  # its own words say so already, without a place in Python
            return getpass.getpass(f"{question}: ")
    except EOFError:
        raise InputError(
            f"nobody typed {what}",
            remedy=f"run this in a terminal, or name a file that holds it (mode 0600) in {variable}",
        ) from None


def new_secret(question: str, what: str, variable: str, least: int) -> str:
    """A new passphrase, typed twice; one that is too short is told before it is typed again. Arguments as `secret`.

    Raises:
        InputError: not one of three attempts will do, or nobody can type it here.
    """
    for _ in range(ATTEMPTS):
        typed = secret(f"{question} ({least} characters or more)", what, variable)
        if len(typed) < least:
            note(f"That is too short; give {least} characters or more, such as four words.")
        elif secret("The same again", what, variable) == typed:
            return typed
        else:
            note("The two differ.")
    raise InputError(
        f"there is no new passphrase after {ATTEMPTS} attempts; nothing was done",
        expected=f"{least} characters or more, twice the same",
        remedy="run the command again",
        code="weak-passphrase",
    )
