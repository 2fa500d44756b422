"""`fedward site approver …`: the people who may decide at this hospital, each with a key of their own."""

from __future__ import annotations

import shlex
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedward.cli.asking import confirm
from fedward.cli.output import JsonOption, counted, print_json, say, table
from fedward.cli.site_home import DEFAULT_HOME, Home
from fedward.cli.site_signer import As, KeyFile, passphrase, signer

if TYPE_CHECKING:
    from fedward.client.home import SiteHome
    from fedward.client.standing import Decisions

app = typer.Typer(
    help="Name the people who may approve studies here. Each has a key of their own; the site keeps public keys only.",
    no_args_is_help=True,
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="A person's name, as everybody here shall read it.")]
Unencrypted = Annotated[
    bool,
    typer.Option(
        "--unencrypted", help="Keep the new key without a passphrase: only the file's permissions (0600) protect it."
    ),
]


@app.command()
def add(
    name: Name,
    home: Home = DEFAULT_HOME,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="Where the new key is made; a folder of the site by default."),
    ] = None,
    unencrypted: Unencrypted = False,
    passphrase_file: Annotated[
        Path | None,
        typer.Option(
            "--passphrase-file", metavar="FILE", help="Where the new approver's passphrase stands; else asked for."
        ),
    ] = None,
    by: As = None,
    by_key: Annotated[
        Path | None, typer.Option("--as-key", metavar="FILE", help="The key file of the approver who signs.")
    ] = None,
    as_json: bool = JsonOption,
) -> None:
    """Make a key for an approver and enter them. The first enters himself; later ones need approvers' signatures.

    Where the policy asks for two, the second approver runs the same command with --as and their own name; the new key stays.
    """
    from fedward.client.home import SiteHome

    opened = SiteHome.open(home)
    after, file = _added(opened, name, key, by, by_key, passphrase_file, unencrypted=unencrypted)
    _tell(opened, after, name, file, as_json=as_json)


def enter_first(home: SiteHome, name: str, *, unencrypted: bool) -> Path:
    """For `site init --approver`: the first approver's key, made and entered; where it lies."""
    _, file = _added(home, name, None, None, None, None, unencrypted=unencrypted)
    return file


def _added(
    home: SiteHome,
    name: str,
    key: Path | None,
    by: str | None,
    by_key: Path | None,
    passphrase_file: Path | None,
    *,
    unencrypted: bool,
) -> tuple[Decisions, Path]:
    from fedward.client.approvers import check_name, default_key_file, make_key
    from fedward.client.decisions import load
    from fedward.client.registry import add_approver
    from fedward.privacy.errors import UsageError

    file, now, before = key or default_key_file(home, check_name(name)), int(time.time()), load(home)
    waiting = [one for one in before.waiting() if (one.what, one.name) == ("add", name)]
    if name in before.approvers:
        raise UsageError(f"{name} is an approver already", remedy="remove them first, or choose another name")
    if waiting:  # another approver has signed for them: the key was made then
        who, identity = signer(home, by, by_key)
        return add_approver(home, name, waiting[0].key, by=who, signer=identity, at=now), file
    existing = signer(home, by, by_key) if before.approvers else None
    secret = None if unencrypted else passphrase(name, passphrase_file, new=True)
    made = make_key(home, name, file, secret)
    who, identity = existing or (name, made)
    return add_approver(home, name, made.public, by=who, signer=identity, at=now), file


def _tell(home: SiteHome, after: Decisions, name: str, file: Path, *, as_json: bool) -> None:
    missing = next((one.needed - len(one.signed_by) for one in after.waiting() if one.name == name), 0)
    if as_json:
        print_json({"approver": name, "key": str(file), "in_force": name in after.approvers, "missing": missing})
        return
    if name in after.approvers:
        say(f"{name} may decide at this hospital now. The private key lies in {file}; the site keeps the public one.")
        say(f"Next: fedward site review --home {home.path}")
    else:
        say(
            f"{name} waits for {counted(missing, 'more signature')}. Another approver runs: "
            f"fedward site approver add {shlex.quote(name)} --as THEM"
        )


