"""`fedward site approve | refuse | revoke`: what an approver says to one study, by its digest, signed with their own key."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedward.cli.asking import confirm
from fedward.cli.output import JsonOption, counted, print_json, say
from fedward.cli.site_home import DEFAULT_HOME, Home
from fedward.cli.site_signer import As, KeyFile, signer

if TYPE_CHECKING:
    from fedward.client.standing import Standing
    from fedward.study.kinds import AnySealed

Digest = Annotated[str, typer.Argument(metavar="DIGEST", help="The study's digest, or its first digits.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for your own record; it never leaves. No patient's data.")]
DAY_S = 86_400


def approve(
    study: Digest,
    home: Home = DEFAULT_HOME,
    by: As = None,
    key: KeyFile = None,
    expires: Annotated[
        str | None,
        typer.Option(
            "--expires",
            metavar="DATE|DAYSd",
            help="Until when it holds, 2030-12-31 or 90d; the study's expiry by default.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: bool = JsonOption,
) -> None:
    """Approve one study, by its digest. This node runs nothing that was not approved."""
    from fedward.cli.review import print_review
    from fedward.client import approvals
    from fedward.client.home import SiteHome

    opened, now = SiteHome.open(home), int(time.time())
    sealed = approvals.proposal(opened, study)
    until = None if expires is None else _until(expires, now)
    approvals.check_approvable(opened, sealed, now)
    if not yes and not as_json:
        print_review(opened, sealed)
        confirm("Approve this study for this hospital?")
    who, identity = signer(opened, by, key)
    standing = approvals.approve(opened, sealed, by=who, signer=identity, at=now, expires_at=until)
    if as_json:
        print_json(_data(sealed, standing, who))
    elif standing.missing:
        say(f'Signed for "{sealed.manifest.study.title}" ({sealed.digest[:12]}) as {who}. '
            f"{counted(standing.missing, 'more approver')} must sign before it runs.")  # fmt: skip
    else:
        say(
            f'Approved "{sealed.manifest.study.title}" ({sealed.digest[:12]}) as {who}. The running node sees it at once.'
        )


def refuse(
    study: Digest,
    home: Home = DEFAULT_HOME,
    by: As = None,
    key: KeyFile = None,
    reason: Reason = "",
    as_json: bool = JsonOption,
) -> None:
    """Say no to a study. One approver is enough; it binds from the next request on."""
    from fedward.client import approvals

    _end(approvals.refuse, "Refused", study, home, by, key, reason, as_json=as_json)


def revoke(
    study: Digest,
    home: Home = DEFAULT_HOME,
    by: As = None,
    key: KeyFile = None,
    reason: Reason = "",
    as_json: bool = JsonOption,
) -> None:
    """Take back an approval. One approver is enough; it binds at once, and a running round's answer stays here."""
    from fedward.client import approvals

    _end(approvals.revoke, "Revoked the approval of", study, home, by, key, reason, as_json=as_json)


def _end(
    end: Callable[..., Standing],
    done: str,
    study: str,
    home: Path,
    by: str | None,
    key: Path | None,
    reason: str,
    *,
    as_json: bool,
) -> None:
    from fedward.client import approvals
    from fedward.client.home import SiteHome

    opened = SiteHome.open(home)
    sealed = approvals.proposal(opened, study)
    who, identity = signer(opened, by, key)
    standing = end(opened, sealed, by=who, signer=identity, at=int(time.time()), reason=reason)
    if as_json:
        print_json(_data(sealed, standing, who))
        return
    say(f'{done} "{sealed.manifest.study.title}" ({sealed.digest[:12]}) as {who}. What was spent stays in the ledger.')


def _data(sealed: AnySealed, standing: Standing, who: str) -> dict[str, Any]:
    return {
        "study": sealed.digest,
        "state": standing.state,
        "by": who,
        "signed_by": [link.by for link in standing.signed],
        "needed": standing.needed,
        "missing": standing.missing,
        "expires_at": standing.expires_at,
    }


def _until(text: str, now: int) -> int:
    """A time in Unix seconds. Raises: InputError unless it is a date or a number of days."""
    from fedward.privacy.errors import InputError

    if found := re.fullmatch(r"(\d{1,5})d", text):
        return now + int(found[1]) * DAY_S
    try:
        return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) + DAY_S - 1
    except ValueError:
        raise InputError(
            "--expires is no time", expected="a date such as 2030-12-31, or days such as 90d", got=text
        ) from None
