"""How the protocol says no: one error, with the name of the attack or fault that it looks like, and who is to blame.

A message that cannot come from an honest coordinator is a *lie*: the site keeps its bytes as evidence. A message that
merely comes at a bad time (a restarted site, a batch that is gone) is not.
"""

from __future__ import annotations

from fedward.privacy.errors import IntegrityError

COORDINATOR = "coordinator"


class ProtocolError(IntegrityError):
    """A message of the protocol is refused. Nothing has changed and nothing was revealed.

    Attributes:
        blamed: the site whose message is false, "coordinator", or "" where nobody can be named.
        lie: whether an honest party can never have sent it.
    """

    default_code = "secagg"

    def __init__(
        self,
        what: str,
        *,
        code: str,
        blamed: str = "",
        lie: bool = True,
        expected: str | None = None,
        got: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(what, expected=expected, got=got, remedy=remedy, code=code)
        self.blamed = blamed
        self.lie = lie
