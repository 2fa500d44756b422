"""When an action needs two persons, and whether who asks is the second. Pure.

The federation's policy names the actions. Then:

1. who asks first leaves a request, and nothing is done;
2. the request is for one action on one thing by its digest: a changed study, or another action, is another request;
3. whoever asks for the same under another name, before it expires, is the second, and the request is used up;
4. the name decides, not the certificate: one person with two certificates is one;
5. a certificate that was issued after the request seconds nothing: who gives access cannot make a second person on the spot;
6. a request of somebody whose access as a coordinator has ended since is void;
7. changing the policy needs two as well, while it asks two persons for anything;
8. releasing a model that missed a gate takes two, whatever the policy is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, get_args

from pydantic import Field

from fedward.privacy.errors import RefusalError
from fedward.study.fields import NAME, Part
from fedward.study.manifest import HEX_KEY
from fedward.study.releases import Override, Signed

Action = Literal["launch", "release"]
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)
CHANGE_POLICY: Final = "change-policy"
OVERRIDE: Final = "override"
"""Releasing a model that missed a gate: it takes two persons whatever the policy is."""


class Policy(Part):
    """What the federation asks two persons for; `hours` is how long a request waits for the second."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    two_persons: tuple[Action, ...] = ()
    hours: Annotated[int, Field(ge=1, le=720)] = 72

    def needs_two(self, action: str) -> bool:
        if action == OVERRIDE:
            return True
        return bool(self.two_persons) if action == CHANGE_POLICY else action in self.two_persons


@dataclass(frozen=True)
class Asker:
    """Who asks: the name, and when the certificate was issued (Unix seconds)."""

    name: str
    since: int


class Request(Part):
    """Somebody asked for an action, and it waits for another. `target` is the digest of what it is about, `about` its name.

    To override gates, the first person has signed what the second one is to sign too.
    """

    reference: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    action: Annotated[str, Field(pattern=NAME)]
    target: Annotated[str, Field(pattern=HEX_KEY)]
    about: Annotated[str, Field(max_length=200)]
    by: Annotated[str, Field(pattern=NAME)]
    at: Annotated[int, Field(ge=0)]
    expires_at: Annotated[int, Field(ge=0)]
    override: Override | None = None
    signed: Signed | None = None


def waiting(requests: Sequence[Request], coordinators: Collection[str], now: int) -> tuple[Request, ...]:
    """Those that have not expired, of people who still have access as coordinators."""
    return tuple(one for one in requests if one.by in coordinators and now < one.expires_at)


def seconded(requests: Sequence[Request], action: str, target: str, asker: Asker) -> Request | None:
    """The waiting request that this person seconds; None if there is none, and so this person's is the first.

    Raises:
        RefusalError: `second-person-needed`: the first asks again; `second-too-new`.
    """
    found = next((one for one in requests if (one.action, one.target) == (action, target)), None)
    if found is None:
        return None
    if found.by == asker.name:
        raise second_needed(found)
    if not asker.since <= found.at:
        raise RefusalError(
            f'the access of "{asker.name}" is newer than the request', expected=f"access from before {found.by} asked",
            remedy=f"withdraw {found.reference} and ask anew, or let somebody else be the second", code="second-too-new",
        )  # fmt: skip
    return found


def second_needed(request: Request) -> RefusalError:
    """What who asked first is told: nothing is done yet."""
    return RefusalError(
        f'{request.action} of "{request.about}" waits for a second operator', expected="two persons, by this federation's policy",
        got=f"{request.by} alone; request {request.reference}",
        remedy="another coordinator runs the same command; see `fedward coordinator requests`", code="second-person-needed",
    )  # fmt: skip
