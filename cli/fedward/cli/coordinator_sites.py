"""`fedward coordinator enroll | sites | revoke`: who belongs to the federation, and with which keys."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedward.cli.asking import confirm
from fedward.cli.coordinator_home import DEFAULT_HOME, Home, open_coordinator
from fedward.cli.output import JsonOption, print_json, say

if TYPE_CHECKING:
    from fedward.server.records import Membership

EXPIRY_WARNING_DAYS = 30
_DONE = {
    "joined": 'Enrolled "{site}" with fingerprint {seen}.',
    "renewed": 'A fresh certificate for "{site}", whose keys stay as they are.',
    "rotated": '"{site}" gets new node and TLS keys; its identity, fingerprint {seen}, stays.',
    "identity-rotated": '"{site}" gets new keys and a new identity, with fingerprint {seen}.',
    "rejoined": '"{site}", which was revoked, is enrolled anew with fingerprint {seen}.',
}


def enroll(
    request_file: Annotated[
        Path, typer.Argument(metavar="REQUEST", help="The site's request: to join, to renew, or to rotate its keys.")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Where to write the kit.")] = None,
    fingerprint_expected: Annotated[
        str | None,
        typer.Option("--fingerprint", help="The site's fingerprint as heard by telephone; refused if it differs."),
    ] = None,
    end_studies: Annotated[
        bool,
        typer.Option(
            "--end-studies",
            help="With a new identity: proposed studies that name the old one end, to be proposed again.",
        ),
    ] = False,
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Enrol a hospital from its request, or renew or rotate what it has, and write its signed kit."""
    from fedward.privacy.errors import IntegrityError
    from fedward.privacy.signing import fingerprint
    from fedward.study.enrolment import RotationRequest, read_request
    from fedward.study.files import write_atomic

    asked = read_request(request_file)
    request = asked.request if isinstance(asked, RotationRequest) else asked
    seen = fingerprint(request.identity_key)
    if fingerprint_expected is not None and fingerprint_expected.lower() != seen:
        raise IntegrityError(
            "the request comes from another key than you expected", expected=fingerprint_expected, got=seen
        )
    done = open_coordinator(home).enroll(asked, confirmed=fingerprint_expected is not None, end_studies=end_studies)
    path = out or request_file.with_name(f"{request.site}.kit.json")
    write_atomic(path, done.kit.model_dump_json(indent=1).encode())
    if as_json:
        print_json({"site": request.site, "kit": str(path), "fingerprint": seen, "what": done.what,
                    "superseded": list(done.superseded)})  # fmt: skip
        return
    say(_DONE[done.what].format(site=request.site, seen=seen))
    if fingerprint_expected is None and done.what in {"joined", "identity-rotated"}:
        say("Compare it with the hospital by telephone before you propose a study to it.")
    if done.what in {"renewed", "rotated", "identity-rotated"}:
        say("What it has now stays valid until it connects with the new.")
    if done.superseded:
        say(f"To be proposed again, since they name the old identity: {', '.join(done.superseded)}")
    say(f"Send {path} back to the hospital. It holds no secret.")


def sites(home: Home = DEFAULT_HOME, as_json: bool = JsonOption) -> None:
    """List the hospitals: state, fingerprint, and when their certificates expire."""
    from fedward.privacy.signing import fingerprint

    listed = open_coordinator(home).sites()
    if as_json:
        print_json({"sites": [_as_data(row, fingerprint(row.identity_key)) for row in listed]})
        return
    if not listed:
        say("No hospital is enrolled yet: fedward coordinator enroll REQUEST")
    for row in listed:  # a line each: a fingerprint that a table folds cannot be compared
        say(f"{row.site}  {fingerprint(row.identity_key)}  {_state(row, datetime.now(UTC))}")


def revoke(
    site: Annotated[str, typer.Argument(help="The site that is to be let in no more.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept, and not sent to the site.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Shut a hospital out at once and for good: its certificates and keys are accepted no more, open connections included.

    Rounds go on without it where the quorum allows. It can only join anew, with new keys and a fingerprint by telephone.
    """
    if not yes and not as_json:
        confirm(f'Revoke "{site}"? Only joining anew, with new keys, undoes it.')
    open_coordinator(home).revoke(site, reason)
    if as_json:
        print_json({"site": site, "state": "revoked", "reason": reason})
        return
    say(f'"{site}" is revoked. Nothing that it sends is accepted from now on; studies go on without it.')
    say(
        "To let it join anew: it runs `fedward site rotate --identity`; then fedward coordinator enroll --fingerprint …"
    )


def _as_data(row: Membership, seen: str) -> dict[str, Any]:
    expires = None if row.expires_at is None else datetime.fromtimestamp(row.expires_at, UTC).isoformat()
    return {"site": row.site, "fingerprint": seen, "state": row.state, "expires": expires, "reason": row.reason}


def _state(row: Membership, now: datetime) -> str:
    if row.state == "revoked":
        at = f"{datetime.fromtimestamp(row.changed_at, UTC):%Y-%m-%d %H:%M} UTC"
        return f"revoked {at}" + (f": {row.reason}" if row.reason else "")
    if row.expires_at is None:
        return "enrolled without a certificate: ask for a fresh request"
    until = datetime.fromtimestamp(row.expires_at, UTC)
    days = (until - now).days
    words = "enrolled, fresh certificate not in use yet" if row.state == "rotating" else "enrolled"
    if days < 0:
        return f"{words}, certificate EXPIRED {until:%Y-%m-%d}"
    soon = f", in {days} days: ask for a fresh request" if days < EXPIRY_WARNING_DAYS else ""
    return f"{words}, certificate until {until:%Y-%m-%d}{soon}"
