"""`fedward site metrics`: what may leave of a hospital's own metrics, shown to its people or written for them to give away."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from fedward.cli.output import print_json, say, table
from fedward.client.home import SiteHome
from fedward.client.own_metrics import OwnMetrics
from fedward.client.policy import load_policy
from fedward.privacy.canonical import canonical_json
from fedward.study.files import write_new
from fedward.study.manifest import SealedManifest
from fedward.study.metrics import SMALL
from fedward.study.site_metrics import METRICS, Values, named

NO_PROMISE = f"Counts under {SMALL} are suppressed, and what would give them away. These numbers carry no noise: no ε covers them."


def _data(home: SiteHome, sealed: SealedManifest, values: Values, round_: int) -> dict[str, Any]:
    return {
        "site": home.site,
        "study": sealed.manifest.study.id,
        "digest": sealed.digest,
        "round": round_,
        "share_metrics": load_policy(home.policy_file).share_metrics,
        "slices": named(sealed.manifest, values),
        "privacy": NO_PROMISE,
    }


def show_metrics(home: SiteHome, sealed: SealedManifest, *, as_json: bool) -> None:
    """Print what would leave. Raises: InputError, if the study was not evaluated here."""
    round_, values = OwnMetrics(home).shown(sealed)
    data = _data(home, sealed, values, round_)
    if as_json:
        print_json(data)
        return
    rows = [
        (name, *("suppressed" if one is None else f"{one[metric]:g}" for metric in METRICS))
        for name, one in data["slices"].items()
    ]
    table(f"{sealed.manifest.study.title}: held-out patients of {home.site}, round {round_}", ("slice", *METRICS), rows)
    say(NO_PROMISE)
    allowed = "allows" if data["share_metrics"] else "does not allow"
    say(f"The policy {allowed} that this be given away (share_metrics). Nothing of it is ever sent by the node.")


def release_metrics(home: SiteHome, sealed: SealedManifest, out: Path, *, as_json: bool) -> None:
    """Write what may leave to a new file. Raises: RefusalError, if the policy or an earlier release forbids it."""
    own = OwnMetrics(home)
    values = own.release(sealed, load_policy(home.policy_file), home.ledger(), at=int(time.time()))
    data = _data(home, sealed, values, own.shown(sealed)[0])
    del data["share_metrics"]
    home.record("metrics-released", study=sealed.digest)
    write_new(out, canonical_json(data))
    if as_json:
        print_json(data | {"out": str(out)})
        return
    say(f"Wrote {out}. {NO_PROMISE} The ledger says that they left.")
