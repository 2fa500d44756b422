"""`fedward site request | enroll | rotate`: how a hospital joins, renews its certificate, and changes its keys."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward.cli.output import JsonOption, print_json, say
from fedward.cli.site_home import DEFAULT_HOME, Home

if TYPE_CHECKING:
    from fedward.client.home import SiteHome

Out = Annotated[Path | None, typer.Option("--out", help="Where to write the request; in the home by default.")]
_DONE = {
    "joined": 'Site "{site}" has joined "{federation}" at {address}.',
    "renewed": 'Site "{site}" has a fresh certificate of "{federation}", for the keys that it had.',
    "rotated": 'Site "{site}" uses its new node and TLS keys from now on.',
    "identity-rotated": 'Site "{site}" uses its new keys and its new identity from now on.',
}


def write_request(home: SiteHome, out: Path | None = None) -> Path:
    """Write the request to join, and return where."""
    from fedward.client.enrolment import make_request
    from fedward.study.files import write_atomic

    made = make_request(home)
    path = out or home.path / f"{made.site}.request.json"
    write_atomic(path, made.model_dump_json(indent=1).encode())
    return path


def request(home: Home = DEFAULT_HOME, out: Out = None, as_json: bool = JsonOption) -> None:
    """Write the request to join again, or ask for a fresh certificate for the same keys. It holds public keys only."""
    from fedward.client.home import SiteHome
    from fedward.privacy.signing import fingerprint

    opened = SiteHome.open(home)
    path, seen = write_request(opened, out), fingerprint(opened.identity().public)
    if as_json:
        print_json({"site": opened.site, "request": str(path), "fingerprint": seen})
        return
    say(f"Send {path} to the coordinator, and read them this fingerprint by telephone:")
    say(f"  {seen}")
    say("Next, with the kit that comes back: fedward site enroll KIT")


def enroll(
    kit_file: Annotated[Path, typer.Argument(metavar="KIT", help="The signed kit from the coordinator.")],
    home: Home = DEFAULT_HOME,
    coordinator_fingerprint: Annotated[
        str | None,
        typer.Option(
            "--fingerprint", help="The coordinator's fingerprint as heard by telephone; refused if it differs."
        ),
    ] = None,
    proxy: Annotated[
        str | None,
        typer.Option(
            "--proxy",
            envvar="FEDWARD_SITE_PROXY",
            help='Reach the coordinator by this proxy, kept encrypted in the home: http://[USER:PASSWORD@]HOST:PORT; "direct" '
            'for none; "" to go by HTTPS_PROXY and NO_PROXY again.',
        ),
    ] = None,
    as_json: bool = JsonOption,
) -> None:
    """Join the federation, renew, or switch to new keys, with the kit that the coordinator signed."""
    from fedward.client.enrolment import accept_kit
    from fedward.client.home import SiteHome
    from fedward.client.network import keep_proxy
    from fedward.privacy.signing import fingerprint
    from fedward.study.enrolment import JoinKit
    from fedward.study.files import read_model

    kit, opened = read_model(kit_file, JoinKit, "kit"), SiteHome.open(home)
    if proxy is not None:
        keep_proxy(opened, proxy)
    done = accept_kit(opened, kit, coordinator_fingerprint, datetime.now(UTC))
    seen, address = fingerprint(kit.coordinator_key), f"{kit.host}:{kit.port}"
    if as_json:
        print_json({"site": kit.site, "federation": kit.federation_name, "coordinator": seen, "address": address,
                    "what": done})  # fmt: skip
        return
    say(_DONE[done].format(site=kit.site, federation=kit.federation_name, address=address))
    if done == "joined":
        if coordinator_fingerprint is None:
            say(f"Compare the coordinator's fingerprint by telephone before you approve anything: {seen}")
        say("Next: fedward site register --study STUDY.toml --csv FILE --mapping FILE")
        return
    say("A running node takes it up by itself within seconds.")
    if done != "renewed":
        say("The old keys are kept until the coordinator has let the node in with the new; until then "
            "`fedward site rotate --back` takes them again.")  # fmt: skip


def rotate(
    home: Home = DEFAULT_HOME,
    identity: Annotated[
        bool,
        typer.Option("--identity", help="A new identity as well. Studies that name the old one need a new proposal."),
    ] = False,
    end_studies: Annotated[
        bool,
        typer.Option("--end-studies", help="With --identity: yes, this site's part in its present studies may end."),
    ] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Drop new keys whose kit has not come yet.")] = False,
    back: Annotated[
        bool,
        typer.Option("--back", help="After a switch, before the new keys have connected: take the old ones again."),
    ] = False,
    out: Out = None,
    as_json: bool = JsonOption,
) -> None:
    """Make new keys beside the old, and the request for their kit. Nothing changes before `fedward site enroll KIT`."""
    from fedward.client import rotation
    from fedward.client.enrolment import make_rotation
    from fedward.client.home import SiteHome
    from fedward.privacy.errors import UsageError
    from fedward.privacy.signing import fingerprint
    from fedward.study.files import write_atomic

    if sum((cancel, back, identity)) > 1:
        raise UsageError("--identity, --cancel and --back exclude each other")
    opened = SiteHome.open(home)
    if cancel or back:
        rotation.cancel(opened) if cancel else rotation.go_back(opened)
        if as_json:
            print_json({"site": opened.site, "what": "cancelled" if cancel else "back"})
            return
        say("The new keys are dropped." if cancel else "The keys from before are this site's again.")
        return
    ending = _ending(opened, allowed=end_studies) if identity else []
    made = make_rotation(opened, identity=identity)
    path = out or home / f"{made.site}.rotation.json"
    write_atomic(path, made.model_dump_json(indent=1).encode())
    seen = fingerprint(made.request.identity_key)
    if as_json:
        print_json(
            {"site": made.site, "request": str(path), "fingerprint": seen, "identity": identity, "ending": ending}
        )
        return
    say(f"New keys lie beside the old ones. Send {path} to the coordinator. It holds public keys only.")
    if identity:
        say(f"Read them the new fingerprint by telephone: {seen}")
    if ending:
        say(f"With the kit this site's part ends in: {', '.join(ending)}. They need a new proposal.")
    say("Next, with the kit that comes back: fedward site enroll KIT")


def _ending(home: SiteHome, *, allowed: bool) -> list[str]:
    """The studies in which a new identity ends this site's part.

    Raises:
        RefusalError: there are some, and nobody said that they may end.
    """
    from fedward.client.approvals import naming_identity
    from fedward.privacy.errors import RefusalError

    found = naming_identity(home, int(time.time()))
    if found and not allowed:
        raise RefusalError(
            "a new identity ends this site's part in studies that name the present one",
            expected="--end-studies, since each of them needs a new proposal and a new approval",
            got=", ".join(found),
            remedy="wait until they have ended, or agree with the coordinator; node and TLS keys rotate at any time without "
            "--identity",
            code="identity-in-use",
        )
    return found