@app.command("list")
def list_(home: Home = DEFAULT_HOME, as_json: bool = JsonOption) -> None:
    """Show the approvers, who signed for them, and changes that wait for more signatures."""
    from fedward.client.decisions import load
    from fedward.client.home import SiteHome
    from fedward.client.policy import load_policy
    from fedward.privacy.signing import fingerprint

    opened = SiteHome.open(home)
    found = load(opened)
    needed, policy = found.required, load_policy(opened.policy_file)
    data: dict[str, Any] = {
        "approvers": [
            {
                "name": one.name,
                "fingerprint": fingerprint(one.key),
                "key": one.key,
                "since": one.at,
                "signed_by": one.signed_by,
            }
            for one in found.approvers.values()
        ],
        "waiting": [
            {"what": one.what, "name": one.name, "signed_by": one.signed_by, "needed": one.needed}
            for one in found.waiting()
        ],
        "approvals_required": needed,
        "signed_for": found.signed_for,
        "started_over": [{"at": link.at, "by": link.by} for link in found.started_over],
    }
    if as_json:
        print_json(data)
        return
    if not data["approvers"]:
        say("Nobody may decide here yet. Add the first approver: fedward site approver add NAME")
    else:
        rows = [(one["name"], one["fingerprint"], f"{datetime.fromtimestamp(one['since'], UTC):%Y-%m-%d}",
                 ", ".join(one["signed_by"])) for one in data["approvers"]]  # fmt: skip
        table("Approvers", ("name", "fingerprint", "since", "signed by"), rows)
    for one in data["waiting"]:
        what = (
            f"require {counted(int(one['name']), 'approver')}"
            if one["what"] == "require"
            else f"{one['what']} {one['name']}"
        )
        say(f"To {what}: signed by {', '.join(one['signed_by'])}, {one['needed']} needed")
    say(f"A study needs {needed} of them (approvals_required in the policy, or what approvers signed for).")
    if found.lowered:
        say(f"WARNING: the policy asks for {policy.approvals_required} only: fedward explain approvals-lowered")
    elif data["approvers"] and found.signed_for < needed:
        say(f"Who edits the policy can still lower that. To hold it: fedward site approver require {needed}")
    if data["approvers"] and len(data["approvers"]) == needed > 1:
        say("If one loses their key, nobody can approve or change this list: have one approver more than are needed.")
    for link in data["started_over"]:
        say(
            f"WARNING: {link['by']} let this registry begin anew on {datetime.fromtimestamp(link['at'], UTC):%Y-%m-%d}."
        )


@app.command()
def remove(
    name: Name,
    home: Home = DEFAULT_HOME,
    by: As = None,
    key: KeyFile = None,
    as_json: bool = JsonOption,
) -> None:
    """Sign that somebody is no approver any more. Approvals that they gave count no longer."""
    from fedward.client.home import SiteHome
    from fedward.client.registry import remove_approver

    opened = SiteHome.open(home)
    who, identity = signer(opened, by, key)
    after = remove_approver(opened, name, by=who, signer=identity, at=int(time.time()))
    missing = next((one.needed - len(one.signed_by) for one in after.waiting() if one.name == name), 0)
    if as_json:
        print_json({"approver": name, "removed": name not in after.approvers, "missing": missing})
    elif name in after.approvers:
        say(f"To remove {name}, {counted(missing, 'more approver')} must sign.")
    else:
        say(f"{name} is no approver any more. What they approved needs another approval.")


@app.command()
def require(
    number: Annotated[
        int, typer.Argument(metavar="NUMBER", min=1, max=3, help="How many approvers must sign, 1 to 3.")
    ],
    home: Home = DEFAULT_HOME,
    by: As = None,
    key: KeyFile = None,
    as_json: bool = JsonOption,
) -> None:
    """Sign how many approvers must sign. More binds at once; fewer needs the signatures of as many as were needed before.

    The policy's approvals_required may ask for more than is signed for. Asking for less, it lowers nothing.
    """
    from fedward.client.home import SiteHome
    from fedward.client.registry import require_approvals

    opened = SiteHome.open(home)
    who, identity = signer(opened, by, key)
    after = require_approvals(opened, number, by=who, signer=identity, at=int(time.time()))
    wish = next((one for one in after.waiting() if (one.what, one.name) == ("require", str(number))), None)
    missing = 0 if wish is None else wish.needed - len(wish.signed_by)
    if as_json:
        print_json({"asked": number, "signed_for": after.signed_for, "required": after.required, "missing": missing})
    elif missing:
        say(f"{counted(missing, 'more approver')} must sign the same before {number} is enough.")
    else:
        say(f"{counted(after.required, 'approver')} must sign from now on.")
    if not as_json and not missing and after.required > number:
        say(f"The policy still asks for {after.required}: set approvals_required = {number} in {opened.policy_file}")


@app.command("start-over")
def start_over(
    by: Annotated[str, typer.Option("--by", help="Who decides; stands in the record for ever.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; stands in the record for ever. No patient's data.")],
    home: Home = DEFAULT_HOME,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: bool = JsonOption,
) -> None:
    """Begin the list of approvers anew, when their keys are lost. Needs the policy's leave; every approval ends."""
    from fedward.client.home import SiteHome
    from fedward.client.registry import start_over as begin_anew

    opened = SiteHome.open(home)
    if not yes and not as_json:
        confirm("Every approver and every approval of this site ends. Begin anew?")
    begin_anew(opened, by=by, reason=reason, at=int(time.time()))
    if as_json:
        print_json({"approvers": [], "by": by})
        return
    say("There is no approver any more, and no study is approved. Add the first: fedward site approver add NAME")
