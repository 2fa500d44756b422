"""`fedward site policy check`: what the present policy would do to each proposal, before anybody decides."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import typer

from fedward.cli.output import JsonOption, counted, print_json, say
from fedward.cli.site_home import DEFAULT_HOME, Home

if TYPE_CHECKING:
    from fedward.client.home import SiteHome
    from fedward.study.kinds import AnySealed

app = typer.Typer(help="Look at this hospital's policy: policy.toml in the site's folder.", no_args_is_help=True)


@app.callback()
def _policy() -> None:
    pass


@app.command()
def check(home: Home = DEFAULT_HOME, as_json: bool = JsonOption) -> None:
    """Read the policy as the node would, and say what it would do to each proposed study."""
    from fedward.client import approvals
    from fedward.client.decisions import load
    from fedward.client.home import SiteHome
    from fedward.client.policy import load_policy

    opened = SiteHome.open(home)
    policy = load_policy(opened.policy_file)
    found = [_verdict(opened, sealed) for sealed in approvals.proposals(opened)] if opened.kit_file.is_file() else []
    decisions = load(opened)
    there, needed = len(decisions.approvers), decisions.required
    if as_json:
        print_json(
            {
                "policy": policy.model_dump(mode="json"),
                "digest": policy.digest,
                "approvers": there,
                "needed": needed,
                "studies": found,
            }
        )
        return
    say(f"{opened.policy_file} can be read; {counted(needed, 'approver')} must sign for a study, "
        f"for at most {policy.expiry_days} days.")  # fmt: skip
    if decisions.lowered:
        say(f"WARNING: it asks for {policy.approvals_required}, fewer than approvers signed for: nothing can be approved. "
            "See: fedward explain approvals-lowered")  # fmt: skip
    if there < needed:
        say(f"WARNING: {there} of the {needed} approvers that are needed are registered: nothing can be "
            "approved before the others are. Add one: fedward site approver add NAME")  # fmt: skip
    for one in found:
        say(
            f"{one['study']} ({one['digest'][:12]}), {one['state']} here: "
            + ("refused" if one["objections"] else "allowed")
        )
        for objection in one["objections"]:
            say(f"  {objection['code']}: {objection['text']}")
    if not found:
        say("No study has been proposed to this site yet.")


def _verdict(home: SiteHome, sealed: AnySealed) -> dict[str, Any]:
    from fedward.client import approvals, datasets
    from fedward.privacy.errors import FedwardError

    try:
        dataset = datasets.find(home, sealed.manifest.study.id)
        found = [{"code": one.code, "text": one.text} for one in approvals.objections_here(home, sealed, dataset)]
    except FedwardError as error:
        found = [{"code": error.code, "text": error.what}]
    state = approvals.standing_of(home, sealed.digest, int(time.time())).state
    return {"study": sealed.manifest.study.id, "digest": sealed.digest, "state": state, "objections": found}
