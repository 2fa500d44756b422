"""`fedward site metrics`: what may leave of a hospital's own metrics, shown to its people or written for them to give away."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from fedward.cli.output import note, print_json, say, table
from fedward.client.home import SiteHome
from fedward.client.own_metrics import OwnMetrics
from fedward.client.policy import load_policy
from fedward.privacy.canonical import canonical_json
from fedward.study.files import write_new
from fedward.study.manifest import SealedManifest
from fedward.study.metrics import SMALL
from fedward.study.shared_metrics import sign_figures
from fedward.study.site_metrics import METRICS, Values, named

NO_PROMISE = f"Counts under {SMALL} are suppressed, and what would give them away. These numbers carry no noise: no ε covers them."


def _data(home: SiteHome, sealed: SealedManifest, values: Values, round_: int, alone: int | None) -> dict[str, Any]:
    return {
        "site": home.site,
        "study": sealed.manifest.study.id,
        "digest": sealed.digest,
        "round": round_,
        "share_metrics": load_policy(home.policy_file).share_metrics,
        "slices": named(sealed.manifest, values),
        "alone": None if alone is None else METRICS["auroc"].value(alone),
        "privacy": NO_PROMISE,
    }


def show_metrics(home: SiteHome, sealed: SealedManifest, *, train: bool, as_json: bool) -> None:
    """Print what would leave, beside this hospital's own model, which `train` trains first.

    Raises:
        InputError: the study was not evaluated here.
    """
    own = OwnMetrics(home)
    if train:
        note("training this hospital's own model, of its own patients; it stays here")
        own.train_alone(sealed)
    round_, values = own.shown(sealed)
    data = _data(home, sealed, values, round_, own.alone(sealed))
    if as_json:
        print_json(data)
        return
    rows = [
        (name, *("suppressed" if one is None else f"{one[metric]:g}" for metric in METRICS))
        for name, one in data["slices"].items()
    ]
    table(f"{sealed.manifest.study.title}: held-out patients of {home.site}, round {round_}", ("slice", *METRICS), rows)
    _say_alone(data)
    say(NO_PROMISE)
    allowed = "allows" if data["share_metrics"] else "does not allow"
    say(f"The policy {allowed} that this be given away (share_metrics). Nothing of it is ever sent by the node.")


def _say_alone(data: dict[str, Any]) -> None:
    everybody = data["slices"]["everybody"]
    if data["alone"] is None:
        say("How this hospital's own model does beside it: fedward site metrics DIGEST --alone trains one, here.")
    elif everybody is not None:
        say(
            f"AUROC of the model that this hospital trained alone: {data['alone']:g}; of the study's: {everybody['auroc']:g}"
        )


def release_metrics(home: SiteHome, sealed: SealedManifest, out: Path, *, as_json: bool) -> None:
    """Write what may leave to a new file. Raises: RefusalError, if the policy or an earlier release forbids it."""
    own = OwnMetrics(home)
    figures = own.release(sealed, load_policy(home.policy_file), home.ledger(), at=int(time.time()))
    data = _data(home, sealed, figures.values, figures.round, figures.alone)
    del data["share_metrics"]
    data |= {"figures": figures.canonical.decode(), "signature": sign_figures(figures, home.identity())}
    home.record("metrics-released", study=sealed.digest)
    write_new(out, canonical_json(data))
    if as_json:
        print_json(data | {"out": str(out)})
        return
    say(f"Wrote {out}. {NO_PROMISE} The ledger says that they left.")
