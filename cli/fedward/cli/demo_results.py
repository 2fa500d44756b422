"""The demo's tables: computed from its own four folders, on this machine; nothing of them is sent anywhere."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from fedward.cli.demo_federation import DemoFederation
from fedward.cli.measured import print_measured
from fedward.cli.output import say, shown, table
from fedward.client import datasets
from fedward.client.alone import local_only
from fedward.client.split import held_out
from fedward.server import models as model_files
from fedward.server.records import MetricRow
from fedward.server.views import StudyView
from fedward.simulations.baselines import pool, pooled
from fedward.study.encoding import Encoded, group_names
from fedward.study.manifest import Manifest
from fedward.study.metrics import Auroc, exact_auroc, suppress_small
from fedward.study.models import build, load_vector, scores
from fedward.study.terms import privacy_words
from fedward.study.vectors import Vector


def gather(federation: DemoFederation, view: StudyView) -> dict[str, Any]:
    """Everything that the tables show, as JSON data."""
    manifest = federation.manifest
    train: dict[str, Encoded] = {}
    test: dict[str, Encoded] = {}
    for site in federation.names:
        home = federation.home(site)
        data = datasets.load(home, datasets.find(home, manifest.study.id), manifest)
        mask = held_out(data.patients, manifest.training.holdout, home.patient_key())
        train[site], test[site] = data.select(~mask), data.select(mask)
    models = {
        "federated": model_files.load_model(federation.coordinator_home.models_folder, view.model or ""),
        "pooled": pooled(manifest, train.values()),
    }
    own = {site: local_only(manifest, train[site]) for site in federation.names}
    everyone = pool(test.values())
    federated = _score(manifest, models["federated"], everyone)
    return {
        "study": {
            "id": manifest.study.id,
            "digest": view.digest,
            "title": manifest.study.title,
            "rounds": view.version,
        },
        "auroc": {
            "federated": _value(_auroc(federated, everyone)),
            "federated_interval": _interval(_auroc(federated, everyone)),
            "local_mean": _mean_local(manifest, own, everyone),
            "pooled": _value(_auroc(_score(manifest, models["pooled"], everyone), everyone)),
            "patients": len(everyone),
        },
        "hospitals": [_hospital(manifest, models, own[site], site, test[site]) for site in federation.names],
        "measured": [asdict(metric) for metric in view.measured()],
        "groups": _groups(manifest, federated, everyone),
        "privacy": _privacy(federation, manifest),
        "contributions": view.contributions(),
        "secure": view.secure,
        "folder": str(federation.folder),
    }


def _score(manifest: Manifest, vector: Vector, data: Encoded) -> np.ndarray[Any, np.dtype[np.float64]]:
    model = build(manifest)
    load_vector(model, vector)
    return scores(model, data.inputs)


def _auroc(values: np.ndarray[Any, np.dtype[np.float64]], data: Encoded) -> Auroc | None:
    return exact_auroc(values, data.outcomes)


def _value(area: Auroc | None) -> float | None:
    return None if area is None else round(area.value, 4)


def _interval(area: Auroc | None) -> list[float] | None:
    return None if area is None else [round(area.low, 4), round(area.high, 4)]


def _mean_local(manifest: Manifest, own: dict[str, Vector], everyone: Encoded) -> float | None:
    """How well a hospital's own model does, on average, on all hospitals' held-out patients."""
    values = [_value(_auroc(_score(manifest, vector, everyone), everyone)) for vector in own.values()]
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 4) if known else None


def _hospital(manifest: Manifest, models: dict[str, Vector], own: Vector, site: str, data: Encoded) -> dict[str, Any]:
    areas = {name: _auroc(_score(manifest, vector, data), data) for name, vector in (*models.items(), ("local", own))}
    return {
        "site": site,
        "patients": len(data),
        **{name: _value(area) for name, area in areas.items()},
        **{f"{name}_interval": _interval(area) for name, area in areas.items()},
    }


def _groups(manifest: Manifest, values: np.ndarray[Any, np.dtype[np.float64]], data: Encoded) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    counts: dict[str, tuple[int, int]] = {}
    names = group_names(manifest)
    for index, name in enumerate(names):
        inside = data.membership[:, index]
        positives = int(data.outcomes[inside].sum())
        counts[name] = (positives, int(inside.sum()) - positives)
    hidden = suppress_small(manifest, counts, (int(data.outcomes.sum()), int((data.outcomes == 0).sum())))
    for index, name in enumerate(names):
        if name in hidden:
            rows.append(
                {
                    "group": name,
                    "suppressed": True,
                    "positives": None,
                    "negatives": None,
                    "auroc": None,
                    "interval": None,
                }
            )
            continue
        area = _auroc(values[data.membership[:, index]], data.select(data.membership[:, index]))
        rows.append({"group": name, "suppressed": False, "positives": counts[name][0], "negatives": counts[name][1],
                     "auroc": _value(area), "interval": _interval(area)})  # fmt: skip
    return rows


def _privacy(federation: DemoFederation, manifest: Manifest) -> dict[str, Any]:
    ledgers = {site: federation.home(site).ledger() for site in federation.names}
    return {
        "mechanism": manifest.privacy.mechanism,
        "meaning": privacy_words(manifest),
        "counts_noised": manifest.counting.noised,
        "delta": manifest.privacy.delta,
        "study_epsilon": manifest.privacy.epsilon,
        "relaxed_policies": sorted(set(federation.relaxed)),
        "sites": {
            site: {"spent": ledger.spent(), "budget": ledger.budget.epsilon, "without_noise": ledger.unprotected}
            for site, ledger in ledgers.items()
        },
    }


def show(results: dict[str, Any]) -> None:
    """The results as tables."""
    auroc, privacy = results["auroc"], results["privacy"]
    rows = [
        (row["site"], str(row["patients"]), _cell(row, "federated"), _cell(row, "local"), _cell(row, "pooled"))
        for row in results["hospitals"]
    ]
    everyone = {"federated": auroc["federated"], "federated_interval": auroc["federated_interval"]}
    rows.append(("all hospitals", str(auroc["patients"]), _cell(everyone, "federated"),
                 f"{_number(auroc['local_mean'])} (mean)", _number(auroc["pooled"])))  # fmt: skip
    table(
        "AUROC on held-out patients (95% interval)",
        ("hospital", "patients", "federated", "its own model", "pooled (privacy forbids it)"),
        rows,
        caption="Its own model: trained on that hospital alone, without noise; in the last row, tested on all hospitals.",
    )
    groups = [
        (row["group"], *(("suppressed",) * 3 if row["suppressed"] else
         (str(row["positives"]), str(row["negatives"]), f"{_number(row['auroc'])} {_range(row['interval'])}")))
        for row in results["groups"]
    ]  # fmt: skip
    table("The federated model by group", ("group", "with disease", "without", "AUROC"), groups,
          caption="Counts under 11, and those that would give them away, are suppressed.")  # fmt: skip
    print_measured([MetricRow(**metric) for metric in results["measured"]])
    total = results["study"]["rounds"]
    spent = [
        (site, f"{results['contributions'].get(site, 0)} of {total}",
         shown(line["spent"]) if privacy["mechanism"] != "none" else "no promise", f"{line['budget']:g}")
        for site, line in privacy["sites"].items()
    ]  # fmt: skip
    table("Privacy spent and rounds contributed", ("hospital", "rounds", "ε spent", "ε budget"), spent)
    if privacy["mechanism"] == "none":
        say("This run trained WITHOUT differential privacy: no ε bounds what its updates reveal.")
    else:
        say(f"ε at δ = {privacy['delta']:g}. {privacy['meaning']}.")
    say(_seen(results["secure"], noised=privacy["mechanism"] != "none", counts=privacy["counts_noised"]))
    seconds = results["seconds"]
    say(f"Set-up {seconds['set_up']:.0f} s, federation {seconds['federation']:.0f} s, all {seconds['all']:.0f} s.")


def _seen(secure: str | None, *, noised: bool, counts: bool) -> str:
    """What the coordinator could and could not see in this run."""
    update = "noised update" if noised else "update"
    counted = "noised counts" if counts else "counts"
    if secure is None:
        return f"The coordinator saw each hospital's {update} and its {counted}: secure aggregation was off."
    return (
        f"The coordinator saw, of each round, the exact sum of the hospitals' {update}s and {counted}, and who took part. "
        "It could not see any one hospital's update, norm, loss, counts or metrics: they left the hospitals masked.\n"
        f"{secure}"
    )


def _cell(row: dict[str, Any], name: str) -> str:
    return f"{_number(row[name])} {_range(row[f'{name}_interval'])}"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _range(interval: list[float] | None) -> str:
    return "" if interval is None else f"({interval[0]:.2f}-{interval[1]:.2f})"
