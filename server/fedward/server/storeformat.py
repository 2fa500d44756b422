"""Which formats of the store this version opens: its own alone. An older one is brought up to date by a person's command first."""

from __future__ import annotations

from fedward.privacy.errors import InputError
from fedward.server.tables import FORMAT


def check_format(found: int | None, shown: str) -> None:
    """Whether a store of this format may be used; None is none yet.

    Raises:
        InputError: `newer-store` or `older-store`.
    """
    refuse_newer(found, shown)
    if found is not None and found < FORMAT:
        raise InputError(
            f"the store {shown} is of an earlier version of Fedward",
            expected=f"format {FORMAT}",
            got=f"format {found}",
            remedy="stop the service and bring the store up to date: fedward coordinator migrate",
            code="older-store",
        )


def refuse_newer(found: int | None, shown: str) -> None:
    """
    Raises:
        InputError: `newer-store`.
    """
    if found is not None and found > FORMAT:
        raise InputError(
            f"the store {shown} is of a newer version of Fedward",
            expected=f"format {FORMAT} or older",
            got=f"format {found}",
            remedy="use the version that wrote it, or a newer one; nothing was changed",
            code="newer-store",
        )
