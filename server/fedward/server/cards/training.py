"""How a model was trained, as settings and words. Pure."""

from __future__ import annotations

from fedward.server.cards.words import number
from fedward.study.manifest import CategoricalFeature, Feature, ImageFeature, Manifest, NumericFeature

Setting = tuple[str, str]


def settings(manifest: Manifest, version: int) -> tuple[Setting, ...]:
    """Name and value of what shapes the model; `version` are the rounds behind it."""
    model, training, privacy = manifest.model, manifest.training, manifest.privacy
    made: list[Setting] = [("model", model.name)]
    made += [("hidden layers", ", ".join(map(str, model.hidden)))] if model.hidden else []
    made += [("channels", ", ".join(map(str, model.channels)))] if model.channels else []
    start = "zeros" if model.name == "logistic-regression" else f"drawn from seed {model.seed}"
    made += [
        ("starts from", f"the committed model {model.start}" if model.start else start),
        ("algorithm", training.algorithm),
        ("rounds", f"{version} of {training.rounds}"),
        ("how hospitals' updates are combined", f"{training.aggregation}, weighted by declared training patients"),
        ("server learning rate", number(training.server_learning_rate)),
        ("server momentum", number(training.server_momentum)),
    ]
    if training.algorithm != "fedsgd":
        made += [
            ("local steps in a round", str(training.local_steps)),
            ("local learning rate", number(training.local_learning_rate)),
            ("share of the patients in a step", number(training.sampling_rate)),
        ]
    made += [("proximal term", number(training.proximal))] if training.proximal else []
    made += [
        (
            "share of the patients that only test",
            f"{number(training.holdout)}, chosen by a keyed hash of the patient id",
        ),
        ("missing values", _missing(manifest)),
        ("fewest hospitals in a round", str(manifest.least_sites)),
        ("secure aggregation", "yes: only sums are seen" if privacy.secure_aggregation else "no"),
    ]
    if privacy.mechanism == "dp-sgd":
        made += [
            ("clipping norm of a patient's gradient", number(privacy.clipping_norm)),
            ("noise", f"{privacy.noise}, the size sealed for each hospital"),
        ]
    made += [("class imbalance", "no method was used"), ("updating after evaluation", "none was done")]
    plan = manifest.counting
    made.append(("a score is called positive from", number(plan.threshold)))
    made.append(("score bins of an evaluation", f"{plan.bins}, equal in sigmoid(logit(score) / {number(plan.temper)})"))
    return tuple(made)


def _missing(manifest: Manifest) -> str:
    if manifest.training.missing == "refuse":
        return "none: a hospital with a missing value does not take part"
    return (
        "a number becomes the middle of its bounds, a level none of the levels; an indicator says that it was missing"
    )


def inputs(manifest: Manifest) -> tuple[tuple[str, str, str], ...]:
    """Each feature's name, what it may be, and what it means."""
    return tuple((one.column, _values(one), one.description) for one in manifest.features)


def _values(feature: Feature) -> str:
    if isinstance(feature, CategoricalFeature):
        return ", ".join(feature.levels)
    low, high = (number(edge) for edge in feature.bounds)
    if isinstance(feature, ImageFeature):
        return f"image {' × '.join(map(str, feature.shape))}, {low} to {high}"
    return f"{low} to {high}{f' {feature.unit}' if isinstance(feature, NumericFeature) and feature.unit else ''}"
